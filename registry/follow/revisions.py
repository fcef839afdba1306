"""Folders of revisions: one for each revision and form, which never changes, kept for as long as somebody may read it.

``DIR/.revisions/<path with -->@N-<digits>`` is complete from its first moment: `fetch` fills it under another name and
renames it. What nobody uses any more is removed later, because an engine may read it again: a file beside it,
``.<folder>.unused``, has the time since when.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from registry.errors import ConflictError, UsageError
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
_DIGITS: Final = 12
_TRIES: Final = 9
_KEY: Final = re.compile(r"(.+@[1-9][0-9]*)-[0-9a-f]{12}(?:~[2-9])?")


class Revisions:
    """See the module. Only what has the names above is ever changed or removed."""

    def __init__(self, folder: str) -> None:
        self.folder: Final = absolute(Path(folder))
        self.place: Final = self.folder / REVISIONS
        self._brought: dict[str, str] = {}  # the folder of a key that was found right
        self._there: set[str] = set()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """For this process alone; the lock is on a file, since network file systems lock files and no folders.

        Raises:
            ConflictError: ``folder_taken``, another process has it.
        """
        if fcntl is None:
            raise UsageError("Following into a folder needs locks and links: it works on Linux and macOS.")
        made = [one for one in (self.folder, self.place) if not one.is_dir()]
        with telling_unwritable(self.folder):
            self.place.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with telling_unwritable(self.folder):
                if not self._locked(descriptor):
                    raise ConflictError(
                        f"Another `registry follow` brings revisions to {self.folder}; stop it, or follow into another "
                        "folder.",
                        code="folder_taken",
                    )
            try:
                yield
            finally:
                self._unmade(made)
        finally:
            os.close(descriptor)

    def _locked(self, descriptor: int) -> bool:
        """Whether the lock is ours, and is still the file that others would ask for."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(descriptor), (self.place / _LOCK).stat())
        except (BlockingIOError, FileNotFoundError):
            return False

    def _unmade(self, made: list[Path]) -> None:
        """A run that brought nothing leaves no folder behind that it made."""
        if self.place in made and {one.name for one in self.place.iterdir()} <= {_LOCK}:
            with suppress(OSError):
                (self.place / _LOCK).unlink()
                for folder in reversed(made):
                    folder.rmdir()

    def read(self) -> None:
        """See what is there."""
        self._there = set(os.listdir(self.place)) if self.place.is_dir() else set()  # noqa: PTH208 - names

    def has(self, key: str) -> bool:
        """Whether a folder of this name was there when it was last read."""
        return key in self._there

    def all(self) -> list[str]:
        """The folders that were there when it was last read."""
        return [name for name in self._there if _KEY.fullmatch(name)]

    def right(self, where: Where, form: Form) -> str | None:
        """The folder of a revision in a form; it counts once this process has read it and found it right."""
        brought = self._brought.get(_key(str(where.reference), str(where.digest), form))
        return brought if brought in self._there else None

    def bring(
        self, registry: Registry, where: Where, form: Form, progress: Progress, used: Collection[str] = ()
    ) -> bool:
        """Bring a revision; whether it had to be written. What is there is compared; a folder that is not right stays.

        It may be in use, even if it was changed or written by another version: the right one comes beside it, in one
        that is in use already if possible.

        Raises:
            ConflictError: ``folder_taken``, too many are not right.
        """
        reference, key = str(where.reference), _key(str(where.reference), str(where.digest), form)
        if self._brought.get(key) in self._there:
            return False
        names = [key, *(f"{key}~{number}" for number in range(2, _TRIES + 1))]
        for place in sorted(names, key=lambda one: one not in used):
            try:
                answer = fetched(registry, where, form, self.place / place, progress)
            except ConflictError as problem:
                if problem.code != "folder_taken":
                    raise
                continue
            self._brought[key] = place
            self._there.add(place)
            return answer.fresh
        raise ConflictError(
            f"{_TRIES} folders {self.place / key} hold something else than {reference}; remove those that nothing "
            "reads.",
            code="folder_taken",
        )

    def use(self, key: str) -> None:
        """It is used from now on: the time of an earlier end of use is forgotten."""
        self._mark(key).unlink(missing_ok=True)

    def sweep(self, used: Collection[str], now: float, keep_for: float) -> list[str]:
        """Remove what was not used for ``keep_for`` seconds; returns its references.

        A folder that a process holds, as the plugin for vLLM does, stays until that ends.
        """
        removed = []
        with telling_unwritable(self.folder):
            names = self._there
            marked = {name[1 : -len(_UNUSED)] for name in names if name.startswith(".") and name.endswith(_UNUSED)}
            for key in sorted(one for one in names if _KEY.fullmatch(one)):
                if key in used:
                    if key in marked:
                        self.use(key)
                elif key not in marked:
                    self._mark(key).touch()
                    os.utime(self._mark(key), (now, now))
                elif now - self._mark(key).stat().st_mtime >= keep_for and self._remove(key):
                    removed.append(reference_of(key))
            for key in marked:
                if not (self.place / key).exists():
                    self._mark(key).unlink(missing_ok=True)
            if any(name.startswith(".") and name != _LOCK and not name.endswith(_UNUSED) for name in names):
                clear_litter(self.place, "*")
        return removed

    def _remove(self, key: str) -> bool:
        with free(self.place / key) as may_go:
            if may_go:
                take_away(self.place / key)
                self._brought = {one: place for one, place in self._brought.items() if place != key}
        return may_go

    def _mark(self, key: str) -> Path:
        return self.place / f".{key}{_UNUSED}"


@lru_cache(maxsize=1 << 12)
def _key(reference: str, digest: str, form: Form) -> str:
    """The folder of a revision in a form: other bytes never have its name, in whatever registry they are."""
    digits = hashlib.sha256(f"{digest}\n{form}".encode()).hexdigest()[:_DIGITS]
    return f"{flat(reference)}-{digits}"


@lru_cache(maxsize=1 << 12)
def reference_of(key: str) -> str:
    """``PATH@N`` of a folder's name; empty: it is none."""
    found = _KEY.fullmatch(key)
    return "" if found is None else deep(found[1])
