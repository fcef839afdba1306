"""Exports: an artifact with a card and a receipt without names, into a folder or a repository of a Hub.

The receipt of an export: the digests that prove what it is made of and, unless names go out, nothing else.

The files of an export on this machine: read for what is changed in them, and hashed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from registry.digest import sha256_digest
from registry.errors import ConflictError
from registry.figures import short_digest
from registry.files.hashed import hash_stream
from registry.folders.hub.repository import SCHEME, names_a_hub, written_repo
from registry.folders.hub.writing import HubWriter, Repository
from registry.folders.local_files import telling_unwritable
from registry.folders.output import absolute, export_in
from registry.folders.receipts import read_receipt, write_receipt
from registry.folders.scan import RECEIPT
from registry.folders.staging import put_in_place, staged_folder
from registry.operations.arguments import Export
from registry.operations.readable import ReadableArtifact
from registry.progress import Progress
from registry.schemas import ArtifactKind, Fetched, OutputFile
from registry.schemas.labels import Exported, ExportedFile
from registry.schemas.receipt import Receipt
from registry.transfer.export_contents import Contents, Hidden, Readable, contents_of


@dataclass(frozen=True)
class FolderFile:
    """A file of a fetched folder."""

    place: Path
    size: int

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start`` to ``stop``."""
        with self.place.open("rb") as stream:
            stream.seek(start)
            return stream.read(-1 if stop is None else stop - start)


def output_files(
    files: Mapping[str, bytes | Path], fetched: Mapping[str, OutputFile], progress: Progress
) -> tuple[tuple[OutputFile, ...], dict[str, str]]:
    """The files as listed in a receipt, and the sha256 digest of each."""
    progress.begin("Hashing", sum(fetched[path].size for path, one in files.items() if isinstance(one, Path)))
    outputs, digests = [], {}
    for path, one in sorted(files.items()):
        if isinstance(one, bytes):
            outputs.append(OutputFile(path=path, size=len(one), blake3=blake3(one).hexdigest()))
            digests[path] = sha256_digest(one)
        else:
            outputs.append(fetched[path])
            digests[path] = _sha256(one, progress)
    return tuple(outputs), digests


def _sha256(place: Path, progress: Progress) -> str:
    with place.open("rb", buffering=0) as stream:
        return hash_stream(stream.readinto, lambda _, chunk: progress.advance(len(chunk)))[0]


def exported_receipt(
    receipt: Receipt, files: tuple[OutputFile, ...], sha256: Mapping[str, str], *, with_names: bool
) -> Receipt:
    """The receipt of an export.

    Args:
        receipt: of the artifact that it is made of.
        files: those of the export.
        sha256: the digest of each of them, by which a Hub lists it.
        with_names: keep references.
    """
    changes: dict[str, object] = {"files": files, "exported": dict(sha256), "registry": "", "fidelity": None}
    if not with_names:
        changes |= {
            "reference": receipt.tip,
            "base": receipt.plan.base,
            "plan": receipt.plan.model_copy(update={"base_repo": None}),
            "lineage": tuple(link.model_copy(update={"reference": link.digest}) for link in receipt.lineage),
            "notices": (),
        }
    return receipt.model_copy(update=changes)


class Source(Protocol):
    """The registry that is exported from."""

    def artifact(self, ref: str, *, kind: ArtifactKind) -> ReadableArtifact:
        """The files of an artifact."""

    def fetch(self, ref: str, out: Path | None, *, kind: ArtifactKind, progress: Progress | bool) -> Fetched:
        """Write an artifact into a folder, by default one in the cache."""


@dataclass(frozen=True)
class _Made:
    """An export that is complete: bytes, or the files of the fetched folder that go out as they are."""

    contents: Contents
    files: Mapping[str, bytes | Path]  # the receipt included
    sizes: Mapping[str, int | None]  # of all of them

    @property
    def receipt(self) -> bytes:
        found = self.files[RECEIPT]
        assert isinstance(found, bytes)
        return found


def export(source: Source, asked: Export, progress: Progress) -> Exported:
    """Write an export; see `registry.operations.methods.importing.Exporting.export`."""
    if names_a_hub(asked.target):
        return _to_hub(source, asked, progress)
    return _to_folder(source, asked, progress)


def _to_folder(source: Source, asked: Export, progress: Progress) -> Exported:
    place = absolute(Path(asked.target))
    before = export_in(place, progress)
    if asked.dry_run:
        return _rehearsed(source, asked, str(place))
    with telling_unwritable(place), staged_folder(place) as staging:
        folder = staging / "export"
        made = _made(source, asked, folder, progress)
        created = before is None or write_receipt(before) != made.receipt
        if created:
            _fill(folder, made.files)
            _check_still(place, before, progress)
            put_in_place(folder, place, replace=before is not None)
    return _answer(asked, str(place), made.contents, made.sizes, created=created)


