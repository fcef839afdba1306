"""Paths as bundles: what another registry, or a client that composes locally, needs to know of one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy.orm import Session

from registry.catalogue.store.blobs import sources_shown
from registry.catalogue.tree import bases, browse, revisions
from registry.catalogue.tree.revisions import RevisionRow
from registry.digest import BlobRef, StoredFile, canonical_json
from registry.errors import NotFoundError
from registry.folders.base_files import is_tokenizer, of_exact
from registry.reference import Path, Reference
from registry.schemas.requests import ReferenceRequest
from registry.schemas.transfer import BaseEntry, BlobEntry, Bundle, LinkEntry
from registry.services.artifacts.load import path_in
from registry.services.deployment import Deployment
from registry.storage.reading import BlobReader
from registry.tensors.lineage.paths import Link, LoadedPath


def bundle(deployment: Deployment, request: ReferenceRequest) -> Bundle:
    """A path as digests; see `registry.operations.transfer.Transfer.bundle`.

    Raises:
        NotFoundError: the reference names nothing.
        RetractedError: it contains a retracted revision.
    """
    reference = Reference.parse(request.ref)
    with deployment.read() as session:
        path = path_in(session, reference)
        rows = revisions.lineage(session, revisions.find(session, _pinned(path)).id) if path.links else ()
        links = tuple(_link_entry(deployment, session, link, row) for link, row in zip(path.links, rows, strict=True))
        return Bundle(reference=path.reference, base=_base_entry(session, path), links=links)


def _link_entry(deployment: Deployment, session: Session, link: Link, row: RevisionRow) -> LinkEntry:
    files = tuple(_handed_out(deployment, link))
    whole = len(files) == len(link.files)
    return LinkEntry(
        reference=link.reference,
        digest=link.digest,
        files=_entries(files),
        summary=browse.summary(session, row.id) if deployment.rights.covers(Path.parse(link.path)) else None,
        rank=link.rank,
        scalings=link.scalings,
        sources=sources_shown(session, [row.id]).get(row.id, ()) if row.combined else (),
        manifest=row.manifest if whole else _without_others(row.manifest, files),
        whole=whole,
    )


def _without_others(manifest: str, files: tuple[StoredFile, ...]) -> str:
    """The manifest, redacted to these files: names of other files may be confidential."""
    document: dict[str, Any] = json.loads(manifest)
    kept = {file.path for file in files}
    document["files"] = [file for file in document["files"] if file["path"] in kept]
    return canonical_json(document).decode("utf-8")


def _pinned(path: LoadedPath) -> Reference:
    return Reference.parse(path.reference)


def _base_entry(session: Session, path: LoadedPath) -> BaseEntry:
    base = path.base
    return BaseEntry(
        summary=bases.summary(session, base.name),
        files_digest=base.files_digest,
        files=_entries(base.files),
        index=_entry("index.json", base.index),
        table=_entry("table.json", base.table),
    )


def _entries(files: tuple[StoredFile, ...]) -> tuple[BlobEntry, ...]:
    return tuple(_entry(file.path, file) for file in files)


def _entry(path: str, blob: BlobRef) -> BlobEntry:
    return BlobEntry(path=path, digest=blob.digest, size=blob.size, blocks_digest=blob.blocks_digest)


def find_blob(deployment: Deployment, ref: str, digest: str) -> BlobRef:
    """A blob of a path by its digest: of its base model, or of one of its links.

    Raises:
        NotFoundError: the reference names nothing, or has no such blob.
        RetractedError: it contains a retracted revision.
    """
    with deployment.read() as session:
        path = path_in(session, Reference.parse(ref))
    files = [*path.base.files, *(file for link in path.links for file in _handed_out(deployment, link))]
    for blob in (*files, path.base.index, path.base.table):
        if blob.digest == digest:
            return blob
    raise NotFoundError(f"{path.reference} has no blob {digest}.")


def _handed_out(deployment: Deployment, link: Link) -> Iterator[StoredFile]:
    """The files of a link that are served; above the token's scopes only those that composing needs."""
    whole = deployment.rights.covers(Path.parse(link.path))
    needed = {link.form.config, link.form.weights}
    for file in link.files:
        if whole or file.path in needed or is_tokenizer(file.path) or (link.is_exact and of_exact(file.path)):
            yield file


def open_blob(deployment: Deployment, ref: str, digest: str) -> BlobReader:
    """Open a blob of a path; raises what `find_blob` raises."""
    return deployment.open_blob(find_blob(deployment, ref, digest))
