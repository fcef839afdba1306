"""What is known while a heap is settled: both registries, what is there already, and where everything belongs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.errors import RegistryError
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.schemas import BaseSummary, FolderCompared, Published
from registry.schemas.publishing import FullSize
from registry.services.exact.figures import Apart
from registry.services.importing.reading import Adapter
from registry.transfer.publish_tree import Ground


@dataclass(frozen=True)
class Side:
    """A registry, and how folders are checked and published in it."""

    registry: Registry
    ground: Ground


@dataclass(frozen=True)
class There:
    """What the registry has that is imported into."""

    bases: Mapping[str, str]  # names by the digest of their weights
    revisions: Mapping[str, str]  # references by digest
    repo_ids: Mapping[str, frozenset[str]]  # under which its base models are known, by name
    taken: frozenset[TreePath]

    @classmethod
    def of(cls, registry: Registry) -> There:
        """Ask a registry."""
        bases = registry.bases()
        revisions = registry.search(all_revisions=True).revisions
        repo_ids = {one.name: _repo_ids(one) for one in bases}
        held = Counter(itertools.chain(*repo_ids.values()))  # what is the name of two says nothing
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

    there: dict[str, FolderCompared] = field(default_factory=dict)  # beside what the registry has, by key
    sizes: dict[tuple[str, str, str], FullSize | RegistryError | None] = field(default_factory=dict)
    """By key, and by the name and the digest of the base model."""
    apart: dict[tuple[str, str], Apart | None] = field(default_factory=dict)  # by keys


@dataclass(frozen=True)
class Landed:
    """An adapter that was published in the private registry."""

    answer: Published
    path: TreePath  # in the registry that is imported into
    there: str | None  # reference of the same revision there
    merged: tuple[str, str] | None = None  # the only thing that shows its parent: a model that is both, and how equal


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
    private: str | None  # the base model that stands for it in the private registry; None: nothing was trained on it


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
