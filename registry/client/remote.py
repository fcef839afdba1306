"""The registry over HTTP: `registry.operations.registry.Registry` and `registry.operations.transfer.Transfer`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from pathlib import Path

from registry.client.arithmetic import MakeArithmetic, Planner, needed
from registry.client.artifacts import RemoteArtifact, plan_artifact
from registry.client.calls import do, listed
from registry.client.download.blobs import RemoteBlob, open_blob
from registry.client.fetch import Fetching
from registry.client.http.retry import RetryPolicy
from registry.client.http.transport import Transport
from registry.client.nested import RemoteGround
from registry.client.parents import ParentFolders
from registry.client.publish import (
    add_base_folder,
    publish_folder,
)
from registry.client.uploads import Uploads
from registry.client.verify import verify
from registry.errors import UsageError
from registry.files.source import ByteSource
from registry.folders.cache import FetchCache
from registry.operations.arguments import check_order
from registry.operations.exports import Export
from registry.operations.last_opened import LastOpened
from registry.operations.methods.analysis import WeightChanges
from registry.operations.methods.partner import Partner
from registry.operations.operation import A, Item, Listing, Operation, R
from registry.operations.publication import FullModel, Publication
from registry.operations.registry import Registry
from registry.progress import SILENT, Progress
from registry.reference import check_base_name
from registry.schemas import (
    BaseAdded,
    Copied,
    Fetched,
    Identity,
    Options,
    Published,
    Verified,
)
from registry.schemas.bundles import BlobEntry
from registry.schemas.cards import Exported
from registry.schemas.form import MeasuredRows
from registry.schemas.parents import Identified
from registry.schemas.publishing import ImportDocument
from registry.schemas.use import Interface
from registry.transfer.copy import copy
from registry.transfer.folders import PublishingFolders
from registry.transfer.full_folder import MadeOfFull, extracted
from registry.transfer.requests import base_request, request_of
from registry.version import __version__

Folder = str | PathLike[str]


class RemoteRegistry(PublishingFolders, Partner, Registry):
    """A registry behind a service. ``arithmetic`` loads this machine's tensor core, if it has one."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        cache: FetchCache,
        arithmetic: MakeArithmetic | None = None,
        retry: RetryPolicy | None = None,
        interface: Interface = "fetch",
        planner: Planner | None = None,
    ) -> None:
        self._transport = Transport(url, token, retry, interface)
        self._cache = cache
        self._arithmetic = arithmetic
        self._planner = planner
        self._last_changes: LastOpened[WeightChanges] = LastOpened()
        self._fetching = Fetching(self._transport, cache, arithmetic)

    @property
    def url(self) -> str:
        return self._transport.url

    def _do(self, operation: Operation[R, A], request: R, progress: Progress = SILENT) -> A:
        return do(self._transport, operation, request, progress)

    def _list(self, listing: Listing[R, Item], request: R, limit: int | None = None) -> tuple[Item, ...]:
        return listed(self._transport, listing, request, limit)

    def _add_base(self, name: str, folder: Folder, *, link: bool, progress: Progress) -> BaseAdded:
        check_order(folder, name, check_base_name, "registry base add {name} {folder}", "the name")
        check_base_name(name)
        if link:
            raise UsageError(
                f"--link shares files with a registry in a folder of this machine, but {self.url} is a service."
            )
        made = base_request(name, folder, progress)
        added = add_base_folder(self._transport, made, progress)
        self._fetching.remember(self.bundle(name).base.files_digest, made.folder)
        return added

    def _publish(self, publication: Publication, progress: Progress) -> Published:
        made = request_of(publication, progress)
        return publish_folder(self._transport, self._parents.compared(made, progress), progress)

    @contextmanager
    def _extracted(self, publication: Publication, progress: Progress) -> Iterator[Publication]:
        arithmetic = needed(self._arithmetic, "compare a full model with its parent")
        parents = self._parents
        bundle = parents.parent_of_full(publication)

        def extract(folder: Path, asked: FullModel, out: Path) -> MadeOfFull:
            base = parents.base_files(bundle, progress)
            # every element counts: what comes over the network is checked as a whole
            return arithmetic.write_full(bundle, self.open_blob, base, folder, asked, out, progress)

        with extracted(publication, extract, progress) as made:
            yield made

    def _from_pickle(self, pickle: Path, out: Path) -> None:
        needed(self._arithmetic, f"read {pickle}, a pickle").from_pickle(pickle, out)

    def _ground(self) -> RemoteGround:
        return RemoteGround(self._transport, self._arithmetic, self._parents)

    def _plan_import(self, source: str, progress: Progress) -> ImportDocument:
        if self._planner is None:
            needed(None, "plan an import")
            raise AssertionError("without torch that is refused")
        return self._planner(self, self._ground(), source, progress)

    @property
    def _parents(self) -> ParentFolders:
        return ParentFolders(self._transport, self._arithmetic, self._cache.folder)

    def _copy(self, ref: str, to: Registry, *, recursive: bool, progress: Progress) -> Copied:
        return copy(self, ref, to, recursive=recursive, progress=progress)

    def whoami(self) -> Identity:
        found = super().whoami()
        service = found.service_version or found.version
        return found.model_copy(update={"url": self.url, "version": __version__, "service_version": service})

    def _export(self, export: Export, progress: Progress) -> Exported:
        from registry.transfer.exporting.export import export as write

        return write(self, export, progress)

    def _artifact(self, ref: str, options: Options) -> RemoteArtifact:
        plan = plan_artifact(self._transport, ref, options)
        return RemoteArtifact(self._transport, plan, options, arithmetic=self._arithmetic, room=self._cache.folder)

    def _changes(self, ref: str, since: str | None) -> AbstractContextManager[WeightChanges]:
        arithmetic = needed(self._arithmetic, "read what a path changes")
        bundle, ancestor = self.bundle(ref), None if since is None else self.bundle(since)

        def opened() -> WeightChanges:
            self._fetching.say_use(bundle.reference)
            return arithmetic.changes(bundle, ancestor, self.open_blob, self._fetching.base_files(bundle))

        return self._last_changes.of((bundle, ancestor), opened)

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
        return self._fetching.fetch(
            ref, out, options, force=force, base_dir=base_dir, measured=measured, progress=progress
        )

    def _identify(self, folder: Path, look_in: tuple[Path, ...], progress: Progress) -> Identified:
        return needed(self._arithmetic, "identify a folder").identify(self._parents, folder, look_in, progress)

    def _verify(self, folder: Folder, progress: Progress) -> Verified:
        room = self._cache.folder
        return verify(self._transport, Path(folder), arithmetic=self._arithmetic, room=room, progress=progress)

    def note_use(self, ref: str) -> None:
        """Count a use of the weights of a pinned reference, which are read blob by blob."""
        self._fetching.say_use(ref)

    def open_blob(self, ref: str, blob: BlobEntry) -> RemoteBlob:
        return open_blob(self._transport, ref, blob, self._cache.folder)

    def upload(self, digest: str, source: ByteSource, *, progress: Progress = SILENT) -> str:
        return Uploads(self._transport, progress).send([(digest, source)])[digest]

    def reach(self) -> None:
        """See that something answers at the address; raises `UnavailableError`, and closes, where nothing does."""
        try:
            self._transport.reach()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._last_changes.close()
        self._transport.close()
