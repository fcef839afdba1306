"""Factors that a file keeps in parts: what of its tensors makes their rows.

LoCon's Tucker form, LoHa and LoKr write a change as products, sums and Kronecker products of small tensors. Each such
matrix is named here by what it is made of, as a value without numbers; `registry.tensors.checkpoint.computed` reads its
rows. The formulas are those of LyCORIS' trained forward (``lycoris/functional``), which PEFT's LoHa and LoKr share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from registry.files.header import TensorEntry


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file, flattened behind its first dimension; ``turned``: read as its transpose."""

    entry: TensorEntry
    turned: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.entry.shape[0], math.prod(self.entry.shape[1:])
        return (columns, rows) if self.turned else (rows, columns)


@dataclass(frozen=True)
class Eye:
    """The identity."""

    size: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.size, self.size


@dataclass(frozen=True)
class Product:
    """``left right``."""

    left: Expression
    right: Expression

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.left.shape[0], self.right.shape[1]


@dataclass(frozen=True)
class Tucker:
    """``sum_ij left[p, i] core[i, j, t] right[j, c]`` at row p and column (c, t); the taps t are fastest."""

    core: TensorEntry  # (i, j, taps...)
    left: Expression
    right: Expression

    @property
    def taps(self) -> int:
        """How many there are."""
        return math.prod(self.core.shape[2:])

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.left.shape[0], self.right.shape[1] * self.taps


@dataclass(frozen=True)
class Kronecker:
    """``left[i, j] right[k, l]`` at row (i, k) and column (j, l)."""

    left: Expression
    right: Expression

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        (i, j), (k, col) = self.left.shape, self.right.shape
        return i * k, j * col


@dataclass(frozen=True)
class Elementwise:
    """``left[p, c] right[p, c]``."""

    left: Expression
    right: Expression

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.left.shape


@dataclass(frozen=True)
class RowByRow:
    """``left[p, i] right[p, j]`` at row p and column (i, j)."""

    left: Expression
    right: Expression

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.left.shape[0], self.left.shape[1] * self.right.shape[1]


@dataclass(frozen=True)
class ColumnByColumn:
    """``left[i, c] right[j, c]`` at row (i, j) and column c."""

    left: Expression
    right: Expression

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.left.shape[0] * self.right.shape[0], self.left.shape[1]


@dataclass(frozen=True)
class HalvesSwapped:
    """The lower half of the rows, then the upper one."""

    of: Expression

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.of.shape


Expression = Tensor | Eye | Product | Tucker | Kronecker | Elementwise | RowByRow | ColumnByColumn | HalvesSwapped
"""A matrix by what it is made of."""


def tensors_of(one: Expression) -> Iterator[TensorEntry]:
    """The tensors of the file that a matrix is made of."""
    if isinstance(one, Tensor):
        yield one.entry
    elif isinstance(one, HalvesSwapped):
        yield from tensors_of(one.of)
    elif not isinstance(one, Eye):
        if isinstance(one, Tucker):
            yield one.core
        yield from tensors_of(one.left)
        yield from tensors_of(one.right)


def is_summed(one: Expression) -> bool:
    """Whether rows of a matrix are sums, so that their last bits depend on how many are computed at once."""
    if isinstance(one, Product | Tucker):
        return True
    if isinstance(one, HalvesSwapped):
        return is_summed(one.of)
    return not isinstance(one, Tensor | Eye) and (is_summed(one.left) or is_summed(one.right))


@dataclass(frozen=True, slots=True)
class ComputedEntry(TensorEntry):
    """A factor of the normal form that no tensor of the file holds: rows ``first`` on of what ``made`` is.

    It has no bytes: who reads it as a tensor of the file gets none.
    """

    made: Expression
    first: int


def computed(name: str, shape: tuple[int, ...], made: Expression, first: int = 0) -> ComputedEntry:
    """A factor of a shape, from row ``first`` of a matrix on. Its numbers are those of float64."""
    return ComputedEntry(name, "F64", shape, 0, 0, made, first)
