"""Figures of fidelity from sums: of each tensor, and of all together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

from registry.schemas.artifacts import Fidelity, FidelityFigures, TensorFidelity, UnmeasuredTensor
from registry.schemas.form import MeasuredRows
from registry.tensors.elements.dtypes import CONFIG_NAMES, FLOATS, OPTION_DTYPES
from registry.tensors.fidelity.sums import Sums, added

_NAMES = {FLOATS[stored]: option for option, stored in OPTION_DTYPES.items()}


def fidelity_of(
    rows: MeasuredRows, found: Sequence[tuple[str, torch.dtype, Sums]], left_out: Iterable[UnmeasuredTensor]
) -> Fidelity | None:
    """The figures of some slots, which are given with the tensor that they are part of; None: nothing is changed."""
    by_tensor: dict[str, list[Sums]] = {}
    dtypes = {}
    for tensor, dtype, one in found:
        by_tensor.setdefault(tensor, []).append(one)
        dtypes[tensor] = name_of(dtype)
    tensors = [
        TensorFidelity(tensor=tensor, dtype=dtypes[tensor], **figures(added(many)).model_dump())
        for tensor, many in sorted(by_tensor.items())
    ]
    named = tuple(sorted(left_out, key=lambda one: one.tensor))
    if not tensors and not named:
        return None
    whole = figures(added(one for _, _, one in found))
    return Fidelity(rows=rows, **whole.model_dump(), tensors=tuple(tensors), left_out=named)


def figures(total: Sums) -> FidelityFigures:
    """The figures of some sums; None each where nothing was to change."""
    if not total.changed or not total.energy:
        return FidelityFigures(relative_error=None, unchanged_share=None, surviving_share=None)
    return FidelityFigures(
        relative_error=math.sqrt(total.lost / total.energy),
        unchanged_share=total.unchanged / total.changed,
        surviving_share=total.kept / total.energy,
    )


def name_of(dtype: torch.dtype) -> str:
    """A dtype as options spell it; float64, which no option has, as configurations do."""
    return _NAMES.get(dtype) or next(CONFIG_NAMES[stored] for stored, one in FLOATS.items() if one is dtype)
