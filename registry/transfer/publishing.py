"""Previews and publishing of nested folders: a mixin of registries in process and over HTTP.

Needs neither torch nor a database by itself. What reads folders is imported when one is published: every command has
this mixin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from registry.operations.arguments import check_order
from registry.operations.publication import Publication
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.schemas import FolderOutcome, Published, PublishPreview
from registry.schemas.tags import NoticeCode

if TYPE_CHECKING:
    from registry.folders.archives import Opened
    from registry.schemas.publishing import ImportDocument
    from registry.transfer.publish_tree import PublishTarget
    from registry.transfer.source import Extract

Folder = str | PathLike[str]


class PublishingFolders(ABC):
    """The mixin; see `registry.operations.registry`."""

    @abstractmethod
    def _target(self) -> PublishTarget:
        """Where the folders are checked and published."""

    @abstractmethod
    def _extract(self, publication: Publication, progress: Progress) -> Extract:
        """What writes what is published of a full model, whose parent is looked up now."""

    @abstractmethod
    def _from_pickle(self, pickle: Path, out: Path) -> None:
        """Write the tensors in a pickle as a safetensors file, without running anything of it."""

    def _opened(self, progress: Progress) -> AbstractContextManager[Opened]:
        from registry.folders.archives import opened

        return opened(self._from_pickle, progress)

    def _publish(self, publication: Publication, progress: Progress) -> Published:
        from registry.transfer.publish_request import read_adapter

        return self._target().publish(read_adapter(publication, progress), progress)

    def _extracted(self, publication: Publication, progress: Progress) -> AbstractContextManager[Publication]:
        from registry.transfer.source import extracted

        return extracted(publication, self._extract(publication, progress), progress)

    def _preview(self, publication: Publication, progress: Progress) -> PublishPreview:
        from registry.transfer.publish_request import read_adapter

        return self._target().plan(read_adapter(publication, progress).with_digests(progress), progress)

    def _apply_import(
        self, document: ImportDocument, told: Callable[[FolderOutcome], None], progress: Progress
    ) -> tuple[FolderOutcome, ...]:
        from registry.transfer.apply_plan import apply_plan

        with self._opened(progress) as opened:
            return apply_plan(self, self._target(), document, opened, told, progress)  # type: ignore[arg-type]

    def _publish_folders(
        self,
        folder: Folder,
        base: str,
        *,
        rename: Mapping[str, str],
        parent: str | None,
        strict: tuple[NoticeCode, ...],
        keep_going: bool,
        dry_run: bool,
        told: Callable[[FolderOutcome], None],
        progress: Progress,
    ) -> tuple[FolderOutcome, ...]:
        from registry.transfer.publish_tree import publish_folders
        from registry.transfer.source import own_folder

        check_order(folder, base, TreePath.parse, "registry publish -r {folder} {name}", "the folder")
        with self._opened(progress) as opened:
            return publish_folders(
                self._target(),
                opened.folder(own_folder(folder, "publish -r")),
                base,
                rename=rename,
                parent=parent,
                strict=strict,
                keep_going=keep_going,
                dry_run=dry_run,
                opened=opened,
                told=told,
                progress=progress,
            )
