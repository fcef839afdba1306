"""The interface of a kind of artifact: how its files are made of a path.

The properties of a kind that need no tensors are in `registry.schemas.artifacts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry.memory import MemoryCache
from registry.schemas import Options, Truncation
from registry.schemas.form import MeasuredRows
from registry.services.artifacts.inputs import Inputs
from registry.services.lineage import Link, LoadedPath
from registry.tensors.artifacts.artifact import ArtifactFile, Meter
from registry.tensors.artifacts.plan import Plan


@dataclass(frozen=True)
class Order:
    """A request to build an artifact, with checked options."""

    inputs: Inputs  # of the whole path
    links: tuple[Link, ...]  # those that the artifact contains
    ancestor: LoadedPath | None
    options: Options
    plan: Plan
    memory: MemoryCache | None  # of a service
    measured: MeasuredRows | None = None  # of which rows fidelity is measured when they are made; None: of none

    @property
    def path(self) -> LoadedPath:
        """The artifact's path."""
        return self.inputs.path


@dataclass(frozen=True)
class Built:
    """An artifact's files, laid out but not computed yet, with notices."""

    plan: Plan  # including the ranks that depend on values
    files: list[ArtifactFile]
    notices: tuple[str, ...] = ()
    truncation: Truncation | None = None
    meter: Meter | None = None


def _nothing(inputs: Inputs) -> None:
    del inputs


@dataclass(frozen=True)
class Builder:
    """The functions of a kind.

    ``build`` lays out the files. ``check_kept`` refuses to serve an older version's materialisation of a path that this
    version would not build; it raises `ConflictError` (``retable_needed``).
    """

    build: Callable[[Order], Built]
    check_kept: Callable[[Inputs], None] = _nothing
