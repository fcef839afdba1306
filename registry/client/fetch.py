"""Fetches from a service: writes its bytes, or merges here if this machine has the base weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

from registry.client.artifacts import RemoteArtifact, measured_by_service, plan_artifact
from registry.client.base_folders import BaseFolders
from registry.client.download import Download, Journal
from registry.client.ranges import open_blob
from registry.client.tensor_core import MakeArithmetic, MergedHere, needed
from registry.client.transport import Transport
from registry.errors import IntegrityError, UsageError
from registry.files.hashed import HashedFile
from registry.folders.staging import FetchCache
from registry.folders.writer import Writable
from registry.progress import SILENT, Progress
from registry.schemas import Fetched, Options
from registry.schemas.artifacts import KINDS, check_options
from registry.schemas.bundles import Bundle
from registry.schemas.form import MeasuredRows
from registry.schemas.labels import old_name_notices
from registry.transfer.fetched_folder import FetchSource, write_artifact
from registry.transfer.receipt_check import receipt_of

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

    def base_files(self, bundle: Bundle) -> Mapping[str, HashedFile]:
        """The base model's files that this machine is known to have, checked; none where it has none."""
        found = None if self._folders.empty else self._folders.find(bundle.base, SILENT)
        return {} if found is None else found[1]

    def say_use(self, ref: str) -> None:
        """Have the service count a use of weights that are read blob by blob."""
        self._transport.get("/bundles", Bundle, slow=True, use=self._transport.interface, ref=ref)

    def _may_merge(self, base_dir: Path | None) -> bool:
        """Whether a merged model may be computed here: then asking for its bundle is the use that is counted."""
        return self._arithmetic is not None and (base_dir is not None or not self._folders.empty)

    def _merge_here(
        self, ref: str, options: Options, base_dir: Path | None, measured: MeasuredRows, progress: Progress
    ) -> tuple[MergedHere, Path, Bundle] | None:
        """The model merged on local base weights, their folder, and what was merged; None if there are none."""
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
            lambda blob: open_blob(self._transport, bundle.reference, blob, self._cache.folder),
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
