"""What is known while what a heap holds is placed: both registries, and which models are full fine-tunes.

What the registry has already is known, too.

Those near a base model that no path makes are full fine-tunes. What is near is measured; which of two models was
trained from the other, weights alone don't show.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from registry.errors import RegistryError, UnavailableError
from registry.operations.registry import Registry
from registry.progress import Part, Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import BaseSummary, FolderCompared, Published
from registry.schemas.parents import RULE
from registry.schemas.publishing import FullSize
from registry.services.exact.figures import Apart, full_size, models_apart
from registry.services.importing.reading import Adapter, Contents
from registry.services.publishing.port import Port
from registry.transfer.publish_tree import PublishTarget


@dataclass(frozen=True)
class Side:
    """A registry, and how folders are compared, checked and published in it."""

    registry: Registry
    folders: PublishTarget
    port: Callable[[Progress], AbstractContextManager[Port]]  # what folders are compared with


@dataclass(frozen=True)
class There:
    """What the registry has that is imported into."""

    bases: Mapping[str, str]  # names by the digest of their weights
    revisions: Mapping[str, str]  # references by digest
    repo_ids: Mapping[str, frozenset[str]]  # under which its base models are known, by name
    taken: frozenset[TreePath]

    @classmethod
    def of(cls, registry: Registry) -> There:
        """Query a registry."""
        bases = registry.bases()
        revisions = registry.search(all_revisions=True).revisions
        repo_ids = {one.name: _repo_ids(one) for one in bases}
        held = Counter(itertools.chain(*repo_ids.values()))  # a name that two share identifies neither
        paths = {one.path for one in revisions} | {one.name for one in bases}
        return cls(
            {one.digest: one.name for one in bases},
            {one.digest: one.reference for one in revisions},
            {name: frozenset(one for one in ids if held[one] == 1) for name, ids in repo_ids.items()},
            frozenset(TreePath.parse(path) for path in paths),
        )


def _repo_ids(base: BaseSummary) -> frozenset[str]:
    source = (base.source or "").removeprefix("hf:").partition("@")[0]
    return frozenset({*base.also_known_as, *([source] if source else [])})


@dataclass(frozen=True)
class Measured:
    """What was found out about the models of a heap that stays so, for every try at settling it."""

    there: dict[str, FolderCompared] = field(default_factory=dict)  # compared with the registry's models, by key
    sizes: dict[tuple[str, str, str], FullSize | RegistryError | None] = field(default_factory=dict)
    """By key, and by the name and the digest of the base model."""
    apart: dict[tuple[str, str], Apart | None] = field(default_factory=dict)  # by keys


@dataclass(frozen=True)
class Landed:
    """An adapter that was published in the private registry."""

    answer: Published
    path: TreePath  # in the registry that is imported into
    there: str | None  # reference of the same revision in that registry
    merged: tuple[str, str] | None = None  # the only thing that shows its parent: a model that is both, and how equal


@dataclass(frozen=True)
class Fitted:
    """A LoRA file that fits one base model alone, which nothing proves."""

    path: TreePath  # in the registry that is imported into
    digest: str  # of the revision


@dataclass(frozen=True)
class Doubt:
    """Why an adapter's parent is not proven."""

    problem: RegistryError
    near: tuple[tuple[str, str], ...] = ()  # references in the private registry, or "./places", and why


@dataclass(frozen=True)
class Full:
    """A model that is a full fine-tune."""

    size: FullSize
    parent: str  # reference in one of the registries, or the key of another full fine-tune
    path: TreePath  # in the registry that is imported into
    private: str | None  # the base model that represents it in the private registry; None: nothing was trained on it


@dataclass(frozen=True)
class MaybeFull:
    """A model that may be a full fine-tune."""

    size: FullSize
    parent: str  # as of a full one
    unclear: str | None  # what is, as a clause; None: it is one


