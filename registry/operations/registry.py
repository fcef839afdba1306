"""The registry as its users see it: one class of typed methods over the table of operations.

A registry in process and one over HTTP do the operations; both pass the same conformance suite. All errors are
`registry.errors`. `registry.operations.transfer` is what registries say to each other below this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from registry.operations import table
from registry.operations.arguments import asked, check_order, check_undo_alone
from registry.operations.operation import A, Item, Listing, Operation, R
from registry.operations.publication import Labels, Publication
from registry.operations.readable import ReadableArtifact
from registry.progress import SILENT, Progress
from registry.reference import Path, check_tag
from registry.rights import Role
from registry.schemas import (
    ArtifactKind,
    BaseAdded,
    BaseSummary,
    Checked,
    Collected,
    Copied,
    Deleted,
    DeletedTree,
    Dtype,
    Event,
    Fetched,
    FolderOutcome,
    Identity,
    Log,
    Materialisation,
    Materialised,
    Options,
    ProtectedTag,
    Published,
    PublishPreview,
    Resolved,
    Retabled,
    Retracted,
    RevisionSummary,
    SearchResult,
    Shown,
    Tagged,
    Token,
    TokenCreated,
    Tree,
    Verified,
)
from registry.schemas.bundles import Bundle
from registry.schemas.requests import (
    AnnotateRequest,
    DeleteBaseRequest,
    DeleteRequest,
    DeleteTreeRequest,
    DropRequest,
    FsckRequest,
    GcRequest,
    MaterialisationsRequest,
    MaterialiseRequest,
    NoRequest,
    PathRequest,
    ProtectRequest,
    ReferenceRequest,
    RetableRequest,
    RetractRequest,
    RevokeRequest,
    SearchRequest,
    TagRequest,
    TokenRequest,
    TreeRequest,
    UndeleteRequest,
    UntagRequest,
)
from registry.schemas.texts import check_annotations, check_metrics
from registry.schemas.transfer import BaseCommit, BasePlan, BaseRequest, PublishCommit, PublishPlan, PublishRequest
from registry.schemas.usage import Usage, UsageRequest

if TYPE_CHECKING:
    from registry.operations.transfer import Transfer

Folder = str | PathLike[str]


class Registry(ABC):
    """Adapters as a tree of immutable revisions; what a path of it means, as weights."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where this registry is: a folder, or an address."""

    @abstractmethod
    def _do(self, operation: Operation[R, A], request: R, progress: Progress = SILENT) -> A:
        """Do an operation of the table."""

    @abstractmethod
    def _list(self, listing: Listing[R, Item], request: R, limit: int | None = None) -> tuple[Item, ...]:
        """All items of a listing, or the first ``limit``."""

    @abstractmethod
    def _publish(self, publication: Publication, progress: Progress) -> Published:
        """Publish an adapter."""

    @abstractmethod
    def _preview(self, publication: Publication, progress: Progress) -> PublishPreview:
        """Check an adapter as publishing does."""

    @abstractmethod
    def _artifact(self, ref: str, options: Options) -> ReadableArtifact:
        """Open an artifact."""

    @abstractmethod
    def _fetch(
        self,
        ref: str,
        out: FilePath | None,
        options: Options,
        *,
        force: bool,
        base_dir: FilePath | None,
        progress: Progress,
    ) -> Fetched:
        """Write an artifact into a folder."""

    @abstractmethod
    def add_base(self, name: str, folder: Folder, *, link: bool = False, progress: Progress = SILENT) -> BaseAdded:
        """Add the base model in ``folder`` (Hugging Face layout, or ``hf:ORG/REPO[@REVISION]``) under ``name``."""

    def bases(self) -> tuple[BaseSummary, ...]:
        """All base models, by name."""
        return self._list(table.BASES, NoRequest())

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

    def tree(self, path: str | None = None) -> Tree:
        """Adapters as a tree: everything, or what is at and under ``path``."""
        return self._do(table.TREE, asked(TreeRequest, path=path))

    def log(self, path: str) -> Log:
        """All revisions of an adapter, newest first."""
        revisions = self._list(table.LOG, asked(PathRequest, path=path))
        return Log(path=str(Path.parse(path)), revisions=revisions)

    def show(self, ref: str) -> Shown:
        """Everything about a revision."""
        return self._do(table.SHOW, asked(ReferenceRequest, ref=ref))

    def resolve(self, ref: str) -> Resolved:
        """Which revision a reference resolves to now."""
        return self._do(table.RESOLVE, asked(ReferenceRequest, ref=ref))

    def search(
        self,
        text: str | None = None,
        *,
        base: str | None = None,
        tag: str | None = None,
        rank: str | None = None,
        metric: str | None = None,
        target: str | None = None,
        sort: str | None = None,
        all_revisions: bool = False,
        limit: int | None = None,
    ) -> SearchResult:
        """Revisions that meet every given condition: of each adapter the newest, or ``all_revisions``; by path.

        ``text`` is part of the path, message or an annotation, ``rank`` ``<=16``, ``metric`` ``acc>0.8``, ``target``
        the name of a target module, ``sort`` ``max:acc`` or ``min:eval_loss``: only revisions with it, best first.
        """
        request = asked(
            SearchRequest,
            text=text,
            base=base,
            tag=tag,
            rank=rank,
            metric=metric,
            target=target,
            sort=sort,
            all_revisions=all_revisions,
        )
        return SearchResult(revisions=self._list(table.SEARCH, request, limit))

    def tag(self, ref: str, tag: str) -> Tagged:
        """Point ``tag`` at the revision, moving it if it pointed at another."""
        _check_order(tag)
        return self._do(table.TAG, asked(TagRequest, ref=ref, tag=tag))

    def untag(self, path: str, tag: str) -> Tagged:
        """Remove a tag."""
        _check_order(tag)
        return self._do(table.UNTAG, asked(UntagRequest, path=path, tag=tag))

    def annotate(
        self,
        ref: str,
        *,
        metrics: Mapping[str, float] = {},
        annotations: Mapping[str, str] = {},
        message: str | None = None,
        unset: Iterable[str] = (),
    ) -> RevisionSummary:
        """Add or replace metrics and annotations of a revision, and its message; ``unset`` removes some by name."""
        request = asked(
            AnnotateRequest,
            ref=ref,
            metrics=check_metrics(metrics),
            annotations=check_annotations(annotations),
            message=message,
            unset=tuple(unset),
        )
        return self._do(table.ANNOTATE, request)

    def events(self, *, limit: int = 100) -> tuple[Event, ...]:
        """Changes made to the registry, newest first."""
        return self._list(table.EVENTS, NoRequest(), limit)

    def delete(self, ref: str, *, with_tags: bool = False, undo: bool = False) -> Deleted:
        """Delete one revision (``PATH@N``, or by its digest) that nothing was trained on.

        ``with_tags``: also one that tags name, and them with it. ``undo`` gives it back, within the grace period. Its
        number is never given again.
        """
        if undo:
            check_undo_alone(with_tags=with_tags)
            return self._do(table.UNDELETE, asked(UndeleteRequest, ref=ref))
        return self._do(table.DELETE, asked(DeleteRequest, ref=ref, with_tags=with_tags))

    def delete_tree(
        self, path: str, *, with_tags: bool = False, dry_run: bool = False, undo: bool = False
    ) -> DeletedTree:
        """Delete an adapter and everything under it; ``dry_run`` only lists that.

        ``undo`` restores what the last deletion there removed, within the grace period.
        """
        if undo:
            check_undo_alone(with_tags=with_tags, dry_run=dry_run)
            return self._do(table.UNDELETE_TREE, asked(UndeleteRequest, ref=path))
        return self._do(table.DELETE_TREE, asked(DeleteTreeRequest, path=path, with_tags=with_tags, dry_run=dry_run))

    def delete_base(
        self, name: str, *, recursive: bool = False, dry_run: bool = False, undo: bool = False
    ) -> DeletedTree:
        """Delete a base model, ``recursive`` with its adapters; ``dry_run`` only lists them and what else names it.

        ``undo`` restores what was deleted together, within the grace period.
        """
        if undo:
            check_undo_alone(recursive=recursive, dry_run=dry_run)
            return self._do(table.UNDELETE_BASE, asked(UndeleteRequest, ref=name))
        return self._do(table.DELETE_BASE, asked(DeleteBaseRequest, name=name, recursive=recursive, dry_run=dry_run))

    def retract(self, ref: str, *, reason: str = "", undo: bool = False) -> Retracted:
        """Make a revision and everything that contains it unavailable, or ``undo`` that; the history stays readable."""
        return self._do(table.RETRACT, asked(RetractRequest, ref=ref, reason=reason, undo=undo))

    def retable(self, name: str, *, progress: Progress = SILENT) -> Retabled:
        """Rebuild the target table of a base model, which changes the plans and commit ids of all its paths."""
        return self._do(table.RETABLE, asked(RetableRequest, base=name), progress)

    def protect_tag(self, base: str, pattern: str, *, remove: bool = False) -> tuple[ProtectedTag, ...]:
        """Let only admins move the tags that match a pattern; returns all protected patterns of this base model."""
        return self._do(table.PROTECT_TAG, asked(ProtectRequest, base=base, pattern=pattern, remove=remove))

    @abstractmethod
    def copy(self, ref: str, to: Transfer, *, recursive: bool = False, progress: Progress = SILENT) -> Copied:
        """Copy a path, or a whole subtree, with its lineage into another registry; continues an interrupted copy."""

    def gc(self, *, dry_run: bool = False, progress: Progress = SILENT) -> Collected:
        """Delete the blobs that nothing has needed for the grace period."""
        return self._do(table.GC, asked(GcRequest, dry_run=dry_run), progress)

    def fsck(self, *, deep: bool = False, progress: Progress = SILENT) -> Checked:
        """Check that every row has its blob and, with ``deep``, that every blob has its bytes."""
        return self._do(table.FSCK, asked(FsckRequest, deep=deep), progress)

    def du(self, path: str | None = None) -> Usage:
        """How much storage adapters and revisions use: all, or those at and under ``path``."""
        return self._do(table.DU, asked(UsageRequest, path=path))

    def whoami(self) -> Identity:
        """The name and rights of the caller, and the versions of both sides."""
        return self._do(table.WHOAMI, NoRequest())

    def create_token(
        self, role: Role, *, name: str = "", scopes: Iterable[str] = (), expires_in: int | None = None
    ) -> TokenCreated:
        """Create a token; ``expires_in`` in seconds. Its secret is only in this answer."""
        request = asked(TokenRequest, name=name, role=role, scopes=tuple(scopes), expires_in=expires_in)
        return self._do(table.CREATE_TOKEN, request)

    def tokens(self) -> tuple[Token, ...]:
        """All tokens, newest first."""
        return self._list(table.TOKENS, NoRequest())

    def revoke_token(self, token: str) -> Token:
        """Revoke the token with this id immediately."""
        return self._do(table.REVOKE_TOKEN, asked(RevokeRequest, id=token))

    def artifact(
        self,
        ref: str,
        *,
        kind: ArtifactKind = "lora",
        since: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        uniform: bool = False,
        dtype: Dtype | None = None,
    ) -> ReadableArtifact:
        """The files that a reference stands for, readable by range, without writing anything.

        ``rank`` and ``max_error`` truncate a composed adapter: a cap for each module, and a bound of the relative
        Frobenius error over all of them. ``uniform`` fills it with zeros to one rank.
        """
        options = asked(Options, kind=kind, since=since, rank=rank, max_error=max_error, uniform=uniform, dtype=dtype)
        return self._artifact(ref, options)

    def fetch(
        self,
        ref: str,
        out: Folder | None = None,
        *,
        kind: ArtifactKind = "lora",
        since: str | None = None,
        rank: int | None = None,
        max_error: float | None = None,
        uniform: bool = False,
        dtype: Dtype | None = None,
        force: bool = False,
        base_dir: Folder | None = None,
        progress: Progress = SILENT,
    ) -> Fetched:
        """Write an artifact into a folder, with a receipt beside its files.

        ``base_dir`` holds the base model's files on this machine: a merged model is then computed here, from the
        adapters alone, where the registry is a service. Its digests are checked.
        """
        options = asked(Options, kind=kind, since=since, rank=rank, max_error=max_error, uniform=uniform, dtype=dtype)
        place, weights = (None if one is None else FilePath(one) for one in (out, base_dir))
        return self._fetch(ref, place, options, force=force, base_dir=weights, progress=progress)

    @abstractmethod
    def verify(self, folder: Folder, *, progress: Progress = SILENT) -> Verified:
        """Check a fetched folder against its receipt and, by computing it again, against the registry."""

    def materialise(
        self, ref: str, *, kind: ArtifactKind = "lora", expires_in: int | None = None, progress: Progress = SILENT
    ) -> Materialised:
        """Precompute the artifact that a reference stands for and keep it in the store for a while.

        ``expires_in`` in seconds; 30 days without it. What is kept already is kept for longer, and never for less.
        """
        return self._do(
            table.MATERIALISE, asked(MaterialiseRequest, ref=ref, kind=kind, expires_in=expires_in), progress
        )

    def materialisations(self, ref: str | None = None) -> tuple[Materialisation, ...]:
        """What is materialised, by path and number: all, or at and under a path, or of one revision (``PATH@...``)."""
        return self._list(table.MATERIALISATIONS, asked(MaterialisationsRequest, ref=ref))

    def drop_materialisation(self, which: str, *, kind: ArtifactKind | None = None) -> tuple[Materialisation, ...]:
        """Drop one materialisation by its id, or all of a revision, or only its ``kind``; returns what was dropped."""
        return self._do(table.DROP_MATERIALISATION, asked(DropRequest, which=which, kind=kind))

    def bundle(self, ref: str) -> Bundle:
        """A path as digests, with everything needed to compose or copy it."""
        return self._do(table.BUNDLE, asked(ReferenceRequest, ref=ref))

    def subtree(self, path: str) -> tuple[str, ...]:
        """References of all revisions at and under a path, parents first."""
        return self._do(table.SUBTREE, asked(PathRequest, path=path))

    def plan_publish(self, request: PublishRequest) -> PublishPlan:
        """Check everything except the weights, and report which bytes are missing."""
        return self._do(table.PLAN_PUBLISH, request)

    def plan_base(self, request: BaseRequest) -> BasePlan:
        """Check everything except the weights, and report which bytes are missing."""
        return self._do(table.PLAN_BASE, request)

    def commit_publish(self, commit: PublishCommit, *, progress: Progress = SILENT) -> Published:
        """Publish an adapter whose bytes are there or uploaded."""
        return self._do(table.COMMIT_PUBLISH, commit, progress)

    def commit_base(self, commit: BaseCommit, *, progress: Progress = SILENT) -> BaseAdded:
        """Add a base model whose bytes are there or uploaded."""
        return self._do(table.COMMIT_BASE, commit, progress)

    @abstractmethod
    def close(self) -> None:
        """Release connections and files."""


def _check_order(tag: str) -> None:
    """Refuse a path in the place of a tag, before the tag in its place is looked for as a path."""
    if "/" in tag:
        check_tag(tag)


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
