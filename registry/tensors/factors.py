"""The deltas of a path as one product: a path of LoRA links is ``W + B A`` with the links' factors side by side.

In oriented space (out x in), link i adds ``s_i B_i A_i``. So ``A = [A_1; A_2; ...]`` (R, in) and
``B = [s_1 B_1, s_2 B_2, ...]`` (out, R) with R the sum of the ranks, exactly: nothing is multiplied out and no cross
terms arise (PEFT's ``add_weighted_adapter(combination_type="linear")`` has them). Scales go into B only, so the rows of
A stay what was published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint import LoraPair
from registry.tensors.dtypes import FLOATS
from registry.tensors.header import TensorEntry
from registry.tensors.source import ByteSource, read_range
from registry.tensors.targets import Target, TargetKind


@dataclass(frozen=True)
class PairSource:
    """One link's pair on one target, and where its bytes are."""

    pair: LoraPair
    source: ByteSource
    coefficient: float = 1.0

    @property
    def scale(self) -> float:
        """What the product B A is multiplied by."""
        return self.pair.scaling * self.coefficient

    def a_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of A, shape (stop - start, in_features)."""
        return read_rows(self.source, self.pair.a, start, stop).to(dtype)

    def b_rows(self, start: int, stop: int, dtype: torch.dtype) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of scale * B, shape (stop - start, rank), rounded once to ``dtype``."""
        rows = read_rows(self.source, self.pair.b, start, stop)
        return rows.to(torch.float64).mul_(self.scale).to(dtype)


def read_rows(source: ByteSource, entry: TensorEntry, start: int, stop: int) -> torch.Tensor:
    """Rows ``start`` to ``stop`` of a matrix kept in a safetensors file, as stored."""
    dtype = FLOATS[entry.dtype]
    columns = entry.shape[1]
    row = columns * dtype.itemsize
    data = read_range(source, entry.start + start * row, entry.start + stop * row)
    return torch.frombuffer(data, dtype=dtype).view(stop - start, columns)


@dataclass(frozen=True)
class TargetLinks:
    """All links of a path that adapt one target, root first."""

    target: Target
    links: tuple[PairSource, ...]

    @classmethod
    def nothing(cls, entry: TensorEntry) -> TargetLinks:
        """No links on a matrix that is stored as ``entry``: its delta is zero."""
        return cls(Target(entry.name, TargetKind.LINEAR, entry.name, entry.shape), ())

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each link."""
        return tuple(link.pair.rank for link in self.links)

    @property
    def rank(self) -> int:
        """Rank of the composed pair: the sum of the links' ranks."""
        return sum(self.ranks)

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Dtypes of all factors."""
        return tuple(FLOATS[entry.dtype] for link in self.links for entry in (link.pair.a, link.pair.b))

    def a(self, dtype: torch.dtype) -> torch.Tensor:
        """A of the path, shape (R, in_features)."""
        if not self.links:
            return torch.zeros(0, self.target.in_features, dtype=dtype)
        return torch.cat([link.a_rows(0, link.pair.rank, dtype) for link in self.links])

    def b(self, dtype: torch.dtype, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of B of the path with the scales folded in, shape (stop - start, R)."""
        end = self.target.out_features if stop is None else stop
        if not self.links:
            return torch.zeros(end - start, 0, dtype=dtype)
        return torch.cat([link.b_rows(start, end, dtype) for link in self.links], dim=1)

    def stored_factors(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Left (stored rows, R) and right (R, stored columns) whose product is the delta as the file stores it."""
        a, b = self.a(dtype), self.b(dtype)
        if self.target.transposed:
            return a.T.contiguous(), b.T.contiguous()
        return b, a


def by_target(links: Sequence[tuple[Sequence[LoraPair], ByteSource, float]]) -> dict[str, TargetLinks]:
    """Gather the pairs of all links (pairs, their file, coefficient), root first, by target module, names sorted.

    Raises:
        InvalidAdapterError: ``lineage_mismatch``, two links read one module in two ways.
    """
    found: dict[str, list[PairSource]] = {}
    for pairs, source, coefficient in links:
        for pair in pairs:
            gathered = found.setdefault(pair.module, [])
            if gathered and gathered[0].pair.target != pair.target:
                raise InvalidAdapterError(
                    f"One link of the path adapts {pair.module!r} as {gathered[0].pair.target.kind.value}, another as "
                    f"{pair.target.kind.value}; one of them was trained on another model.",
                    code="lineage_mismatch",
                )
            gathered.append(PairSource(pair, source, coefficient))
    return {module: TargetLinks(found[module][0].pair.target, tuple(found[module])) for module in sorted(found)}
