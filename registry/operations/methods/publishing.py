"""Adding base models, publishing adapters, and publishing weighted sums of revisions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from registry.bars import progress_sink
from registry.errors import UsageError
from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.calls import TableCalls
from registry.operations.publication import Labels, Publication, strict_codes
from registry.progress import Progress
from registry.schemas import BaseAdded, FolderOutcome, Published, PublishPreview
from registry.schemas.parents import Identified
from registry.schemas.publishing import Combined, CombineRequest, Rebased, RebaseRequest, Replayed, ReplayRequest
from registry.schemas.requests import HashesRequest
from registry.schemas.tags import NoticeCode
from registry.schemas.transfer import MOST_SOURCES

if TYPE_CHECKING:
    from registry.folders.archives import Opened
    from registry.images.hashes import NamedModel


class Combining(TableCalls):
    """Weighted sums of revisions."""

    def combine(
        self,
        sources: Mapping[str, float] | Iterable[tuple[str, float]],
        path: str,
        *,
        over: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        message: str = "",
        tags: Iterable[str] = (),
        dry_run: bool = False,
        progress: Progress | bool = False,
    ) -> Combined:
        """Publish the weighted sum of the deltas of some revisions over their lowest common ancestor.

        The new revision is an ordinary adapter in float32, exactly the sum: the factors of all sources side by side. It
        keeps what it is made of: a source that is retracted takes it down, and can't be deleted while it exists.

        Args:
            sources: references and their weights.
            path: of the new revision, directly under the common ancestor.
            over: a revision above the lowest common ancestor, or the base model, to take the deltas over.
            rank: truncate to this rank at most in every module.
            max_error: truncate as far as this relative error over all modules allows.
            message: a description of the new revision. Empty: says what was combined.
            tags: tags to point at it.
            dry_run: only report what it would be, and how the sources agree.
            progress: True shows a bar.

        Returns:
            What was combined over what, the energy ratio of the sources, and the new revision.

        Raises:
            NotFoundError: the revision does not exist.
            RetractedError: a source, or what it was trained on, was retracted.
            UsageError: a weight is not finite or all are 0, a source is given twice or is the ancestor itself, or
                ``over`` is not above all of them.
            ConflictError: ``parent_mismatch``: the path does not lie directly under the common ancestor.
            InvalidAdapterError: ``not_combinable``: a DoRA, replaced values that disagree, or several base models.
            AccuracyError: ``rank`` can't reach ``max_error``.

        Example:
            >>> found = team.combine({"llama/support/french": 1.0}, "llama/support/mixed", dry_run=True)
            >>> found
            <Combined llama/support/mixed: not done, 1 llama/support/french@1 over llama/support@2, energy ratio 1>
            >>> team.combine({"llama/support/french": 0.5}, "llama/support/mixed").revision.sources[0].weight
            0.5
        """
        pairs = sources.items() if isinstance(sources, Mapping) else sources
        try:
            weighed = [{"ref": ref, "weight": _number(ref, weight)} for ref, weight in pairs]
        except (TypeError, ValueError):
            raise UsageError("The sources are references and their weights: {REF: WEIGHT} is expected.") from None
        if len(weighed) > MOST_SOURCES:  # before `asked`, whose sentence would list them all
            raise UsageError(f"{len(weighed)} sources are given: a combination has at most {MOST_SOURCES}.")
        labels = Labels.checked(message, {}, tags, {})
        request = asked(CombineRequest, locals(), sources=tuple(weighed), message=labels.message, tags=labels.tags)
        with progress_sink(progress) as sink:
            return self._do(table.COMBINE, request, sink)

    def replay(self, ref: str, *, progress: Progress | bool = False) -> Replayed:
        """Combine the sources of every combination in a path again, and compare with what is stored.

        Args:
            ref: the revision at the end of the path.
            progress: True shows a bar.

        Raises:
            NotFoundError: the revision does not exist.
            RetractedError: it, a source, or one that it was trained on, was retracted.
            UsageError: it is a base model.

        Example:
            >>> mixed = team.combine({"llama/support/french": 0.5}, "llama/support/mixed")
            >>> [(one.reference, one.state) for one in team.replay("llama/support/mixed").combinations]
            [('llama/support/mixed@1', 'same')]
        """
        with progress_sink(progress) as sink:
            return self._do(table.REPLAY, asked(ReplayRequest, ref=ref), sink)


def _number(ref: str, weight: float) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise UsageError(f"The weight of {ref} is {weight!r}: a number is expected.")
    try:
        given = float(weight)
    except OverflowError:  # an integer beyond all floats
        given = math.inf
    if not math.isfinite(given):
        raise UsageError(f"The weight of {ref} is {given}: a finite number is expected.")
    return given


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
    def _extracted(self, publication: Publication, progress: Progress) -> AbstractContextManager[Publication]:
        """Make what is published of a full model; the publication of it is valid within the context."""

    @abstractmethod
    def _opened(self, progress: Progress) -> AbstractContextManager[Opened]:
        """Let paths on this machine lead into archives, within the context."""

    @abstractmethod
    def _identify(self, folder: FilePath, look_in: tuple[FilePath, ...], progress: Progress) -> Identified:
        """Say what a folder is."""

    @abstractmethod
    def _add_base(self, name: str, folder: Folder, *, link: bool, variant: str | None, progress: Progress) -> BaseAdded:
        """Add a base model."""

    @abstractmethod
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
        """Publish the adapters in a nested folder."""

    def add_base(
        self,
        name: str,
        folder: Folder,
        *,
        link: bool = False,
        variant: str | None = None,
        progress: Progress | bool = False,
    ) -> BaseAdded:
        """Add a base model, frozen, under a name.

        Args:
            name: what it is called from now on.
            folder: its folder in Hugging Face layout, a pipeline of diffusers, or ``hf:ORG/REPO[@REVISION]``.
            link: share the bytes with the folder by hard links, if both are on one file system.
            variant: of a pipeline's weights (``"fp16"``); by default the files without one.
            progress: True shows a bar.

        Returns:
            The base model, and whether it is new: the same weights under the same name are stored once.

        Raises:
            NotFoundError: the folder or repository does not exist.
            InvalidBaseError: it is not a base model that adapters can be merged into.
            ConflictError: ``other_weights``: the name is taken by a base model with other weights.

        Example:
            >>> added = team.add_base("tiny", "./Llama-3.2-1B")
            >>> added.created, added.base.architecture
            (True, 'LlamaForCausalLM')
        """
        self._before_writing()
        with progress_sink(progress) as sink:
            return self._add_base(name, folder, link=link, variant=variant, progress=sink)

    def publish(
        self,
        folder: Folder,
        path: str,
        *,
        parent: str | None = None,
        receipt: Folder | None = None,
        skip_parent_check: bool = False,
        find_parent: bool = False,
        look_in: Iterable[Folder] = (),
        sampled: bool = False,
        trained_quantised: str | None = None,
        component: str | None = None,
        full: bool = False,
        rank: int | None = None,
        max_error: float | None = None,
        svd: str = "randomised",
        message: str = "",
        metrics: Mapping[str, float] = {},
        tags: Iterable[str] = (),
        annotations: Mapping[str, str] = {},
        strict: bool | Iterable[str] = False,
        progress: Progress | bool = False,
    ) -> Published:
        """Publish a PEFT adapter as the next revision of a path.

        Args:
            folder: what ``save_pretrained`` or a trainer wrote; an archive of it (.zip, .tar, .tar.gz), or a folder in
                one, ``./runs.zip/support``; or ``hf:ORG/REPO[@REVISION]``.
            path: the adapter, ``BASE/name/name``; what is above its last name is the parent.
            parent: the revision of the parent that it was trained on. None: the receipt of the folder it was trained
                on, or a comparison of that folder's weights, shows; else it is the only revision of the parent.
            receipt: the receipt of the folder it was trained on, where that is elsewhere by now.
            skip_parent_check: don't compare the weights in the folder it was trained on.
            find_parent: search for the parent among all revisions, by the weights in the folder it was trained on; it
                is proven by every element, or the publish is refused.
            look_in: folders in which the one that it was trained on may be by now, for ``find_parent``.
            sampled: compare samples of the folder it was trained on, in seconds, instead of every element: the parent
                is then known by ``sampled``, which proves nothing.
            trained_quantised: how bitsandbytes quantised the weights that it was trained on (QLoRA): ``nf4:64:double``,
                ``nf4`` or ``fp4:128``. None: what its folder and the name of its base model say.
            component: of a pipeline, which the names of a LoRA file's modules mean where they fit several
                (``transformer_2``).
            full: the folder holds a full model; publish it exactly, as the tensors that differ from the base's, or the
                best adapter over its parent, of a rank or an error.
            rank: with ``full``: of every pair.
            max_error: with ``full``: take the lowest ranks with which every module's relative error is at most this.
            svd: with ``full``: ``randomised``, at most 1 % above the smallest error that its rank allows, or ``full``.
            message: a description of this revision.
            metrics: numbers by name.
            tags: tags to point at it.
            annotations: texts by key.
            strict: refuse it if its weights have notices; codes of notices: only for these (docs/notices.md).
            progress: True shows a bar.

        Returns:
            The revision, and whether it is new: the same bytes on the same parent are one revision.

        Raises:
            NotFoundError: the folder, base model or parent does not exist.
            InvalidAdapterError: the adapter can't be composed exactly, or has a notice that it is ``strict`` about; the
                code says why.
            ConflictError: it was trained on another parent, or on other weights.
            AccuracyError: ``max_error`` can't be reached in fp32.
            UsageError: ``parent_ambiguous``: the parent has several revisions, and nothing shows which one it was; or
                ``find_parent`` found none, or several.

        Example:
            >>> published = team.publish("./out/legal", "llama/legal", metrics={"acc": 0.79}, tags=["prod"])
            >>> published
            <Published llama/legal@1: new, on llama, 2.88 kB stored>
            >>> published.revision.reference
            'llama/legal@1'
        """
        asked_for = Publication.of(locals())
        self._before_writing()
        with progress_sink(progress) as sink, self._adapter(asked_for, sink) as publication:
            answer = self._publish(publication, sink)
            return answer.model_copy(update={"extracted": publication.extracted})

    def preview(
        self,
        folder: Folder,
        path: str,
        *,
        parent: str | None = None,
        receipt: Folder | None = None,
        skip_parent_check: bool = False,
        find_parent: bool = False,
        look_in: Iterable[Folder] = (),
        sampled: bool = False,
        trained_quantised: str | None = None,
        component: str | None = None,
        full: bool = False,
        rank: int | None = None,
        max_error: float | None = None,
        svd: str = "randomised",
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
        asked_for = Publication.of(locals())
        with progress_sink(progress) as sink, self._adapter(asked_for, sink) as publication:
            return self._preview(publication, sink)

    @contextmanager
    def _adapter(self, publication: Publication, progress: Progress) -> Iterator[Publication]:
        """The publication of an adapter: what was requested, or what was made of a full model."""
        with self._opened(progress) as opened:
            opened.component = publication.component
            publication = replace(publication, opened=opened)
            if publication.full is None:
                yield publication
            else:
                with self._extracted(publication, progress) as made:
                    yield made

    def identify(
        self, folder: Folder, *, look_in: Iterable[Folder] = (), progress: Progress | bool = False
    ) -> Identified:
        """Say which base model and revisions a merged folder is made of, or what an adapter could belong to.

        Every revision that the token sees is searched. A model that is none of them has the nearest, and how much no
        revision explains. Of a picture (PNG, JPEG, WebP) the models are told that it names by their hashes.

        Args:
            folder: a model in Hugging Face layout, or what PEFT saved; an archive (.zip, .tar, .tar.gz) of one; a LoRA
                file; or a picture.
            look_in: of an adapter: folders in which the one that it was trained on may be by now.
            progress: True shows a bar.

        Raises:
            NotFoundError: the folder does not exist.
            InvalidAdapterError: it holds an adapter that can't be read.

        Example:
            >>> fetched = team.fetch("llama/support/french", "./lost", kind="merged")
            >>> found = team.identify("./lost")
            >>> [(one.reference, one.links) for one in found.merged]
            [('llama/support/french@1', ('llama/support@2', 'llama/support/french@1'))]
        """
        from registry.folders.named_models import models_in_picture

        if (named := models_in_picture(FilePath(folder))) is not None:
            return self._in_picture(folder, named)
        with progress_sink(progress) as sink, self._opened(sink) as opened:
            place = opened.readable(opened.one(folder))
            return opened.answer(self._identify(place, tuple(map(opened.folder, look_in)), sink))

    def _in_picture(self, picture: Folder, named: tuple[NamedModel, ...]) -> Identified:
        from registry.folders.named_models import as_named, asked_hashes

        digits = asked_hashes(named)
        found = self._do(table.FIND_HASHES, HashesRequest(hashes=",".join(digits))).hashes if digits else ()
        reason = None if named else "it names no model: no text in it has the hash or the name of one"
        return Identified(
            folder=str(FilePath(picture)), kind="picture", searched=0, named=as_named(named, found), reason=reason
        )

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
            NotFoundError: the revision does not exist.
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
        with progress_sink(progress) as sink:
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

        All are checked before the first is published: if one is refused, its error names the folder, and nothing is
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
        parent: str | None = None,
        strict: bool | Iterable[str] = False,
        keep_going: bool = False,
        dry_run: bool = False,
        told: Callable[[FolderOutcome], None] = lambda _: None,
        progress: Progress | bool = False,
    ) -> tuple[FolderOutcome, ...]:
        """Publish as `publish_tree` does, and report the outcome of every folder, also of those that are not entered.

        With the path of an adapter in the place of the base model, the folder is the output of one training: its LoRA
        files and checkpoint folders become revisions of that adapter, by their steps or epochs, which they keep as
        annotations.

        Args:
            folder: the folder around the publish folders; or the output folder of one training.
            base: the base model; or the path of the adapter.
            rename: as for `publish_tree`.
            parent: of checkpoints: the revision that all of them were trained on, as for `publish`.
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
        if not dry_run:
            self._before_writing()
        with progress_sink(progress) as sink:
            return self._publish_folders(
                folder,
                base,
                rename=rename,
                parent=parent,
                strict=strict_codes(strict),
                keep_going=keep_going,
                dry_run=dry_run,
                told=told,
                progress=sink,
            )
