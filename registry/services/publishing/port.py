"""A registry that a folder of this machine is compared with: in process here, or behind a service.

What a folder is, and which revision an adapter was trained on, is found in one way for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from registry.catalogue.tree import bases, revisions
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas.parents import NarrowRequest, PathsLeft
from registry.schemas.transfer import GivenReceipt
from registry.services.artifacts.load import path_to
from registry.services.deployment import Deployment
from registry.services.lineage import Blobs, LoadedPath, with_ancestors
from registry.services.publishing.narrowing import narrow_paths
from registry.services.publishing.parent_folder import NotComparableError
from registry.tensors.comparison.verdict import Verdict

_Found = tuple[Verdict, Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class Compared:
    """What comparisons of whole folders came to, for who searches with the same folders again among more revisions.

    Folders are taken to stay as they are.
    """

    _known: dict[tuple[Path, tuple[str, ...]], _Found | NotComparableError] = field(default_factory=dict)

    def once(self, folder: Path, paths: Sequence[LoadedPath], compare: Callable[[], _Found]) -> _Found:
        """What `compare_whole` says of a folder and these paths; raises what it raises."""
        key = folder, tuple(f"{link} {path.tip}" for path in paths for link in (path.reference, *_links(path)))
        if key not in self._known:
            try:
                self._known[key] = compare()
            except NotComparableError as problem:
                self._known[key] = problem
        found = self._known[key]
        if isinstance(found, NotComparableError):
            raise found
        return found


def _links(path: LoadedPath) -> list[str]:
    return [link.reference for link in path.links]


class Port(Protocol):
    """A registry that folders are compared with."""

    @property
    def compared(self) -> Compared:
        """What it was compared with before."""

    @property
    def blobs(self) -> Blobs:
        """Where paths are read from."""

    def bases(self) -> Sequence[str]:
        """The names of all base models."""

    def path(self, reference: str) -> LoadedPath:
        """The path to a revision, or a base model alone."""

    def candidates(self, path: TreePath, receipt: GivenReceipt | None) -> Sequence[LoadedPath]:
        """What an adapter at ``path`` may have been trained on: the base, the ancestors, all revisions of the parent.

        Raises:
            NotFoundError: the base model, or the adapter above, does not exist.
            NotComparableError: it is not given to this token.
        """

    def narrow(self, request: NarrowRequest, progress: Progress) -> PathsLeft:
        """See `registry.services.publishing.narrowing.narrow_paths`."""


@dataclass(frozen=True)
class InProcess:
    """A registry in process; retracted revisions are compared too, and refused when they are pinned."""

    deployment: Deployment
    compared: Compared = field(default_factory=Compared)

    @property
    def blobs(self) -> Blobs:
        return self.deployment.artifact_blobs

    def bases(self) -> Sequence[str]:
        with self.deployment.read() as session:
            return [one.name for one in bases.summaries(session)]

    def path(self, reference: str) -> LoadedPath:
        parsed = Reference.parse(reference)
        with self.deployment.read() as session:
            row = None if parsed.path.is_base else revisions.find(session, parsed)
            return path_to(session, bases.get(session, parsed.path.base), row, with_retracted=True)

    def candidates(self, path: TreePath, receipt: GivenReceipt | None) -> Sequence[LoadedPath]:
        """They are given as far as they are visible, or proven by the receipt."""
        with self.deployment.read() as session:
            base = bases.get(session, path.base)
            rows = {row.id: row for row in revisions.pinnable(session, path)}
            if receipt is not None and receipt.receipt.tip is not None:
                rows |= {row.id: row for row in revisions.pinnable(session, path, digest=receipt.receipt.tip)}
            return with_ancestors(
                [
                    path_to(session, base, None),
                    *(path_to(session, base, row, with_retracted=True) for row in rows.values()),
                ]
            )

    def narrow(self, request: NarrowRequest, progress: Progress) -> PathsLeft:
        return narrow_paths(self.deployment, request, progress)
