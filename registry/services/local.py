"""The registry in process: an embedded folder, or a team's database and store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import platformdirs
from sqlalchemy.orm import Session

from registry.catalogue import annotations as annotation_rows
from registry.catalogue import bases as base_rows
from registry.catalogue import browse, events, revisions, tags
from registry.catalogue import search as searching
from registry.catalogue.database import Database, sqlite_url
from registry.errors import NotFoundError, UsageError
from registry.folders.cache import DEFAULT_LIMIT, FetchCache
from registry.folders.refusals import telling_unreadable
from registry.memory import MemoryCache
from registry.progress import SILENT, Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import Principal, Role
from registry.schemas import (
    ArtifactKind,
    BaseAdded,
    BaseSummary,
    Checked,
    Collected,
    Copied,
    Deleted,
    Dtype,
    Event,
    Fetched,
    Identity,
    Log,
    Options,
    ProtectedTag,
    Published,
    Resolved,
    Retracted,
    RevisionSummary,
    SearchResult,
    Shown,
    Tagged,
    Token,
    TokenCreated,
    Tree,
    Verified,
)
from registry.services import life
from registry.services.arguments import asked
from registry.services.deployment import GRACE, Deployment
from registry.services.exchange import Exchange
from registry.services.identity import create_token, listed_tokens, of_this_machine, revoke_token, whoami
from registry.services.local_materialisations import Materialisations
from registry.services.showing import resolved, shown
from registry.storage.blobs import BlobStore
from registry.storage.filesystem import FilesystemDriver

if TYPE_CHECKING:
    from registry.services.protocol import Folder
    from registry.services.transfer import Transfer
    from registry.storage.staging import StagingDriver
    from registry.tensors.artifacts.artifact import Artifact

DATABASE: Final = "registry.db"
NO_METRICS: Final[Mapping[str, float]] = MappingProxyType({})
NO_TEXTS: Final[Mapping[str, str]] = MappingProxyType({})


def _nothing(answer: Published) -> None:
    del answer


class LocalRegistry(Materialisations, Exchange):
    """A registry whose catalogue and blobs this process reads and writes itself: see `registry.services.protocol`.

    Tensor work is imported by the methods that need it, so that browsing starts fast.
    """

    def __init__(self, deployment: Deployment, cache: FetchCache) -> None:
        super().__init__(deployment)
        self._cache = cache

    @classmethod
    def open(
        cls,
        folder: Folder,
        *,
        actor: str | None = None,
        create: bool = True,
        cache_folder: Path | None = None,
        cache_limit: int | None = None,
        gc_grace: float = GRACE,
    ) -> LocalRegistry:
        """Open the embedded registry in ``folder``.

        Raises:
            NotFoundError: there is none, and ``create`` is false.
        """
        folder = Path(folder).expanduser().absolute()
        with telling_unreadable(folder):
            if not create and not (folder / DATABASE).is_file():
                raise NotFoundError(f"There is no registry in {folder}; `registry base add` makes one.")
        database = Database(sqlite_url(folder / DATABASE))
        if create:
            database.prepare()
        store = BlobStore(FilesystemDriver(folder))
        deployment = Deployment(
            database, store, of_this_machine(actor), str(folder), clears_litter=True, gc_grace=gc_grace
        )
        return cls(deployment, _cache(cache_folder, cache_limit))

    @classmethod
    def of(
        cls,
        database_url: str,
        store: StagingDriver,
        *,
        actor: str | None = None,
        cache_folder: Path | None = None,
        cache_limit: int | None = None,
        gc_grace: float = GRACE,
    ) -> LocalRegistry:
        """Open a team's registry; its database is made and upgraded by its operator."""
        database = Database(database_url)
        deployment = Deployment(database, BlobStore(store), of_this_machine(actor), database.where, gc_grace=gc_grace)
        return cls(deployment, _cache(cache_folder, cache_limit))

    def with_principal(self, principal: Principal) -> LocalRegistry:
        """The same registry for another who acts. Close this one, not that."""
        return LocalRegistry(replace(self.deployment, principal=principal), self._cache)

    def with_memory(self, memory: MemoryCache) -> LocalRegistry:
        """The same registry for many requests, which keeps in memory what they share. Close this one, not that."""
        return LocalRegistry(replace(self.deployment, memory=memory), self._cache)

    @property
    def url(self) -> str:
        return self.deployment.url

    def add_base(self, name: str, folder: Folder, *, link: bool = False, progress: Progress = SILENT) -> BaseAdded:
        from registry.services.bases import add_base

        return add_base(self.deployment, name, folder, link=link, progress=progress)

    def bases(self) -> tuple[BaseSummary, ...]:
        with self.deployment.read() as session:
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
        from registry.services.candidates import Labels
        from registry.services.publish import publish

        return publish(
            self.deployment,
            folder,
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
        from registry.services.given import own_folder
        from registry.services.publish_tree import publish_tree

        own = own_folder(folder, "publish -r")
        return publish_tree(self.deployment, own, base, published=published, progress=progress)

    def tree(self, path: str | None = None) -> Tree:
        with self.deployment.read() as session:
            return browse.tree(session, None if path is None else TreePath.parse(path))

    def log(self, path: str) -> Log:
        with self.deployment.read() as session:
            return browse.log(session, TreePath.parse(path))

    def show(self, ref: str) -> Shown:
        with self.deployment.read() as session:
            return shown(session, Reference.parse(ref))

    def resolve(self, ref: str) -> Resolved:
        with self.deployment.read() as session:
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
        with self.deployment.read() as session:
            found = searching.search(session, text, base=base, tag=tag, rank=rank, metric=metric, target=target)
            return SearchResult(revisions=found)

    def tag(self, ref: str, tag: str) -> Tagged:
        reference, principal = Reference.parse(ref), self.deployment.principal
        principal.rights.require_on("writer", reference.path, "tag")
        return self.deployment.change(
            lambda session: tags.set_tag(session, revisions.find(session, reference).id, tag, principal)
        )

    def untag(self, path: str, tag: str) -> Tagged:
        tree_path, principal = TreePath.parse(path), self.deployment.principal
        principal.rights.require_on("writer", tree_path, "remove tags")
        return self.deployment.change(lambda session: tags.remove_tag(session, tree_path, tag, principal))

    def annotate(
        self, ref: str, *, metrics: Mapping[str, float] = NO_METRICS, annotations: Mapping[str, str] = NO_TEXTS
    ) -> RevisionSummary:
        reference, principal = Reference.parse(ref), self.deployment.principal
        principal.rights.require_on("writer", reference.path, "annotate")

        def work(session: Session) -> RevisionSummary:
            found = revisions.find(session, reference).id
            annotation_rows.annotate(session, found, metrics=metrics, annotations=annotations, principal=principal)
            return browse.summary(session, found)

        return self.deployment.change(work)

    def events(self, *, limit: int = 100) -> tuple[Event, ...]:
        with self.deployment.read() as session:
            return events.recent(session, limit)

    def delete(self, ref: str) -> Deleted:
        return life.delete(self.deployment, ref)

    def retract(self, ref: str, *, reason: str = "", undo: bool = False) -> Retracted:
        return life.retract(self.deployment, ref, reason, undo)

    def protect_tag(self, base: str, pattern: str, *, remove: bool = False) -> tuple[ProtectedTag, ...]:
        return life.protect_tag(self.deployment, base, pattern, remove)

    def copy(self, ref: str, to: Transfer, *, recursive: bool = False, progress: Progress = SILENT) -> Copied:
        from registry.services.copying import copy

        return copy(self, ref, to, recursive=recursive, progress=progress)

    def gc(self, *, dry_run: bool = False, progress: Progress = SILENT) -> Collected:
        from registry.services.collect import collect

        return collect(self.deployment, dry_run=dry_run, progress=progress, grace=self.deployment.gc_grace)

    def fsck(self, *, deep: bool = False, progress: Progress = SILENT) -> Checked:
        from registry.services.check import check

        return check(self.deployment, deep=deep, progress=progress)

    def whoami(self) -> Identity:
        return whoami(self.deployment)

    def create_token(
        self, role: Role, *, name: str = "", scopes: Iterable[str] = (), expires_in: int | None = None
    ) -> TokenCreated:
        return create_token(self.deployment, role, name=name, scopes=scopes, expires_in=expires_in)

    def tokens(self) -> tuple[Token, ...]:
        return listed_tokens(self.deployment)

    def revoke_token(self, token: str) -> Token:
        return revoke_token(self.deployment, token)

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
        from registry.services.handing_out import open_artifact

        options = asked(Options, kind=kind, since=since, rank=rank, max_error=max_error, uniform=uniform, dtype=dtype)
        return open_artifact(self.deployment, ref, options)

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
        base_dir: Folder | None = None,
        progress: Progress = SILENT,
    ) -> Fetched:
        from registry.services.fetch import fetch

        if base_dir is not None and kind != "merged":
            raise UsageError(f"--base-dir goes with --as merged, not with --as {kind}: it is merged there.")
        place = None if out is None else Path(out)
        options = asked(Options, kind=kind, since=since, rank=rank, max_error=max_error, uniform=uniform, dtype=dtype)
        return fetch(self.deployment, self._cache, ref, place, options, force=force, progress=progress)

    def verify(self, folder: Folder, *, progress: Progress = SILENT) -> Verified:
        from registry.services.verify import verify

        return verify(self.deployment, Path(folder), progress)

    def close(self) -> None:
        self.deployment.blobs.close()
        self.deployment.database.dispose()


def _cache(folder: Path | None, limit: int | None) -> FetchCache:
    place = folder or Path(platformdirs.user_cache_dir("adapter-registry", appauthor=False)) / "fetched"
    return FetchCache(place.absolute(), DEFAULT_LIMIT if limit is None else limit)
