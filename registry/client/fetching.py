"""Fetching from a service: its bytes are written here; a merged model is made here, where the base weights are here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final, Protocol

from registry.client.arithmetic import MakeArithmetic, MergedHere, needed
from registry.client.artifacts import RemoteArtifact, plan_artifact
from registry.client.base_folders import BaseFolders
from registry.client.blobs import open_blob
from registry.client.downloads import Download
from registry.client.resuming import Journal
from registry.client.transport import Transport
from registry.errors import UsageError
from registry.folders.cache import FetchCache
from registry.folders.filling import absolute, already_there, fetched, fill, may_fill
from registry.folders.receipts import Receipt
from registry.folders.writing import Writable
from registry.progress import Progress
from registry.schemas import Fetched, Options, OutputFile
from registry.services.receipt import receipt_of
from registry.wire import Bundle

_WORTH_RESUMING: Final = 16 << 20


class Fetching:
    """Everything that a fetch on this machine needs."""

    def __init__(self, transport: Transport, cache: FetchCache, arithmetic: MakeArithmetic | None) -> None:
        self._transport = transport
        self._cache = cache
        self._arithmetic = arithmetic
        self._folders = BaseFolders(cache.folder)

    def fetch(
        self, ref: str, out: Path | None, options: Options, *, force: bool, base_dir: Path | None, progress: Progress
    ) -> Fetched:
        """Write an artifact into a folder; see `registry.services.protocol.Registry.fetch`.

        Raises:
            UsageError: ``base_dir`` with another kind than merged.
            UnavailableError: ``missing_package``: ``base_dir`` without torch.
        """
        if base_dir is not None:
            if options.kind != "merged":
                raise UsageError(f"--base-dir goes with --as merged, not with --as {options.kind}: it is merged there.")
            needed(self._arithmetic, "merge on this machine")  # before anything travels
        merged = self._merge_here(ref, options, base_dir, progress) if options.kind == "merged" else None
        if merged is not None:
            with closing(merged):
                return self._write(merged, out, force=force, progress=progress)
        plan = plan_artifact(self._transport, ref, options)
        room = self._cache.folder
        with RemoteArtifact(self._transport, plan, options, arithmetic=self._arithmetic, room=room) as artifact:
            return self._write(_Sent(artifact, self._transport, room), out, force=force, progress=progress)

    def remember(self, base_files: str, folder: Path) -> None:
        """Note that a folder of this machine has a base model's files."""
        self._folders.remember(base_files, folder)

    def _merge_here(self, ref: str, options: Options, base_dir: Path | None, progress: Progress) -> _Made | None:
        """The model as it is merged on base weights of this machine; None where there are none."""
        if self._arithmetic is None or (base_dir is None and self._folders.empty):
            return None
        bundle = self._transport.get("/bundles", Bundle, slow=True, ref=ref)
        if base_dir is not None:
            folder, files = base_dir, self._folders.check(base_dir, bundle.base, progress)
            self._folders.remember(bundle.base.files_digest, base_dir)
        else:
            found = self._folders.find(bundle.base, progress)
            if found is None:
                return None
            folder, files = found
        merged = needed(self._arithmetic, "merge on this machine").merge(
            bundle,
            lambda blob: open_blob(self._transport, bundle.reference, blob, self._cache.folder),
            files,
            options,
        )
        return _Made(merged, self._transport.url, folder)

    def _write(self, source: _Source, out: Path | None, *, force: bool, progress: Progress) -> Fetched:
        place = self._cache.place(source.rendering) if out is None else absolute(out)
        there = already_there(place, source.rendering, source.size, source.receipt, progress)
        if there is not None:
            if out is None:
                self._cache.used(place)
            return there
        replace = may_fill(place, force=force or out is None)
        with source.open(place) as files:
            said = _Said(progress, source.words)
            receipt = fill(place, files, source.made, replace=replace, progress=said, resumable=source.resumable)
        if out is None:
            self._cache.shrink(keep=place)
        answer = fetched(receipt, place, fresh=True)
        return answer.model_copy(update={"notices": (*answer.notices, *source.notices)})


class _Source(Protocol):
    """Where a fetched artifact comes from."""

    @property
    def rendering(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def words(self) -> str: ...

    @property
    def notices(self) -> tuple[str, ...]: ...

    @property
    def resumable(self) -> bool: ...

    def open(self, place: Path) -> AbstractContextManager[Writable]: ...

    def receipt(self, files: tuple[OutputFile, ...]) -> Receipt: ...

    def made(self, files: tuple[OutputFile, ...]) -> Receipt:
        """The receipt of files that were written just now, once they are known to be right."""


class _Made:
    """A model that is merged here."""

    resumable = False

    def __init__(self, merged: MergedHere, registry: str, folder: Path) -> None:
        self.rendering, self.size = merged.rendering, merged.size
        self.words = f"Merging on {folder}"
        self.notices = (f"Merged on this machine, on the base weights in {folder}; only the adapters were sent.",)
        self._merged = merged
        self._registry = registry

    @contextmanager
    def open(self, place: Path) -> Iterator[Writable]:
        del place
        yield self._merged

    def receipt(self, files: tuple[OutputFile, ...]) -> Receipt:
        return self._merged.receipt(files, self._registry)

    def made(self, files: tuple[OutputFile, ...]) -> Receipt:
        self._merged.check_base()
        return self.receipt(files)

    def close(self) -> None:
        self._merged.close()


class _Sent:
    """An artifact that the service sends."""

    notices: tuple[str, ...] = ()

    def __init__(self, artifact: RemoteArtifact, transport: Transport, room: Path) -> None:
        self.rendering, self.size = artifact.rendering, artifact.size
        self.words = f"Receiving from {transport.url}"
        self.resumable = self.size > _WORTH_RESUMING
        self._artifact = artifact
        self._transport = transport
        self._room = room

    @contextmanager
    def open(self, place: Path) -> Iterator[Writable]:
        with ExitStack() as stack:
            journal = None
            if self.resumable:
                journal = stack.enter_context(Journal(self._room, self.rendering, place))
            files = [file.bytes for file in self._artifact.files.values()]
            yield stack.enter_context(Download(self._transport.lanes, files, journal))

    def receipt(self, files: tuple[OutputFile, ...]) -> Receipt:
        return receipt_of(self._artifact.plan, files, self._transport.url)

    made = receipt


class _Said:
    """Progress that says where the bytes come from."""

    def __init__(self, progress: Progress, words: str) -> None:
        self._progress = progress
        self._words = words

    def begin(self, what: str, total: int) -> None:
        del what
        self._progress.begin(self._words, total)

    def advance(self, amount: int) -> None:
        self._progress.advance(amount)
