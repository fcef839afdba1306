"""Candidates for what some weights are: paths, other orders of their links, and the blocks where they differ.

Where candidates differ, blocks are read where they differ most, by the rows of what their own links add. What all of
them leave alone, whole tensors and the rows between changed ones, shows by one block each that nobody merged anything
else into the weights.

Links may have been merged in another order than the path's: equal in real numbers, with other roundings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import permutations
from typing import Final

import torch

from registry.files.header import TensorEntry
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import PathPrograms, Program, origin_of
from registry.tensors.path.steps import Add, SetRows, Step
from registry.tensors.table.parameters import Run
from registry.tensors.table.slots import Slot, as_matrix
from registry.tensors.table.targets import TargetTable

_ALL: Final = 4  # links of which all orders are tried; of more, only those next to the path's own, and its reverse


@dataclass(frozen=True)
class Order:
    """One order of the links of a path."""

    links: tuple[int, ...]  # their numbers, as they were merged
    programs: PathPrograms


def other_orders(programs: PathPrograms, links: int) -> Iterator[Order]:
    """The other orders of a path of so many links that may give other bits; none where its links don't only add."""
    if any(not isinstance(step, Add) for program in programs.programs.values() for step in program.steps):
        return
    seen = [programs.programs]
    for order in _orders(links):
        turned = {slot: _turned(program, order) for slot, program in programs.programs.items()}
        if turned not in seen:
            seen.append(turned)
            followers = {slot: _turned(program, order) for slot, program in programs.followers.items()}
            yield Order(order, replace(programs, programs=turned, followers=followers))


def _turned(program: Program, order: Sequence[int]) -> Program:
    if len(program.steps) < 2:
        return program
    return replace(program, steps=tuple(sorted(program.steps, key=lambda step: order.index(step.link))))


def _orders(links: int) -> Iterator[tuple[int, ...]]:
    own = tuple(range(links))
    if links <= _ALL:
        yield from (order for order in permutations(own) if order != own)
        return
    for at in range(links - 1):
        yield (*own[:at], at + 1, at, *own[at + 2 :])
    yield own[::-1]


ELEMENTS: Final = 1 << 17
"""Of one block. So few rows of every tensor distinguish more than a few whole ones."""
JOINED: Final = 16
"""Blocks that are read together where all of them are looked at."""


@dataclass(frozen=True)
class Candidate:
    """A path that weights may be those of."""

    name: str  # its reference
    programs: PathPrograms
    other_order: bool = False  # of the links of another candidate: no path, but what may have been merged


