"""Archives: a path may lead into one, whose files lie in a private folder for as long as they are needed.

An archive is a stranger's. Every name, kind and size in it is looked at before a byte of it is written, and what is
written is counted. Nothing but plain files and folders comes out of one: no links, no devices, no name that leads out
of it or that not every system can hold, and no archive in it is unpacked.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import IO, Final, TypeVar

from registry.errors import InvalidAdapterError, NotFoundError, RegistryError, UnavailableError, UsageError
from registry.figures import command
from registry.figures import size as said_size
from registry.files.opened import open_new
from registry.folders.errors import ErrorMapping, telling_unwritable, unreadable_file
from registry.folders.foreign import is_archive
from registry.folders.heap.kinds import Taken
from registry.folders.heap.walk import walk_heap
from registry.folders.names import check_name, check_together
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PICKLED_WEIGHTS, is_own_file
from registry.folders.staging import temporary_folder
from registry.progress import Progress
from registry.schemas.form import Schema

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
UNTIMED: Final = 4_102_444_800.0
"""The time of what was unpacked (the year 2100): `registry.transfer.times` lets it say nothing.

Archives keep times without a zone or not at all, and when something came into this folder means nothing.
"""

_LISTED: Final = 5
_CHUNK: Final = 1 << 20
_BLOCK: Final = 512  # of a tar
_PLAIN: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 0x1
_DAMAGED: Final = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, struct.error, ValueError, OverflowError, RecursionError,
    NotImplementedError, gzip.BadGzipFile,
)  # fmt: skip

AnySchema = TypeVar("AnySchema", bound=Schema)
Convert = Callable[[Path, Path], None]
"""Writes the tensors in a pickle as a new safetensors file; both are given."""


@dataclass(frozen=True)
class _Member:
    """An entry as the archive says it is."""

    name: str
    size: int
    kind: int  # of `stat`: what it is, 0 where nothing is said
    stream: Callable[[], IO[bytes]]


@dataclass
class Opened:
    """The archives that were opened, and the pickles whose tensors were written; all of it goes with the context."""

    stack: ExitStack
    progress: Progress
    convert: Convert
    _roots: dict[Path, Path] = field(default_factory=dict)  # where what was given is read; later ones may lie in it
    _room: Path | None = None

    def folder(self, place: str | PathLike[str]) -> Path:
        """A path on this machine; one that leads to or into an archive as the folder with what lies there.

        Raises:
            InvalidAdapterError: ``bad_archive`` or ``path_traversal``, the archive is not unpacked.
            NotFoundError: it holds no such thing.
            UnavailableError: ``disk_full``; or it can't be read.
        """
        path = Path(place)
        archive = archive_of(path)
        if archive is None:
            return path
        if archive not in self._roots:
            self._roots[archive] = self._unpacked(archive)
        found = self._roots[archive] / path.relative_to(archive)
        if not found.exists():
            top = sorted(one.name for one in self._roots[archive].iterdir())
            listed = f"{', '.join(top[:_LISTED])}{', ...' if len(top) > _LISTED else ''}"
            raise NotFoundError(
                f"{archive} has no {str(path.relative_to(archive))!r}: at its top it holds {listed or 'nothing'}.",
                code="missing_file",
            )
        return found

    def one(self, place: str | PathLike[str], wanted: Taken | None = None) -> Path:
        """As `folder`; an archive itself is the one adapter or model in it, else what it holds, to be refused for that.

        Raises:
            UsageError: there are several.
            InvalidAdapterError: ``missing_file``, there is none; or what `folder` raises.
        """
        archive = archive_of(Path(place))
        if archive is None or archive != Path(place):
            return self.folder(place)
        heap = walk_heap(archive, self)
        found = [one for one in heap.found if one.kind.what == (wanted or "adapter")] or heap.found
        if len(found) == 1:
            return found[0].folder
        if not found:
            why = next((f" ({one.place}: {one.why})" for one in heap.left if one.why), "")
            raise InvalidAdapterError(
                f"{archive} holds no {wanted or 'adapter or model'}{why}; a folder that save_pretrained wrote is "
                "expected in it.",
                code="missing_file",
            )
        places = [str(archive / one.place) for one in found]
        listed = f"{', '.join(places[:_LISTED])}{', ...' if len(places) > _LISTED else ''}"
        raise UsageError(
            f"{archive} holds {len(places)} {found[0].kind.taken}s: give one of them, {listed}; or bring in all with "
            f"{command('registry', 'import', archive, '--plan', 'FILE')}."
        )

    def names(self, archive: Path) -> list[str]:
        """The names of all files in an archive, which is checked as a whole; raises what `folder` does."""
        return list(_checked(archive))

    def readable(self, folder: Path) -> Path:
        """A folder; one of an adapter whose weights are a pickle with these as a file that is read."""
        pickle, config = folder / PICKLED_WEIGHTS, folder / ADAPTER_CONFIG
        if any(folder.glob("*.safetensors")) or not (is_own_file(pickle, folder) and is_own_file(config, folder)):
            return folder
        written = self.weights(pickle)
        written.rename(written.with_name(ADAPTER_WEIGHTS))
        shutil.copy(config, written.parent)
        self._roots[folder] = written.parent
        return written.parent

    def weights(self, pickle: Path) -> Path:
        """A new safetensors file with the tensors of a pickle."""
        out = self._new_folder() / "weights.safetensors"
        self.convert(pickle, out)
        return out

    def is_inside(self, place: Path) -> bool:
        """Whether a path is one of what was unpacked."""
        return any(place.is_relative_to(root) for root in self._roots.values())

    def named(self, place: Path) -> Path:
        """A path as the user knows it: through the archive, not through where that was unpacked."""
        for given, root in reversed(self._roots.items()):
            if place.is_relative_to(root):
                place = given / place.relative_to(root)
        return place

    def told(self, text: str) -> str:
        """A text in which what was unpacked is called by its archive."""
        for given, root in reversed(self._roots.items()):
            text = text.replace(str(root), str(given))
        return text

    def error(self, problem: RegistryError) -> RegistryError:
        """An error in these words."""
        text = self.told(str(problem))
        return problem if text == str(problem) else type(problem)(text, code=problem.code)

    def answer(self, answer: AnySchema) -> AnySchema:
        """An answer in these words."""
        if not self._roots:
            return answer
        return type(answer).model_validate_json(self.told(answer.model_dump_json()))

    def _unpacked(self, archive: Path) -> Path:
        members = _checked(archive)
        total = sum(members.values())
        folder = self._new_folder()
        with telling_unwritable(folder):
            free = shutil.disk_usage(folder).free
        if total > free:
            raise UnavailableError(
                f"{archive} takes {said_size(total)} unpacked, and there are {said_size(free)} in {folder.parents[2]}: "
                "set TMPDIR to a larger disk, or free some space.",
                code="disk_full",
            )
        self.progress.begin(f"Unpacking {archive.name}", total)
        for member in _read(archive):
            if stat.S_ISDIR(member.kind):
                continue
            name = _name(archive, member)
            if members.get(name) != member.size:
                raise _damaged(archive, "it was changed while it was read")
            target = folder / name
            with telling_unwritable(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with os.fdopen(open_new(target), "wb") as out:
                    self._write(archive, member, out)
                os.utime(target, (UNTIMED, UNTIMED))
        return folder

    def _write(self, archive: Path, member: _Member, out: IO[bytes]) -> None:
        """Write one file, of which no more is read than was said."""
        left = member.size
        with _reading(archive):
            stream = member.stream()
        while True:
            with _reading(archive):
                data = stream.read(min(_CHUNK, left + 1))
            left -= len(data)
            if not data or left < 0:
                break
            out.write(data)
            self.progress.advance(len(data))
        if left:
            raise _damaged(archive, f"{member.name} is not as long as it says")

    def _new_folder(self) -> Path:
        with telling_unwritable(Path("the folder for temporary files")):
            if self._room is None:
                self._room = self.stack.enter_context(temporary_folder("registry-unpacked")).resolve()
            count = sum(1 for _ in self._room.iterdir())
            folder = self._room / f"{count:06}"
            folder.mkdir(mode=0o700)
        return folder


@contextmanager
def opened(convert: Convert, progress: Progress) -> Iterator[Opened]:
    """Let paths lead into archives; whatever was written for that is removed on exit, however that comes about.

    Args:
        convert: reads pickles.
        progress: of unpacking.

    Raises:
        RegistryError: that of the block, in the words of who gave the archive.
    """
    with ExitStack() as stack:
        found = Opened(stack, progress, convert)
        try:
            yield found
        except RegistryError as problem:
            renamed = found.error(problem)
            if renamed is problem:
                raise
            raise renamed from problem


def archive_of(path: Path) -> Path | None:
    """The archive that a path leads to or into; None: it leads to none."""
    places = (one for one in reversed([path, *path.parents]) if is_archive(one.name))
    return next((one for one in places if os.path.isfile(one)), None)  # noqa: PTH113 - raises nothing


def _checked(archive: Path) -> dict[str, int]:
    """The sizes of all files by name, where the archive may be unpacked."""
    found: dict[str, int] = {}
    total, most = 0, _most(archive)
    for count, member in enumerate(_read(archive), 1):
        if count > MAX_ENTRIES:
            raise _refused(archive, f"has more than {MAX_ENTRIES} entries")
        name = _name(archive, member)
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


def _name(archive: Path, member: _Member) -> str:
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


def _read(archive: Path) -> Iterator[_Member]:
    """The entries of an archive, one after the other; the stream of each is read before the next one is asked for."""
    with _reading(archive):
        yield from (_of_zip if archive.name.lower().endswith(".zip") else _of_tar)(archive)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    with ErrorMapping(unreadable_file, archive):
        try:
            yield
        except _DAMAGED as problem:
            raise _damaged(archive, " ".join(str(problem).split()) or type(problem).__name__) from problem


def _of_zip(archive: Path) -> Iterator[_Member]:
    with _Careful(archive) as file, zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            if info.flag_bits & _ENCRYPTED:
                raise _refused(archive, "is encrypted")
            if info.compress_type not in _PLAIN:
                raise _refused(archive, f"is compressed by method {info.compress_type}, and only deflate is read")
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode) or (stat.S_IFDIR if info.is_dir() else 0)
            # the name that the archive has: zipfile cuts its own at the first NUL
            yield _Member(info.orig_filename, info.file_size, kind, partial(opened.open, info))


def _of_tar(archive: Path) -> Iterator[_Member]:
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
                yield _Member(info.name, info.size, kind, partial(_data, opened, info))
            # tarfile takes what it can't read for the end: that is a block of zeros, and nothing but zeros follow
            if forward.last.strip(b"\0") or len(forward.last) != _BLOCK or forward.rest().strip(b"\0"):
                raise _damaged(archive, "it ends in the middle, or something that is no entry is in it")


_KINDS: Final = {
    tarfile.DIRTYPE: stat.S_IFDIR, tarfile.SYMTYPE: stat.S_IFLNK, tarfile.LNKTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK,
}  # fmt: skip


def _data(opened: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    stream = opened.extractfile(info)
    assert stream is not None, "only plain files are read"
    return stream


class _Careful(io.FileIO):
    """A file of which nobody reads much at once, whatever a number in it says."""

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


def _damaged(archive: Path, why: str) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"{archive} is no whole archive ({why.rstrip('.')}): make it or download it once more.", code="bad_archive"
    )
