"""The registry in process: an embedded folder with SQLite and blobs (`registry.services.protocol.Registry`)."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import platformdirs
from pydantic import ValidationError

from registry.catalogue import annotations as annotation_rows
from registry.catalogue import bases as base_rows
from registry.catalogue import browse, events, revisions, tags
from registry.catalogue import search as searching
from registry.catalogue.database import Database, sqlite_url
from registry.errors import NotFoundError, UsageError
from registry.folders.cache import DEFAULT_LIMIT, FetchCache
from registry.progress import SILENT, Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import (
    ArtifactKind,
    BaseAdded,
    BaseSummary,
    Dtype,
    Event,
    Fetched,
    Log,
    Options,
    Published,
    Resolved,
    RevisionSummary,
    SearchResult,
    Shown,
    Tagged,
    Tree,
    Verified,
)
from registry.services.deployment import Deployment
from registry.services.showing import resolved, shown
from registry.storage.blobs import BlobStore
from registry.storage.filesystem import FilesystemDriver

if TYPE_CHECKING:
    from registry.services.protocol import Folder
    from registry.tensors.artifacts.artifact import Artifact

DATABASE: Final = "registry.db"
NO_METRICS: Final[Mapping[str, float]] = MappingProxyType({})
NO_TEXTS: Final[Mapping[str, str]] = MappingProxyType({})


def _nothing(answer: Published) -> None:
    del answer


class LocalRegistry:
    """A registry whose catalogue and blobs this process reads and writes itself.

    Tensor work is imported by the methods that need it, so that browsing starts fast.
    """

    def __init__(self, deployment: Deployment, cache: FetchCache) -> None:
        self._deployment = deployment
        self._cache = cache
        self._database = deployment.database

    @classmethod
    def open(
        cls,
        folder: Folder,
        *,
        actor: str | None = None,
        create: bool = True,
        cache_folder: Path | None = None,
        cache_limit: int | None = None,
    ) -> LocalRegistry:
        """Open the embedded registry in ``folder``.

        Raises:
            NotFoundError: there is none, and ``create`` is false.
        """
        folder = Path(folder).expanduser().absolute()
        if not create and not (folder / DATABASE).is_file():
            raise NotFoundError(f"There is no registry in {folder}; `registry base add` makes one.")
        database = Database(sqlite_url(folder / DATABASE))
        if create:
            database.prepare()
        deployment = Deployment(database, BlobStore(FilesystemDriver(folder)), actor or _user(), str(folder))
        cache = cache_folder or Path(platformdirs.user_cache_dir("adapter-registry", appauthor=False)) / "fetched"
        return cls(deployment, FetchCache(cache.absolute(), DEFAULT_LIMIT if cache_limit is None else cache_limit))

    @property
    def url(self) -> str:
        return self._deployment.url

    def add_base(self, name: str, folder: Folder, *, link: bool = False, progress: Progress = SILENT) -> BaseAdded:
        from registry.services.bases import add_base

        return add_base(self._deployment, name, Path(folder), link=link, progress=progress)

    def bases(self) -> tuple[BaseSummary, ...]:
        with self._database.read() as session:
            return base_rows.summaries(session)

    def publish(
        self,
        folder: Folder,
        path: str,
        *,
        parent: str | None = None,
        receipt: Folder | None = None,
        message: str = "",
        metrics: Mapping[str, float] = NO_METRICS,
        tags: Iterable[str] = (),
        annotations: Mapping[str, str] = NO_TEXTS,
        progress: Progress = SILENT,
    ) -> Published:
        from registry.services.publish import Labels, publish

        return publish(
            self._deployment,
            Path(folder),
            path,
            parent=parent,
            receipt=None if receipt is None else Path(receipt),
            labels=Labels.checked(message, metrics, tags, annotations),
            progress=progress,
        )

    def publish_tree(
        self,
        folder: Folder,
        base: str,
        *,
        published: Callable[[Published], None] = _nothing,
        progress: Progress = SILENT,
    ) -> tuple[Published, ...]:
        from registry.services.publish_tree import publish_tree

        return publish_tree(self._deployment, Path(folder), base, published=published, progress=progress)

    def tree(self, path: str | None = None) -> Tree:
        with self._database.read() as session:
            return browse.tree(session, None if path is None else TreePath.parse(path))

    def log(self, path: str) -> Log:
        with self._database.read() as session:
            return browse.log(session, TreePath.parse(path))

    def show(self, ref: str) -> Shown:
        with self._database.read() as session:
            return shown(session, Reference.parse(ref))

    def resolve(self, ref: str) -> Resolved:
        with self._database.read() as session:
            return resolved(session, Reference.parse(ref))

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
        with self._database.read() as session:
            found = searching.search(session, text, base=base, tag=tag, rank=rank, metric=metric, target=target)
            return SearchResult(revisions=found)

    def tag(self, ref: str, tag: str) -> Tagged:
        reference = Reference.parse(ref)
        with self._database.write() as session:
            row = revisions.find(session, reference)
            return tags.set_tag(session, row.id, tag, self._deployment.actor)

    def untag(self, path: str, tag: str) -> Tagged:
        tree_path = TreePath.parse(path)
        with self._database.write() as session:
            return tags.remove_tag(session, tree_path, tag, self._deployment.actor)

    def annotate(
        self, ref: str, *, metrics: Mapping[str, float] = NO_METRICS, annotations: Mapping[str, str] = NO_TEXTS
    ) -> RevisionSummary:
        reference = Reference.parse(ref)
        with self._database.write() as session:
            row = revisions.find(session, reference)
            annotation_rows.annotate(
                session, row.id, metrics=metrics, annotations=annotations, actor=self._deployment.actor
            )
            return browse.summary(session, row.id)

    def events(self, *, limit: int = 100) -> tuple[Event, ...]:
        with self._database.read() as session:
            return events.recent(session, limit)

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
        from registry.services.artifacts import open_artifact

        options = _options(kind=kind, since=since, rank=rank, max_error=max_error, uniform=uniform, dtype=dtype)
        return open_artifact(self._deployment, ref, options)

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
        from registry.services.fetch import fetch

        place = None if out is None else Path(out)
        options = _options(kind=kind, since=since, rank=rank, max_error=max_error, uniform=uniform, dtype=dtype)
        return fetch(self._deployment, self._cache, ref, place, options, force=force, progress=progress)

    def verify(self, folder: Folder, *, progress: Progress = SILENT) -> Verified:
        from registry.services.verify import verify

        return verify(self._deployment, Path(folder), progress)

    def close(self) -> None:
        self._database.dispose()


def _options(**given: object) -> Options:
    try:
        return Options.model_validate(given, strict=True)  # True is no rank, and "3" none either
    except ValidationError as problem:
        first = problem.errors()[0]
        name = str(first["loc"][0])
        raise UsageError(f"{name} is {given[name]!r}: {first['msg'].lower()}.") from None


def _user() -> str:
    """Who acts, where nobody says so."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in the system's list (a container)
        return socket.gethostname()
