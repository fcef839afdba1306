"""Of which candidate some weights are: read in blocks until it is clear, or until the limit.

First one block of every tensor, the one where candidates differ most. If several still fit, more of the tensors in
which they differ are read, as far as the limit allows; candidates that still tie are compared on whole tensors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from registry.progress import SILENT, Progress
from registry.schemas.parents import EQUAL
from registry.tensors.arithmetic.threads import available_cores, in_order
from registry.tensors.comparison.candidates import BlockRange, Candidate, Region, in_order_of_weight, joined, regions
from registry.tensors.comparison.quick import QuickComparison
from registry.tensors.comparison.sample import Sample, Share, quick_sample, take_sample
from registry.tensors.comparison.verdict import Limit, Standing, Verdict, lies_at_one
from registry.tensors.path.origins import BaseTensors
from registry.tensors.table.targets import TargetTable

_FOR_THE_NEAREST: Final = 16  # blocks, once nothing fits: enough to find the nearest


@dataclass
class _Evidence:
    """What all samples together show."""

    candidates: Sequence[Candidate]
    active: list[int] = field(default_factory=list)
    fits: list[bool] = field(default_factory=list)
    worst: dict[int, tuple[float, str, int, int]] = field(default_factory=dict)
    squares: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    products: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    elements: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    tensors: set[str] = field(default_factory=set)
    bytes: int = 0
    seen: set[tuple[int, int]] = field(default_factory=set)  # blocks that were looked at: region, index
    units: dict[int, float] = field(default_factory=dict)
    untold: list[str] = field(default_factory=list)  # other orders that were left out, since nothing distinguished them
    changed: dict[int, int] = field(default_factory=dict)  # elements that each candidate's path changes
    unlike: dict[int, int] = field(default_factory=dict)  # of those, the ones that no one way of merging gives
    others: dict[int, int] = field(default_factory=dict)  # of the elements that it leaves alone
    unfitting: int = 0  # samples before which nothing fitted any more

    def __post_init__(self) -> None:
        count = len(self.candidates)
        self.active, self.fits = list(range(count)), [True] * count
        self.squares, self.sizes = [0.0] * count, [0.0] * count
        self.products = torch.zeros(count, count, dtype=torch.float64)
        self.elements = torch.zeros(count, dtype=torch.float64)

    def add(self, sample: Sample) -> None:
        """Take a sample in."""
        self.unfitting += not any(self.fits[number] for number in self.active)
        slot = sample.place.region.slot
        self.seen.update((id(sample.place.region), index) for index in sample.place.indexes)
        self.tensors.update(run.tensor for run in slot.places)
        self.bytes += sample.bytes
        for share in sample.shares:
            for number in share.candidates:
                self._add_share(number, share, slot.tensor, sample.elements)
                self._count(number, share, sample.place)
        if not sample.elements:
            return
        owner = [(number, at) for at, share in enumerate(sample.shares) for number in share.candidates]
        numbers, places = [number for number, _ in owner], [at for _, at in owner]
        self.products[torch.tensor(numbers)[:, None], torch.tensor(numbers)] += sample.products[places][:, places]

    def _add_share(self, number: int, share: Share, tensor: str, elements: int) -> None:
        self.fits[number] = self.fits[number] and share.fits
        self.squares[number] += share.squares
        self.sizes[number] += share.size
        self.elements[number] += elements
        self.units[number] = max(self.units.get(number, 0.0), share.units)
        if number not in self.worst or share.excess > self.worst[number][0]:
            self.worst[number] = (share.excess, tensor, share.row, share.column)

    def _count(self, number: int, share: Share, place: BlockRange) -> None:
        program = place.region.programs[number]
        changes = program is not None and bool(program.steps)
        counts = self.unlike if changes else self.others
        counts[number] = counts.get(number, 0) + share.unlike
        if changes:
            self.changed[number] = self.changed.get(number, 0) + place.elements

    def equal(self, number: int) -> float:
        """The share of the elements which a candidate's path changes that a usual way of merging gives."""
        return 1 - self.unlike.get(number, 0) / max(1, self.changed.get(number, 0))

    def leave_unlike(self) -> None:
        """Leave out what only fits, where something else is equal bit for bit."""
        fitting = self.fitting
        equal = [one for one in fitting if self.equal(one) >= EQUAL and not self.others.get(one)]
        self.active = equal or self.active

    def drop(self) -> None:
        """Leave out the candidates that it can't be, unless none would be left."""
        self.active = self.fitting or self.active

    def leave_equal_orders(self) -> None:
        """Leave out other orders that so far give the very bits of a path that fits: it was merged at once."""
        fitting = self.fitting
        paths = [number for number in fitting if not self.candidates[number].other_order]
        equal = {
            number
            for number in fitting
            if self.candidates[number].other_order and any(self._apart(number, path) == 0 for path in paths)
        }
        self.untold += [self.candidates[number].name for number in equal]
        self.active = [number for number in self.active if number not in equal]

    def _apart(self, one: int, other: int) -> float:
        both = self.products[one, other].item()
        return abs(self.products[one, one].item() - both) + abs(self.products[other, other].item() - both)

    def leave_orders(self) -> None:
        """Leave out other orders, which the limit did not distinguish from the paths that are left.

        Unless one of them explains every bit so far, and no path does.
        """
        fitting = self.fitting
        paths = [number for number in fitting if not self.candidates[number].other_order]
        exact = [number for number in fitting if self.products[number, number].item() == 0]
        if paths and exact and not set(paths).intersection(exact):
            self.active = exact
        else:
            self.untold += [self.candidates[number].name for number in fitting if number not in paths and paths]
            self.active = paths or self.active

    @property
    def of_one_path(self) -> bool:
        """Whether all candidates are one path, and other orders of its links."""
        return sum(not one.other_order for one in self.candidates) == 1

    def undecided(self) -> bool:
        """Whether several candidates are left."""
        return len(self.fitting) > 1

    @property
    def nothing_fits(self) -> bool:
        """Whether no candidate fits, and it is known which one is nearest."""
        return self.unfitting >= _FOR_THE_NEAREST

    @property
    def fitting(self) -> list[int]:
        """The candidates that fit and that no other one that fits is clearly nearer than."""
        fitting = [number for number in self.active if self.fits[number]]
        beaten = {other for one in fitting for other in fitting if one != other and self._is_it(one, other)}
        return [number for number in fitting if number not in beaten]

    def _is_it(self, one: int, other: int) -> bool:
        """Whether the weights lie at ``one``, on the line from it to ``other``."""
        own, both, others = (self.products[at].item() for at in ((one, one), (one, other), (other, other)))
        return lies_at_one(own, both, others, self.elements[one].item())

    @property
    def nearest(self) -> int:
        """The nearest candidate."""
        return min(self.active, key=self._distance)

    def standing(self) -> Standing:
        """How far the nearest candidate is."""
        number = self.nearest
        _, tensor, row, column = self.worst.get(number, (0.0, "", 0, 0))
        return Standing(self.candidates[number].name, self._distance(number), tensor, row, column)

    def _distance(self, number: int) -> float:
        return math.sqrt(self.squares[number] / max(self.sizes[number], 1e-300))


