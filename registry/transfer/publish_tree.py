"""Publishing nested folders, or the checkpoints of one training: all are checked before the first is published.

Publishing is idempotent, so an interrupted run can be repeated. Needs neither torch nor a database: how one folder is
planned and published is up to the registry, in process or over HTTP (`PublishTarget`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from registry.errors import RegistryError, UnavailableError, UsageError
from registry.files.hashed import HashedFile
from registry.folders.archives import Opened
from registry.folders.lora_runs import checkpoints_of
from registry.folders.nested import Nesting, Node, nested_adapters
from registry.operations.publication import Labels, Publication
from registry.operations.transfer import ClosableSource
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.schemas import FolderOutcome, FolderState, Published, PublishPreview
from registry.schemas.parents import NarrowRequest, PathsLeft
from registry.schemas.tags import NoticeCode
from registry.schemas.transfer import BlobEntry, Bundle
from registry.transfer.publish_request import PublishFolder, read_adapter
from registry.transfer.trained_on import trained_on

Told = Callable[[FolderOutcome], None]
_LISTED: Final = 10


class PublishTarget(Protocol):
    """A registry that folders are published to: what a client can do without a tensor core of its own, too."""

    def plan(self, folder: PublishFolder, progress: Progress) -> PublishPreview:
        """Check one folder as publishing does, without storing anything."""

    def publish(self, folder: PublishFolder, progress: Progress) -> Published:
        """Publish a folder by its request; a nested one is pinned to what the folder above was published as."""

    def compare(self, folder: PublishFolder, progress: Progress) -> PublishFolder:
        """The folder, its request with what the weights are that the adapter was trained on: its parent's, or others.

        Raises:
            NotFoundError: the parent is to be searched among all revisions, and something of the registry is gone.
        """


class BundleSource(PublishTarget, Protocol):
    """A service, which returns its paths as bundles, for comparing a folder of this machine with them."""

    def bases(self) -> Sequence[str]:
        """The names of all base models."""

    def bundle(self, ref: str) -> Bundle:
        """A path as digests."""

    def revisions(self, above: TreePath) -> Sequence[Bundle]:
        """The base model, and every revision of an adapter that is not retracted.

        Raises:
            NotFoundError: the service has none, or the token does not see them.
        """

    def base_files(self, bundle: Bundle, progress: Progress) -> Mapping[str, HashedFile]:
        """The checked local weight files of its base, if this machine has them."""

    def narrow(self, request: NarrowRequest) -> PathsLeft:
        """The paths that sampled weights may be those of."""

    def open_blob(self, ref: str, blob: BlobEntry) -> ClosableSource:
        """Open a blob of a bundle."""


def publish_folders(
    target: PublishTarget,
    folder: Path,
    base: str,
    *,
    rename: Mapping[str, str],
    parent: str | None,
    strict: tuple[NoticeCode, ...],
    keep_going: bool,
    dry_run: bool,
    opened: Opened,
    told: Told,
    progress: Progress,
) -> tuple[FolderOutcome, ...]:
    """Publish every adapter in a nested folder; see `registry.operations.registry.Registry.publish_folders`."""
    nesting = _nesting(folder, base, rename, parent)
    run = _Run(target, folder, nesting, strict, opened, told, progress, parent)
    run.check()
    if dry_run:
        run.tell_plans()
    else:
        if run.refused and not keep_going:
            raise run.error()
        run.publish(keep_going=keep_going)
    for skipped in nesting.skipped:
        run.tell(FolderOutcome(folder=skipped.path, path=None, state="skipped", message=skipped.reason))
    return tuple(run.outcomes)


def _nesting(folder: Path, base: str, rename: Mapping[str, str], parent: str | None) -> Nesting:
    """What is published: below a base model nested adapters, else the checkpoints of one as its revisions.

    Raises:
        UsageError: nested adapters have a parent, or checkpoints other names.
    """
    path = TreePath.parse(base)
    if path.is_base:
        if parent is not None:
            raise UsageError(
                "--parent names one revision, and nested adapters have the parents that their folders say: publish "
                "them without it, or each by its path."
            )
        return nested_adapters(folder, base, rename)
    if rename:
        raise UsageError(
            f"--rename gives nested folders other names, and the checkpoints in {folder} become revisions of {path}: "
            "publish them without it."
        )
    return checkpoints_of(folder, path)


@dataclass
class _Run:
    target: PublishTarget
    folder: Path
    nesting: Nesting
    strict: tuple[NoticeCode, ...]
    opened: Opened
    told: Told
    progress: Progress
    parent: str | None = None  # of the checkpoints of a training
    previews: dict[str, PublishPreview] = field(default_factory=dict)  # by place, like all below
    read: dict[str, PublishFolder] = field(default_factory=dict)  # those that passed the checks
    models: dict[str, str | None] = field(default_factory=dict)  # base_model_name_or_path
    published: dict[str, Published] = field(default_factory=dict)
    refused: dict[str, RegistryError] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)  # -> the refused place above
    outcomes: list[FolderOutcome] = field(default_factory=list)

    def tell(self, outcome: FolderOutcome) -> None:
        self.outcomes.append(outcome)
        self.told(outcome)

    def check(self) -> None:
        """Check all folders; nothing is stored."""
        for node in self.nesting.nodes:
            if node.problem is not None:
                self.refused[node.place] = node.problem
            elif (cause := self._cause(node)) is not None:
                self.blocked[node.place] = cause
            elif (made := self._read(node)) is not None:
                self.models[node.place] = trained_on(made.request.config)
                try:
                    self.previews[node.place] = self.target.plan(made, self.progress)
                    self.read[node.place] = made
                except UnavailableError:  # not this folder's fault
                    raise
                except RegistryError as problem:
                    self.refused[node.place] = problem

    def _cause(self, node: Node) -> str | None:
        """The refused folder above, which leaves this one without a parent; None: no such folder."""
        if node.above is None:
            return None
        return node.above if node.above in self.refused else self.blocked.get(node.above)

    def _read(self, node: Node) -> PublishFolder | None:
        parent = self._planned(node)
        assert node.path is not None, "a folder without a problem has a path"
        try:
            asked = Publication(
                node.folder,
                node.path,
                Labels(message=node.message, annotations=node.annotations),
                parent=parent or self.parent,
                nested=parent is not None,
                strict=self.strict,
                opened=self.opened,
            )
            return read_adapter(asked, self.progress).with_digests(self.progress)
        except RegistryError as problem:
            self.refused[node.place] = problem
            return None

    def _planned(self, node: Node) -> str | None:
        """The revision of the folder above as ``PATH@DIGEST``, since it may have no number yet."""
        if node.above is None:
            return None
        above = self.previews[node.above]
        return f"{above.path}@{above.digest}"

    def tell_plans(self) -> None:
        """Report what would be done."""
        for node in self.nesting.nodes:
            preview = self.previews.get(node.place)
            if preview is None:
                self._tell_not(node)
            else:
                state: FolderState = "existing" if preview.reference else "planned"
                self._tell_done(node, state, preview=preview)

    def publish(self, *, keep_going: bool) -> None:
        """Publish the folders that passed the checks."""
        for node in self.nesting.nodes:
            cause = self._cause(node)
            if cause is not None and node.place not in self.refused:
                self.blocked[node.place] = cause
            if node.place in self.refused or node.place in self.blocked:
                self._tell_not(node)
                continue
            above = self.published[node.above].revision if node.above else None
            parent = f"{above.path}@{above.digest}" if above else self.parent
            folder = self.read[node.place].with_request(parent=parent)
            try:
                answer = self.target.publish(folder, self.progress)
            except UnavailableError:
                raise
            except RegistryError as problem:  # found only in the bytes themselves
                self.refused[node.place] = problem
                if not keep_going:
                    raise self.error() from problem
                self._tell_not(node)
                continue
            self.published[node.place] = answer
            state: FolderState = "published" if answer.created else "existing"
            self._tell_done(node, state, published=answer)

    def _tell_done(
        self,
        node: Node,
        state: FolderState,
        *,
        preview: PublishPreview | None = None,
        published: Published | None = None,
    ) -> None:
        model = self.models.get(node.place)
        notices = []
        if model and node.above is not None and self.models.get(node.above) == model:
            notices.append(
                f"It says that it was trained on {model}, and so does the folder {node.above} above it: if it was not "
                "trained on top of that one, put it beside it."
            )
        self.tell(
            FolderOutcome(
                folder=node.place,
                path=str(node.path),
                state=state,
                preview=preview,
                published=published,
                notices=tuple(notices),
            )
        )

    def _tell_not(self, node: Node) -> None:
        path = None if node.path is None else str(node.path)
        if node.place in self.refused:
            problem = self.refused[node.place]
            self.tell(
                FolderOutcome(
                    folder=node.place,
                    path=path,
                    state="refused",
                    code=problem.code,
                    kind=type(problem).__name__,
                    message=self.opened.told(str(problem)),
                )
            )
        else:
            message = f"its parent, the folder {self.blocked[node.place]}, is not published"
            self.tell(FolderOutcome(folder=node.place, path=path, state="blocked", message=message))

    def error(self) -> RegistryError:
        """The error of the first folder that was refused, naming all of them."""
        (place, first), *others = self.refused.items()
        done = f"{len(self.published)} of {len(self.nesting.nodes)} folders were published before it"
        what = done if self.published else "Nothing was published"
        also = "".join(f"; {place} is refused too ({error.code})" for place, error in others[:_LISTED])
        more = f"; and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
        where = str(self.folder / place)
        named = str(first) if str(first).startswith(f"{where} ") else f"{where}: {first}"
        return type(first)(
            f"{named} {what}{also}{more}. --dry-run shows all folders, --keep-going publishes the others.",
            code=first.code,
        )
