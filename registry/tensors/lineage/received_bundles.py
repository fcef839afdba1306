"""Paths that another registry sends as bundles, on a client's machine: checked against their digests, and opened.

Base files are those of this machine where it has them, and rejected if they were written to after they were hashed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from registry.digest import BlobRef, StoredFile, sha256_digest
from registry.errors import IntegrityError
from registry.files.hashed import HashedFile
from registry.files.source import FileSource
from registry.folders.local_files import telling_unreadable
from registry.operations.transfer import ClosableSource
from registry.quantised.listing import decoding_digest
from registry.reference import Reference
from registry.schemas.transfer import BlobEntry, Bundle
from registry.tensors.lineage.paths import Blobs, Link, LoadedPath, PathBase, read_document, target_table, trained_in
from registry.transfer.index import files_digest, plain_of, weights_digest

OpenBlobOf = Callable[[str, BlobEntry], ClosableSource]
"""Opens a blob of a bundle, whose reference comes first."""


class Bundles:
    """The blobs of some bundles, opened once each and shared: base files on this machine, others from the registry."""

    def __init__(self, open_blob: OpenBlobOf) -> None:
        self._open_blob = open_blob
        self._files: dict[str, HashedFile] = {}
        self._entries: dict[str, tuple[str, BlobEntry]] = {}
        self._opened: dict[str, ClosableSource] = {}

    def load(self, bundle: Bundle, base: Mapping[str, HashedFile]) -> LoadedPath:
        """The path of one more bundle, with the base files that are here; raises what `check_bundle` raises."""
        self._files |= {hashed.digest: hashed for hashed in base.values()}
        self.take(bundle)
        path = path_of(bundle)
        check_bundle(bundle, path, self)
        return path

    def take(self, bundle: Bundle) -> None:
        """Open the blobs of one more bundle, too."""
        of_base = bundle.base
        for entries in ((*of_base.files, of_base.index, of_base.table), *(link.files for link in bundle.links)):
            self._entries |= {entry.digest: (bundle.reference, entry) for entry in entries}

    def open_blob(self, blob: BlobRef) -> ClosableSource:
        """Open a blob; closing the returned source keeps the blob open for the next caller."""
        if blob.digest not in self._opened:
            file = self._files.get(blob.digest)
            opened = self._open_blob(*self._entries[blob.digest]) if file is None else _BaseFile(file)
            self._opened[blob.digest] = opened
        return _Kept(self._opened[blob.digest])

    def check_base(self) -> None:
        """Check, after they were read, that the base files of this machine are still those that were hashed.

        Raises:
            IntegrityError: ``wrong_base``: one was changed meanwhile.
            UnavailableError: one can't be read any more.
        """
        for source in self._opened.values():
            if isinstance(source, _BaseFile):
                source.check()

    def close(self) -> None:
        """Close all blobs."""
        for source in self._opened.values():
            source.close()


class _Kept:
    """A source whose `close` does nothing: `Bundles` closes it."""

    def __init__(self, source: ClosableSource) -> None:
        self.size, self.read_into = source.size, source.read_into

    def close(self) -> None:
        """Do nothing."""


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
        """Check that the file did not change since it was hashed; raises what `Bundles.check_base` raises."""
        self._expect(self._hashed.is_still)

    def _expect(self, is_right: Callable[[int], bool]) -> None:
        with telling_unreadable(self._hashed.path):
            if is_right(self._fd):
                return
        raise IntegrityError(
            f"{self._hashed.path} was changed after it was checked as a file of the base model, so what was made of it "
            "was discarded; wait until nothing writes to it and run this again.",
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