@dataclass
class Settled:
    """Where everything belongs."""

    bases: dict[str, str] = field(default_factory=dict)  # names by key of the model
    compared: dict[str, FolderCompared] = field(default_factory=dict)  # what each model is, by key
    there: dict[str, FolderCompared] = field(default_factory=dict)  # what the registry has that is near, by key
    full: dict[str, Full] = field(default_factory=dict)  # by key, parents first
    maybe_full: dict[str, MaybeFull | RegistryError] = field(default_factory=dict)  # or why it can't be one, by key
    landed: dict[str, Landed] = field(default_factory=dict)  # adapters by place
    fitted: dict[str, Fitted] = field(default_factory=dict)  # adapters by place
    doubts: dict[str, Doubt] = field(default_factory=dict)  # by place
    refused: dict[str, RegistryError] = field(default_factory=dict)  # by place
    kept: list[Adapter] = field(default_factory=list)  # checkpoints that come in, since a model is made of them
    pending: list[str] = field(default_factory=list)  # keys of models that no path explains, full fine-tunes among them

    def compared_with(self, key: str) -> tuple[FolderCompared, ...]:
        """The comparisons of a model with the revisions of both registries that came to something."""
        found = (self.compared.get(key), self.there.get(key))
        return tuple(one for one in found if one is not None and one.reason is None)

    @property
    def quality(self) -> tuple[int, int, int]:
        """How much is explained by proofs, and then at all: the more, the better."""
        return -len([key for key in self.pending if key in self.compared]), len(self.landed), len(self.full)


FAR: Final = 0.5
"""A model farther from all others than this, relative to its norm, is not made of one of them."""
_NEAR: Final = 0.25
"""Beyond this it may be one, or a base model of its own."""
_EXPLAINED: Final = 0.5
"""Share of what a model differs by (squared) that a path has to explain before the model goes below that path."""
_SURE: Final = 4.0
"""Standard errors by which it has to show which of two models came first."""


