"""What a kind of artifact brings: how its files are made of a path.

The facts of a kind, which need no tensors, are its row in `registry.schemas.kinds`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry.memory import MemoryCache
from registry.schemas import Options, Truncation
from registry.services.artifacts.inputs import Inputs
from registry.services.lineage import Link, LoadedPath
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.artifacts.plan import Plan


@dataclass(frozen=True)
class Order:
    """An artifact that is to be built; its options were checked."""

    inputs: Inputs  # of the whole path
    links: tuple[Link, ...]  # that go in
    ancestor: LoadedPath | None
    options: Options
    plan: Plan
    memory: MemoryCache | None  # of a service

    @property
    def path(self) -> LoadedPath:
        """The path that it is of."""
        return self.inputs.path


@dataclass(frozen=True)
class Built:
    """An artifact's files, of which nothing is computed yet, and what there is to say of them."""

    plan: Plan  # as the values have made it
    files: list[ArtifactFile]
    notices: tuple[str, ...] = ()
    truncation: Truncation | None = None


def _nothing(inputs: Inputs) -> None:
    del inputs


@dataclass(frozen=True)
class Builder:
    """One kind.

    ``build`` lays out the files. ``check_kept`` refuses to hand out what an older version has materialised of a path,
    where this one would not make it; it raises `ConflictError` (``retable_needed``).
    """

    build: Callable[[Order], Built]
    check_kept: Callable[[Inputs], None] = _nothing
