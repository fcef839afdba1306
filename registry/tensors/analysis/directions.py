"""Which pairs of an adapter add nothing, or all in one direction: determined while its bytes are streamed.

With the Gram matrices G = A Aᵀ and H = Bᵀ B of a pair, the squares of the singular values of B A are the eigenvalues of
G H: their sum E is its trace, and the sum F of their squares is the trace of its square. As s_1^4 <= F, the stable rank
E / s_1^2 is at least E / sqrt(F). By that alone nearly every trained pair is far above the bound, in float32. A pair
that is not, or whose factors cancel so far that float32 can't decide, is read again and decided by its singular values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from registry.errors import InvalidAdapterError
from registry.files.header import Header
from registry.files.source import ByteSource
from registry.tensors.analysis.statistics import figures
from registry.tensors.arithmetic.streamed import FactorShape, Gram, GramWatch
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.checkpoint.adapter import Checkpoint, LoraPair
from registry.tensors.checkpoint.computed import Computed
from registry.tensors.checkpoint.factors import read_whole
from registry.tensors.truncation.truncate import decompose

ONE_DIRECTION: Final = 1.05
"""A stable rank below this is one direction, for all practical purposes."""
_CLEAR: Final = 1.06  # float32 gives stable ranks to far less than the difference
_ROUNDING: Final = 8 * torch.finfo(torch.float64).eps  # of norms of factors, for each rank; seldom above 1 eps
_CANCELLED: Final = 1e-3  # below this share of the factors' norms, float32 does not give an energy well
_SMALL: Final = 128  # a rank of which Gram matrices cost little in any case
_PRODUCT: Final = 1 << 22  # elements of a product at a time
_PENDING: Final = 64 << 20  # bytes of Gram matrices that wait for those of the other factor


@dataclass(frozen=True)
class Directions:
    """What was found, by the names of pairs, in order."""

    pairs: int  # of the adapter
    zero: tuple[str, ...]  # the delta is zero, and nothing else changes the module
    one: tuple[str, ...]  # the stable rank is below `ONE_DIRECTION`, where the rank is above 1


class DirectionWatch:
    """Call it with the bytes of ``adapter_model.safetensors``, then read `directions`."""

    def __init__(self, header: Header, checkpoint: Checkpoint) -> None:
        self._pairs = checkpoint.pairs
        self._open = set(checkpoint.pairs)  # not known to be nothing special
        self._zero: set[str] = set()
        self._bounded: dict[str, float] = {}  # the norm of the delta: no element is larger
        self._waiting: dict[str, Gram] = {}  # by tensor: the other factor of its pair is still to come
        self._bytes = 0
        shapes: dict[str, FactorShape] = {}
        self._of: dict[str, str] = {}
        for name, pair in checkpoint.pairs.items():
            experts = 1 if pair.fused is None or pair.piece is not None else pair.fused.experts
            streamed = pair.a.name in header.entries and pair.b.name in header.entries  # not rows of a LoRA file
            if streamed and pair.blocks_a == pair.blocks_b == 1 and pair.rank <= _most_rank(pair, experts):
                shapes[pair.a.name] = FactorShape("rows", pair.rank, experts)
                shapes[pair.b.name] = FactorShape("columns", pair.rank, experts)
                self._of |= {pair.a.name: name, pair.b.name: name}
        self._watch = GramWatch(header.entries, shapes, self._take)

    def __call__(self, offset: int, chunk: memoryview) -> None:
        self._watch(offset, chunk)

    def _take(self, tensor: str, gram: Gram) -> None:
        name = self._of[tensor]
        pair = self._pairs[name]
        if gram.is_zero:
            self._open.discard(name)
            self._zero.add(name)
            return
        other = self._waiting.pop(pair.b.name if tensor == pair.a.name else pair.a.name, None)
        if other is not None:
            self._bytes -= other.values.nbytes
            self._bounded[name] = abs(pair.scaling) * _norm_of(gram, other)
            if _is_clear(gram, other):
                self._open.discard(name)
        elif name in self._open and self._bytes + gram.values.nbytes <= _PENDING:
            self._waiting[tensor] = gram
            self._bytes += gram.values.nbytes

    def above(self, limit: float) -> dict[str, float]:
        """Bounds of the largest element that pairs may add, where they are not below ``limit``; infinite: not known."""
        bounds = {name: self._bounded.get(name, math.inf) for name in self._pairs if name not in self._zero}
        return {name: bound for name, bound in bounds.items() if not bound < limit}

    def directions(self, source: ByteSource) -> Directions:
        """What was found; ``source`` is the file, of which only pairs are read that are still open."""
        still = [pair for name, pair in self._pairs.items() if name in self._open]
        found = zip(still, in_order(lambda pair: _stable_rank(pair, source), still), strict=True)
        ranks = {pair.module: stable_rank for pair, stable_rank in found}
        zero, one = [], []
        for name, pair in self._pairs.items():
            if name in self._zero or pair.scaling == 0 or ranks.get(name) == 0:
                if pair.magnitude is None and pair.bias is None:
                    zero.append(name)
            elif pair.rank > 1 and ranks.get(name, math.inf) < ONE_DIRECTION:
                one.append(name)
        return Directions(len(self._pairs), tuple(zero), tuple(one))


def _most_rank(pair: LoraPair, experts: int) -> int:
    """Above this a Gram matrix is larger than its factor; it would grow with the square of a rank that adds nothing."""
    sizes = (math.prod(entry.shape) // (pair.rank * experts) for entry in (pair.a, pair.b))
    return max(_SMALL, min(sizes))


def _norm_of(one: Gram, other: Gram) -> float:
    """|B A|_F over all experts, with room for the rounding of sums in float32; infinite where that is not finite."""
    with np.errstate(all="ignore"):
        g, h = one.values.astype(np.float64), other.values.astype(np.float64)
        energy = float(np.einsum("eij,eij->", g, h))
        norms = float(np.sqrt(np.einsum("eij,eij->", g, g) * np.einsum("eij,eij->", h, h)))
    found = math.sqrt(max(0.0, energy) + _CANCELLED * norms)
    return found if math.isfinite(found) else math.inf


def largest_element(pair: LoraPair, source: ByteSource) -> tuple[float, float]:
    """The magnitude of the largest element that a pair adds, in float64, and a bound by the norms of rows and columns.

    Both are infinite where float64 does not hold them.
    """
    whole = _whole(pair, source)
    if whole is not None:
        element = abs(pair.scaling) * whole.abs().max().nan_to_num(math.inf).item()
        return element, element
    largest = bound = 0.0
    for b, a in _factors(pair, source):
        left, right = b.to(torch.float64) * abs(pair.scaling), a.to(torch.float64)
        lengths, widths = torch.linalg.vector_norm(left, dim=1), torch.linalg.vector_norm(right, dim=0)
        bound = max(bound, (lengths.max() * widths.max()).item())
        step = max(1, _PRODUCT // right.shape[1])
        for at in range(0, left.shape[0], step):
            largest = max(largest, (left[at : at + step] @ right).abs().max().nan_to_num(math.inf).item())
    return largest, bound


def _is_clear(one: Gram, other: Gram) -> bool:
    """Whether a delta is certainly not zero, nor of one direction."""
    g, h = one.values, other.values
    with np.errstate(all="ignore"):  # what is not finite is not clear
        product = np.matmul(g, h)
        energy = np.einsum("eij,eij->e", g, h)
        squares = np.einsum("eij,eji->e", product, product)
        norms = np.sqrt(np.einsum("eij,eij->e", g, g) * np.einsum("eij,eij->e", h, h))
        total = energy.sum()
        least = np.where(energy > 0, energy * energy / np.sqrt(squares), 0).sum() / total  # the mean by energy
    if not total > 0 or not np.isfinite(norms).all() or not (energy >= _CANCELLED * norms).all():
        return False
    return g.shape[1] == 1 or bool(least > _CLEAR)


def _stable_rank(pair: LoraPair, source: ByteSource) -> float:
    """As `registry.tensors.analysis.statistics.figures` has it; 0 of a zero delta. Call it on a lane.

    Of a change that is kept whole it is only known whether it is zero: its singular values cost the cube of its sides.
    """
    whole = _whole(pair, source)
    if whole is not None:
        return math.inf if bool(whole.any()) else 0.0
    try:
        spectra = [_above_rounding(b, a, decompose(b, a).singular_values) for b, a in _factors(pair, source)]
    except InvalidAdapterError:  # its square leaves float64: it may be published, but has no figure
        return math.inf
    found: float = figures(spectra, pair.rank, None)["stable_rank"]
    return found


def _above_rounding(b: torch.Tensor, a: torch.Tensor, values: tuple[float, ...]) -> tuple[float, ...]:
    """Singular values of B A; none where even the largest may be what rounding left of a product that cancels."""
    norms = (torch.linalg.matrix_norm(one.to(torch.float64)).item() for one in (b, a))
    return values if values and values[0] > _ROUNDING * b.shape[1] * math.prod(norms) else ()


def _whole(pair: LoraPair, source: ByteSource) -> torch.Tensor | None:
    """The change of a pair of which one factor is the identity, without its scaling; None: it is no such pair."""
    if pair.fused is not None:
        return None
    a, b = pair.a_matrix, pair.b_matrix
    for one, other in ((a, b), (b, a)):
        if isinstance(one, Computed) and one.is_identity:
            return other.read(source, 0, other.shape[0]).to(torch.float64)
    return None


def _factors(pair: LoraPair, source: ByteSource) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """B and A, of each expert."""
    if pair.fused is None or pair.piece is not None:
        b, a = pair.b_matrix, pair.a_matrix
        yield b.read(source, 0, b.shape[0]), a.read(source, 0, a.shape[0])
        return
    experts, rank = pair.fused.experts, pair.rank
    rows, columns = read_whole(source, pair.a), read_whole(source, pair.b)
    for expert in range(experts):
        yield columns[:, expert::experts], rows[expert * rank : (expert + 1) * rank]
