"""A store that keeps no bytes of files: a blob is a symbolic link to the file that it was made of.

For registries that are thrown away, in which a plan is made of folders that lie elsewhere: they may be large, and
nothing about them may change, not even a count of hard links. Blobs are read as those of any store: their blocks are
checked, so that a file that is changed meanwhile is noticed.
"""

from __future__ import annotations

from pathlib import Path

from registry.errors import NotFoundError
from registry.folders.local_files import ErrorMapping, telling_unusable, unreadable_file
from registry.storage.blobs import BlobStore, StagedBlob
from registry.storage.checking import Advance, Watch, digest_object
from registry.storage.driver import ObjectReader, ObjectWriter
from registry.storage.file_objects import FileReader, FileWriter
from registry.storage.filesystem import FilesystemDriver
from registry.storage.temporary import TMP, TemporaryFile


class ReferencingDriver(FilesystemDriver):
    """Objects below ``root``, those of files as symbolic links."""

    def take_file(self, file: Path, *, link: bool) -> ObjectWriter:
        del link
        folder = self._root / TMP
        with telling_unusable(self._root):
            folder.mkdir(parents=True, exist_ok=True)
            return _Referring(self._root, TemporaryFile(folder), file.absolute())


class ReferencingStore(BlobStore):
    """Blobs on a `ReferencingDriver`: a file is hashed, and not copied."""

    def __init__(self, root: Path) -> None:
        self._references = ReferencingDriver(root)
        super().__init__(self._references)

    def stage(self, file: Path, *, watch: Watch | None = None, advance: Advance | None = None) -> StagedBlob:
        if not file.is_file():
            raise NotFoundError(f"There is no file {file}: it was removed while it was being read.")
        writer = self._references.take_file(file, link=True)
        try:
            return StagedBlob(self, writer, digest_object(writer.open(), watch, advance))
        except BaseException:
            writer.__exit__(None, None, None)
            raise


class _Referring(FileWriter):
    """An object that is to refer to a file."""

    def __init__(self, root: Path, temporary: TemporaryFile, file: Path) -> None:
        super().__init__(root, temporary)
        self._file = file
        self._stored_by = "link"

    def open(self) -> ObjectReader:
        with ErrorMapping(unreadable_file, self._file):
            return FileReader(self._root, self._file)

    def sync(self) -> None:
        """Nothing: the store is thrown away."""

    def move(self, target: Path) -> None:
        target.symlink_to(self._file)
