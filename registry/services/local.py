"""The registry in process: an embedded folder, or a team's database and store."""

from __future__ import annotations

import getpass
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from registry.catalogue.database.database import Database, sqlite_url
from registry.errors import NotFoundError, UnavailableError
from registry.folders.local_files import telling_unreadable
from registry.operations.arguments import Export
from registry.operations.following import Following, Lost
from registry.operations.methods.calls import Partner
from registry.operations.operation import A, Item, Listing, Operation, Part, R
from registry.operations.publication import Publication
from registry.operations.readable import LastOpened
from registry.operations.registry import Registry
from registry.progress import SILENT, Progress
from registry.rights import UNLIMITED, Principal
from registry.schemas import (
    BaseAdded,
    Copied,
    Fetched,
    Options,
    Verified,
)
from registry.schemas.artifacts import KINDS
from registry.schemas.form import MeasuredRows
from registry.schemas.labels import Exported
from registry.schemas.parents import Identified, Policy
from registry.schemas.team import FollowRequest
from registry.schemas.usage import Interface
from registry.services.deployment import DATABASE, GRACE, Deployment
from registry.services.loads import UseLog
from registry.services.transfers import Transfers
from registry.storage.blobs import BlobStore
from registry.storage.filesystem import FilesystemDriver
from registry.transfer.publishing import PublishingFolders

if TYPE_CHECKING:
    from registry.folders.staging import FetchCache
    from registry.memory import MemoryCache
    from registry.operations.methods.publishing import Folder
    from registry.schemas.publishing import ImportDocument
    from registry.services.publishing.publish import InProcess
    from registry.services.weight_changes import WeightChanges
    from registry.storage.staging import StagingDriver
    from registry.tensors.artifacts.artifact import Artifact
    from registry.transfer.publish_tree import BundleSource
    from registry.transfer.source import Extract

log = logging.getLogger(__name__)


