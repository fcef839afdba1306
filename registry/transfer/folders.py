"""Previews and publishing of nested folders: a mixin of registries in process and over HTTP.

Needs neither torch nor a database by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from os import PathLike
from types import MappingProxyType
from typing import Final

from registry.operations.arguments import check_order
from registry.operations.publication import Publication
from registry.progress import SILENT, Progress
from registry.reference import check_base_name
from registry.schemas import FolderOutcome, PublishPreview
from registry.transfer.publish_tree import Ground, publish_folders
from registry.transfer.requests import request_of
from registry.transfer.source import own_folder

Folder = str | PathLike[str]
NO_METRICS: Final[Mapping[str, float]] = MappingProxyType({})
NO_TEXTS: Final[Mapping[str, str]] = MappingProxyType({})


def _nothing(answer: object) -> None:
    del answer


class PublishingFolders(ABC):
    """The mixin; see `registry.operations.registry`."""

    @abstractmethod
    def _ground(self) -> Ground:
        """Where the folders are checked and published."""

    def _preview(self, publication: Publication, progress: Progress) -> PublishPreview:
        return self._ground().plan(request_of(publication, progress), progress)

    def publish_folders(
        self,
        folder: Folder,
        base: str,
        *,
        rename: Mapping[str, str] = NO_TEXTS,
        keep_going: bool = False,
        dry_run: bool = False,
        told: Callable[[FolderOutcome], None] = _nothing,
        progress: Progress = SILENT,
    ) -> tuple[FolderOutcome, ...]:
        check_order(folder, base, check_base_name, "registry publish -r {folder} {name}", "the folder")
        return publish_folders(
            self._ground(),
            own_folder(folder, "publish -r"),
            base,
            rename=rename,
            keep_going=keep_going,
            dry_run=dry_run,
            told=told,
            progress=progress,
        )