def _check_still(place: Path, before: Receipt | None, progress: Progress) -> None:
    """Refuse to replace an export that was changed since it was read; `put_in_place` refuses a new folder."""
    if before is not None and export_in(place, progress) != before:
        raise ConflictError(f"{place} was changed meanwhile; nothing was written.", code="folder_taken")


def _fill(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Make a fetched folder hold what goes out, and that alone."""
    for entry in sorted(folder.rglob("*"), reverse=True):
        if entry.is_dir():
            if not any(entry.iterdir()):
                entry.rmdir()
        elif not isinstance(files.get(entry.relative_to(folder).as_posix()), Path):
            entry.unlink()
    for path, data in files.items():
        if isinstance(data, bytes):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with (folder / path).open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())


def _to_hub(source: Source, asked: Export, progress: Progress) -> Exported:
    repo_id = written_repo(asked.target)
    hub = HubWriter(repo_id, f"{SCHEME}{repo_id}")
    there = hub.look()
    notices = _visibility(asked, there)
    if asked.dry_run:
        return _rehearsed(source, asked, asked.target, public=asked.public if there is None else there.public)
    made = _made(source, asked, None, progress)
    commit = None
    if there is None:
        there = hub.create(public=asked.public)
    elif there.export is not None and write_receipt(there.export) == made.receipt:
        commit = there.commit
    created = commit is None
    if commit is None:
        commit = hub.write(there, made.files, _title(asked), progress)
    answer = _answer(asked, asked.target, made.contents, made.sizes, created=created)
    known = {"commit": commit, "url": hub.page, "public": there.public, "notices": (*answer.notices, *notices)}
    return answer.model_copy(update=known)


def _visibility(asked: Export, there: Repository | None) -> tuple[str, ...]:
    """The notice if an existing repository stays private.

    Raises:
        ConflictError: ``repo_taken``, it is public, and that was not permitted.
    """
    if there is None or there.public == asked.public:
        return ()
    if there.public:
        raise ConflictError(
            f"{asked.target} is public: everybody would see the export. Give --public if that is meant, or make the "
            "repository private first.",
            code="repo_taken",
        )
    return (f"{asked.target} stays private, as it was: --public is about new repositories. Its settings change that.",)


def _title(asked: Export) -> str:
    """The title of the commit."""
    named = asked.card.reference if asked.with_names else short_digest(asked.card.lineage[-1])
    return f"Export of {named} as {asked.kind}"


def _hidden(asked: Export) -> Hidden:
    return Hidden.of(() if asked.with_names else asked.paths)


def _made(source: Source, asked: Export, out: Path | None, progress: Progress) -> _Made:
    """The export, of what was fetched into ``out`` or the cache."""
    fetched = source.fetch(asked.card.reference, out, kind=asked.kind, progress=progress)
    folder = Path(fetched.folder)
    receipt = read_receipt(folder)
    there: dict[str, Readable] = {one.path: FolderFile(folder / one.path, one.size) for one in receipt.files}
    contents = contents_of(there, asked.kind, asked.card, _hidden(asked))
    files: dict[str, bytes | Path] = {
        path: folder / path if data is None else data for path, data in contents.files.items()
    }
    outputs, digests = output_files(files, {one.path: one for one in receipt.files}, progress)
    made = exported_receipt(receipt, outputs, digests, with_names=asked.with_names)
    data = write_receipt(made)
    sizes = {one.path: one.size for one in outputs}
    return _Made(contents, {**files, RECEIPT: data}, {**sizes, RECEIPT: len(data)})


def _rehearsed(source: Source, asked: Export, target: str, *, public: bool | None = None) -> Exported:
    """What an export would write; its receipt is made of what was written, and has no size before."""
    with source.artifact(asked.card.reference, kind=asked.kind) as artifact:
        contents = contents_of(artifact.files, asked.kind, asked.card, _hidden(asked))
        sizes: dict[str, int | None] = {
            path: artifact.file(path).size if data is None else len(data) for path, data in contents.files.items()
        }
    answer = _answer(asked, target, contents, {**sizes, RECEIPT: None}, created=False)
    return answer.model_copy(update={"public": public})


def _answer(
    asked: Export, target: str, contents: Contents, sizes: Mapping[str, int | None], *, created: bool
) -> Exported:
    card = asked.card
    notices = [f"The metric {name!r} is left out: it holds a name of the path." for name in card.left_out]
    return Exported(
        reference=card.reference,
        kind=asked.kind,
        target=target,
        commit=None,
        url=None,
        public=None,
        created=created,
        dry_run=asked.dry_run,
        card=card.text,
        files=tuple(ExportedFile(path=path, size=size) for path, size in sorted(sizes.items())),
        left_out=contents.left_out,
        notices=(*card.notices, *notices, *contents.notices),
    )
