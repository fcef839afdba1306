"""The registry as its users see it: one protocol, implemented in process here and over HTTP later.

Every implementation passes the same conformance suite. All errors are `registry.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Protocol

from registry.progress import SILENT, Progress
from registry.schemas import (
    ArtifactKind,
    BaseAdded,
    BaseSummary,
    Dtype,
    Event,
    Fetched,
    Log,
    Published,
    Resolved,
    RevisionSummary,
    SearchResult,
    Shown,
    Tagged,
    Tree,
    Verified,
)

if TYPE_CHECKING:
    from registry.tensors.artifacts.artifact import Artifact

Folder = str | PathLike[str]


class Registry(Protocol):
    """Adapters as a tree of immutable revisions; what a path of it means, as weights."""

    @property
    def url(self) -> str:
        """Where this registry is: a folder, or an address."""

    def add_base(self, name: str, folder: Folder, *, link: bool = False, progress: Progress = SILENT) -> BaseAdded:
        """Add the base model in ``folder`` (Hugging Face layout) under ``name``."""

    def bases(self) -> tuple[BaseSummary, ...]:
        """All base models, by name."""

    def publish(
        self,
        folder: Folder,
        path: str,
        *,
        parent: str | None = None,
        receipt: Folder | None = None,
        message: str = "",
        metrics: Mapping[str, float] = {},
        tags: Iterable[str] = (),
        annotations: Mapping[str, str] = {},
        progress: Progress = SILENT,
    ) -> Published:
        """Publish the PEFT adapter in ``folder`` as the next revision of ``path``."""

    def publish_tree(
        self,
        folder: Folder,
        base: str,
        *,
        published: Callable[[Published], None] = lambda _: None,
        progress: Progress = SILENT,
    ) -> tuple[Published, ...]:
        """Publish every adapter in a nested folder, parents first: nesting is the path below ``base``.

        ``published`` is called after each one. A second run goes on where the first was stopped.
        """

    def tree(self, path: str | None = None) -> Tree:
        """Adapters as a tree: everything, or what is at and under ``path``."""

    def log(self, path: str) -> Log:
        """All revisions of an adapter, newest first."""

    def show(self, ref: str) -> Shown:
        """Everything about a revision."""

    def resolve(self, ref: str) -> Resolved:
        """Which revision a reference means now."""

    def search(
        self,
        text: str | None = None,
        *,
        base: str | None = None,
        tag: str | None = None,
        rank: str | None = None,
        metric: str | None = None,
        target: str | None = None,
    ) -> SearchResult:
        """Revisions that meet every given condition; ``rank`` as ``<=16``, ``metric`` as ``acc>0.8``."""

    def tag(self, ref: str, tag: str) -> Tagged:
        """Let ``tag`` name the revision, moving it if it named another."""

    def untag(self, path: str, tag: str) -> Tagged:
        """Remove a tag."""

    def annotate(
        self, ref: str, *, metrics: Mapping[str, float] = {}, annotations: Mapping[str, str] = {}
    ) -> RevisionSummary:
        """Add or replace metrics and annotations of a revision."""

    def events(self, *, limit: int = 100) -> tuple[Event, ...]:
        """What was changed, newest first."""

    def artifact(
        self,
        ref: str,
        *,
        kind: ArtifactKind = "lora",
        since: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        uniform: bool = False,
        dtype: Dtype | None = None,
    ) -> Artifact:
        """The files that a reference means, readable by range, without writing anything.

        ``rank`` and ``max_error`` truncate a composed adapter: a cap for each module, and a bound of the relative
        Frobenius error over all of them. ``uniform`` fills it with zeros to one rank.
        """

    def fetch(
        self,
        ref: str,
        out: Folder | None = None,
        *,
        kind: ArtifactKind = "lora",
        since: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        uniform: bool = False,
        dtype: Dtype | None = None,
        force: bool = False,
        progress: Progress = SILENT,
    ) -> Fetched:
        """Write an artifact into a folder, with a receipt beside its files."""

    def verify(self, folder: Folder, *, progress: Progress = SILENT) -> Verified:
        """Check a fetched folder against its receipt and, by computing it again, against the registry."""

    def close(self) -> None:
        """Release connections and files."""