class LocalRegistry(Transfers, PublishingFolders, Partner, Registry):
    """A registry whose catalogue and blobs this process reads and writes itself: see `registry.operations.registry`.

    Tensor code is imported by the methods that need it, so that browsing starts fast.
    """

    def __init__(self, deployment: Deployment, cache: Callable[[], FetchCache]) -> None:
        super().__init__(deployment)
        self._cache = cache
        self._last_changes: LastOpened[WeightChanges] = LastOpened()

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
        parents: Policy = "any",
        interface: Interface = "fetch",
    ) -> LocalRegistry:
        """Open the embedded registry in ``folder``.

        Raises:
            NotFoundError: the folder has none, and ``create`` is false.
        """
        folder = Path(folder).expanduser().absolute()
        if os.path.isfile(folder):  # noqa: PTH113 - false, and no error, for what can't be accessed
            kind = UnavailableError if create else NotFoundError
            raise kind(f"There is no registry in {folder}: it is a file, and a folder is expected.")
        with telling_unreadable(folder):
            if not create and not (folder / DATABASE).is_file():
                raise NotFoundError(f"There is no registry in {folder}; `registry base add` creates one.")
        database = Database(sqlite_url(folder / DATABASE))
        if create:
            database.create()
        store = BlobStore(FilesystemDriver(folder))
        kept = Deployment(database, store, _principal(actor), str(folder), clears_litter=True, folder=folder)
        uses = UseLog(database)
        deployment = replace(kept, gc_grace=gc_grace, parents=parents, uses=uses, interface=interface)
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
        parents: Policy = "any",
        interface: Interface = "fetch",
    ) -> LocalRegistry:
        """Open a team's registry; creating and upgrading its database is up to its operator."""
        database = Database(database_url)
        kept = Deployment(database, BlobStore(store), _principal(actor), database.where)
        uses = UseLog(database)
        deployment = replace(kept, gc_grace=gc_grace, parents=parents, uses=uses, interface=interface)
        return cls(deployment, _cache(cache_folder, cache_limit))

    def with_principal(self, principal: Principal) -> LocalRegistry:
        """The same registry for another principal. It shares resources: close the original, not the copy."""
        return LocalRegistry(replace(self.deployment, principal=principal), self._cache)

    def without_uses(self) -> LocalRegistry:
        """The same registry, without counting uses. Close the original, not the copy."""
        return LocalRegistry(replace(self.deployment, uses=None), self._cache)

    def with_memory(self, memory: MemoryCache) -> LocalRegistry:
        """The same registry with a memory cache that its requests share. Close the original, not the copy."""
        return LocalRegistry(replace(self.deployment, memory=memory), self._cache)

    def with_jobs(self) -> LocalRegistry:
        """The same registry of a service, whose jobs analyse published revisions. Close the original, not the copy."""
        return LocalRegistry(replace(self.deployment, looks=True), self._cache)

    @property
    def url(self) -> str:
        return self.deployment.url

    def do(self, operation: Operation[R, A], request: R, progress: Progress = SILENT) -> A:
        """Do an operation of the table; raises `NotAllowedError` if the principal's rights don't allow it."""
        if operation.writes(request):
            operation.right.require(self.deployment.rights, request)  # nothing is upgraded without write access
            self._before_writing()
        return self.deployment.do(operation, request, progress)

    _do = do

    def _before_writing(self) -> None:
        if (done := self.deployment.database.prepare_to_write()) is not None and done.copy is not None:
            log.warning("%s.", done.told(self.url))

    def upgrade(self) -> None:
        """Upgrade the database of a folder, and report that, before it is served: a service writes at once."""
        self._before_writing()

    def _part(self, listing: Listing[R, Item], request: R, limit: int | None) -> Part[Item]:
        found = self.deployment.page(listing, request, None, limit)
        while limit is not None and len(found.items) < limit and found.next is not None:  # it ended before it was full
            after = listing.key(found.next)
            more = self.deployment.page(listing, request, after, limit - len(found.items))
            notices = tuple(dict.fromkeys((*found.notices, *more.notices)))
            found = Part((*found.items, *more.items), more.next, notices)
        return found

    def _follow(self, request: FollowRequest, lost: Lost | None) -> Following:
        from registry.services.following import FollowingHere

        return FollowingHere(self.deployment, request, lost)

    def _add_base(self, name: str, folder: Folder, *, link: bool, variant: str | None, progress: Progress) -> BaseAdded:
        from registry.services.bases.add import add_base

        return add_base(self.deployment, name, folder, link=link, variant=variant, progress=progress)

    def _extract(self, publication: Publication, progress: Progress) -> Extract:
        from registry.services.extraction import write_full
        from registry.services.publishing.publish import parent_here

        blobs, parent = self.deployment.artifact_blobs, parent_here(self.deployment, publication)
        return lambda folder, asked, out: write_full(blobs, parent, folder, asked, out, progress)

    def _from_pickle(self, pickle: Path, out: Path) -> None:
        from registry.tensors.limited import convert_pickle

        convert_pickle(pickle, out)

    def _target(self) -> InProcess:
        from registry.services.publishing.publish import InProcess

        return InProcess(self.deployment)

    def _plan_import(self, source: str, progress: Progress) -> ImportDocument:
        return planned_import(self, self._target(), source, progress)

    def _copy(self, ref: str, to: Registry, *, recursive: bool, progress: Progress) -> Copied:
        from registry.transfer.copy import copy

        return copy(self, ref, to, recursive=recursive, progress=progress)

    def _export(self, export: Export, progress: Progress) -> Exported:
        from registry.transfer.export import export as write

        return write(self, export, progress)

    def _artifact(self, ref: str, options: Options) -> Artifact:
        from registry.services.artifacts.opened import open_artifact

        artifact = open_artifact(self.deployment, ref, options)
        self._write_uses()
        return artifact

    def _changes(self, ref: str, since: str | None) -> AbstractContextManager[WeightChanges]:
        from registry.services.weight_changes import weight_changes

        return weight_changes(self.deployment, ref, since, self._last_changes)

    def _fetch(
        self,
        ref: str,
        out: Path | None,
        options: Options,
        *,
        force: bool,
        base_dir: Path | None,
        measured: MeasuredRows,
        progress: Progress,
    ) -> Fetched:
        from registry.services.artifacts.fetch import fetch

        if base_dir is not None:
            KINDS[options.kind].check_base_dir()
        answer = fetch(
            self.deployment,
            self._cache(),
            ref,
            out,
            options,
            force=force,
            base_dir=base_dir,
            measured=measured,
            progress=progress,
        )
        self._write_uses()
        return answer

    def note_use(self, ref: str) -> None:
        """Count a use of the weights of a pinned reference, which are read blob by blob."""
        self.deployment.note_use(ref)
        self._write_uses()

    def _write_uses(self) -> None:
        if self.deployment.uses is not None:
            self.deployment.uses.write_if_due()

    def _identify(self, folder: Path, look_in: tuple[Path, ...], progress: Progress) -> Identified:
        from registry.services.publishing.identify import identify

        return identify(self._target(), folder, look_in, progress)

    def _verify(self, folder: Folder, progress: Progress) -> Verified:
        from registry.services.artifacts.verify import verify

        return verify(self.deployment, Path(folder), progress)

    def close(self) -> None:
        self._last_changes.close()
        if self.deployment.uses is not None:
            self.deployment.uses.close()
        self.deployment.blobs.close()
        self.deployment.database.dispose()


