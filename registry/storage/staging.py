"""Uploads by clients: the second half of a driver's contract.

A client sends the bytes of a blob in parts, by presigned requests or through the service. When all parts are there,
they become an object that no client can change, and that object is what is checked and kept: a presigned URL works
until it expires, even after the bytes were checked. What was put under a *staging* key is copied. A multipart upload of
a store is joined *in place*, under the key of the blob: its parts can't be sent any more once they are joined, and
clients get no other request signed for that key.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from registry.errors import NotFoundError, UnavailableError, UsageError
from registry.storage.driver import ObjectDriver, ObjectWriter
from registry.storage.layout import STAGING

MOST_PARTS: Final = 10_000
_KEY: Final = re.compile(rf"{STAGING}[0-9a-f]{{32}}")
_NAMED: Final = 10


@dataclass(frozen=True)
class Staging:
    """An upload in progress; the caller records it in the catalogue.

    ``multipart`` is the store's own id of a multipart upload, if it has one. Where the parts are joined in place, the
    key of the blob and a space come before it: a replica of an earlier version finds no such upload, and says that it
    is gone.
    """

    key: str
    multipart: str | None
    size: int
    part_size: int

    def __post_init__(self) -> None:
        if _KEY.fullmatch(self.key) is None or self.size < 0 or self.part_size < 1:
            raise ValueError(f"not a staging: {self!r}")

    @property
    def joined(self) -> str | None:
        """The key of the blob that the parts become in place; None: they are copied."""
        key, space, _ = (self.multipart or "").partition(" ")
        return key if space else None

    @property
    def upload(self) -> tuple[str, str] | None:
        """Key and id of the store's multipart upload, if it is one."""
        if self.multipart is None:
            return None
        return self.joined or self.key, self.multipart.rpartition(" ")[2]

    @property
    def part_count(self) -> int:
        """The number of parts, numbered from 1; an empty blob has one empty part."""
        return max(1, -(-self.size // self.part_size))

    def part_length(self, number: int) -> int:
        """Bytes of a part; raises `UsageError` if there is no such part."""
        if not 1 <= number <= self.part_count:
            raise UsageError(f"There is no part {number}: this upload has the parts 1 to {self.part_count}.")
        return min(self.part_size, self.size - (number - 1) * self.part_size)


class StagingDriver(ObjectDriver, Protocol):
    """A driver that clients can upload to. All drivers of this package are."""

    def begin_staging(self, size: int, part_size: int, digest: str) -> Staging:
        """Begin an upload: one PUT if all bytes fit into a part, else several parts, at most `MOST_PARTS`.

        ``digest`` is that of its bytes, as the client says: a driver that joins parts in place makes a key of it.
        """

    def sign_part(self, staging: Staging, number: int, expires: int) -> str | None:
        """A presigned URL to PUT a part to, valid ``expires`` seconds; None if clients go through the service."""

    def put_part(self, staging: Staging, number: int, chunks: Iterable[bytes]) -> None:
        """Store a part atomically.

        An existing part is replaced, or rejected (`UnavailableError`) by stores that take each part once: call `parts`
        before sending a part again.

        Raises `UsageError` if the chunks don't have exactly the part's length, `NotFoundError` if the upload is gone,
        and what ``chunks`` raises.
        """

    def parts(self, staging: Staging) -> dict[int, int]:
        """The size of each part received, by number: what a client needs to resume an upload."""

    def take_staging(self, staging: Staging, key: str) -> ObjectWriter:
        """The joined parts where no client can write, as an object to be committed under ``key``: a copy or in place.

        ``key`` is what the upload says, if it is joined in place. Leaving without commit removes a copy. The upload is
        unchanged: the committer drops it. Raises
        `UnavailableError` (``upload_incomplete``) naming parts that are missing or have another length, `NotFoundError`
        if the upload is gone (a store that can't know this of an upload of one part reports the part as missing).
        """

    def made_other(self, staging: Staging, taken: ObjectWriter) -> bool:
        """Whether what was taken is known not to be what the store acknowledged of the parts.

        Asked where the bytes are not those that were announced: then either the client sent others, or the store made
        others of them.
        """

    def drop_staging(self, staging: Staging) -> None:
        """Remove an upload and its parts. Idempotent.

        An object that was joined in place stays, as it may be a blob already: its key decides, like that of every blob.
        """

    def clear_staging(self, older_than: datetime) -> int:
        """Remove uploads without activity since ``older_than``; returns how many."""

    def sign_get(self, key: str, expires: int, *, name: str | None) -> str | None:
        """A presigned URL to GET an object, valid ``expires`` seconds; None if the service sends the bytes.

        ``name`` is the file name for browsers.
        """


def new_staging(size: int, part_size: int) -> Staging:
    """A new upload, unknown to any store yet; raises `UsageError` if it has too many parts."""
    if size < 0 or part_size < 1:
        raise UsageError(f"An upload of {size} bytes in parts of {part_size} is not possible.")
    staging = Staging(STAGING + secrets.token_hex(16), None, size, part_size)
    if staging.part_count > MOST_PARTS:
        raise UsageError(
            f"An upload of {size} bytes in parts of {part_size} has {staging.part_count} parts, at most {MOST_PARTS} "
            f"are allowed: use parts of at least {-(-size // MOST_PARTS)} bytes."
        )
    return staging


def whole_part(staging: Staging, number: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Pass the chunks through; raises `UsageError` if they don't have exactly the part's length."""
    length = staging.part_length(number)
    count = 0
    for chunk in chunks:
        count += len(chunk)
        if count > length:
            raise UsageError(f"Part {number} of this upload has more than its {length} bytes: none of it was stored.")
        yield chunk
    if count < length:
        raise UsageError(
            f"Part {number} of this upload has {count} bytes instead of {length}: nothing was stored; send it again."
        )


def require_parts(staging: Staging, there: Mapping[int, int]) -> None:
    """Raise `UnavailableError` (``upload_incomplete``) naming the parts that are missing or have another length.

    Clients finish an upload only after sending every part, so a store acknowledged a missing one and lost it.
    """
    numbers = range(1, staging.part_count + 1)
    wrong = [number for number in numbers if there.get(number) != staging.part_length(number)]
    if wrong:
        named = ", ".join(map(str, wrong[:_NAMED])) + (
            f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        )
        raise UnavailableError(
            f"The upload is not complete: of its {staging.part_count} parts these are missing or have another length: "
            f"{named}; send them and finish the upload again.",
            code="upload_incomplete",
        )


def staging_gone(staging: Staging) -> NotFoundError:
    """The error for an upload that was finished, dropped or collected."""
    return NotFoundError(
        f"There is no upload {staging.key.removeprefix(STAGING)}: it was finished, dropped, or has expired; start the "
        "upload again."
    )
