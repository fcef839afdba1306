"""The entries of an archive, each looked at before anything of it is written: an archive is a stranger's.

Nothing but plain files and folders is taken: no links, no devices, no name that leads out of it or that not every
system can hold, no more than bounds allow. No number in it is trusted.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final

from registry.errors import InvalidAdapterError
from registry.figures import size as said_size
from registry.folders.local_files import ErrorMapping, check_name, check_together, unreadable_file

MAX_ENTRIES: Final = 20_000
MAX_DEPTH: Final = 16
"""Folders below each other."""
MAX_SIZE: Final = 256 << 30
"""Bytes of all files, unpacked."""
MAX_RATIO: Final = 100
"""How many times as large as itself an archive may become; weights hardly shrink, and texts to a tenth."""
FREE_SIZE: Final = 64 << 20
"""Bytes that any archive may become."""
MAX_HEAD: Final = 16 << 20
"""Bytes that are read at once: what lists the entries of an archive."""

_CHUNK: Final = 1 << 20
_BLOCK: Final = 512  # of a tar
_PLAIN: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 0x1
_DAMAGED: Final = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, struct.error, ValueError, OverflowError, RecursionError,
    NotImplementedError, gzip.BadGzipFile,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """An entry as the archive describes it."""

    name: str
    size: int
    kind: int  # of `stat`: what it is, 0 if not recorded
    stream: Callable[[], IO[bytes]]


def checked(archive: Path) -> dict[str, int]:
    """The sizes of all files by name, where the archive may be unpacked.

    Raises:
        InvalidAdapterError: ``bad_archive`` or ``path_traversal``, it may not.
        NotFoundError, UnavailableError: it can't be read.
    """
    found: dict[str, int] = {}
    total, most = 0, _most(archive)
    for count, member in enumerate(entries_of(archive), 1):
        if count > MAX_ENTRIES:
            raise _refused(archive, f"has more than {MAX_ENTRIES} entries")
        name = name_of(archive, member)
        if stat.S_ISDIR(member.kind):
            continue
        if stat.S_IFMT(member.kind) not in {0, stat.S_IFREG}:
            raise _refused(archive, f"holds {member.name!r}, which is a {_words(member.kind)} and no file")
        if name in found:
            raise _refused(archive, f"holds two entries with the name {member.name!r}")
        found[name] = member.size
        total += member.size
        if member.size < 0 or total > most:
            raise _too_large(archive, most)
    try:
        check_together(found, InvalidAdapterError)
    except InvalidAdapterError as problem:
        raise InvalidAdapterError(f"{archive} is not unpacked: {problem}", code="bad_archive") from problem
    return found


def _most(archive: Path) -> int:
    """Bytes that an archive may become."""
    with ErrorMapping(unreadable_file, archive):
        return min(MAX_SIZE, max(FREE_SIZE, MAX_RATIO * archive.stat().st_size))


def name_of(archive: Path, member: Entry) -> str:
    """The name of an entry below the folder that it is unpacked into."""
    name = member.name
    parts = [part for part in name.split("/") if part != "."]
    if stat.S_ISDIR(member.kind) and parts and not parts[-1]:
        parts.pop()
    if name.startswith("/") or ".." in parts or "" in parts:
        raise _refused(archive, f"holds {name!r}, a name that leads out of it", "path_traversal")
    if len(parts) > MAX_DEPTH:
        raise _refused(archive, f"holds {name!r}, which lies more than {MAX_DEPTH} folders deep")
    if not parts:
        if stat.S_ISDIR(member.kind):
            return ""
        raise _refused(archive, "holds a file without a name")
    try:
        return check_name("/".join(parts), InvalidAdapterError)
    except InvalidAdapterError as problem:
        raise InvalidAdapterError(f"{archive} is not unpacked: {problem}", code="bad_archive") from problem


def _words(kind: int) -> str:
    if stat.S_ISLNK(kind):
        return "link"
    return "device" if stat.S_ISCHR(kind) or stat.S_ISBLK(kind) else "pipe or the like"


def entries_of(archive: Path) -> Iterator[Entry]:
    """The entries of an archive, one after the other; the stream of each is read before the next one is requested."""
    with reading(archive):
        yield from (_of_zip if archive.name.lower().endswith(".zip") else _of_tar)(archive)


@contextmanager
def reading(archive: Path) -> Iterator[None]:
    """What libraries raise at an archive as an error of ours."""
    with ErrorMapping(unreadable_file, archive):
        try:
            yield
        except _DAMAGED as problem:
            raise damaged(archive, " ".join(str(problem).split()) or type(problem).__name__) from problem


def _of_zip(archive: Path) -> Iterator[Entry]:
    with _Careful(archive) as file, zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            if info.flag_bits & _ENCRYPTED:
                raise _refused(archive, "is encrypted")
            if info.compress_type not in _PLAIN:
                raise _refused(archive, f"is compressed by method {info.compress_type}, and only deflate is read")
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode) or (stat.S_IFDIR if info.is_dir() else 0)
            # the name that the archive has: zipfile cuts its own at the first NUL
            yield Entry(info.orig_filename, info.file_size, kind, partial(opened.open, info))


def _of_tar(archive: Path) -> Iterator[Entry]:
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with ExitStack() as closing:
            stream: IO[bytes] | io.BufferedIOBase = file
            if packed:
                stream = closing.enter_context(gzip.GzipFile(fileobj=file))
            forward = _Forward(stream, archive, _most(archive) + MAX_ENTRIES * 4 * _BLOCK)
            opened = closing.enter_context(tarfile.TarFile(fileobj=forward))
            for info in opened:
                kind = stat.S_IFREG if info.isreg() and not info.issparse() else _KINDS.get(info.type, stat.S_IFIFO)
                yield Entry(info.name, info.size, kind, partial(_data, opened, info))
            # tarfile takes what it can't read for the end: that is a block of zeros, and nothing but zeros follow
            if forward.last.strip(b"\0") or len(forward.last) != _BLOCK or forward.rest().strip(b"\0"):
                raise damaged(archive, "it ends in the middle, or something that is no entry is in it")


_KINDS: Final = {
    tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.LNKTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK,
}  # fmt: skip


def _data(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = opened.extractfile(info)
    assert stream is not None, "only plain files are read"
    return stream


class _Careful(io.FileIO):
    """A file of which nobody reads much at once, whatever sizes it declares."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self._size - self.tell() if size is None or size < 0 else size
        if min(wanted, self._size) > MAX_HEAD:
            raise zipfile.BadZipFile("its list of entries is too long")
        return super().read(wanted) or b""


