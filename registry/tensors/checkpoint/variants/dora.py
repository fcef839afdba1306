"""DoRA: every oriented row of W + s B A is rescaled to a trained magnitude (Liu et al. 2024, arXiv:2402.09353)."""

from __future__ import annotations

from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.tensors.checkpoint.field_rules import boolean
from registry.tensors.checkpoint.variants.draft import Draft, refuse_tensor
from registry.tensors.checkpoint.variants.variant import Variant
from registry.tensors.table.targets import TargetKind

MAGNITUDE: Final = "lora_magnitude_vector"
_KINDS: Final = (TargetKind.LINEAR, TargetKind.CONV1D, TargetKind.CONV, TargetKind.EMBEDDING)


def fold(draft: Draft) -> None:
    """Give every pair its magnitude; `use_dora` and the magnitudes go together."""
    for module, pair in list(draft.pairs.items()):
        name = draft.spelled[module]
        if draft.config.use_dora and (pair.fused is not None or pair.parameter or pair.target.kind not in _KINDS):
            raise InvalidAdapterError(
                f"adapter_config.json: use_dora is true, but {shown(name)} is a parameter or an attention, for which "
                "PEFT has no DoRA. Save the adapter again with the configuration that it was trained with.",
                code="bad_config",
            )
        magnitude = draft.take(name, MAGNITUDE)
        if (magnitude is not None) is not draft.config.use_dora:
            raise _incomplete(draft, name, has=magnitude is not None)
        if magnitude is not None:
            _check_shape(magnitude, pair.target.out_features)
            draft.change_pair(module, magnitude=magnitude)
    for name in draft.having(MAGNITUDE):
        raise _incomplete(draft, name, has=True)


def _incomplete(draft: Draft, name: str, *, has: bool) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"Module {shown(name)} {'has' if has else 'lacks'} a {MAGNITUDE}, but use_dora is "
        f"{str(draft.config.use_dora).lower()} in adapter_config.json: DoRA needs both, on every pair. Save the "
        "adapter again.",
        code="dora_incomplete",
    )


def _check_shape(entry: TensorEntry, features: int) -> None:
    # (out,), or (1, out, 1...) for a convolution
    if entry.elements != features or max(entry.shape) != features:
        refuse_tensor(
            entry,
            f"has shape {entry.shape}, expected one magnitude for each of the {features} output features. Publish it "
            "under the base model that it was trained on.",
            "shape_mismatch",
        )


VARIANT: Final = Variant(
    "DoRA",
    fields={"use_dora": boolean},
    tails={MAGNITUDE: MAGNITUDE, f"{MAGNITUDE}.weight": MAGNITUDE},
    fold=fold,
)
