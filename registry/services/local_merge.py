"""Composing on a client's machine: the same core, on local base weights and adapters that a service sends.

The result is what the service would make, since the plan consists of the same digests. A bundle is checked against its
digests, and a base file is rejected if it was written to after it was hashed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from registry.digest import BlobRef, StoredFile, sha256_digest
from registry.errors import IntegrityError, InvalidAdapterError, NotFoundError, UsageError
from registry.files.hashed import HashedFile
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.folders.local_files import telling_unreadable
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.operations.publication import FullModel
from registry.operations.transfer import BundleSource, ClosableSource
from registry.progress import Progress
from registry.quantised.listing import decoding_digest
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import FolderCompared, Options, OutputFile
from registry.schemas.form import MeasuredRows
from registry.schemas.parents import Identified, NarrowRequest, PathsLeft
from registry.schemas.publishing import FullSize
from registry.schemas.receipt import Receipt
from registry.schemas.transfer import BlobEntry, Bundle, GivenReceipt
from registry.services.artifacts.build import build_artifact
from registry.services.artifacts.load import described
from registry.services.artifacts.materialised import KeptBlobs, OpenBlobOf, entries_of
from registry.services.exact.figures import full_size
from registry.services.extraction import write_full
from registry.services.lineage import (
    Blobs,
    Link,
    LoadedPath,
    PathBase,
    read_document,
    target_table,
    trained_in,
    with_ancestors,
)
from registry.services.publishing.identify import identify, search_trained, with_compared
from registry.services.publishing.parent_folder import NotComparableError
from registry.services.publishing.port import Compared
from registry.services.weight_changes import WeightChanges
from registry.tensors.arithmetic.dtypes import TORCH
from registry.tensors.arithmetic.streamed import check_finite
from registry.tensors.artifacts.artifact import Artifact, ArtifactFile
from registry.tensors.artifacts.numerics import TensorComparison
from registry.tensors.limited import convert_pickle
from registry.transfer.index import files_digest, plain_of, weights_digest
from registry.transfer.publish_request import PublishFolder
from registry.transfer.receipt_check import receipt_of
from registry.transfer.source import MadeOfFull
from registry.transfer.trained_on import Beside, TrainedFolder

OpenBlob = Callable[[BlobEntry], ClosableSource]


class MergedHere:
    """An artifact that is computed on this machine, and its path."""

    def __init__(self, path: LoadedPath, artifact: Artifact, blobs: _Blobs) -> None:
        self.path = path
        self.artifact = artifact
        self._blobs = blobs

    @property
    def rendering(self) -> str:
        """The identity of its bytes."""
        return self.artifact.rendering

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.artifact.size

    @property
    def files(self) -> Mapping[str, ArtifactFile]:
        """The files by name."""
        return self.artifact.files

    def receipt(self, files: tuple[OutputFile, ...], registry: str) -> Receipt:
        """The receipt for the files that were written."""
        return receipt_of(described(self.path, None, self.artifact), files, registry, self.artifact.fidelity())

    def measure(self) -> None:
        """Measure what was not made, because the folder had it."""
        self.artifact.measure()

    def check_base(self) -> None:
        """Check, after the last byte was computed, that the base files are still those that were hashed.

        Raises:
            IntegrityError: ``wrong_base``: one was changed meanwhile.
            UnavailableError: one can't be read any more.
        """
        self._blobs.check()

    def close(self) -> None:
        """Close the blobs that it reads."""
        self.artifact.close()


class LocalArithmetic:
    """The tensor core of this machine, for a client."""

    def merge(
        self,
        bundle: Bundle,
        open_blob: OpenBlob,
        base: Mapping[str, HashedFile],
        options: Options,
        measured: MeasuredRows = "sample",
    ) -> MergedHere:
        """Compose a path on base weights of this machine; ``base`` holds the hashed files by name.

        Raises:
            UsageError: the options contradict each other or the reference.
            IntegrityError: the bundle contradicts itself; ``wrong_base``: a base file was changed after its check.
            UnavailableError: a base file can't be read.
        """
        if options.since is not None:
            raise UsageError(
                "--since can't be combined with --base-dir: the links after an ancestor are composed by the service, "
                "not on this machine."
            )
        blobs = _Blobs(bundle, open_blob, base)
        path = path_of(bundle)
        check_bundle(bundle, path, blobs)
        return MergedHere(path, build_artifact(blobs, path, None, options, measured=measured), blobs)

    def changes(
        self, bundle: Bundle, ancestor: Bundle | None, open_blob: OpenBlobOf, base: Mapping[str, HashedFile]
    ) -> WeightChanges:
        """What the links after an ancestor changed; raises what `WeightChanges` raises, and `IntegrityError`."""
        bundles = [bundle] if ancestor is None else [bundle, ancestor]
        blobs = KeptBlobs(bundles, open_blob, base)
        paths = [path_of(one) for one in bundles]
        for one, path in zip(bundles, paths, strict=True):
            check_bundle(one, path, blobs)
        return WeightChanges(blobs, paths[0], None if ancestor is None else paths[1])

    def compare(self, service: BundleSource, folder: PublishFolder, progress: Progress) -> PublishFolder:
        """The folder, its request with what the weights are that the adapter was trained on."""
        with _over_http(service, progress) as port:
            return with_compared(port, folder, progress)

    def search(
        self, service: BundleSource, folder: TrainedFolder, beside: Beside, progress: Progress
    ) -> FolderCompared:
        """Find the revisions of a service, among all, whose merged weights a folder has, or which are nearest."""
        with _over_http(service, progress) as port:
            return search_trained(port, folder, beside, progress)

    def identify(
        self, service: BundleSource, folder: Path, look_in: tuple[Path, ...], progress: Progress
    ) -> Identified:
        """Say which base model and revisions of a service a folder is made of."""
        with _over_http(service, progress) as port:
            return identify(port, folder, look_in, progress)

    def write_full(
        self,
        parent: Bundle,
        open_blob: OpenBlobOf,
        base: Mapping[str, HashedFile],
        folder: Path,
        asked: FullModel,
        out: Path,
        progress: Progress,
    ) -> MadeOfFull:
        """Write what is published of a full model over its parent into an empty folder."""
        with closing(KeptBlobs([parent], open_blob, base)) as blobs:
            path = path_of(parent)
            check_bundle(parent, path, blobs)
            return write_full(blobs, path, folder, asked, out, progress)

    def full_size(
        self, service: BundleSource, base: str, folder: Path, far: float, progress: Progress
    ) -> FullSize | None:
        """What it takes to keep a model exactly on a base model; see `registry.services.exact.figures.full_size`."""
        with _over_http(service, progress) as port:
            return full_size(port.blobs, port.path(base), folder, far, progress)

    def check_finite(self, weights: Path, progress: Progress) -> None:
        """Check that all weights of an adapter are finite; raises `InvalidAdapterError`."""
        with FileSource(weights) as source:
            header = read_header(source, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
            progress.begin("Checking the weights", source.size)
            check_finite(header.entries, source, progress.advance)

    def from_pickle(self, pickle: Path, out: Path) -> None:
        """Write the tensors in a pickle as a safetensors file; raises `InvalidAdapterError`."""
        convert_pickle(pickle, out)

    def comparison(self, dtype: str) -> TensorComparison:
        """A comparison of two renderings of a tensor of this dtype."""
        return TensorComparison(dtype)

    def tensor(self, data: bytearray, dtype: str, shape: tuple[int, ...]) -> Any:
        """Bytes of a file as a tensor."""
        flat = torch.frombuffer(data, dtype=TORCH[dtype]) if data else torch.empty(0, dtype=TORCH[dtype])
        return flat.reshape(shape)


class OverHttp:
    """A registry behind a service, as a `registry.services.publishing.port.Port`."""

    def __init__(self, service: BundleSource, blobs: KeptBlobs, progress: Progress) -> None:
        self._service, self._progress = service, progress
        self._bases: dict[str, Mapping[str, HashedFile]] = {}  # by the digest of their files
        self.blobs, self.compared = blobs, Compared()

    def bases(self) -> Sequence[str]:
        return self._service.bases()

    def path(self, reference: str) -> LoadedPath:
        return self._checked(self._service.bundle(reference))

    def candidates(self, path: TreePath, receipt: GivenReceipt | None) -> Sequence[LoadedPath]:
        """They are given as far as the token sees them and they are not retracted."""
        del receipt  # proves a revision that others can't see to the service alone
        assert path.parent is not None, "a base model has no candidates"
        try:
            bundles = self._service.revisions(path.parent)
        except NotFoundError as problem:
            raise NotComparableError(f"this token does not see it ({problem})".rstrip(".")) from problem
        return with_ancestors([self._checked(bundle) for bundle in bundles])

    def narrow(self, request: NarrowRequest, progress: Progress) -> PathsLeft:
        del progress  # of the service's own work, which it does not report
        return self._service.narrow(request)

    def _checked(self, bundle: Bundle) -> LoadedPath:
        digest = bundle.base.files_digest
        if digest not in self._bases:
            self._bases[digest] = self._service.base_files(bundle, self._progress)
        self.blobs.take(bundle, self._bases[digest])
        path = path_of(bundle)
        check_bundle(bundle, path, self.blobs)
        return path


@contextmanager
def _over_http(service: BundleSource, progress: Progress) -> Iterator[OverHttp]:
    with closing(KeptBlobs((), service.open_blob, {})) as blobs:
        yield OverHttp(service, blobs, progress)


class _Blobs:
    """Blobs of a bundle: base files from this machine, all others from the registry."""

    def __init__(self, bundle: Bundle, open_blob: OpenBlob, base: Mapping[str, HashedFile]) -> None:
        self._open_blob = open_blob
        self._files = {hashed.digest: hashed for hashed in base.values()}
        self._entries = {entry.digest: entry for entry in entries_of(bundle)}
        self._opened: dict[str, _BaseFile] = {}

    def open_blob(self, blob: BlobRef) -> ClosableSource:
        """Open a blob for checked reads."""
        file = self._files.get(blob.digest)
        if file is None:
            return self._open_blob(self._entries[blob.digest])
        source = _BaseFile(file)
        self._opened[blob.digest] = source  # opening it again gives the same file or an error
        return source

    def check(self) -> None:
        """Check the base files that were opened; raises what `MergedHere.check_base` raises."""
        for source in self._opened.values():
            source.check()


class _BaseFile(FileSource):
    """A base file of this machine: the one that was hashed, even if another file replaced it under its name."""

    def __init__(self, hashed: HashedFile) -> None:
        with telling_unreadable(hashed.path):
            super().__init__(hashed.path)
        self._hashed = hashed
        try:
            self._expect(hashed.passes)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Check that the file did not change since it was hashed; raises what `MergedHere.check_base` raises."""
        self._expect(self._hashed.is_still)

    def _expect(self, is_right: Callable[[int], bool]) -> None:
        with telling_unreadable(self._hashed.path):
            if is_right(self._fd):
                return
        raise IntegrityError(
            f"{self._hashed.path} was changed after it was checked as a file of the base model, so the merged files "
            "were discarded; wait until nothing writes to it and run this again.",
            code="wrong_base",
        )


