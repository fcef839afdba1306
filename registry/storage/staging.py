"""Uploads by clients: the second half of a driver's contract.

A client sends the bytes of a blob in parts, by presigned requests or through the service. When all parts have arrived,
they become an object that no client can change, and that object is what is checked and stored: a presigned URL works
until it expires, even after the bytes were checked. What was put under a *staging* key is copied. A multipart upload of
a store is joined *in place*, under the key of the blob: its parts can't be sent any more once they are joined, and
clients get no other request signed for that key.

Files without a key yet, in ``<root>/tmp``, and how those of killed writers are recognised.

A writer creates ``<32 hex>.part`` and has an exclusive ``flock`` on it as long as it lives; the kernel drops the lock
when the process dies, for whatever reason. So a ``.part`` whose lock can be taken has no writer, with one exception:
the moment between creating the file and locking it. Then `clear_litter` may take the lock first and remove the file.
The writer notices after it has the lock, because its file has no name any more (``st_nlink`` is 0), and creates another
one. A hard link to a user's file is ``<32 hex>.link`` beside the ``.part`` that guards it: a lock on the link would be
a lock on the user's own file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from registry.errors import NotFoundError, UnavailableError, UsageError
from registry.storage.driver import STAGING, ObjectDriver, ObjectWriter

TMP: Final = "tmp"
_PART: Final = re.compile(r"[0-9a-f]{32}\.part")
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


class TemporaryFile:
    """One locked file in ``folder``. Raises `OSError`, which the driver maps."""

    def __init__(self, folder: Path) -> None:
        self._part, self.fd = _make_locked(folder)
        self._link: Path | None = None

    @property
    def path(self) -> Path:
        """The file that will become the object."""
        return self._link or self._part

    def link(self, file: Path) -> None:
        """Make a hard link to ``file`` the future object."""
        link = self._part.with_suffix(".link")
        # To the file itself: Linux would link a symbolic link as such.
        os.link(file.resolve(strict=True), link)
        self._link = link

    def remove(self) -> None:
        """Remove what is left under the temporary names and drop the lock. Idempotent."""
        if self.fd < 0:
            return
        try:
            if self._link is not None:
                self._link.unlink(missing_ok=True)
            self._part.unlink(missing_ok=True)
        finally:
            os.close(self.fd)
            self.fd = -1


def clear_litter(folder: Path) -> int:
    """Remove the files of dead writers; returns their number. Other names in ``folder`` are ignored."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if _PART.fullmatch(entry.name))
    except FileNotFoundError:
        return 0
    return sum(_clear_one(folder / name) for name in names)


def _clear_one(part: Path) -> bool:
    fd = _open_own(part)
    if fd is None:
        return False
    try:
        if not _lock(fd, part.parent):
            return False
        part.with_suffix(".link").unlink(missing_ok=True)
        part.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)


def _open_own(part: Path) -> int | None:
    """Open a file to lock it; None if it is gone or another user's."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        # For writing, because network file systems grant an exclusive lock only then.
        return os.open(part, os.O_RDWR | flags)
    except FileNotFoundError:
        return None
    except PermissionError:
        pass
    # Read-only: it was about to become an object, and may be one by now under another name, so it is left read-only.
    try:
        fd = os.open(part, os.O_RDONLY | flags)
    except (FileNotFoundError, PermissionError):
        return None
    if os.fstat(fd).st_uid == os.geteuid():
        return fd
    os.close(fd)
    return None


def _make_locked(folder: Path) -> tuple[Path, int]:
    while True:
        part = folder / f"{secrets.token_hex(16)}.part"
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            if _lock(fd, folder) and os.fstat(fd).st_nlink > 0:
                return part, fd
            os.close(fd)
        except BaseException:
            os.close(fd)
            part.unlink(missing_ok=True)
            raise


def _lock(fd: int, folder: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise UnavailableError(
                f"The file system of {folder.parent} can't lock files, so running writers can't be told from dead "
                "ones: keep the registry on a local disk, or use a server with an object store."
            ) from error
        if error.errno == errno.EBADF:  # on a network file system, for a file opened read-only
            return False
        raise
    return True


MOST_PARTS: Final = 10_000
_KEY: Final = re.compile(rf"{STAGING}[0-9a-f]{{32}}")
_NAMED: Final = 10


@dataclass(frozen=True)
class Staging:
    """An upload in progress; the caller records it in the catalogue.

    ``multipart`` is the store's own id of a multipart upload, if it has one. If the parts are joined in place, the
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
        """Bytes of a part; raises `UsageError` if the part does not exist."""
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

        Called if the bytes are not those that were announced: then either the client sent others, or the store made
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
