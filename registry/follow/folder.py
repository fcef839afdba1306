"""A folder as a sink: a folder for each revision, and for each name a symbolic link that is switched in one step.

``DIR/.revisions/<path with -->@N-<digits>`` is complete from its first moment: `fetch` fills it under another name and
renames it. ``DIR/<path with -->@tag`` is a link, replaced by ``rename(2)``: a reader that opens it finds the old folder
or the new one, never none and never a mixture, and whoever has opened files of the old one goes on reading them. One
folder that is overwritten could promise neither.

What no name leads to is removed later, because an engine may read it again: a file beside it, ``.<folder>.unused``, has
the time since when.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from registry.errors import ConflictError, UsageError
from registry.files.opened import sync_folder
from registry.folders.local_files import telling_unwritable
from registry.folders.output import absolute
from registry.folders.staging import clear_litter, free, take_away
from registry.follow.sinks import deep, fetched, flat

if TYPE_CHECKING:
    from registry.follow.sinks import Form
    from registry.operations.registry import Registry
    from registry.progress import Progress
    from registry.schemas.followed import Where

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

REVISIONS: Final = ".revisions"
_LOCK: Final = ".lock"
_UNUSED: Final = ".unused"
_NEW: Final = ".new"
_DIGITS: Final = 12
_TRIES: Final = 9
_KEY: Final = re.compile(r"(.+@[1-9][0-9]*)-[0-9a-f]{12}(?:~[2-9])?")


class FolderSink:
    """See the module. Only what has the names above is ever changed or removed."""

    def __init__(self, folder: str) -> None:
        self.folder: Final = absolute(Path(folder))
        self._revisions: Final = self.folder / REVISIONS
        self._brought: dict[str, str] = {}  # the folder of a key that was found right
        self._links: dict[str, str] = {}  # name -> folder of revisions, as of this round: a round reads each link once
        self._folders: set[str] = set()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """See `Sink`. The lock is on a file of its own, since network file systems lock files and no folders."""
        if fcntl is None:
            raise UsageError("--to folder=DIR needs links that are switched in one step: it works on Linux and macOS.")
        with telling_unwritable(self.folder):
            self._revisions.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._revisions / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with telling_unwritable(self.folder):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ConflictError(
                        f"Another `registry follow` brings revisions to {self.folder}; stop it, or follow into another "
                        "folder.",
                        code="folder_taken",
                    ) from None
                self._clear_links()
            yield
        finally:
            os.close(descriptor)

    def there(self) -> Mapping[str, str]:
        """See `Sink`."""
        with telling_unwritable(self.folder):
            self._read()
        return {name: _reference(key) if key in self._folders else "" for name, key in self._links.items()}

    def _read(self) -> None:
        self._folders = set(os.listdir(self._revisions)) if self._revisions.is_dir() else set()  # noqa: PTH208 - names
        self._links = {}
        if not self.folder.is_dir():
            return
        with os.scandir(self.folder) as entries:
            for entry in entries:
                key = self._key_of(entry.path) if entry.is_symlink() and not entry.name.startswith(".") else None
                if key is not None:
                    self._links[deep(entry.name)] = key

    def leads_to(self, name: str, where: Where, form: Form) -> bool:
        """See `Sink`. A folder counts once this process has read it and found it right."""
        brought = self._brought.get(_key(str(where.reference), str(where.digest), form))
        return brought is not None and brought in self._folders and self._links.get(name) == brought

    def bring(self, registry: Registry, where: Where, form: Form, progress: Progress) -> bool:
        """See `Sink`. What is there already is read and compared; a folder that is not right is never touched.

        It may be in use, even if it was changed or written by another version: the right one comes beside it.
        """
        reference, key = str(where.reference), _key(str(where.reference), str(where.digest), form)
        if self._brought.get(key) in self._folders:
            return False
        for place in self._places(key):
            try:
                answer = fetched(registry, where, form, self._revisions / place, progress)
            except ConflictError as problem:
                if problem.code != "folder_taken":
                    raise
                continue
            self._brought[key] = place
            self._folders.add(place)
            return answer.fresh
        raise ConflictError(
            f"{_TRIES} folders {self._revisions / key} hold something else than {reference}; remove those that nothing "
            "reads.",
            code="folder_taken",
        )

    def point(self, name: str, where: Where, form: Form) -> None:
        """See `Sink`."""
        place = self.folder / flat(name)
        draft = self.folder / f".{place.name}{_NEW}"
        brought = self._brought[_key(str(where.reference), str(where.digest), form)]
        with telling_unwritable(self.folder):
            if self._key_of(place) is None and os.path.lexists(place):
                raise ConflictError(
                    f"{place} is not a link that `registry follow` made, and stays as it is; move it away.",
                    code="folder_taken",
                )
            draft.unlink(missing_ok=True)
            draft.symlink_to(Path(REVISIONS, brought), target_is_directory=True)
            self._mark(brought).unlink(missing_ok=True)  # the time of an earlier end of use
            draft.replace(place)
            self._links[name] = brought
            sync_folder(self.folder)

    def drop(self, name: str) -> None:
        """See `Sink`."""
        place = self.folder / flat(name)
        with telling_unwritable(self.folder):
            if self._key_of(place) is not None:
                place.unlink(missing_ok=True)
                self._links.pop(name, None)
                sync_folder(self.folder)

    def sweep(self, now: float, keep_for: float) -> list[str]:
        """See `Sink`. A folder that a process holds, as the plugin for vLLM does, stays until that ends."""
        removed = []
        with telling_unwritable(self.folder):
            used, names = set(self._links.values()), self._folders
            marked = {name[1 : -len(_UNUSED)] for name in names if name.startswith(".") and name.endswith(_UNUSED)}
            for key in sorted(one for one in names if _KEY.fullmatch(one)):
                if key in used:
                    if key in marked:
                        self._mark(key).unlink(missing_ok=True)
                elif key not in marked:
                    self._mark(key).touch()
                    os.utime(self._mark(key), (now, now))
                elif now - self._mark(key).stat().st_mtime >= keep_for and self._remove(key):
                    removed.append(_reference(key))
            for key in marked:
                if not (self._revisions / key).exists():
                    self._mark(key).unlink(missing_ok=True)
            if any(name.startswith(".") and name != _LOCK and not name.endswith(_UNUSED) for name in names):
                clear_litter(self._revisions, "*")
        return removed

    def _remove(self, key: str) -> bool:
        with free(self._revisions / key) as may_go:
            if may_go:
                take_away(self._revisions / key)
                self._brought = {one: place for one, place in self._brought.items() if place != key}
        return may_go

    def _places(self, key: str) -> list[str]:
        """Folders that may hold a key, those first to which names lead: what is right there needs no other."""
        names, used = [key, *(f"{key}~{number}" for number in range(2, _TRIES + 1))], set(self._links.values())
        return sorted(names, key=lambda one: one not in used)

    def _mark(self, key: str) -> Path:
        return self._revisions / f".{key}{_UNUSED}"

    @staticmethod
    def _key_of(link: str | Path) -> str | None:
        """The folder of revisions that a link leads to; None: it is none of ours."""
        try:
            head, _, key = os.readlink(link).partition("/")  # noqa: PTH115 - a Path would lose how it is written
        except OSError as problem:
            if problem.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise
        return key if head == REVISIONS and _KEY.fullmatch(key) else None

    def _clear_links(self) -> None:
        """Remove links that a killed run had not yet given their names."""
        for draft in self.folder.glob(f".*{_NEW}"):
            if self._key_of(draft) is not None:
                with suppress(FileNotFoundError):
                    draft.unlink()


@lru_cache(maxsize=1 << 12)
def _key(reference: str, digest: str, form: Form) -> str:
    """The folder of a revision in a form: other bytes never have its name, in whatever registry they are."""
    digits = hashlib.sha256(f"{digest}\n{form}".encode()).hexdigest()[:_DIGITS]
    return f"{flat(reference)}-{digits}"


@lru_cache(maxsize=1 << 12)
def _reference(key: str) -> str:
    """``PATH@N`` of a folder's name."""
    found = _KEY.fullmatch(key)
    return "" if found is None else deep(found[1])
