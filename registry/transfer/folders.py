"""Previews and publishing of nested folders: a mixin of registries in process and over HTTP.

Needs neither torch nor a database by itself. What reads folders is imported when one is published: every command has
this mixin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING

from registry.operations.arguments import check_order
from registry.operations.publication import Publication
from registry.progress import Progress
from registry.reference import check_base_name
from registry.schemas import FolderOutcome, PublishPreview
from registry.schemas.around import NoticeCode

if TYPE_CHECKING:
    from registry.schemas.publishing import ImportDocument
    from registry.transfer.publish_tree import Ground

Folder = str | PathLike[str]


class PublishingFolders(ABC):
    """The mixin; see `registry.operations.registry`."""

    @abstractmethod
    def _ground(self) -> Ground:
        """Where the folders are checked and published."""

    def _preview(self, publication: Publication, progress: Progress) -> PublishPreview:
        from registry.transfer.requests import request_of

        return self._ground().plan(request_of(publication, progress), progress)

    def _apply_import(
        self, document: ImportDocument, told: Callable[[FolderOutcome], None], progress: Progress
    ) -> tuple[FolderOutcome, ...]:
        from registry.transfer.apply_plan import apply_plan

        return apply_plan(self, self._ground(), document, told, progress)  # type: ignore[arg-type]

    def _publish_folders(
        self,
        folder: Folder,
        base: str,
        *,
        rename: Mapping[str, str],
        strict: tuple[NoticeCode, ...],
        keep_going: bool,
        dry_run: bool,
        told: Callable[[FolderOutcome], None],
        progress: Progress,
    ) -> tuple[FolderOutcome, ...]:
        from registry.transfer.publish_tree import publish_folders
        from registry.transfer.source import own_folder

        check_order(folder, base, check_base_name, "registry publish -r {folder} {name}", "the folder")
        return publish_folders(
            self._ground(),
            own_folder(folder, "publish -r"),
            base,
            rename=rename,
            strict=strict,
            keep_going=keep_going,
            dry_run=dry_run,
            told=told,
            progress=progress,
        )
