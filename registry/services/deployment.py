"""What the services work with: a catalogue, a blob store, and who acts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.catalogue import blobs as blob_rows
from registry.catalogue.blobs import BlobRow, StoredFile
from registry.catalogue.database import Database
from registry.storage.blobs import BlobStore, StoredBlob

if TYPE_CHECKING:
    from registry.storage.reading import BlobReader


@dataclass(frozen=True)
class Deployment:
    """One registry in process."""

    database: Database
    blobs: BlobStore
    actor: str
    url: str

    def open_blob(self, stored: StoredFile | BlobRow) -> BlobReader:
        """Open a stored file for checked reads."""
        return self.blobs.open(stored.digest, stored.size, stored.blocks_digest)

    def read_blob(self, stored: StoredFile | BlobRow) -> bytes:
        """A whole stored file in memory; for small ones."""
        reader = self.open_blob(stored)
        try:
            data = bytearray(reader.size)
            reader.read_into(0, memoryview(data))
            return bytes(data)
        finally:
            reader.close()

    def read_document(self, stored: BlobRow) -> Mapping[str, Any]:
        """A stored JSON document that this program wrote."""
        document: Mapping[str, Any] = json.loads(self.read_blob(stored))
        return document

    def blob(self, digest: str) -> BlobRow:
        """The row of a blob."""
        with self.database.read() as session:
            return blob_rows.get(session, digest)


def blob_row(stored: StoredBlob) -> BlobRow:
    """What the catalogue notes of a stored blob."""
    return BlobRow(stored.digest, stored.size, stored.blocks_digest)