def compare(
    candidates: Sequence[Candidate],
    base: BaseTensors,
    found: BaseTensors,
    table: TargetTable,
    *,
    limit: Limit | None = None,
    whole: bool = False,
    alike: Callable[[str], bool] | None = None,
    progress: Progress = SILENT,
    clock: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Find the candidate whose weights are those in ``found``, given by the names of the base's files.

    ``whole`` looks at every element of what then fits, whatever the limit is. Of a tensor that no candidate changes it
    need not, if that is ``alike``, by a digest: the same bytes as the base's, of which then none are read.
    """
    limit = limit or Limit()
    entries = {name: entry for name, (_, entry) in found.tensors.items()}
    parts = regions(candidates, base, entries, table)
    work = _Work(base, found, _Evidence(candidates), QuickComparison(base) if whole else None, alike)
    evidence, ends = work.evidence, clock() + limit.seconds

    def in_limit() -> bool:
        return evidence.bytes < limit.bytes and clock() < ends

    if whole and evidence.of_one_path:  # a single path, no choice to make: a few blocks, then all
        work.first_of(parts[:_FOR_THE_NEAREST], in_limit)
        work.rest_of(parts, progress)
        later, unseen = list[BlockRange](), parts[:0]
    else:
        later, unseen = work.first_of(parts, in_limit)
    evidence.leave_equal_orders()
    if evidence.undecided():
        tied = evidence.fitting
        telling = (part for part in unseen if part.tells_apart(tied))
        later += (place for part in telling for place in part.places)
        unseen = [part for part in unseen if not part.tells_apart(tied)]
        left = work.samples(later, lambda: in_limit() and evidence.undecided())
        evidence.leave_orders()
        if evidence.undecided() and left:
            progress.begin("Comparing whole tensors", sum(place.elements for place in left))
            work.samples(left, evidence.undecided, progress)
    if whole and evidence.fitting:
        work.rest_of(parts, progress)
        evidence.leave_unlike()
        unseen = []
    fitting = tuple(candidates[number].name for number in evidence.fitting)
    first = next(iter(evidence.fitting), evidence.nearest)
    tensors = {run.tensor for part in parts for run in part.slot.places}
    return Verdict(
        fitting,
        evidence.standing(),
        len(evidence.tensors),
        len(tensors),
        evidence.bytes,
        whole and bool(fitting),
        evidence.units.get(first, 0.0),
        tuple(evidence.untold),
        evidence.products[first, first].item(),
        evidence.equal(first),
        evidence.others.get(first, 0),
        not unseen,
    )


@dataclass(frozen=True)
class _Work:
    """Samples on several threads, a few at once; between them it is decided what is worth going on with."""

    base: BaseTensors
    found: BaseTensors
    evidence: _Evidence
    quick: QuickComparison | None  # to measure only what is not, bit for bit, what candidates give; None: all
    alike: Callable[[str], bool] | None  # whether a tensor has the base's bytes; None: nobody knows that

    def looked_at(self, place: BlockRange, candidates: Sequence[int]) -> list[Sample]:
        """Look at some blocks, as one where nearly nothing of them has to be measured."""
        quick = None if self.quick is None else quick_sample(place, self.quick, self.found, candidates)
        if quick is not None:
            return [quick]
        if place.blocks > 1:
            return [sample for one in place.each for sample in self.looked_at(one, candidates)]
        return [take_sample(place, self.base, self.found, candidates, bits=self.quick is not None)]

    def first_of(self, parts: list[Region], in_limit: Callable[[], bool]) -> tuple[list[BlockRange], list[Region]]:
        """Look at the first blocks of every region; their other blocks, and the regions that the limit left out."""
        later: list[BlockRange] = []
        evidence = self.evidence

        def look(part: Region) -> tuple[list[Sample], list[BlockRange]]:
            # where all is read in the end, blocks need not be chosen unless they distinguish candidates
            choose = self.quick is None or part.tells_apart(active)
            first, others = in_order_of_weight(part, active if choose else ())
            return [sample for place in first for sample in self.looked_at(place, active)], others

        for start in range(0, len(parts), _at_once()):
            if start and not in_limit():
                return later, parts[start:]
            active = tuple(evidence.active)
            for samples, others in in_order(look, parts[start : start + _at_once()]):
                later += others
                for sample in samples:
                    evidence.add(sample)
            evidence.drop()
            if evidence.nothing_fits:
                break
        return later, []

    def rest_of(self, parts: Sequence[Region], progress: Progress) -> None:
        """Look at all other blocks of some regions, as long as something fits."""
        if not self.evidence.fitting:
            return
        progress.begin("Comparing whole tensors", sum(part.slot.rows * part.slot.columns for part in parts))
        same, seen = self._alike(parts, progress), self.evidence.seen
        others = [part for part in parts if id(part) not in same]
        left = [place for part in others for place in part.places if (id(part), place.index) not in seen]
        self.samples(left, lambda: bool(self.evidence.fitting), progress, all_of_them=True)

    def _alike(self, parts: Sequence[Region], progress: Progress) -> set[int]:
        """The regions, by id, that are whole tensors which nobody changes, and have the base's bytes."""
        if self.alike is None:
            return set()
        alone = [part for part in parts if part.is_left_alone and self.found.holds_whole(part.slot)]
        same: set[int] = set()
        for part, is_same in zip(alone, in_order(self.alike, [part.slot.tensor for part in alone]), strict=True):
            self.evidence.bytes += self.found.size(part.slot.tensor)
            if is_same:
                same.add(id(part))
                self.evidence.tensors.add(part.slot.tensor)
                progress.advance(part.slot.rows * part.slot.columns)
        return same

    def samples(
        self,
        places: Sequence[BlockRange],
        go_on: Callable[[], bool],
        progress: Progress = SILENT,
        *,
        all_of_them: bool = False,
    ) -> Sequence[BlockRange]:
        """Look at places, as long as it is worth it; those not looked at.

        ``all_of_them``: also those where the candidates that are left don't differ.
        """

        def look(place: BlockRange) -> list[Sample]:
            return self.looked_at(place, active)

        active = tuple(self.evidence.fitting)
        places = list(joined(places)) if all_of_them else [one for one in places if one.region.tells_apart(active)]
        if not go_on():
            return places
        for number, samples in enumerate(in_order(look, places), 1):
            for sample in samples:
                self.evidence.add(sample)
                progress.advance(sample.place.elements)
            if any(sample.elements for sample in samples):
                self.evidence.drop()
                active = tuple(self.evidence.active)
            if not go_on():
                return places[number:]
        return ()


def _at_once() -> int:
    return 2 * available_cores()