@dataclass
class FullModels:
    """The models that may be full fine-tunes."""

    contents: Contents
    private: Side
    target: Side
    there: There
    done: Settled
    measured: Measured
    progress: Progress

    def size(self, key: str) -> FullSize | None:
        """What a model is compared with its nearest base model; None: it is near none that it fits."""
        found = [one for one in self._beside(key) if isinstance(one, FullSize)]
        return min(found, key=lambda one: one.distance, default=None)

    def problem(self, key: str) -> RegistryError | None:
        """Why a model, which is near a base model, can't be stored exactly below that."""
        return next((one for one in self._beside(key) if isinstance(one, RegistryError)), None)

    def _beside(self, key: str) -> Iterator[FullSize | RegistryError | None]:
        here = {name: self.contents.models[root].digest or "" for root, name in self.done.bases.items()}
        there, sizes = {name: digest for digest, name in self.there.bases.items()}, self.measured.sizes
        for name, digest in sorted({**there, **here}.items()):
            if (key, name, digest) not in sizes:
                side = self.private if name in here else self.target
                sizes[key, name, digest] = self._measured(side, key, name)
            yield sizes[key, name, digest]

    def _measured(self, side: Side, key: str, base: str) -> FullSize | RegistryError | None:
        try:
            part = Part(self.progress, f"Measuring {key} beside {base}")
            with side.port(part) as port:
                return full_size(port, port.path(base), self.contents.models[key].folder, FAR, part)
        except UnavailableError:
            raise
        except RegistryError as problem:
            return problem

    def found(self, key: str, size: FullSize) -> MaybeFull:
        """The place of a model that is near a base model, and what is not clear about it."""
        parent, unclear = self._parent(key, size), None
        if size.distance >= _NEAR:
            unclear = "so far from it, it may be a base model of its own"
        elif parent == size.base and not self._came_first(key, size.base):
            unclear = "and nothing shows which of the two was trained from the other"
        return MaybeFull(size, parent, unclear)

    def _parent(self, key: str, size: FullSize) -> str:
        """Where a model began: from the base model down as long as one path alone explains most of what is left."""
        near = self._candidates(key, size)
        at, reference, left = size.base, size.base, 1.0
        while below := [name for name in near if self._known_above(name, {size.base, *near}) == at]:
            explaining = [name for name in below if near[name][0] <= (1 - _EXPLAINED) * left]
            if len(explaining) != 1:
                break
            at, (left, reference) = explaining[0], near[explaining[0]]
        return reference

    def _candidates(self, key: str, size: FullSize) -> dict[str, tuple[float, str]]:
        """Revisions by their paths, and other full fine-tunes by their keys.

        With the share that each leaves of what the model differs from its base model by, squared, and its reference.
        """
        found: dict[str, tuple[float, str]] = {}
        for compared in self.done.compared_with(key):
            distances = {one.reference: one.distance for one in compared.near}
            # a base model that is not listed is not nearer than what is
            whole = distances.get(size.base, max(distances.values(), default=0.0))
            for name, distance in distances.items():
                path = Reference.parse(name).path
                left = (distance / whole) ** 2 if whole else 1.0
                if path.names and left < found.get(str(path), (1.0, ""))[0]:
                    found[str(path)] = left, name
        for other, full in self.done.full.items():
            apart = self._between(key, other) if full.size.base == size.base else None
            if apart is not None and began_at(size.distance, full.size.distance, apart):
                found[other] = (apart.distance / size.distance) ** 2, other
        return found

    def _known_above(self, name: str, known: Collection[str]) -> str | None:
        """The nearest one above a path or a full fine-tune that is known."""
        above = self._above(name)
        while above is not None and above not in known and above not in self.done.full:
            above = self._above(above)
        return above

    def _above(self, name: str) -> str | None:
        if (full := self.done.full.get(name)) is not None:
            return full.parent if full.parent in self.done.full else str(Reference.parse(full.parent).path)
        path = TreePath.parse(name)
        above = path.parent
        if above is None:
            return None
        stands_for = {one.private: key for key, one in self.done.full.items() if one.private is not None}
        return stands_for.get(str(above), str(above))

    def _between(self, key: str, other: str) -> Apart | None:
        if (key, other) not in self.measured.apart:
            one, there = self.contents.models[key], self.contents.models[other]
            self.measured.apart[key, other] = models_apart(one.folder, there.folder)
        return self.measured.apart[key, other]

    def _came_first(self, key: str, base: str) -> bool:
        """Whether something shows that a base model precedes a model that is near it.

        The registry has it; or the other one names it; or it comes from a Hub, and the other does not; or a trainer
        left its files with the other alone; or the heap uses it as one: it has merged models of it, or several adapters
        that were trained on it.
        """
        root = next((one for one, name in self.done.bases.items() if name == base), None)
        if root is None or base in self.there.bases.values():
            return True
        first, model = self.contents.models[root], self.contents.models[key]
        if model.began_with & {first.repo, str(first.folder)} or first.began_with & {model.repo, str(model.folder)}:
            return bool(model.began_with & {first.repo, str(first.folder)})
        if first.trained != model.trained:
            return model.trained
        if (first.repo is None) != (model.repo is None):
            return first.repo is not None
        used = [one for one in self.done.landed.values() if one.answer.revision.parent == base]
        merged = (one.reference for each in self.done.compared.values() for one in each.fitting)
        return len(used) > 1 or any(name.startswith(f"{base}/") for name in merged)


def began_at(distance: float, other: float, apart: Apart) -> bool:
    """Whether a model, by the distances of two from their base model, was trained from the other one.

    In so many dimensions, what training adds is orthogonal to what it started from, up to the noise of the samples.
    """
    square, noise = apart.distance**2, 2 * distance * apart.distance / math.sqrt(apart.elements)
    # were it the other way round, this would be off by two squares
    return abs(distance**2 - other**2 - square) <= square / 2 and 1.5 * square >= _SURE * noise


def fits_itself(words: str, name: str, digest: str, before: FolderCompared | None) -> FolderCompared:
    """A model that is a base model of the private registry, as a result of comparing it."""
    fits: Mapping[str, object] = {"fitting": [{"reference": name, "digest": digest}], "searched": 1}
    near = {} if before is None else {"nearest": before.nearest, "distance": before.distance, "near": before.near}
    return FolderCompared.model_validate({"words": words, **fits, **near, **_ITSELF})


_ITSELF: Final = {"proof": "it is that model itself", "rule": RULE, "whole": True, "equal": 1.0}