def path_of(bundle: Bundle) -> LoadedPath:
    """A bundle as a path; its blobs have no storage keys, as they are in no store of this machine."""
    base = PathBase(
        name=bundle.base.summary.name,
        digest=bundle.base.summary.digest,
        table_digest=bundle.base.summary.table_digest,
        files_digest=bundle.base.files_digest,
        files=_files(bundle.base.files),
        index=_blob(bundle.base.index),
        table=_blob(bundle.base.table),
        source=bundle.base.summary.source,
    )
    links = []
    for entry in bundle.links:
        reference = Reference.parse(entry.reference)
        number = reference.number or 0
        how = trained_in(entry.manifest)
        files = _files(entry.files)
        links.append(Link(str(reference.path), number, entry.digest, entry.rank, entry.scalings, files, how))
    return LoadedPath(bundle.reference, base, tuple(links))


def _files(entries: tuple[BlobEntry, ...]) -> tuple[StoredFile, ...]:
    return tuple(StoredFile(one.digest, one.size, one.blocks_digest, "", one.path) for one in entries)


def _blob(entry: BlobEntry) -> BlobRef:
    return BlobRef(entry.digest, entry.size, entry.blocks_digest, key="")


def check_bundle(bundle: Bundle, path: LoadedPath, blobs: Blobs) -> None:
    """Check a bundle against its own digests: of manifests, file lists, and the base's index and table.

    Above the token's scopes a manifest is sent with hidden parts removed, and can't be checked against its digest.

    Raises:
        IntegrityError: it contradicts itself.
    """
    try:
        wrong = next(_contradictions(bundle, path, blobs), None)
    except (KeyError, TypeError, ValueError) as problem:
        wrong = f"a document of it is malformed ({type(problem).__name__})"
    if wrong is not None:
        raise IntegrityError(f"The registry's description of {bundle.reference} is inconsistent: {wrong}.")


