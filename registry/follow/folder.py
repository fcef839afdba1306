"""A folder as a sink: a folder for each revision, and for each name a symbolic link that is switched in one step.

``DIR/<path with -->@tag`` is a link into ``DIR/.revisions``, replaced by ``rename(2)``: a reader that opens it finds
the old folder or the new one, never none and never a mixture, and whoever has opened files of the old one goes on
reading them. One folder that is overwritten could promise neither.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from registry.errors import ConflictError
from registry.files.opened import sync_folder
from registry.folders.local_files import telling_unwritable
from registry.follow.revisions import REVISIONS, Revisions, reference_of
from registry.follow.sinks import deep, flat

if TYPE_CHECKING:
    from registry.follow.sinks import Form
    from registry.operations.registry import Registry
    from registry.progress import Progress
    from registry.schemas.followed import Where

_NEW: Final = ".new"


class FolderSink:
    """See the module. Only what has the names above is ever changed or removed."""

    def __init__(self, folder: str) -> None:
        self._room: Final = Revisions(folder)
        self.folder: Final = self._room.folder
        self._links: dict[str, str] = {}  # name -> folder of revisions, as of this round: a round reads each link once

    @contextmanager
    def opened(self) -> Iterator[None]:
        """See `Sink`."""
        with self._room.opened():
            with telling_unwritable(self.folder):
                self._clear_links()
            yield

    def there(self) -> Mapping[str, str]:
        """See `Sink`."""
        with telling_unwritable(self.folder):
            self._read()
        return {name: reference_of(key) if self._room.has(key) else "" for name, key in self._links.items()}

    def _read(self) -> None:
        self._room.read()
        self._links = {}
        if not self.folder.is_dir():
            return
        with os.scandir(self.folder) as entries:
            for entry in entries:
                key = self._key_of(entry.path) if entry.is_symlink() and not entry.name.startswith(".") else None
                if key is not None:
                    self._links[deep(entry.name)] = key

    def leads_to(self, name: str, where: Where, form: Form) -> bool:
        """See `Sink`."""
        brought = self._room.right(where, form)
        return brought is not None and self._links.get(name) == brought

    def bring(self, registry: Registry, where: Where, form: Form, progress: Progress) -> bool:
        """See `Sink`."""
        return self._room.bring(registry, where, form, progress, self._links.values())

    def point(self, name: str, where: Where, form: Form) -> None:
        """See `Sink`."""
        place = self.folder / flat(name)
        draft = self.folder / f".{place.name}{_NEW}"
        brought = str(self._room.right(where, form))
        with telling_unwritable(self.folder):
            if self._key_of(place) is None and os.path.lexists(place):
                raise ConflictError(
                    f"{place} is not a link that `registry follow` made, and stays as it is; move it away.",
                    code="folder_taken",
                )
            draft.unlink(missing_ok=True)
            draft.symlink_to(Path(REVISIONS, brought), target_is_directory=True)
            self._room.use(brought)
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
        """See `Sink`."""
        return self._room.sweep(set(self._links.values()), now, keep_for)

    @staticmethod
    def _key_of(link: str | Path) -> str | None:
        """The folder of revisions that a link leads to; None: it is none of ours."""
        try:
            head, _, key = os.readlink(link).partition("/")  # noqa: PTH115 - a Path would lose how it is written
        except OSError as problem:
            if problem.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise
        return key if head == REVISIONS and reference_of(key) else None

    def _clear_links(self) -> None:
        """Remove links that a killed run had not yet given their names."""
        for draft in self.folder.glob(f".*{_NEW}"):
            if self._key_of(draft) is not None:
                with suppress(FileNotFoundError):
                    draft.unlink()
