"""Fetches from a service: writes its bytes, or merges here if this machine has the base weights.

The folders of added base models, and those that were merged on before, are remembered. A remembered folder is a hint.
Its files count only after hashing; a cached digest is reused while the file's stamp is the same, if that file system's
stamps are reliable (`registry.files.hashed`). Later readers of the files check the stamp again.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from registry.client.artifacts import RemoteArtifact, measured_by_service, plan_artifact
from registry.client.download import Download, Journal
from registry.client.ranges import open_blob
from registry.client.tensor_core import MakeArithmetic, MergedHere, needed
from registry.client.transport import Transport
from registry.errors import IntegrityError, RegistryError, UsageError
from registry.files.hashed import HashedFile, Stamp, hash_file
from registry.files.opened import lock_folder
from registry.folders.base_files import WeightFile, check_digest, missing, other_size
from registry.folders.local_files import unreadable
from registry.folders.staging import FetchCache
from registry.folders.writer import Writable
from registry.progress import Progress
from registry.schemas import Fetched, Options
from registry.schemas.artifacts import KINDS, check_options
from registry.schemas.form import MeasuredRows
from registry.schemas.labels import old_name_notices
from registry.schemas.transfer import BaseEntry, BlobEntry, Bundle
from registry.transfer.fetched_folder import FetchSource, write_artifact
from registry.transfer.receipt_check import receipt_of

_FILE: Final = ".base-folders.json"  # hidden, so that it is not taken for a fetched folder of the cache
_FORMAT: Final = 1
_KEPT: Final = 1000


@dataclass
class _Notes:
    folders: dict[str, list[str]] = field(default_factory=dict)  # files digest of a base -> folders, newest first
    digests: dict[str, list[Any]] = field(default_factory=dict)  # file -> [stamp, digest]


class BaseFolders:
    """The folders remembered in the cache of one machine."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._digests: dict[str, list[Any]] = {}  # computed, but not saved yet

    def check(self, folder: Path, base: BaseEntry, progress: Progress) -> dict[str, HashedFile]:
        """The weight files of a base model in a folder, by name, as of this check.

        Raises:
            NotFoundError: a file is missing.
            IntegrityError: ``wrong_base``: a file has other bytes.
            UnavailableError: a file can't be read.
        """
        folder = folder.expanduser().absolute()
        wanted = weights_of(base)
        files = {}
        progress.begin("Checking the base model", sum(blob.size for blob in wanted))
        notes = self._read()
        for blob in wanted:
            found = self._hashed(folder / blob.path, notes, blob, base.summary.name, progress)
            check_digest(found, _wanted(blob), base.summary.name)
            files[blob.path] = found
        return files

    @property
    def empty(self) -> bool:
        return not self._read().folders

    def remember(self, base_files: str, folder: Path) -> None:
        """Record that a folder has a base model's files; ``base_files`` is the digest of their list."""
        place = str(folder.expanduser().absolute())

        def note(notes: _Notes) -> None:
            others = [other for other in notes.folders.get(base_files, []) if other != place]
            notes.folders[base_files] = [place, *others][:4]

        self._change(note)

    def find(self, base: BaseEntry, progress: Progress) -> tuple[Path, dict[str, HashedFile]] | None:
        """A remembered folder that still has a base model's weights, and its files; None: no such folder."""
        for place in self._read().folders.get(base.files_digest, []):
            folder = Path(place)
            try:
                if all((folder / blob.path).is_file() for blob in weights_of(base)):
                    return folder, self.check(folder, base, progress)
            except (RegistryError, OSError):
                continue  # changed or unreadable: no copy of this base any more
        return None

    def _hashed(self, file: Path, notes: _Notes, blob: BlobEntry, base: str, progress: Progress) -> HashedFile:
        try:
            stamp = Stamp.of(file.stat())
            if stamp.size != blob.size:
                raise other_size(file, stamp.size, _wanted(blob), base)
            known = notes.digests.get(str(file))
            if known is not None and known[0] == list(stamp):
                progress.advance(blob.size)
                return HashedFile(file, str(known[1]), stamp, settled=True)
            hashed = hash_file(file, progress)
        except FileNotFoundError:
            raise missing(file, base) from None
        except OSError as problem:
            raise unreadable(file, problem) from problem
        if hashed.settled:
            self._digests[str(file)] = [list(hashed.stamp), hashed.digest]
            self._change(lambda _notes: None)
        return hashed

    def _read(self) -> _Notes:
        """The saved notes; empty if they can't be read, which only costs a pass over the files."""
        try:
            document = json.loads((self._cache / _FILE).read_bytes())
            if document["format"] != _FORMAT:
                return _Notes()
            notes = _Notes(dict(document["folders"]), dict(document["digests"]))
        except (OSError, ValueError, KeyError, TypeError):
            return _Notes()
        notes.digests |= self._digests
        return notes

    def _change(self, change: Any) -> None:
        """Change the notes under a lock; if they can't be written, nothing is remembered."""
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            lock = lock_folder(self._cache)
            try:
                notes = self._read()
                change(notes)
                notes.digests = dict(list((notes.digests | self._digests).items())[-_KEPT:])
                document = {"format": _FORMAT, "folders": notes.folders, "digests": notes.digests}
                self._write(json.dumps(document))
            finally:
                lock.close()
        except OSError:
            return

    def _write(self, text: str) -> None:
        """Replace the file atomically, leaving nothing else behind on failure."""
        descriptor, name = tempfile.mkstemp(dir=self._cache, prefix=_FILE)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            Path(name).replace(self._cache / _FILE)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _wanted(blob: BlobEntry) -> WeightFile:
    return WeightFile(blob.path, blob.size, blob.digest)


