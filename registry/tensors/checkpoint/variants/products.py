"""LoHa and LoKr as PEFT saves them: products of more than two factors, which become the pair that they equal.

A LoHa adds ``s (w1_a w1_b) * (w2_a w2_b)`` by elements, a LoKr ``s kron(w1, w2)``, where each of w1 and w2 is whole or
a product; convolutions may have cores (``hada_t1``, ``lokr_t2``). As pairs of matrices these have factors that are
computed when they are read (`registry.images.changes`). s is alpha / r in every module, also in a LoKr whose matrices
are whole, which no rank made: LyCORIS leaves the scale out there. Sources: PEFT 0.21 (``tuners/loha/layer.py``,
``tuners/lokr/layer.py``, ``tuners/lycoris_utils.py``).
"""

from __future__ import annotations

from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.images.changes import change_of, rank_of
from registry.images.keys import DENOISER, LOHA, LOHA_CORES, LOKR, TUNERS, SpelledModule, check_parts
from registry.images.normal_form import Scale, factors_of
from registry.tensors.checkpoint.field_rules import Rule, any_value, number
from registry.tensors.checkpoint.fit import resolve, unsupported
from registry.tensors.checkpoint.variants.draft import Draft, Variant, refuse_tensor
from registry.tensors.checkpoint.variants.pairs import A, B
from registry.tensors.table.targets import TargetKind

FIELDS: Final[dict[str, Rule]] = {
    "alpha": number,
    # about training, or about shapes that the tensors have anyway
    "rank_dropout": any_value,
    "module_dropout": any_value,
    "rank_dropout_scale": any_value,
    "init_weights": any_value,
    "use_effective_conv2d": any_value,
    "decompose_both": any_value,
    "decompose_factor": any_value,
}
"""The fields that a LoRA does not have."""
SHARED: Final = frozenset(
    {"peft_type", "r", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform"}
    | {"layers_pattern", "modules_to_save", "base_model_name_or_path", "revision", "task_type", "peft_version"}
    | {"inference_mode", "auto_mapping"}
)
"""The fields of a LoRA that they have, too."""
_PARTS: Final = (*LOHA, *LOHA_CORES, *LOKR)
_KINDS: Final = (TargetKind.LINEAR, TargetKind.CONV)


def fold_products(draft: Draft) -> None:
    """Put the pair that its factors equal in the place of each product."""
    tuner = str(draft.config.document["peft_type"])
    for module in sorted(draft.parts):
        there = [part for part in draft.parts[module] if part in _PARTS or tuner in TUNERS]
        if there:
            taken = {part: entry for part in there if (entry := draft.take(module, part)) is not None}
            _check_tuner(tuner, taken)
            b, a = _as_pair(draft, module, taken)
            draft.parts.setdefault(module, {}).update({A: a, B: b})


def _check_tuner(tuner: str, found: dict[str, TensorEntry]) -> None:
    """Check that a module has the parts that ``peft_type`` names, and no others."""
    own = TUNERS.get(tuner, "lora_")
    for part, entry in found.items():
        if not part.startswith(own):
            refuse_tensor(
                entry,
                f"is no part of what adapter_config.json describes: its peft_type is {tuner}. Save the adapter again "
                "with PEFT's save_pretrained.",
                "unexpected_tensor",
            )


def _as_pair(draft: Draft, module: str, found: dict[str, TensorEntry]) -> tuple[TensorEntry, TensorEntry]:
    target = resolve(module, draft.table)
    if target.kind not in _KINDS or target.fused:
        raise unsupported(
            module,
            f"is of kind {target.kind}; PEFT has LoHa and LoKr for linear modules and convolutions alone",
            "Save the adapter again with the configuration that it was trained with.",
        )
    spelled = SpelledModule(module, DENOISER, module, False, {part: entry.name for part, entry in found.items()})
    check_parts(module, spelled.parts)
    tensors = {entry.name: entry for entry in found.values()}
    rows = target.shape[0]
    change = change_of(spelled, tensors, target.shape[1:], rows, rows)
    if change is None:
        raise AssertionError(f"{module} has no change")
    rank, alpha, reason = draft.scales.of(module)
    own = rank_of(spelled, tensors)
    if own is not None and own != rank:
        raise InvalidAdapterError(
            f"{shown(module)} has rank {own}, but adapter_config.json gives {rank} ({reason}). Save the adapter again "
            "with the configuration that it was trained with.",
            code="rank_mismatch",
        )
    b, a = factors_of(change, f"{module}.", target.shape)
    draft.scales.give(module, Scale(a.shape[0], alpha, alpha / rank))
    return b, a


PRODUCTS: Final = Variant("LoHa and LoKr", fields=FIELDS, tails={part: part for part in _PARTS}, fold=fold_products)