class _Forward(io.BufferedIOBase):
    """What a tar is read from: once, from its beginning to its end, a little at a time and no more than it may be."""

    def __init__(self, stream: IO[bytes] | io.BufferedIOBase, archive: Path, most: int) -> None:
        self._stream, self._archive, self._most = stream, archive, most
        self._at = 0
        self.last = b""  # what was read last

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_HEAD:
            raise tarfile.ReadError("a header of it is too long")
        self.last = self._stream.read(size)
        self._at += len(self.last)
        if self._at > self._most:
            raise _too_large(self._archive, self._most)
        return self.last

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET or offset < self._at:
            raise tarfile.ReadError("an entry of it has a size below zero")
        while self._at < offset and self.read(min(_CHUNK, offset - self._at)):
            pass
        return self._at

    def rest(self) -> bytes:
        """What follows: the first piece of it that is not all zeros, to the end."""
        while data := self.read(_CHUNK):
            if data.strip(b"\0"):
                return data
        return b""


def _refused(archive: Path, why: str, code: str = "bad_archive") -> InvalidAdapterError:
    return InvalidAdapterError(
        f"{archive} {why}, so it is not unpacked: unpack it yourself if you trust it, and give the folder.", code=code
    )


def _too_large(archive: Path, most: int) -> InvalidAdapterError:
    return _refused(archive, f"becomes more than {said_size(most)}, which is not what weights do")


def damaged(archive: Path, why: str) -> InvalidAdapterError:
    """That an archive is not whole."""
    return InvalidAdapterError(
        f"{archive} is no whole archive ({why.rstrip('.')}): make it or download it once more.", code="bad_archive"
    )
