"""What is known while a heap is settled: both registries, what is there already, and where everything belongs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.errors import RegistryError
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.schemas import FolderCompared, Published
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
    taken: frozenset[TreePath]

    @classmethod
    def of(cls, registry: Registry) -> There:
        """Ask a registry."""
        bases = registry.bases()
        revisions = registry.search(all_revisions=True).revisions
        paths = {one.path for one in revisions} | {one.name for one in bases}
        return cls(
            {one.digest: one.name for one in bases},
            {one.digest: one.reference for one in revisions},
            frozenset(TreePath.parse(path) for path in paths),
        )


@dataclass(frozen=True)
class Landed:
    """An adapter that was published in the private registry."""

    answer: Published
    there: str | None  # reference of the same revision in the registry that is imported into


@dataclass(frozen=True)
class Doubt:
    """Why an adapter's parent is not proven."""

    problem: RegistryError
    near: tuple[tuple[str, str], ...] = ()  # references in the private registry, or "./places", and why


@dataclass
class Settled:
    """Where everything belongs."""

    bases: dict[str, str] = field(default_factory=dict)  # names by key of the model
    compared: dict[str, FolderCompared] = field(default_factory=dict)  # what each model is, by key
    landed: dict[str, Landed] = field(default_factory=dict)  # adapters by place
    doubts: dict[str, Doubt] = field(default_factory=dict)  # by place
    refused: dict[str, RegistryError] = field(default_factory=dict)  # by place
    same: dict[str, str] = field(default_factory=dict)  # copies: the place of the first
    pending: list[str] = field(default_factory=list)  # keys of models that nothing explains

    @property
    def quality(self) -> tuple[int, int]:
        """How much is explained: the more, the better."""
        return -len([key for key in self.pending if key in self.compared]), len(self.landed)