def planned_import(
    registry: Registry, target: InProcess | BundleSource, source: str, progress: Progress
) -> ImportDocument:
    """A plan of an import into a registry, wherever that is: made in one of this process that is thrown away."""
    from registry.folders.archives import opened
    from registry.services.importing.placed import Side
    from registry.services.importing.plan import plan_import
    from registry.services.publishing.port import Compared, over_http
    from registry.services.publishing.publish import InProcess
    from registry.tensors.limited import convert_pickle

    compared = Compared()  # in all private registries: none has others' revisions under the same names

    def side(registry: Registry, target: InProcess | BundleSource) -> Side:
        if isinstance(target, InProcess):
            return Side(registry, target, lambda _: nullcontext(target))
        return Side(registry, target, partial(over_http, target))

    @contextmanager
    def private() -> Iterator[Side]:
        with _thrown_away() as empty:
            yield side(empty, InProcess(empty.deployment, compared))

    with opened(convert_pickle, progress) as heap:
        return heap.answer(plan_import(source, heap, side(registry, target), private, progress))


@contextmanager
def _thrown_away() -> Iterator[LocalRegistry]:
    """An empty registry in a temporary folder, whose blobs are references to files outside it."""
    from registry.folders.staging import temporary_folder
    from registry.storage.caching import ReferencingStore

    with temporary_folder("registry-plan") as folder:
        database = Database(sqlite_url(folder / DATABASE))
        database.prepare()
        deployment = Deployment(
            database, ReferencingStore(folder), _principal("plan"), "the plan of an import", folder=folder
        )
        with LocalRegistry(deployment, _cache(folder / "cache", None)) as opened:
            yield opened


def _principal(name: str | None) -> Principal:
    """The unrestricted principal of direct access to a database; its name is the user's by default, or the host's."""
    if not name:
        try:
            name = getpass.getuser()
        except (KeyError, OSError):  # no such user in the system's list (a container)
            name = socket.gethostname()
    return Principal(name, UNLIMITED)


def _cache(folder: Path | None, limit: int | None) -> Callable[[], FetchCache]:
    """The cache, made on the first fetch: it imports the modules that read folders."""
    place = (folder or Path(platformdirs.user_cache_dir("adapter-registry", appauthor=False)) / "fetched").absolute()

    def made() -> FetchCache:
        from registry.folders.staging import DEFAULT_LIMIT, FetchCache

        return FetchCache(place, DEFAULT_LIMIT if limit is None else limit)

    return made
