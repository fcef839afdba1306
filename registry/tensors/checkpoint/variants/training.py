"""How A and B began: additive initialisations leave the base as it is, the others take their part out of its weights.

Trained from the residual W - s B0 A0, an adapter (A, B) means W + s (B A - B0 A0) on the original base. PEFT writes
that as a plain LoRA of twice the rank, if it is given the state before training.

Fields that say where an adapter comes from and how it was trained, and nothing about its weights.

Variants that change training alone: VeLoRA the backward pass, MonteCLoRA by noise. The plain pair is merged.

Both keep tensors of their own in the file; PEFT's merge and its evaluation do not look at them.
"""

from __future__ import annotations

from typing import Any, Final

from registry.files.strict_json import shown
from registry.tensors.checkpoint.field_rules import any_value, boolean, fault, fraction, nothing, text
from registry.tensors.checkpoint.variants.draft import Draft, Variant, refuse_tensor

VELORA: Final = "lora_velora_embed"
MONTECLORA: Final = "lora_monteclora_sampler"
_SAMPLER: Final = ("expert_weights", "expert_weights_prior", "gaussian_var_prior", "std_prior")
_FIELDS: Final = {
    VELORA: "velora_config",
    **{f"{MONTECLORA}.{name}": "monteclora_config" for name in _SAMPLER},
}


def fold_training_only(draft: Draft) -> None:
    """Leave their tensors out, with a notice."""
    left_out: list[str] = []
    for part, field in _FIELDS.items():
        for module in draft.having(part):
            entry = draft.take(module, part)
            if entry is None:
                continue
            if not draft.config.document.get(field):
                refuse_tensor(
                    entry, f"has no meaning while {field} is not set in adapter_config.json.", "unexpected_tensor"
                )
            left_out.append(entry.name)
    if left_out:
        draft.notices.append(
            f"{len(left_out)} tensors that are only used in training are ignored, such as {shown(min(left_out))}."
        )


TRAINING_ONLY: Final = Variant(
    "training only",
    fields={"velora_config": any_value, "monteclora_config": any_value},
    tails={part: part for part in _FIELDS},
    fold=fold_training_only,
)


NO_EFFECT: Final = Variant(
    "without effect",
    fields={
        "base_model_name_or_path": text,
        "revision": text,
        "task_type": text,
        "peft_version": text,
        "fan_in_fan_out": boolean,  # never believed: PEFT writes the value of the module that it visited last
        "lora_dropout": fraction,
        "inference_mode": boolean,
        "auto_mapping": any_value,
        "runtime_config": any_value,
        "merge_weights": any_value,
    },
)


DIAGONAL: Final = "lora_diag"

ADDITIVE: Final = ("gaussian", "orthogonal", "eva", "mica")
CONVERTED_BY_PEFT: Final = ("pissa", "olora", "corda", "lora_ga")

CONVERT: Final = (
    "Set init_lora_weights to true in the adapter before training and save it to a folder INIT, set it back, train, "
    "and save with save_pretrained(..., path_initial_model_for_weight_conversion=INIT): that is a plain LoRA."
)
AFTER: Final = (
    "It can be saved as a plain LoRA still: make a new adapter from the same base and configuration, set "
    "init_lora_weights to true in it and save it to a folder INIT, load yours with PeftModel.from_pretrained, and save "
    "it with save_pretrained(..., path_initial_model_for_weight_conversion=INIT)."
)
OWN_BASE: Final = (
    "merge it with merge_and_unload(), save the model, and add that as a base model; or train a plain LoRA."
)


def initialisation(field: str, value: Any) -> bool | str:
    """An initialisation that leaves the base weights as they are."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if not isinstance(value, str):
        raise fault(field, value, "expected true, false or the name of an initialisation.")
    name = value.lower()
    if name in ADDITIVE:
        return name
    if name in CONVERTED_BY_PEFT or name.startswith("pissa"):
        remedy = (
            AFTER if name == "pissa" else CONVERT
        )  # the others draw numbers or look at data: INIT can't be made anew
        why = "this initialisation changes the base weights, so W + BA is wrong on the original base."
        raise fault(field, value, f"{why} {remedy}", "base_shifting_init")
    if name == "loftq":
        raise fault(
            field,
            value,
            "the adapter was trained on the quantised residual that LoftQ leaves, so W + BA is wrong on the original "
            f"base. Add that residual, dequantised, as a base model; or {OWN_BASE}",
            "base_shifting_init",
        )
    raise fault(field, value, f"known are true, false, {', '.join(ADDITIVE)}; others may change the base weights.")


def _beside(instead: str) -> Any:
    """The settings of a base-shifting initialisation; they stay in the file when the name was set to true by hand."""
    return nothing(
        "base_shifting_init",
        "it belongs to an initialisation that changes the base weights. If the adapter was converted with "
        f"save_pretrained(path_initial_model_for_weight_conversion=INIT), set the field to null; if not, {instead}",
    )


def fold_initialisations(draft: Draft) -> None:
    """Refuse the diagonal of KaSA, which may come without its field."""
    for module in draft.having(DIAGONAL):
        refuse_tensor(
            draft.parts[module][DIAGONAL],
            f"belongs to KaSA, which cuts the base weights: {OWN_BASE}",
            "base_shifting_init",
        )


INITIALISATIONS: Final = Variant(
    "initialisations",
    fields={
        "kasa_config": nothing(
            "base_shifting_init", f"KaSA cuts the smallest singular values off the base weights: {OWN_BASE}"
        ),
        "init_lora_weights": initialisation,
        "loftq_config": _beside("add the dequantised residual as a base model."),
        "corda_config": _beside("convert it that way."),
        "lora_ga_config": _beside("convert it that way."),
        "eva_config": any_value,  # EVA is additive
    },
    tails={DIAGONAL: DIAGONAL},
    fold=fold_initialisations,
)
