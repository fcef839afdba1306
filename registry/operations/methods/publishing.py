"""Adding base models and publishing adapters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path as FilePath

from registry.bars.shown import shown
from registry.operations import table
from registry.operations.arguments import asked, check_order
from registry.operations.methods.table_calls import TableCalls
from registry.operations.publication import Labels, Publication, strict_codes
from registry.progress import Progress
from registry.reference import Path
from registry.schemas import BaseAdded, FolderOutcome, Published, PublishPreview
from registry.schemas.around import NoticeCode
from registry.schemas.publishing import Rebased, RebaseRequest

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
    def _add_base(self, name: str, folder: Folder, *, link: bool, progress: Progress) -> BaseAdded:
        """Add a base model."""

    @abstractmethod
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
        """Publish the adapters in a nested folder."""

    def add_base(
        self, name: str, folder: Folder, *, link: bool = False, progress: Progress | bool = False
    ) -> BaseAdded:
        """Add a base model, frozen, under a name.

        Args:
            name: what it is called from now on.
            folder: its folder in Hugging Face layout, or ``hf:ORG/REPO[@REVISION]``.
            link: share the bytes with the folder by hard links, where both are on one file system.
            progress: True shows a bar.

        Returns:
            The base model, and whether it is new: the same weights under the same name are there once.

        Raises:
            NotFoundError: there is no such folder or repository.
            InvalidBaseError: it is not a base model that adapters can be merged into.
            ConflictError: ``other_weights``: the name is taken by a base model with other weights.

        Example:
            >>> added = team.add_base("tiny", "./Llama-3.2-1B")
            >>> added.created, added.base.architecture
            (True, 'LlamaForCausalLM')
        """
        with shown(progress) as sink:
            return self._add_base(name, folder, link=link, progress=sink)

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
        strict: bool | Iterable[str] = False,
        progress: Progress | bool = False,
    ) -> Published:
        """Publish a PEFT adapter as the next revision of a path.

        Args:
            folder: what ``save_pretrained`` or a trainer wrote, or ``hf:ORG/REPO[@REVISION]``.
            path: the adapter, ``BASE/name/name``; what is above its last name is the parent.
            parent: the revision of the parent that it was trained on. None: the receipt of the folder it was trained
                on, or a comparison of that folder's weights, tells; else it is the only revision of the parent.
            receipt: the receipt of the folder it was trained on, where that is elsewhere by now.
            skip_parent_check: don't compare the weights in the folder it was trained on.
            message: a description of this revision.
            metrics: numbers by name.
            tags: tags to point at it.
            annotations: texts by key.
            strict: refuse it if there are notices about its weights; codes of them: only for these (docs/notices.md).
            progress: True shows a bar.

        Returns:
            The revision, and whether it is new: the same bytes on the same parent are one revision.

        Raises:
            NotFoundError: there is no such folder, base model or parent.
            InvalidAdapterError: the adapter can't be composed exactly, or has a notice that it is ``strict`` about; the
                code says why.
            ConflictError: it was trained on another parent, or on other weights.
            UsageError: ``parent_ambiguous``: the parent has several revisions, and nothing tells which one it was.

        Example:
            >>> published = team.publish("./out/legal", "llama/legal", metrics={"acc": 0.79}, tags=["prod"])
            >>> published
            <Published llama/legal@1: new, on llama, 2.88 kB stored>
            >>> published.revision.reference
            'llama/legal@1'
        """
        labels = Labels.checked(message, metrics, tags, annotations)
        asked_for = _publication(folder, path, parent, receipt, skip_parent_check, labels, strict_codes(strict))
        with shown(progress) as sink:
            return self._publish(asked_for, sink)

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
        strict: bool | Iterable[str] = False,
        progress: Progress | bool = False,
    ) -> PublishPreview:
        """Check everything as `publish` does, with the same arguments and errors, and store nothing.

        Returns:
            What would be published.

        Example:
            >>> preview = team.preview("./out/legal", "llama/legal")
            >>> preview.parent, preview.rank
            ('llama', 4)
        """
        labels = Labels.checked(message, metrics, tags, annotations)
        asked_for = _publication(folder, path, parent, receipt, skip_parent_check, labels, strict_codes(strict))
        with shown(progress) as sink:
            return self._preview(asked_for, sink)

    def rebase(
        self,
        ref: str,
        onto: str,
        *,
        message: str = "",
        tags: Iterable[str] = (),
        dry_run: bool = False,
        progress: Progress | bool = False,
    ) -> Rebased:
        """Put a revision on another revision of its parent, as a new revision with the same files.

        The new revision says that it was rebased and not trained: evaluate it before it is used. A DoRA, and an
        adapter that keeps copies of its parent's weights, can't be rebased.

        Args:
            ref: the revision.
            onto: a revision of the parent's adapter; its path alone is its newest.
            message: a description of the new revision. Empty: says what was rebased.
            tags: tags to point at it.
            dry_run: only report how far the path's weights move.
            progress: True shows a bar.

        Returns:
            How far the path's weights move, and the new revision.

        Raises:
            NotFoundError: there is no such revision.
            RetractedError: it, or what it is to be put on, was retracted.
            UsageError: it is directly on a base model, or on that revision already.
            ConflictError: ``parent_mismatch``: ``onto`` is no revision of its parent.
            InvalidAdapterError: ``not_rebasable``, or it does not fit the new parent.

        Example:
            >>> found = team.rebase("llama/support/french", "llama/support@1", dry_run=True)
            >>> found
            <Rebased llama/support/french@1: not done, from llama/support@2 onto llama/support@1, weights move by 3.82>
            >>> team.rebase("llama/support/french", "llama/support@1").revision.parent_known_by
            'rebased'
        """
        labels = Labels.checked(message, {}, tags, {})
        request = asked(RebaseRequest, ref=ref, onto=onto, message=labels.message, tags=labels.tags, dry_run=dry_run)
        with shown(progress) as sink:
            return self._do(table.REBASE, request, sink)

    def publish_tree(
        self,
        folder: Folder,
        base: str,
        *,
        rename: Mapping[str, str] = {},
        strict: bool | Iterable[str] = False,
        published: Callable[[Published], None] = lambda _: None,
        progress: Progress | bool = False,
    ) -> tuple[Published, ...]:
        """Publish every adapter in a nested folder, parents first: nesting is the path below ``base``.

        All are checked before the first is published: where one is refused, its error names the folder, and nothing is
        published. A child's parent is the revision that stands for the folder above it. A second run goes on where the
        first was stopped.

        Args:
            folder: the folder around the publish folders.
            base: the base model.
            rename: names for folders whose own are outside the grammar, by place: ``{"support/French": "french"}``.
            strict: as for `publish`, of each of them.
            published: called after each one.
            progress: True shows a bar.

        Raises:
            UsageError: a folder's name can't be one of a path, and ``rename`` has none for it.
            RegistryError: what `publish` raises, for the first folder that is refused.

        Example:
            >>> [one.revision.reference for one in team.publish_tree("./runs", "llama")]
            ['llama/legal@1', 'llama/legal/contracts@1']
        """

        def told(outcome: FolderOutcome) -> None:
            if outcome.published is not None:
                published(outcome.published)

        outcomes = self.publish_folders(folder, base, rename=rename, strict=strict, told=told, progress=progress)
        return tuple(outcome.published for outcome in outcomes if outcome.published is not None)

    def publish_folders(
        self,
        folder: Folder,
        base: str,
        *,
        rename: Mapping[str, str] = {},
        strict: bool | Iterable[str] = False,
        keep_going: bool = False,
        dry_run: bool = False,
        told: Callable[[FolderOutcome], None] = lambda _: None,
        progress: Progress | bool = False,
    ) -> tuple[FolderOutcome, ...]:
        """Publish as `publish_tree` does, and tell the outcome of every folder, also of those that are not entered.

        Args:
            folder: the folder around the publish folders.
            base: the base model.
            rename: as for `publish_tree`.
            strict: as for `publish`, of each of them.
            keep_going: publish what can be; what is refused is an outcome instead of an error.
            dry_run: check all and publish nothing.
            told: called with each outcome.
            progress: True shows a bar.

        Raises:
            RegistryError: what `publish_tree` raises, without ``keep_going``.

        Example:
            >>> [(one.folder, one.state, one.path) for one in team.publish_folders("./runs", "llama", dry_run=True)]
            [('legal', 'planned', 'llama/legal'), ('legal/contracts', 'planned', 'llama/legal/contracts')]
        """
        with shown(progress) as sink:
            return self._publish_folders(
                folder,
                base,
                rename=rename,
                strict=strict_codes(strict),
                keep_going=keep_going,
                dry_run=dry_run,
                told=told,
                progress=sink,
            )


def _publication(
    folder: Folder,
    path: str,
    parent: str | None,
    receipt: Folder | None,
    skip_parent_check: bool,
    labels: Labels,
    strict: tuple[NoticeCode, ...],
) -> Publication:
    check_order(folder, path, Path.parse, "registry publish {folder} {name}", "the folder")
    shown_by = None if receipt is None else FilePath(receipt)
    return Publication(folder, Path.parse(path), labels, parent, shown_by, skip_parent_check, strict)
