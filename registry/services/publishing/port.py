"""A registry that a folder of this machine is compared with: in process here, or behind a service.

What a folder is, and which revision an adapter was trained on, is found in one way for both. In process it is
`registry.services.publishing.publish.InProcess`, which is published to as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from registry.errors import NotFoundError
from registry.files.hashed import HashedFile
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.schemas.parents import NarrowRequest, PathsLeft
from registry.schemas.transfer import Bundle, PublishRequest
from registry.services.publishing.parent_folder import NotComparableError
from registry.tensors.comparison.verdict import Verdict
from registry.tensors.lineage.paths import Blobs, LoadedPath, with_ancestors
from registry.tensors.lineage.received_bundles import Bundles
from registry.transfer.publish_tree import BundleSource

_Found = tuple[Verdict, Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class Compared:
    """What comparisons of whole folders came to, for searching with the same folders again among more revisions.

    Folders are taken to stay as they are.
    """

    _known: dict[tuple[Path, tuple[tuple[str, ...], ...]], _Found | NotComparableError] = field(default_factory=dict)

    def once(self, folder: Path, paths: Sequence[LoadedPath], compare: Callable[[], _Found]) -> _Found:
        """The result of `compare_whole` for a folder and these paths; raises what it raises."""
        key = folder, tuple((path.tip, path.reference, *(one.reference for one in path.links)) for path in paths)
        if key not in self._known:
            try:
                self._known[key] = compare()
            except NotComparableError as problem:
                self._known[key] = problem
        found = self._known[key]
        if isinstance(found, NotComparableError):
            raise found
        return found


class Port(Blobs, Protocol):
    """A registry that folders are compared with; the bytes of its paths are read from it, too."""

    @property
    def compared(self) -> Compared:
        """What it was compared with before."""

    def bases(self) -> Sequence[str]:
        """The names of all base models."""

    def path(self, reference: str) -> LoadedPath:
        """The path to a revision, or a base model alone."""

    def candidates(self, request: PublishRequest) -> Sequence[LoadedPath]:
        """What an adapter may have been trained on: the base, the ancestors, all revisions of the parent.

        Raises:
            NotFoundError: the base model, or the adapter above, does not exist.
            NotComparableError: it is not given to this token.
        """

    def narrow(self, request: NarrowRequest, *, progress: Progress) -> PathsLeft:
        """See `registry.services.publishing.narrowing.narrow_paths`."""


class OverHttp(Bundles):
    """A registry behind a service, which gives its paths as bundles."""

    def __init__(self, service: BundleSource, progress: Progress) -> None:
        super().__init__(service.open_blob)
        self._service, self._progress = service, progress
        self._bases: dict[str, Mapping[str, HashedFile]] = {}  # by the digest of their files
        self.compared = Compared()

    def bases(self) -> Sequence[str]:
        return self._service.bases()

    def path(self, reference: str) -> LoadedPath:
        return self._loaded(self._service.bundle(reference))

    def candidates(self, request: PublishRequest) -> Sequence[LoadedPath]:
        """They are given as far as the token sees them and they are not retracted.

        A receipt proves a revision that others can't see to the service alone.
        """
        above = TreePath.parse(request.path).parent
        assert above is not None, "a base model has no candidates"
        try:
            bundles = self._service.revisions(above)
        except NotFoundError as problem:
            raise NotComparableError(f"this token does not see it ({problem})".rstrip(".")) from problem
        return with_ancestors([self._loaded(bundle) for bundle in bundles])

    def narrow(self, request: NarrowRequest, *, progress: Progress) -> PathsLeft:
        del progress  # of the service's own work, which it does not report
        return self._service.narrow(request)

    def _loaded(self, bundle: Bundle) -> LoadedPath:
        digest = bundle.base.files_digest
        if digest not in self._bases:
            self._bases[digest] = self._service.base_files(bundle, self._progress)
        return self.load(bundle, self._bases[digest])


def over_http(service: BundleSource, progress: Progress) -> closing[OverHttp]:
    """The port to a service; its blobs are closed with the context."""
    return closing(OverHttp(service, progress))
