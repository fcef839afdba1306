"""The bytes of a copy: read from the source registry with checks, and uploaded to the target.

Edited cards of adapters that are copied; a published README.md comes with its revision.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from contextlib import closing
from typing import Any, Final, Protocol

from registry.digest import sha256_digest
from registry.errors import ConflictError, IntegrityError, NotAllowedError, NotFoundError
from registry.files.source import read_range
from registry.operations.transfer import Transfer
from registry.progress import Progress
from registry.schemas import Shown
from registry.schemas.labels import Card, CardState
from registry.schemas.transfer import BlobEntry, FileClaim


class CardSource(Protocol):
    """Where cards are read."""

    def show(self, ref: str) -> Shown:
        """See `registry.operations.registry.Registry`; likewise for the other methods."""

    def card(self, ref: str) -> Card: ...


class CardTarget(CardSource, Protocol):
    """Where cards are written."""

    def set_card(self, path: str, text: str | None, *, expected: str | None = None) -> Card: ...


def copy_card(source: CardSource, target: CardTarget, path: str, where: str) -> str | None:
    """Copy the edited card of an adapter from ``source`` to ``target``; a card that was edited at the target stays.

    ``where`` is the target's address, for the notice that is returned if the card was not copied.
    """
    if not _is_edited(source.show(path).card):  # a service from before cards knows none
        return None
    card = source.card(path)
    there = target.show(path).card
    if there is not None and there.digest == card.digest:
        return None
    if _is_edited(there):
        return f"{path} has an edited card in {where}, which was not replaced by that of the source."
    try:
        target.set_card(path, card.text, expected=there.digest if there else sha256_digest(b""))
    except (
        ConflictError,
        NotAllowedError,
        NotFoundError,
    ) as error:  # edited this moment, no right, a service from before
        return f"{path} was copied without its edited card: {error}"
    return None


def _is_edited(state: CardState | None) -> bool:
    return state is not None and state.source == "edited"


_MAX_HEADER: Final = 100_000_000
_LENGTH: Final = 8


def claims_of(files: Iterable[BlobEntry]) -> tuple[FileClaim, ...]:
    """The claims about copied files for the target."""
    return tuple(FileClaim(path=blob.path, size=blob.size, digest=blob.digest) for blob in files)


def named(files: Iterable[BlobEntry], digests: Iterable[str]) -> list[BlobEntry]:
    """The files that the target requests, each digest once; raises `IntegrityError` for an unknown one."""
    by_digest = {blob.digest: blob for blob in files}
    if unknown := [digest for digest in digests if digest not in by_digest]:
        raise IntegrityError(f"The target requests {unknown[0]}, which is not one of the files being copied.")
    return [by_digest[digest] for digest in dict.fromkeys(digests)]


class SourceBlobs:
    """Blobs of the source registry; ``through`` is the reference of the bundle that they are opened through."""

    def __init__(self, source: Transfer, through: str, progress: Progress) -> None:
        self.through = through
        self.moved = 0
        self._source = source
        self._progress = _Advance(progress)

    def read(self, blob: BlobEntry, start: int = 0, stop: int | None = None) -> bytes:
        """Some bytes of a blob, or all of a small one, in memory."""
        with closing(self._source.open_blob(self.through, blob)) as opened:
            return bytes(read_range(opened, start, blob.size if stop is None else stop))

    def read_document(self, blob: BlobEntry) -> dict[str, Any]:
        """A JSON document that the source registry made."""
        document: dict[str, Any] = json.loads(self.read(blob))
        return document

    def read_header(self, blob: BlobEntry) -> bytes:
        """The length field and the header of a safetensors file; raises `IntegrityError` if it is too long."""
        with closing(self._source.open_blob(self.through, blob)) as opened:
            length = int.from_bytes(read_range(opened, 0, min(_LENGTH, blob.size)), "little")
            if length > min(blob.size - _LENGTH, _MAX_HEADER):
                raise IntegrityError(
                    f"{blob.path} of {self.through} is not a safetensors file: its header is too long."
                )
            return bytes(read_range(opened, 0, _LENGTH + length))

    def move(self, blob: BlobEntry, target: Transfer) -> str:
        """Upload a blob to the target; the id of its upload."""
        with closing(self._source.open_blob(self.through, blob)) as opened:
            upload = target.upload(blob.digest, opened, progress=self._progress)
        self.moved += blob.size
        return upload

    def skip(self, blobs: Iterable[BlobEntry]) -> None:
        """Count blobs as done that need no transfer."""
        self._progress.advance(sum(blob.size for blob in blobs))


class _Advance:
    """One progress bar for all uploads of a stage, thread-safe; ignores the stages that they begin."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()

    def begin(self, what: str, total: int) -> None:
        del what, total

    def advance(self, amount: int) -> None:
        with self._lock:
            self._progress.advance(amount)
