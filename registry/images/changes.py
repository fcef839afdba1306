"""What a module of a LoRA file adds to its weight, whichever form the file writes it in.

A plain pair is ``up down``; Tucker puts a core between them. A LoHa is the elementwise product of two pairs, a LoKr the
Kronecker product of two matrices, each whole or a pair. As a pair of factors these have rank r1 r2, exactly. Where that
is more than a quarter of the smaller side the change is kept whole, as are differences. Formulas: LyCORIS' trained
forward (4.1, ``lycoris/functional``); PEFT's LoHa and LoKr are the same but for the scale of a LoKr of whole matrices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.strict_json import shown
from registry.images.expressions import (
    ColumnByColumn,
    Elementwise,
    Expression,
    Eye,
    Kronecker,
    Product,
    RowByRow,
    Tensor,
    Tucker,
)
from registry.images.keys import DIFF, DOWN, LOHA, LOHA_CORES, MID, UP, SpelledModule

_SHARE: Final = 4
"""A change of a rank above this part of the smaller side costs less as it is."""

Entries = Mapping[str, TensorEntry]


@dataclass(frozen=True)
class Change:
    """``b a``, or ``b`` alone (``a`` is None)."""

    b: Expression  # (rows, rank), or (rows, columns)
    a: Expression | None  # (rank, columns)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.b.shape[0], (self.b if self.a is None else self.a).shape[1]


def rank_of(one: SpelledModule, tensors: Entries) -> int | None:
    """What a module's alpha is divided by; None: by nothing, the change is not scaled.

    Raises:
        InvalidAdapterError: ``shape_mismatch``, the factor has no rows.
    """
    for part in (DOWN, LOHA[1], "lokr_w2_b", "lokr_w1_b"):
        if part in one.parts:
            entry = tensors[one.parts[part]]
            if not entry.shape or not entry.shape[0]:
                raise InvalidAdapterError(
                    f"Tensor {shown(entry.name)} of {shown(one.spelled)} has shape {entry.shape}; its first dimension "
                    "is the rank, at least 1. Save the LoRA again.",
                    code="shape_mismatch",
                )
            return entry.shape[0]
    return None


def change_of(one: SpelledModule, tensors: Entries, inner: tuple[int, ...], rows: int, least: int) -> Change | None:
    """What a module of the file adds to a weight of ``rows`` rows; None: nothing.

    Args:
        one: the module.
        tensors: of the file, by name.
        inner: shape of the weight behind its rows.
        rows: of all modules of the base model that it is.
        least: rows of the smallest of them.

    Raises:
        InvalidAdapterError: ``shape_mismatch``, or ``rank_mismatch`` within a pair.
    """
    parts = {part: tensors[name] for part, name in one.parts.items()}
    columns = math.prod(inner)
    limit = min(least, columns) // _SHARE
    if DOWN in parts:
        found = _pair(one, parts, inner)
    elif LOHA[0] in parts:
        found = _loha(one, parts, inner, limit)
    elif "lokr_w1" in parts or "lokr_w1_a" in parts:
        found = _lokr(one, parts, inner, limit)
    elif DIFF in parts:
        found = Change(_matrix(one, parts[DIFF]), None)
    else:
        return None
    if found.shape != (rows, columns):
        last = parts.get(UP, parts.get(DIFF, next(iter(parts.values()))))
        if DOWN in parts and found.shape[1] == columns:
            raise wrong_shape(last, (rows, "rank"), one)
        raise InvalidAdapterError(
            f"{shown(last.name)} and its siblings make a change of shape {found.shape} of {shown(one.spelled)}, "
            f"expected {(rows, columns)}: {_OTHER_BASE}.",
            code="shape_mismatch",
        )
    return found


def _pair(one: SpelledModule, parts: Entries, inner: tuple[int, ...]) -> Change:
    down, up = parts[DOWN], parts[UP]
    columns = math.prod(inner)
    if MID in parts:
        _check_matrix(one, down, ("rank", inner[0]))
        _check_core(one, parts[MID], down.shape[0], inner[1:])
        rank = parts[MID].shape[0]
        a: Expression = Tucker(parts[MID], Eye(rank), Tensor(down))
    else:
        rank = down.shape[0] if down.shape else 0
        fits = len(down.shape) >= 2 and (down.shape[1:] == inner or (is_pointwise(down) and down.shape[1] == columns))
        if not rank or not fits:
            raise wrong_shape(down, ("rank", *inner), one)
        a = Tensor(down)
    _check_matrix(one, up, ("rows", "rank"))
    if up.shape[1] != rank:
        raise InvalidAdapterError(
            f"The pair of {shown(one.spelled)} has rank {rank} in {shown(parts.get(MID, down).name)} and {up.shape[1]} "
            f"in {shown(up.name)}; they must be equal.",
            code="rank_mismatch",
        )
    return Change(Tensor(up), a)


def _loha(one: SpelledModule, parts: Entries, inner: tuple[int, ...], limit: int) -> Change:
    halves = []
    for (first, second), core in zip((LOHA[:2], LOHA[2:]), LOHA_CORES, strict=True):
        halves.append(_half(one, parts, first, second, core, inner))
    (a1, b1, half1), (a2, b2, half2) = halves
    if half1.shape != half2.shape:
        raise wrong_shape(parts[LOHA[2]], half1.shape, one)
    if LOHA_CORES[0] not in parts and b1.shape[0] * b2.shape[0] <= limit:
        return Change(RowByRow(a1, a2), ColumnByColumn(b1, b2))
    return Change(Elementwise(half1, half2), None)


def _lokr(one: SpelledModule, parts: Entries, inner: tuple[int, ...], limit: int) -> Change:
    whole1, sides1 = _side(one, parts, "lokr_w1", ())
    whole2, sides2 = _side(one, parts, "lokr_w2", inner)
    (b1, a1), (b2, a2) = _least(whole1, sides1), _least(whole2, sides2)
    if a1.shape[0] * a2.shape[0] <= limit:
        return Change(Kronecker(b1, b2), Kronecker(a1, a2))
    return Change(Kronecker(whole1, whole2), None)


_Sides = tuple[Expression, Expression]


def _side(one: SpelledModule, parts: Entries, name: str, inner: tuple[int, ...]) -> tuple[Expression, _Sides | None]:
    """One matrix of a LoKr, and the two that it is a product of."""
    if name in parts:
        return _matrix(one, parts[name]), None
    first, second, whole = _half(one, parts, f"{name}_a", f"{name}_b", "lokr_t2" if inner else "", inner)
    return whole, None if isinstance(whole, Tucker) else (first, second)


def _least(whole: Expression, sides: _Sides | None) -> _Sides:
    """The two matrices of least rank whose product a matrix is, without a decomposition."""
    rows, columns = whole.shape
    trivial: _Sides = (Eye(rows), whole) if rows <= columns else (whole, Eye(columns))
    return trivial if sides is None or sides[1].shape[0] > trivial[1].shape[0] else sides


def _half(
    one: SpelledModule, parts: Entries, first: str, second: str, core: str, inner: tuple[int, ...]
) -> tuple[Expression, Expression, Expression]:
    """Two factors, and their product; with a core the first is kept turned, and both are of channels alone."""
    a, b = parts[first], parts[second]
    if core in parts:
        _check_matrix(one, a, ("rank", "rows"))
        _check_matrix(one, b, ("rank", "columns"))
        _check_core(one, parts[core], b.shape[0], inner[1:])
        if parts[core].shape[0] != a.shape[0]:
            raise wrong_shape(a, (parts[core].shape[0], "rows"), one)
        left, right = Tensor(a, turned=True), Tensor(b)
        return left, right, Tucker(parts[core], left, right)
    left, right = _matrix(one, a), _matrix(one, b)
    if left.shape[1] != right.shape[0]:
        raise InvalidAdapterError(
            f"The pair of {shown(one.spelled)} has rank {left.shape[1]} in {shown(a.name)} and {right.shape[0]} in "
            f"{shown(b.name)}; they must be equal.",
            code="rank_mismatch",
        )
    return left, right, Product(left, right)


def _matrix(one: SpelledModule, entry: TensorEntry) -> Tensor:
    if len(entry.shape) < 2 or not entry.elements:
        raise wrong_shape(entry, ("rows", "columns"), one)
    return Tensor(entry)


def _check_matrix(one: SpelledModule, entry: TensorEntry, expected: tuple[int | str, ...]) -> None:
    fits = is_pointwise(entry) and all(
        size == wanted or isinstance(wanted, str) for size, wanted in zip(entry.shape, expected, strict=False)
    )
    if not fits or not entry.elements:
        raise wrong_shape(entry, expected, one)


def _check_core(one: SpelledModule, entry: TensorEntry, rank: int, kernel: tuple[int, ...]) -> None:
    if not entry.elements or entry.shape[1:] != (rank, *kernel):
        raise wrong_shape(entry, ("rank", rank, *kernel), one)


def is_pointwise(entry: TensorEntry) -> bool:
    """Whether a tensor is a matrix, whatever dimensions of size 1 follow."""
    return len(entry.shape) >= 2 and all(size == 1 for size in entry.shape[2:])


_OTHER_BASE: Final = "publish it under the base model that it was trained on"


def wrong_shape(entry: TensorEntry, expected: tuple[int | str, ...], one: SpelledModule) -> InvalidAdapterError:
    """The error for a tensor that does not fit its module, or its siblings."""
    listed = ", ".join(map(str, expected))
    return InvalidAdapterError(
        f"Tensor {shown(entry.name)} of {shown(one.spelled)} has shape {entry.shape}, expected ({listed}): "
        f"{_OTHER_BASE}.",
        code="shape_mismatch",
    )
