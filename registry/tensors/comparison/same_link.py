"""Whether adapters do the same to a base model, whatever their files are: saved again, or untrained, and nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Final

import torch

from registry.files.header import TensorEntry
from registry.files.source import ByteSource
from registry.tensors.checkpoint.adapter import LoraPair, NewValue, TokenRows
from registry.tensors.factors.matrices import read_rows
from registry.tensors.path.programs import BoundLink

_SAID_ELSEWHERE: Final = frozenset({"alpha", "names"})  # the scaling has it; other spellings of one name


def same_link(one: BoundLink, other: BoundLink) -> bool:
    """Whether two adapters on one base model have the same factors and values, number by number, and scalings.

    Copies of the base's weights don't count: they do nothing.
    """
    ours, theirs = one.checkpoint, other.checkpoint
    found = ((ours.pairs, theirs.pairs), (ours.values, theirs.values), (ours.tokens, theirs.tokens))
    return all(_same_parts(first, one.source, second, other.source) for first, second in found)


def adds_nothing(one: BoundLink) -> bool:
    """Whether an adapter leaves a model as it is, in real numbers: it was never trained, or is all zeros."""
    found = one.checkpoint
    if found.values or found.tokens:
        return False
    return all(_is_zero(pair, one.source) for pair in found.pairs.values())


def _is_zero(pair: LoraPair, source: ByteSource) -> bool:
    if pair.magnitude is not None or (pair.bias is not None and _values(source, pair.bias).any()):
        return False
    return pair.scaling == 0 or any(not _values(source, entry).any() for entry in (pair.b, pair.a))


def _same_parts(
    ours: Mapping[str, LoraPair] | Mapping[str, NewValue] | Mapping[str, TokenRows],
    source: ByteSource,
    theirs: Mapping[str, LoraPair] | Mapping[str, NewValue] | Mapping[str, TokenRows],
    other: ByteSource,
) -> bool:
    return ours.keys() == theirs.keys() and all(_same(one, source, theirs[name], other) for name, one in ours.items())


def _same(
    one: LoraPair | NewValue | TokenRows, source: ByteSource, other: LoraPair | NewValue | TokenRows, there: ByteSource
) -> bool:
    for field in fields(one):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, TensorEntry) and isinstance(theirs, TensorEntry):
            if ours.shape != theirs.shape or not torch.equal(_values(source, ours), _values(there, theirs)):
                return False
        elif field.name not in _SAID_ELSEWHERE and ours != theirs:
            return False
    return True


def _values(source: ByteSource, entry: TensorEntry) -> torch.Tensor:
    return read_rows(source, entry, 0, 1, columns=entry.elements).to(torch.float64)
