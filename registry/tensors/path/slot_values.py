"""The values of one slot after its path, block by block: the kernel under merged files, full values and DoRA norms.

A block starts as the origin's stored rows in the precision of sums and goes through the path's steps in order, with
consecutive products as one. Nothing is rounded on the way. Oriented rows that are stored rows have their norms in the
block itself; those that are stored columns (embeddings, Conv1D) need a pass over the whole slot for each rescaling.

The factors of a path's products are cached between the blocks that they are multiplied into. Making them reads the
tensors of all links, so they should be made once for a slot and not once for a block.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeGuard

import torch

from registry.errors import IntegrityError, InvalidAdapterError, UnavailableError
from registry.memory import MemoryCache
from registry.tensors.arithmetic.kernel import add_product, block_rows, pad_rows, scratch, widened_into
from registry.tensors.path.steps import Add, BoundPair, Neighbour, Replace, Rescale, SetRows, Step
from registry.tensors.table.slots import Slot

_KEPT: Final = 4
"""Of one file."""

Factors = tuple[torch.Tensor, torch.Tensor]


class KeptFactors(Protocol):
    """Factors by key; safe for many threads."""

    def get(self, key: Hashable, make: Callable[[], Factors]) -> Factors:
        """The factors of that key."""


class RecentFactors:
    """Factors in use: made once each, the least recently used of more than ``most`` dropped."""

    def __init__(self, most: int = _KEPT) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[threading.Lock, list[Factors]]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Factors]) -> Factors:
        with self._lock:
            slot = self._kept.setdefault(key, (threading.Lock(), []))
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        lock, made = slot
        with lock:
            if not made:
                made.append(make())
            return made[0]


class SharedFactors:
    """Factors of one plan in the memory of the process: for all files, requests and ranges of it."""

    def __init__(self, memory: MemoryCache, plan: str) -> None:
        self._memory = memory
        self._plan = plan
        self._large: set[Hashable] = set()  # the memory does not keep them
        self._recent = RecentFactors()

    def get(self, key: Hashable, make: Callable[[], Factors]) -> Factors:
        if key in self._large:
            return self._recent.get(key, make)
        mine = False

        def make_mine() -> Factors:
            nonlocal mine
            mine = True
            return make()

        try:
            factors = self._memory.get("factors", (self._plan, key), make_mine, _size)
        except (IntegrityError, UnavailableError):
            if mine:
                raise
            factors = make()  # another's blobs failed, as with shared pieces: `registry.tensors.artifacts.artifact`
        if _size(factors) > self._memory.limit("factors"):
            self._large.add(key)
        return factors


def _size(factors: Factors) -> int:
    return sum(factor.nbytes for factor in factors)


_NORM_CHUNK: Final = 128

MatrixRows = Callable[[int, int], torch.Tensor]
"""Stored rows start to stop of a slot before any step, in their stored dtype."""


@dataclass(frozen=True)
class _Product:
    pairs: tuple[BoundPair, ...]

    @property
    def whole(self) -> BoundPair | None:
        """The only pair of a change that a file keeps whole: it is added as it is, row by row."""
        return self.pairs[0] if len(self.pairs) == 1 and self.pairs[0].is_whole else None


_Stage = _Product | SetRows | Rescale


class SlotValues:
    """Any block of a slot's values after some steps.

    Args:
        slot: which rows of which tensor.
        origin: its rows before the steps; not used where the first step replaces them.
        steps: what the path does to it, root first.
        dtype: precision of sums.
        kept: where factors are cached between blocks.
        merge_products: False keeps each product a stage of its own, for `trace`.
        rows_a_block: another grid than that of files, for callers that read values and make no bytes of them.
        beside: the values of another slot, for rescalings whose norms run over both.
    """

    def __init__(
        self,
        slot: Slot,
        origin: MatrixRows,
        steps: Sequence[Step],
        dtype: torch.dtype,
        kept: KeptFactors | None = None,
        *,
        merge_products: bool = True,
        rows_a_block: int | None = None,
        beside: Callable[[Neighbour], SlotValues] | None = None,
    ) -> None:
        self.slot = slot
        self.rows_a_block = rows_a_block or block_rows(slot.rows, slot.columns)
        self.blocks = -(-slot.rows // self.rows_a_block)
        self.dtype = dtype
        first = steps[0] if steps else None
        self._replaces = isinstance(first, Replace)
        self._read = first.read if isinstance(first, Replace) else origin
        self._stages = _stages(steps[1:] if isinstance(first, Replace) else steps, merge_products)
        self._kept = kept or RecentFactors()
        self._beside = beside or _alone
        self._column_factors: dict[int, torch.Tensor] = {}
        self._lock = threading.Lock()

    def origin_block(self, index: int) -> torch.Tensor:
        """Stored rows of block ``index`` before the steps, in their stored dtype."""
        start = index * self.rows_a_block
        return self._read(start, min(start + self.rows_a_block, self.slot.rows))

    def block(self, index: int) -> torch.Tensor:
        """Stored rows of block ``index`` after the steps, not rounded, shape (rows, columns)."""
        return self.before_and_after(index)[1]

    def before_and_after(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`origin_block`, which nobody may change, and `block`."""
        values, rows, stored = self._begin(index)
        for stage in range(len(self._stages)):
            self._apply(stage, index, values, rows)
        return stored, values[:rows]

    @property
    def products(self) -> int:
        """How many of the first stages are products."""
        return next((at for at, one in enumerate(self._stages) if not isinstance(one, _Product)), len(self._stages))

    def rescales(self, number: int) -> bool:
        """Whether step ``number`` of `trace` rescales."""
        return number < len(self._stages) and isinstance(self._stages[number], Rescale)

    @property
    def rescales_inputs(self) -> bool:
        """Whether a step multiplies oriented columns."""
        return any(isinstance(stage, Rescale) and stage.by_input for stage in self._stages)

    @property
    def only_adds(self) -> bool:
        """Whether the steps are one product: what it adds does not depend on what it is added to."""
        return len(self._stages) == 1 and isinstance(self._stages[0], _Product)

    def added_to(self, rows: range, out: torch.Tensor) -> None:
        """Write what the steps add to some stored rows, where they `only_adds`, in the precision of ``out``."""
        whole = self._whole(0)
        if whole is not None:
            out.copy_(_chosen(whole, rows, out.dtype))
            return
        left, right = self.product(0)
        chosen = left[rows.start : rows.stop : rows.step]
        torch.mm(chosen.to(out.dtype), right.to(out.dtype), out=out)

    def put_on(self, rows: range, values: torch.Tensor) -> None:
        """Apply the steps to chosen stored rows alone, in the precision of ``values`` and in place."""
        chosen = slice(rows.start, rows.stop, rows.step)
        for number, stage in enumerate(self._stages):
            whole = self._whole(number)
            if whole is not None:
                values += _chosen(whole, rows, values.dtype)
            elif isinstance(stage, _Product):
                left, right = self.product(number)
                add_product(values, left[chosen].to(values.dtype), right.to(values.dtype))
            elif isinstance(stage, SetRows):
                _set_rows(values, stage, rows)
            elif self._is_by_column(stage):
                values *= self._by_column(number).to(values.dtype)
            else:
                factors = self._ratio(stage, stage.read(torch.float64)[chosen], row_norms(values), rows)
                values *= factors.to(values.dtype).unsqueeze(1)

    def sets_rows(self) -> frozenset[int]:
        """The stored rows that a step replaces."""
        return frozenset(row for stage in self._stages if isinstance(stage, SetRows) for row in stage.rows)

    def trace(self, index: int) -> Iterator[tuple[SetRows | Add | Rescale | None, torch.Tensor]]:
        """The block before the steps (None) and after each of them; the tensor is changed by the next turn."""
        values, rows, _ = self._begin(index)
        yield None, values[:rows]
        for number, stage in enumerate(self._stages):
            self._apply(number, index, values, rows)
            yield Add(0, stage.pairs[0]) if isinstance(stage, _Product) else stage, values[:rows]

    def product_bound(self, number: int, index: int) -> torch.Tensor:
        """Of the product that is step ``number`` of `trace`, a bound of sum |s b a| for each element of the block.

        By the norms of the factors' rows and columns (Cauchy and Schwarz). What is summed may cancel, and the error of
        a sum is relative to its terms.
        """
        left, right = self.product(number)
        first = index * self.rows_a_block
        rows = left[first : min(first + self.rows_a_block, self.slot.rows)]
        lengths: torch.Tensor = torch.linalg.vector_norm(rows, dim=1)
        return torch.outer(lengths, torch.linalg.vector_norm(right, dim=0))

    @property
    def replaces(self) -> bool:
        """Whether the first step replaces all values, so that nothing of the origin is left in them."""
        return self._replaces

    def stages(self) -> Iterator[Factors | SetRows | Rescale]:
        """What happens to the values after a replacement, in order; a product is left (rows, R), right (R, columns)."""
        for number, stage in enumerate(self._stages):
            if isinstance(stage, _Product):
                left, right = self.product(number)
                yield left[: self.slot.rows], right
            else:
                yield stage

    def _begin(self, index: int) -> tuple[torch.Tensor, int, torch.Tensor]:
        """A block before the steps, padded, its number of rows, and these rows as they are stored."""
        stored = self.origin_block(index)
        rows = stored.shape[0]
        values = scratch((self.rows_a_block, self.slot.columns), self.dtype)
        widened_into(values[:rows], stored)
        if rows < self.rows_a_block:
            values[rows:].zero_()
        return values, rows, stored

    def _apply(self, number: int, index: int, values: torch.Tensor, rows: int) -> None:
        stage = self._stages[number]
        first = index * self.rows_a_block
        whole = self._whole(number)
        if whole is not None:
            values[:rows] += whole.whole_rows(first, first + rows, self.dtype)
        elif isinstance(stage, _Product):
            left, right = self.product(number)
            add_product(values, left[first : first + self.rows_a_block], right)
        elif isinstance(stage, SetRows):
            _set_rows(values, stage, range(first, first + rows))
        elif self._is_by_column(stage):
            values *= self._by_column(number).to(self.dtype)
        else:
            values[:rows] *= self._by_row(stage, values[:rows], first).unsqueeze(1)

    def _whole(self, number: int) -> BoundPair | None:
        """The pair of a stage that adds rows as they are; of a transposed slot they are columns, and multiplied."""
        stage = self._stages[number]
        return stage.whole if isinstance(stage, _Product) and not self.slot.transposed else None

    def product(self, number: int) -> Factors:
        """Left (stored rows, R), padded to whole blocks, and right (R, columns) of the product that is a stage."""
        stage = self._stages[number]
        if not isinstance(stage, _Product):
            raise TypeError(f"step {number} is no product")
        return self._kept.get((self.slot, number), partial(self._factors, stage.pairs))

    def _factors(self, pairs: Sequence[BoundPair]) -> Factors:
        """Left (stored rows, R), padded to whole blocks, and right (R, stored columns) of a product as it is stored."""
        a = torch.cat([pair.a_rows(0, pair.rank, self.dtype) for pair in pairs])
        b = torch.cat([pair.b_rows(0, self.slot.out_features, self.dtype) for pair in pairs], dim=1)
        left, right = (a.T.contiguous(), b.T.contiguous()) if self.slot.transposed else (b, a)
        return pad_rows(left, self.rows_a_block), right

    def _by_row(self, stage: Rescale, values: torch.Tensor, first: int) -> torch.Tensor:
        features = range(first, first + values.shape[0])
        magnitude = stage.read(torch.float64)[first : first + values.shape[0]]
        return self._ratio(stage, magnitude, row_norms(values), features).to(self.dtype)

    def _by_column(self, number: int) -> torch.Tensor:
        """Factors of the columns at a rescaling; they need all rows, so they are made once."""
        with self._lock:
            if number not in self._column_factors:
                for earlier, stage in enumerate(self._stages[: number + 1]):
                    if self._is_by_column(stage) and earlier not in self._column_factors:
                        self._column_factors[earlier] = self._make_by_column(earlier, stage)
            return self._column_factors[number]

    def _make_by_column(self, number: int, stage: Rescale) -> torch.Tensor:
        """Factors of the stored columns; the taps of a convolution's input channel have one."""
        magnitude = stage.read(torch.float64)
        taps = self.slot.columns // len(magnitude)
        squares = torch.zeros(self.slot.columns, dtype=torch.float64)
        for index in range(self.blocks):
            squares += column_squares(self._before(number, index))
        for one in stage.beside:
            values = self._beside(one)
            for index in range(values.blocks):
                squares += column_squares(values.block(index))
        norms = squares.view(-1, taps).sum(1).sqrt()
        return self._ratio(stage, magnitude, norms, range(len(magnitude))).repeat_interleave(taps)

    def _is_by_column(self, stage: _Stage) -> TypeGuard[Rescale]:
        """Whether a stage multiplies stored columns: its factors need all rows."""
        return isinstance(stage, Rescale) and (self.slot.transposed or stage.by_input)

    def _before(self, number: int, index: int) -> torch.Tensor:
        """Block ``index`` before stage ``number``, all earlier column factors being known."""
        values, rows, _ = self._begin(index)
        for earlier in range(number):
            known = self._column_factors.get(earlier)
            if known is None:
                self._apply(earlier, index, values, rows)
            else:
                values *= known.to(self.dtype)
        return values[:rows]

    def _ratio(self, stage: Rescale, magnitude: torch.Tensor, norms: torch.Tensor, features: range) -> torch.Tensor:
        """What the oriented rows of some output features, or the columns, are multiplied by, in float64."""
        if stage.strength is not None:
            return magnitude
        factors = magnitude / norms
        bad = (norms == 0) | ~factors.isfinite()
        if bool(bad.any()):
            at = int(bad.nonzero()[0, 0])
            raise InvalidAdapterError(
                f"Tensor {stage.entry.name!r}: DoRA divides by the norm of "
                f"{'input channel' if stage.by_input else 'output feature'} {features[at]} of "
                f"{self.slot.tensor!r}, which is {norms[at].item():g}. The feature has no direction to scale: train "
                "this module without DoRA.",
                code="zero_norm",
            )
        return factors

    def rescalings(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Factors (out_features,) of each rescaling of oriented rows in order, and their norms after all steps."""
        numbers = [
            number for number, stage in enumerate(self._stages) if isinstance(stage, Rescale) and not stage.by_input
        ]
        if self.slot.transposed:
            factors = [self._by_column(number).to(self.dtype) for number in numbers]
            squares = torch.zeros(self.slot.columns, dtype=torch.float64)
            for index in range(self.blocks):
                squares += column_squares(self.block(index))
            return factors, squares.sqrt()
        found: list[list[torch.Tensor]] = [[] for _ in numbers]
        norms = []
        for index in range(self.blocks):
            values, rows, _ = self._begin(index)
            first = index * self.rows_a_block
            for number, stage in enumerate(self._stages):
                if isinstance(stage, Rescale) and not stage.by_input:
                    factors_here = self._by_row(stage, values[:rows], first)
                    found[numbers.index(number)].append(factors_here)
                    values[:rows] *= factors_here.unsqueeze(1)
                else:
                    self._apply(number, index, values, rows)
            norms.append(row_norms(values[:rows]))
        return [torch.cat(parts) for parts in found], torch.cat(norms)


def _alone(one: Neighbour) -> SlotValues:
    raise AssertionError(f"the values of {one.slot.tensor} are not at hand")


def _stages(steps: Sequence[Step], merge_products: bool) -> tuple[_Stage, ...]:
    """Steps after a replacement as stages; a replacement drops what is before it, so no other occurs."""
    stages: list[_Stage] = []
    for step in steps:
        if isinstance(step, SetRows | Rescale):
            stages.append(step)
        elif isinstance(step, Add):
            last = stages[-1] if stages else None
            if merge_products and isinstance(last, _Product) and not (last.whole or step.pair.is_whole):
                stages[-1] = _Product((*last.pairs, step.pair))
            else:
                stages.append(_Product((step.pair,)))
    return tuple(stages)


def _chosen(pair: BoundPair, rows: range, dtype: torch.dtype) -> torch.Tensor:
    """Chosen rows of a change that is kept whole."""
    if rows.step == 1:
        return pair.whole_rows(rows.start, rows.stop, dtype)
    return torch.cat([pair.whole_rows(row, row + 1, dtype) for row in rows])


def _set_rows(values: torch.Tensor, stage: SetRows, rows: range) -> None:
    """Set those of ``values``, which are stored rows of these numbers, that a step replaces."""
    here = [(at, rows.index(row)) for at, row in enumerate(stage.rows) if row in rows]
    if here:
        new = stage.read()
        for at, row in here:
            values[row] = new[at].to(values.dtype)


def row_norms(values: torch.Tensor) -> torch.Tensor:
    """Euclidean norms of the rows in float64: exact to the precision of the values, at the speed of float32.

    Chunks of a row are summed in the values' own precision and the chunks in float64, so the error does not grow with
    the length of the row.
    """
    whole = values.shape[1] // _NORM_CHUNK * _NORM_CHUNK
    squares: torch.Tensor = torch.linalg.vector_norm(values[:, whole:], dim=1, dtype=torch.float64).square()
    if whole:
        chunks = torch.unflatten(values[:, :whole], 1, (-1, _NORM_CHUNK))
        squares += torch.linalg.vector_norm(chunks, dim=2).to(torch.float64).square().sum(1)
    return squares.sqrt()


def column_squares(values: torch.Tensor) -> torch.Tensor:
    """Sums of the squares of the columns, in float64."""
    return values.to(torch.float64).square().sum(0)
