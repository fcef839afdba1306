"""Adding base models and publishing adapters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path as FilePath

from registry.operations.arguments import check_order
from registry.operations.methods.table_calls import TableCalls
from registry.operations.publication import Labels, Publication
from registry.progress import SILENT, Progress
from registry.reference import Path
from registry.schemas import BaseAdded, FolderOutcome, Published, PublishPreview

Folder = str | PathLike[str]


class Publishing(TableCalls):
    """Adding base models and publishing adapters."""

    @abstractmethod
    def _publish(self, publication: Publication, progress: Progress) -> Published:
        """Publish an adapter."""

    @abstractmethod
    def _preview(self, publication: Publication, progress: Progress) -> PublishPreview:
        """Check an adapter as publishing does."""

    @abstractmethod
    def add_base(self, name: str, folder: Folder, *, link: bool = False, progress: Progress = SILENT) -> BaseAdded:
        """Add the base model in ``folder`` (Hugging Face layout, or ``hf:ORG/REPO[@REVISION]``) under ``name``."""

    def publish(
        self,
        folder: Folder,
        path: str,
        *,
        parent: str | None = None,
        receipt: Folder | None = None,
        skip_parent_check: bool = False,
        message: str = "",
        metrics: Mapping[str, float] = {},
        tags: Iterable[str] = (),
        annotations: Mapping[str, str] = {},
        progress: Progress = SILENT,
    ) -> Published:
        """Publish the PEFT adapter in ``folder``, or ``hf:ORG/REPO[@REVISION]``, as the next revision of ``path``."""
        asked_for = _publication(folder, path, parent, receipt, skip_parent_check, message, metrics, tags, annotations)
        return self._publish(asked_for, progress)

    def preview(
        self,
        folder: Folder,
        path: str,
        *,
        parent: str | None = None,
        receipt: Folder | None = None,
        skip_parent_check: bool = False,
        message: str = "",
        metrics: Mapping[str, float] = {},
        tags: Iterable[str] = (),
        annotations: Mapping[str, str] = {},
        progress: Progress = SILENT,
    ) -> PublishPreview:
        """Check everything as `publish` does, with the same errors, and store nothing: what would be published."""
        asked_for = _publication(folder, path, parent, receipt, skip_parent_check, message, metrics, tags, annotations)
        return self._preview(asked_for, progress)

    def publish_tree(
        self,
        folder: Folder,
        base: str,
        *,
        rename: Mapping[str, str] = {},
        published: Callable[[Published], None] = lambda _: None,
        progress: Progress = SILENT,
    ) -> tuple[Published, ...]:
        """Publish every adapter in a nested folder, parents first: nesting is the path below ``base``.

        All are checked before the first is published: where one is refused, its error names the folder, and nothing is
        published. A child's parent is the revision that stands for the folder above it. ``rename`` gives names to
        folders whose own are none of the grammar, by their places: ``{"support/French": "french"}``. ``published`` is
        called after each one. A second run goes on where the first was stopped.
        """

        def told(outcome: FolderOutcome) -> None:
            if outcome.published is not None:
                published(outcome.published)

        outcomes = self.publish_folders(folder, base, rename=rename, told=told, progress=progress)
        return tuple(outcome.published for outcome in outcomes if outcome.published is not None)

    @abstractmethod
    def publish_folders(
        self,
        folder: Folder,
        base: str,
        *,
        rename: Mapping[str, str] = {},
        keep_going: bool = False,
        dry_run: bool = False,
        told: Callable[[FolderOutcome], None] = lambda _: None,
        progress: Progress = SILENT,
    ) -> tuple[FolderOutcome, ...]:
        """The same, with the outcome of every folder, those that are not entered too; ``told`` is called with each.

        ``keep_going`` publishes what can be, and what is refused is an outcome instead of an error. ``dry_run`` checks
        all and publishes nothing.
        """


def _publication(
    folder: Folder,
    path: str,
    parent: str | None,
    receipt: Folder | None,
    skip_parent_check: bool,
    message: str,
    metrics: Mapping[str, float],
    tags: Iterable[str],
    annotations: Mapping[str, str],
) -> Publication:
    labels = Labels.checked(message, metrics, tags, annotations)
    check_order(folder, path, Path.parse, "registry publish {folder} {name}", "the folder")
    shown_by = None if receipt is None else FilePath(receipt)
    return Publication(folder, Path.parse(path), labels, parent, shown_by, skip_parent_check)
