"""Of which candidate some weights are: read in blocks until it is clear, or until the limit.

First one block of every tensor, the one where candidates differ most. If several still fit there, more of the tensors
in which they differ, as far as the limit allows; and what then still ties is read whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from registry.progress import SILENT, Progress
from registry.tensors.arithmetic.lanes import available_cores, in_order
from registry.tensors.comparison.places import Candidate, Place, Region, in_order_of_weight, regions
from registry.tensors.comparison.sample import Sample, Share, take_sample
from registry.tensors.comparison.verdict import Limit, Standing, Verdict
from registry.tensors.path.origins import BaseTensors
from registry.tensors.table.targets import TargetTable

_NEAR: Final = 0.3  # of the way between two candidates: 0 is the one, 1 the other
_SURE: Final = 4.0  # standard errors
_TELLING: Final = 16.0  # squared units: what a few elements say that other sums would round otherwise, nobody knows
_FOR_THE_NEAREST: Final = 16  # blocks, once nothing fits: enough to say which is nearest


@dataclass
class _Evidence:
    """What all samples together show."""

    names: Sequence[str]
    active: list[int] = field(default_factory=list)
    fits: list[bool] = field(default_factory=list)
    worst: dict[int, tuple[float, str, int, int]] = field(default_factory=dict)
    squares: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    products: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    elements: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    tensors: set[str] = field(default_factory=set)
    bytes: int = 0
    unfitting: int = 0  # samples before which nothing fitted any more

    def __post_init__(self) -> None:
        count = len(self.names)
        self.active, self.fits = list(range(count)), [True] * count
        self.squares, self.sizes = [0.0] * count, [0.0] * count
        self.products = torch.zeros(count, count, dtype=torch.float64)
        self.elements = torch.zeros(count, dtype=torch.float64)

    def add(self, sample: Sample) -> None:
        """Take a sample in."""
        self.unfitting += not any(self.fits[number] for number in self.active)
        slot = sample.place.region.slot
        self.tensors.update(run.tensor for run in slot.places)
        self.bytes += sample.bytes
        for share in sample.shares:
            for number in share.candidates:
                self._add_share(number, share, slot.tensor, sample.elements)
        owner = [(number, at) for at, share in enumerate(sample.shares) for number in share.candidates]
        numbers, places = [number for number, _ in owner], [at for _, at in owner]
        self.products[torch.tensor(numbers)[:, None], torch.tensor(numbers)] += sample.products[places][:, places]

    def _add_share(self, number: int, share: Share, tensor: str, elements: int) -> None:
        self.fits[number] = self.fits[number] and share.fits
        self.squares[number] += share.squares
        self.sizes[number] += share.size
        self.elements[number] += elements
        if number not in self.worst or share.excess > self.worst[number][0]:
            self.worst[number] = (share.excess, tensor, share.row, share.column)

    def drop(self) -> None:
        """Leave out the candidates that it can't be, unless none would be left."""
        self.active = self.fitting or self.active

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
        apart = own + others - 2 * both
        if apart < _TELLING:
            return False
        along = (own - both) / apart
        noise = math.sqrt(max(0.0, min(own, others)) / max(1.0, self.elements[one].item()) / apart)
        return bool(abs(along) + _SURE * noise <= _NEAR)

    def standing(self) -> Standing:
        """The nearest candidate."""

        def distance(number: int) -> float:
            return math.sqrt(self.squares[number] / max(self.sizes[number], 1e-300))

        number = min(self.active, key=distance)
        _, tensor, row, column = self.worst.get(number, (0.0, "", 0, 0))
        return Standing(self.names[number], distance(number), tensor, row, column)


def compare(
    candidates: Sequence[Candidate],
    base: BaseTensors,
    found: BaseTensors,
    table: TargetTable,
    *,
    limit: Limit | None = None,
    progress: Progress = SILENT,
    clock: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Tell of which candidate the weights are that were ``found``, given by the names of the base's files."""
    limit = limit or Limit()
    entries = {name: entry for name, (_, entry) in found.tensors.items()}
    parts = regions(candidates, base, entries, table)
    work = _Work(base, found, _Evidence([one.name for one in candidates]))
    evidence, ends = work.evidence, clock() + limit.seconds

    def in_limit() -> bool:
        return evidence.bytes < limit.bytes and clock() < ends

    later, unseen = work.first_of(parts, in_limit)
    if evidence.undecided():
        tied = evidence.fitting
        telling = (part for part in unseen if part.tells_apart(tied))
        later += (Place(part, index) for part in telling for index in range(part.blocks))
        unseen = [part for part in unseen if not part.tells_apart(tied)]
        left = work.samples(later, lambda: in_limit() and evidence.undecided())
        if evidence.undecided() and left:
            progress.begin("Comparing whole tensors", sum(place.elements for place in left))
            work.samples(left, evidence.undecided, progress)
    fitting = tuple(evidence.names[number] for number in evidence.fitting)
    tensors = {run.tensor for part in parts for run in part.slot.places}
    return Verdict(fitting, evidence.standing(), len(evidence.tensors), len(tensors), evidence.bytes, not unseen)


@dataclass(frozen=True)
class _Work:
    """Samples on several threads, a few at once; between them it is decided what is worth going on with."""

    base: BaseTensors
    found: BaseTensors
    evidence: _Evidence

    def first_of(self, parts: Sequence[Region], in_limit: Callable[[], bool]) -> tuple[list[Place], Sequence[Region]]:
        """Look at the first blocks of every region; their other blocks, and the regions that the limit left out."""
        later: list[Place] = []
        evidence = self.evidence

        def look(part: Region) -> tuple[list[Sample], list[Place]]:
            first, others = in_order_of_weight(part, active)
            return [take_sample(place, self.base, self.found, active) for place in first], others

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
        return later, ()

    def samples(
        self, places: Sequence[Place], go_on: Callable[[], bool], progress: Progress = SILENT
    ) -> Sequence[Place]:
        """Look at places where the candidates that are left differ, as long as it is worth it; those not looked at."""

        def look(place: Place) -> Sample:
            return take_sample(place, self.base, self.found, active)

        active = tuple(self.evidence.fitting)
        places = [place for place in places if place.region.tells_apart(active)]
        for start in range(0, len(places), _at_once()):
            if not go_on():
                return places[start:]
            for sample in in_order(look, places[start : start + _at_once()]):
                self.evidence.add(sample)
                progress.advance(sample.elements)
            self.evidence.drop()
            active = tuple(self.evidence.active)
        return ()


def _at_once() -> int:
    return 2 * available_cores()
