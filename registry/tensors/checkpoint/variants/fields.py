"""Fields of a configuration that bring no weights: tuners and LoRAs that are refused, and what is about training alone.

Adapters of other kinds than LoRA are refused, and the error describes how to convert each to one that can be
published. So are LoRAs that are no change of the base's weights: routed, activated, of other layers, of shared layers.

Additive initialisations of A and B leave the base as it is, the others take their part out of its weights. Trained from
the residual W - s B0 A0, an adapter (A, B) means W + s (B A - B0 A0) on the original base. PEFT writes that as a plain
LoRA of twice the rank, if it is given the state before training. VeLoRA changes the backward pass alone, and MonteCLoRA
adds noise: both keep tensors of their own in the file, at which PEFT's merge and its evaluation do not look.
"""

from __future__ import annotations

from typing import Any, Final

from registry.files.strict_json import shown
from registry.images.adapter_file import FIELD, lora_file
from registry.images.keys import TUNERS
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


NOT_WEIGHTS: Final = Variant(
    "no change of weights",
    fields={
        "layer_replication": nothing(
            "layer_replication",
            "the adapter belongs to an expanded stack of layers that shares the weights of the base. Save the expanded "
            "model, add it as a base model, and train on that.",
        ),
        "alora_invocation_tokens": nothing(
            "not_mergeable",
            "an activated LoRA (aLoRA) works from certain tokens on and has no weight equivalent. Serve it unmerged, "
            "or train a plain LoRA.",
        ),
        "arrow_config": nothing(
            "not_mergeable",
            "Arrow routes between adapters by input and has no weight equivalent. Publish the adapters themselves.",
        ),
        "use_qalora": nothing(
            "not_mergeable", "QA-LoRA belongs to a quantised base and can't be merged. Train a plain LoRA."
        ),
        "qalora_group_size": any_value,
        "enable_lora": nothing(
            "not_mergeable", "fused projections of PEFT before 0.3 are not supported. Train a plain LoRA."
        ),
        "megatron_config": nothing(
            "not_mergeable",
            "a tensor-parallel LoRA (Megatron) belongs to sharded layers that the base's files do not have. Gather the "
            "shards, save the adapter for plain modules, and set the field to null.",
        ),
        "megatron_core": any_value,
    },
)


_DENSE: Final = "merge it with merge_and_unload(), save the model, and publish that with --full."
_ROUTED: Final = "what it does depends on the input, so it has no weight equivalent."
_PROMPT: Final = "it changes the input and no weights, so there is nothing to compose or to merge."
_CONVERTED: Final = (
    "convert it to a LoRA with PEFT's convert_to_lora (peft.convert_to_lora, from 0.19 on) and publish that."
)

WAYS: Final[dict[str, str]] = {
    "ADALORA": "its delta is B diag(E) A alpha / (init_r + 1e-5): save B diag(E) as lora_B of a plain LoRA with the "
    "same scaling.",
    **dict.fromkeys(
        (
            "C3A", "DELORA", "FOURIERFT", "GRALORA", "MISS", "RANDLORA", "SHIRA", "TINYLORA",
            "UNILORA", "VBLORA", "VERA", "WAVEFT",
        ),
        _CONVERTED,
    ),
    **dict.fromkeys(
        (
            "ADAMSS", "BEFT", "BOFT", "BONE", "DEFT", "FROD", "GLORA", "HIRA", "HRA", "IA3", "LN_TUNING", "OFT", "OSF",
            "PEANUT", "PSOFT", "PVERA", "ROAD", "SUPERTUNING",
        ),
        _DENSE,
    ),
    "TRAINABLE_TOKENS": "train the tokens with LoraConfig(trainable_token_indices=..., "
    'target_modules="dummy-target-modules") instead.',
    **dict.fromkeys(("LILY", "POLY", "SHADOW", "XLORA"), _ROUTED),
    **dict.fromkeys(
        (
            "ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PROMPT_TUNING",
            "P_TUNING",
        ),
        _PROMPT,
    ),
}  # fmt: skip
"""``peft_type`` -> what to do."""


def peft_type(field: str, value: Any) -> str:
    """LORA, or one of the tuners that are a LoRA by another name."""
    if isinstance(value, str) and value in ("LORA", *TUNERS):
        return value
    way = WAYS.get(value, _DENSE) if isinstance(value, str) else "expected 'LORA'."
    raise fault(field, value, f"only LORA, LOHA and LOKR adapters are supported: {way}", "unsupported_peft_type")


OTHER_TUNERS: Final = Variant("other tuners", fields={"peft_type": peft_type})
LORA_FILES: Final = Variant("LoRA files", fields={FIELD: lora_file})