def _contradictions(bundle: Bundle, path: LoadedPath, blobs: Blobs) -> Iterator[str]:
    above: str | None = None
    for link in bundle.links:
        manifest = json.loads(link.manifest)
        said = (manifest["base"], manifest["parent"], {file["path"]: file["digest"] for file in manifest["files"]})
        sent = (path.base.digest, above, {file.path: file.digest for file in link.files})
        shown = not link.whole and link.summary is None  # redacted: the digest is not that of this text
        if (not shown and sha256_digest(link.manifest.encode()) != link.digest) or said != sent:
            yield f"{link.reference} does not match its digest {link.digest}"
        above = link.digest
    files = {entry.path: (entry.digest, entry.size) for entry in bundle.base.files}
    if files_digest(files) != path.base.files_digest:
        yield f"the files of {path.base.name} do not match their digest {path.base.files_digest}"
    document, table = read_document(blobs, path.base.index), target_table(blobs, path.base)
    if weights_digest(document) != path.base.digest:
        yield f"the tensors of {path.base.name} do not match their digest {path.base.digest}"
    if table.digest != path.base.table_digest:
        yield f"the target table of {path.base.name} does not match its digest {path.base.table_digest}"
    if table.quantised != decoding_digest(plain_of(document)):
        yield f"the target table of {path.base.name} is of weights that are decoded in another way"