@dataclass(frozen=True)
class Region:
    """A slot, and what each candidate makes of it; None: the base lacks the tensor, and so does the candidate."""

    slot: Slot
    programs: tuple[Program | None, ...]  # by candidate
    _groups: dict[tuple[int, ...], dict[Program, list[int]]] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def rows_a_block(self) -> int:
        """Rows of one block."""
        return min(max(1, ELEMENTS // self.slot.columns), self.slot.rows)

    @property
    def blocks(self) -> int:
        """How many blocks it has."""
        return -(-self.slot.rows // self.rows_a_block)

    @property
    def places(self) -> list[BlockRange]:
        """All of its blocks."""
        return [BlockRange(self, index) for index in range(self.blocks)]

    def grouped(self, candidates: tuple[int, ...]) -> Mapping[Program, list[int]]:
        """Candidates, given by number, by what they make of it; without those that lack it."""
        if candidates not in self._groups:
            groups: dict[Program, list[int]] = {}
            for number in candidates:
                program = self.programs[number]
                if program is not None:
                    groups.setdefault(program, []).append(number)
            self._groups[candidates] = groups
        return self._groups[candidates]

    @property
    def is_left_alone(self) -> bool:
        """Whether no candidate changes it."""
        return not any(program is None or program.steps for program in self.programs)

    def tells_apart(self, candidates: Sequence[int]) -> bool:
        """Whether some of the candidates, given by number, make different things of it."""
        return len({self.programs[number] for number in candidates} - {None}) > 1


@dataclass(frozen=True)
class BlockRange:
    """One block of a region, or some that follow one another."""

    region: Region
    index: int
    blocks: int = 1

    @property
    def indexes(self) -> range:
        """The numbers of its blocks."""
        return range(self.index, self.index + self.blocks)

    @property
    def first_row(self) -> int:
        """Of the region."""
        return self.index * self.region.rows_a_block

    @cached_property
    def rows(self) -> int:
        """How many rows it has."""
        return min(self.blocks * self.region.rows_a_block, self.region.slot.rows - self.first_row)

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return self.rows * self.region.slot.columns

    @property
    def each(self) -> list[BlockRange]:
        """Its blocks, one by one."""
        return [BlockRange(self.region, index) for index in self.indexes]


def joined(places: Iterable[BlockRange]) -> Iterator[BlockRange]:
    """Single blocks, in order, as places of up to `JOINED` blocks that follow one another."""
    last: BlockRange | None = None
    for place in places:
        if last is not None and last.region is place.region and last.indexes.stop == place.index < last.index + JOINED:
            last = BlockRange(last.region, last.index, last.blocks + 1)
            continue
        if last is not None:
            yield last
        last = place
    if last is not None:
        yield last


def regions(
    candidates: Sequence[Candidate], base: BaseTensors, found: Mapping[str, TensorEntry], table: TargetTable
) -> list[Region]:
    """Every slot that a candidate changes and that is ``found``, and all other rows of the base's float tensors.

    Args:
        candidates: at least one.
        base: the tensors of the base model.
        found: the weights to be compared, by the names of the base's files.
        table: the base's target table.
    """
    changed: dict[Slot, None] = {}
    new: set[str] = set()
    for one in candidates:
        changed |= dict.fromkeys(p.slot for programs in one.programs.by_tensor().values() for p in programs)
        new |= {name for name, tensor in one.programs.new.items() if tensor.beside is None}
    made = []
    for slot in sorted(changed):
        # A head that the base lacks may be left out of a model; a tied weight is then held by the other side.
        if slot.tensor in new and (slot.tensor not in found or found[slot.tensor].elements != slot.rows * slot.columns):
            continue
        if slot.tensor in new:
            made.append(Region(slot, tuple(one.programs.programs.get(slot) for one in candidates)))
        else:
            origin = origin_of(slot, table)
            made.append(Region(slot, tuple(one.programs.made_of(slot, origin) for one in candidates)))
    touched: dict[str, list[tuple[Run, int]]] = {}
    for slot in changed:
        for run in slot.places:
            touched.setdefault(run.tensor, []).append((run, slot.columns))
    for name, (_, entry) in base.tensors.items():
        if name in found and entry.dtype in FLOATS and entry.elements:
            left = _left_alone(entry, touched.get(name, ()))
            made += (Region(slot, (Program(slot, (), slot),) * len(candidates)) for slot in left)
    return made


def _left_alone(entry: TensorEntry, touched: Sequence[tuple[Run, int]]) -> Iterator[Slot]:
    """The rows of a tensor between those that some candidate changes, which come with the columns they are seen in."""
    columns = math.gcd(*(columns for _, columns in touched)) or as_matrix(entry.shape)[1]
    spans = sorted((run.first * wide // columns, (run.first + run.rows) * wide // columns) for run, wide in touched)
    rows, at = entry.elements // columns, 0
    for first, stop in (*spans, (rows, rows)):
        if at < first:
            yield Slot(entry.name, at, first - at, columns)
        at = max(at, stop)


def in_order_of_weight(region: Region, candidates: Sequence[int]) -> tuple[list[BlockRange], list[BlockRange]]:
    """The blocks of a region: those to be read first (one, and all that have rows of tokens), and the others.

    ``candidates`` are the numbers of those to distinguish.
    """
    strengths = torch.zeros(region.slot.rows, dtype=torch.float64)
    for step in _own_steps(region, candidates):
        strengths += _strength(step, region.slot)
    if not strengths.any():  # nothing to choose by: not the first rows, which may be special tokens
        middle = region.blocks // 2
        return [BlockRange(region, middle)], [
            BlockRange(region, index) for index in range(region.blocks) if index != middle
        ]
    order = sorted(range(region.blocks), key=lambda index: -_mean(strengths, region, index))
    places = [BlockRange(region, index) for index in order]
    sure = sum(_mean(strengths, region, place.index) == torch.inf for place in places)
    return places[: max(1, sure)], places[max(1, sure) :]


def _mean(strengths: torch.Tensor, region: Region, index: int) -> float:
    rows = region.rows_a_block
    return strengths[index * rows : (index + 1) * rows].mean().item()


def _own_steps(region: Region, candidates: Sequence[int]) -> Iterator[Step]:
    """What some candidates do to the region and others don't; where all do the same, that."""
    found = (region.programs[number] for number in candidates)
    programs = dict.fromkeys(program for program in found if program is not None)
    steps = dict.fromkeys(step for program in programs for step in program.steps)
    for step in steps:
        if sum(step in program.steps for program in programs) < len(programs) or len(programs) == 1:
            yield step


def _strength(step: Step, slot: Slot) -> torch.Tensor:
    """How much a step changes each stored row, roughly."""
    strengths = torch.ones(slot.rows, dtype=torch.float64)
    if isinstance(step, SetRows):
        strengths[[row for row in step.rows if row < slot.rows]] = torch.inf
    elif isinstance(step, Add):
        pair = step.pair
        a, b = pair.a_rows(0, pair.rank, torch.float64), pair.b_rows(0, slot.out_features, torch.float64)
        rows, others = (a.T, b) if slot.transposed else (b, a)
        strengths = torch.linalg.vector_norm(rows, dim=1) * torch.linalg.vector_norm(others)
    return strengths