def weights_of(base: BaseEntry) -> list[BlobEntry]:
    """The files that contain a base model's weights."""
    return [blob for blob in base.files if blob.path.endswith(".safetensors")]


_WORTH_RESUMING: Final = 16 << 20


class Fetching:
    """What a fetch on this machine needs."""

    def __init__(self, transport: Transport, cache: FetchCache, arithmetic: MakeArithmetic | None) -> None:
        self._transport = transport
        self._cache = cache
        self._arithmetic = arithmetic
        self._folders = BaseFolders(cache.folder)

    def fetch(
        self,
        ref: str,
        out: Path | None,
        options: Options,
        *,
        force: bool,
        base_dir: Path | None,
        measured: MeasuredRows = "sample",
        progress: Progress,
    ) -> Fetched:
        """Write an artifact into a folder; see `registry.operations.registry.Registry.fetch`.

        Raises:
            UsageError: ``base_dir`` with another kind than merged; all rows are to be ``measured`` and the base model
                is not here.
            UnavailableError: ``missing_package``: ``base_dir`` without torch.
        """
        kind = KINDS[options.kind]
        if base_dir is not None:
            kind.check_base_dir()
            needed(self._arithmetic, "merge on this machine")  # before anything is transferred
        merged = self._merge_here(ref, options, base_dir, measured, progress) if kind.on_base_dir else None
        if merged is not None:
            with closing(merged[0]):
                source = self._made(*merged)
                if measured == "full":
                    source = replace(source, measure=merged[0].measure)
                return write_artifact(source, self._cache, out, force=force, progress=progress)
        if measured == "full":
            raise UsageError(
                "--fidelity full measures a model that is merged on this machine: it needs --base-dir. "
                "`registry materialise REF --as merged --fidelity full` has the service measure it."
            )
        plan = plan_artifact(self._transport, ref, options, is_use=not (kind.on_base_dir and self._may_merge(base_dir)))
        room = self._cache.folder
        with RemoteArtifact(self._transport, plan, options, arithmetic=self._arithmetic, room=room) as artifact:
            try:
                return write_artifact(self._sent(artifact), self._cache, out, force=force, progress=progress)
            except IntegrityError as wrong:
                if wrong.code != "corrupt":
                    raise
                # Nothing is left of it; and one answer may be wrong though what is stored is right.
                return write_artifact(self._sent(artifact), self._cache, out, force=force, progress=progress)

    def remember(self, base_files: str, folder: Path) -> None:
        """Record that a local folder has a base model's files."""
        self._folders.remember(base_files, folder)

    def say_use(self, ref: str) -> None:
        """Have the service count a use of weights that are read blob by blob."""
        self._transport.get("/bundles", Bundle, slow=True, use=self._transport.interface, ref=ref)

    def _may_merge(self, base_dir: Path | None) -> bool:
        """Whether a merged model may be computed here: then asking for its bundle is the use that is counted."""
        return self._arithmetic is not None and (base_dir is not None or not self._folders.empty)

    def _merge_here(
        self, ref: str, options: Options, base_dir: Path | None, measured: MeasuredRows, progress: Progress
    ) -> tuple[MergedHere, Path, Bundle] | None:
        """The model merged on local base weights, their folder, and what was merged; None: no base weights here."""
        if not self._may_merge(base_dir):
            return None
        check_options(options)  # what is refused is no use
        bundle = self._transport.get("/bundles", Bundle, slow=True, use=self._transport.interface, ref=ref)
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
            lambda ref, blob: open_blob(self._transport, ref, blob, self._cache.folder),
            files,
            options,
            measured,
        )
        return merged, folder, bundle

    def _made(self, merged: MergedHere, folder: Path, bundle: Bundle) -> FetchSource:
        """The source for a model merged here, on the base weights in a folder."""
        return FetchSource(
            merged.rendering,
            merged.size,
            receipt=lambda files: merged.receipt(files, self._transport.url),
            open=lambda _: nullcontext(merged),
            check=merged.check_base,
            words=f"Merging on {folder}",
            notices=(f"Merged on this machine, on the base weights in {folder}; only the adapters were sent.",),
            lasting=old_name_notices(bundle.reference, bundle.renamed_to),
        )

    def _sent(self, artifact: RemoteArtifact) -> FetchSource:
        """The source for an artifact that the service sends."""
        resumable = artifact.size > _WORTH_RESUMING
        fidelity = measured_by_service(self._transport, artifact.plan)

        @contextmanager
        def download(place: Path) -> Iterator[Writable]:
            with ExitStack() as stack:
                journal = None
                if resumable:
                    journal = stack.enter_context(Journal(self._cache.folder, artifact.rendering, place))
                files = [file.bytes for file in artifact.files.values()]
                yield stack.enter_context(Download(self._transport.lanes, files, journal))

        return FetchSource(
            artifact.rendering,
            artifact.size,
            receipt=lambda files: receipt_of(artifact.plan, files, self._transport.url, fidelity),
            open=download,
            words=f"Receiving from {self._transport.url}",
            lasting=old_name_notices(artifact.plan.reference, artifact.plan.renamed_to),
            resumable=resumable,
        )
