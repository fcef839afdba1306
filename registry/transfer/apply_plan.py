"""Applies a plan of an import: exactly as written, parents first, every folder as it was seen.

The target registry checks each proof of the plan again. What it has already is recognised, so that an interrupted run
can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

from registry.errors import ConflictError, NotFoundError, RegistryError, UnavailableError, UsageError
from registry.folders.archives import Opened, archive_of
from registry.folders.hub.repository import is_repo_id, organisation_of
from registry.folders.local_files import hash_found
from registry.operations.publication import FullModel, Labels, Publication
from registry.progress import SILENT, Progress
from registry.reference import Path as TreePath
from registry.reference import Reference, check_adapter_name, check_base_name
from registry.schemas import BaseAdded, BaseSummary, FolderCompared, FolderOutcome, FolderState, Published, Resolved
from registry.schemas.labels import AlsoKnownAs
from registry.schemas.publishing import ImportDocument, ImportEntry
from registry.transfer.file_times import Around
from registry.transfer.publish_request import PublishFolder, read_adapter
from registry.transfer.publish_tree import PublishTarget
from registry.transfer.source import given_base
from registry.transfer.trained_on import Beside, TrainedFolder

Told = Callable[[FolderOutcome], None]
_MODELS: Final = ("model", "base model", "merged model", "full fine-tune")
_TWO_REVISIONS: Final = (
    " To have both as revisions of one adapter, bring in one, and then publish the other with `registry publish`."
)
_DONE: Final = ("add", "publish", "full")


class Receiving(Protocol):
    """What applying requires of a registry, besides publishing."""

    @property
    def url(self) -> str:
        """Where it is."""

    def bases(self) -> tuple[BaseSummary, ...]:
        """All base models."""

    def resolve(self, ref: str) -> Resolved:
        """What a reference names."""

    def also_known_as(self, name: str, repo_id: str) -> AlsoKnownAs:
        """Let a base model be known by the id of a repository."""

    def add_base(self, name: str, folder: str | Path, *, progress: Progress) -> BaseAdded:
        """Add a base model."""

    def publish(
        self,
        folder: str | Path,
        path: str,
        *,
        parent: str | None,
        full: bool,
        rank: int | None,
        max_error: float | None,
        metrics: Mapping[str, float],
        annotations: Mapping[str, str],
        progress: Progress,
    ) -> Published:
        """Publish a full model."""


def apply_plan(
    registry: Receiving, target: PublishTarget, document: ImportDocument, opened: Opened, told: Told, progress: Progress
) -> tuple[FolderOutcome, ...]:
    """Apply a plan; see `registry.operations.registry.Registry.apply_import`.

    Raises:
        UsageError: the plan contradicts itself; nothing is done then.
        NotFoundError: its source does not exist.
        UnavailableError: the registry can't be reached.
    """
    document = answered(document)
    ordered = in_order(document)
    source = None if organisation_of(document.source) else Path(document.source)
    if source is not None and not (source.is_dir() or archive_of(source) == source):
        raise NotFoundError(f"There is no folder {document.source!r}, which the plan was made of.", code="missing_file")
    answers = [one for one in document.questions if one.base and is_repo_id(one.repo_id)]
    asked = {place: one.repo_id for one in answers for place in one.folders}
    run = _Run(registry, target, source, {one.folder: one for one in document.entries}, asked, opened, told, progress)
    for number, entry in enumerate(ordered, 1):
        run.apply(entry, f"{number} of {len(ordered)}")
    return tuple(run.outcomes)


def answered(document: ImportDocument) -> ImportDocument:
    """The plan with what the answers to its questions settle: the adapters go directly below the base model."""
    parents = {place: one.base for one in document.questions if one.base for place in one.folders}
    entries = tuple(
        one.model_copy(update={"action": "publish", "parent": parents[one.folder], "proof": None})
        if one.action == "undecided" and one.folder in parents
        else one
        for one in document.entries
    )
    return document.model_copy(update={"entries": entries})


def in_order(document: ImportDocument) -> list[ImportEntry]:
    """What is to be done, parents before their children.

    Raises:
        UsageError: two entries have one folder, or come to one path; one lacks what its action needs, or has a bad
            name; parents go in a circle.
    """
    by_folder: dict[str, ImportEntry] = {}
    for entry in document.entries:
        if by_folder.setdefault(entry.folder, entry) is not entry:
            raise UsageError(f"The plan has two entries for {entry.folder}: one is expected.")
    wanted = {entry.folder: entry for entry in document.entries if entry.action in _DONE}
    for entry in wanted.values():
        _check(entry, by_folder)
    ordered: list[ImportEntry] = []
    while wanted:
        ready = [entry for entry in wanted.values() if entry.parent not in wanted or entry.action == "add"]
        if not ready:
            raise UsageError(f"The parents in the plan go in a circle: {', '.join(sorted(wanted))}.")
        ordered += ready
        wanted = {folder: entry for folder, entry in wanted.items() if entry not in ready}
    _check_paths(ordered)
    return ordered


def _check_paths(ordered: Sequence[ImportEntry]) -> None:
    """Check that no two entries come to one path: parents come before their children here."""
    paths: dict[str, str] = {}  # by folder
    folders: dict[str, str] = {}  # by path
    for entry in ordered:
        name, above = entry.name or "", entry.parent or ""
        if entry.action == "add":
            path = name
        else:
            path = f"{paths[above] if above in paths else Reference.parse(above).path}/{name}"
        other = folders.setdefault(path, entry.folder)
        if other != entry.folder:
            revisions = "" if entry.action == "add" else _TWO_REVISIONS
            raise UsageError(
                f"The plan brings {other} and {entry.folder} both to {path}: give one of them another name, or skip "
                f"it.{revisions}"
            )
        paths[entry.folder] = path


def _check(entry: ImportEntry, by_folder: Mapping[str, ImportEntry]) -> None:
    if not entry.name:
        raise UsageError(f"The plan has no name for {entry.folder}, which is to be brought in: give it one.")
    if not entry.files:
        raise UsageError(f"The plan says to {entry.action} {entry.folder}, which was not read: make the plan again.")
    is_model = entry.what in _MODELS
    if is_model is not (entry.action in ("add", "full")):
        right = "add (a base model), full (a full fine-tune)" if is_model else "publish (an adapter)"
        raise UsageError(f"The plan says to {entry.action} {entry.folder} ({entry.what}): {right} or skip is expected.")
    if entry.action != "full" and (entry.rank is not None or entry.max_error is not None):
        raise UsageError(
            f"The plan has a rank or max_error for {entry.folder}, whose action is {entry.action}: they are for full."
        )
    try:
        if entry.action == "add":
            check_base_name(entry.name)
            return
        check_adapter_name(entry.name)
        FullModel.checked(entry.rank, entry.max_error, "randomised")
    except UsageError as wrong:
        raise UsageError(f"{entry.folder} in the plan: {wrong}", code=wrong.code) from wrong
    if not entry.parent:
        raise UsageError(f"The plan has no parent for {entry.folder}, which is to be published: give it one.")
    above = by_folder.get(entry.parent)
    if above is None:
        if entry.parent.startswith((".", "hf:")):
            raise UsageError(
                f"The parent of {entry.folder} is {entry.parent}, which is no folder of the plan: give the folder of "
                "another entry as it is there, or what the registry has, such as llama/support@2."
            )
        Reference.parse(entry.parent)
    elif above.action not in _DONE:
        raise UsageError(
            f"The parent of {entry.folder} is {entry.parent}, whose action is {above.action}: it is not brought in. "
            "Change one of them; what the registry has already is named by its reference."
        )
    elif entry.trained_on == above.folder and not _is_exact(above):
        raise UsageError(
            f"{entry.folder} was trained on {above.folder}, and the plan says to make an adapter of that one, which "
            f"comes near it and is another model: take its rank and max_error out, or skip {entry.folder}."
        )


def _is_exact(entry: ImportEntry) -> bool:
    """Whether what is brought in is the folder's model itself, and no adapter that comes near it."""
    return FullModel(entry.rank, entry.max_error).is_exact


@dataclass
class _Run:
    registry: Receiving
    target: PublishTarget
    source: Path | None  # None: repositories of a Hub
    entries: Mapping[str, ImportEntry]
    asked: Mapping[str, str]  # repositories' names whose base model the plan gives, by the folder of an adapter
    opened: Opened
    told: Told
    progress: Progress
    outcomes: list[FolderOutcome] = field(default_factory=list)
    references: dict[str, str] = field(default_factory=dict)  # of what exists in the target by now, by folder
    failed: set[str] = field(default_factory=set)
    checked: dict[str, ConflictError | None] = field(default_factory=dict)  # whether models are as they were seen
    compared: dict[str, FolderCompared] = field(default_factory=dict)  # by the folder that was trained on
    named: set[str] = field(default_factory=set)  # names that base models were given

    def apply(self, entry: ImportEntry, count: str) -> None:
        """Apply one entry, and return its outcome."""
        if entry.parent in self.failed and entry.action != "add":
            self.failed.add(entry.folder)
            why = f"its parent, the folder {entry.parent}, is not published"
            self._tell(FolderOutcome(folder=entry.folder, path=None, state="blocked", message=why))
            return
        self.progress.begin(f"Importing {count}, {entry.folder}", 0)
        try:
            outcome = {"add": self._add, "full": self._publish_full}.get(entry.action, self._publish)(entry)
        except UnavailableError:
            raise
        except RegistryError as problem:
            self.failed.add(entry.folder)
            outcome = FolderOutcome(
                folder=entry.folder,
                path=self._path(entry),
                state="refused",
                code=problem.code,
                kind=type(problem).__name__,
                message=self.opened.told(str(problem)),
            )
        self._tell(outcome)

    def _tell(self, outcome: FolderOutcome) -> None:
        self.outcomes.append(outcome)
        self.told(outcome)

    def _path(self, entry: ImportEntry) -> str | None:
        if entry.action == "add":
            return entry.name
        above = self.references.get(entry.parent or "", entry.parent or "")
        return f"{Reference.parse(above).path}/{entry.name}"

    def _place(self, folder: str) -> str | Path:
        """Where an entry is read from: a folder, maybe one of an archive, or a repository at its commit."""
        return folder if self.source is None else self.opened.folder(self.source / folder)

    def _folder(self, folder: str) -> Path:
        """The folder of a model: of a repository, that in the Hub's cache."""
        place = self._place(folder)
        return place if isinstance(place, Path) else given_base(place, self.progress).folder

    def _add(self, entry: ImportEntry) -> FolderOutcome:
        name = entry.name or ""
        there = next((one for one in self.registry.bases() if one.name == name), None)
        self._require_unchanged(entry)
        if there is None or there.digest != entry.digest:
            self.registry.add_base(name, self._place(entry.folder), progress=self.progress)
        self.references[entry.folder] = name
        state: FolderState = "existing" if there is not None else "published"
        return FolderOutcome(folder=entry.folder, path=name, state=state)

    def _publish_full(self, entry: ImportEntry) -> FolderOutcome:
        """Publish a full model, exactly or as the requested adapter; an existing one is made once more."""
        parent = self.references.get(entry.parent or "", entry.parent or "")
        path = TreePath.parse(f"{Reference.parse(parent).path}/{entry.name}")
        self._require_unchanged(entry)
        answer = self.registry.publish(
            self._place(entry.folder),
            str(path),
            parent=parent,
            full=True,
            rank=entry.rank,
            max_error=entry.max_error,
            metrics=entry.metrics,
            annotations=entry.annotations,
            progress=self.progress,
        )
        self.references[entry.folder] = answer.revision.reference
        return _outcome(entry, path, answer)

    def _publish(self, entry: ImportEntry) -> FolderOutcome:
        parent = self.references.get(entry.parent or "", entry.parent or "")
        path = TreePath.parse(f"{Reference.parse(parent).path}/{entry.name}")
        labels = Labels(metrics=entry.metrics, annotations=entry.annotations)
        find = entry.proof is not None
        asked = Publication(self._place(entry.folder), path, labels, find_parent=find, opened=self.opened)
        made = read_adapter(asked, SILENT).with_digests(SILENT)
        made = made.with_request(annotations=dict(entry.annotations))  # of a LoRA file, too, as the plan has them
        _require_same(entry, {one.path: one.digest for one in made.request.files})
        if (there := self._there(path, entry)) is not None:
            self.references[entry.folder] = there
            return FolderOutcome(folder=entry.folder, path=str(path), state="existing")
        made = self._with_parent(made, entry, parent)
        try:
            answer = self.target.publish(made, SILENT)
        except ConflictError as problem:
            raise _with_a_way(entry, problem) from problem
        self.references[entry.folder] = answer.revision.reference
        notices = self._name(Reference.parse(parent).path.base, self.asked.get(entry.folder))
        return _outcome(entry, path, answer).model_copy(update={"notices": notices})

    def _name(self, base: str, repo_id: str | None) -> tuple[str, ...]:
        """Add a base model's other name from the answer to a question, once; a notice, if it can't be added."""
        if repo_id is None or repo_id in self.named:
            return ()
        self.named.add(repo_id)
        try:
            self.registry.also_known_as(base, repo_id)
        except UnavailableError:
            raise
        except RegistryError as problem:
            return (f"{base} was not given the name {repo_id}, so that the next plan asks again: {problem}",)
        return ()

    def _there(self, path: TreePath, entry: ImportEntry) -> str | None:
        """The revision that the registry has already, if it is the planned one."""
        if entry.digest is None:
            return None
        try:
            found = self.registry.resolve(f"{path}@{entry.digest}")
        except NotFoundError:
            return None
        return found.reference if found.digest == entry.digest else None

    def _with_parent(self, made: PublishFolder, entry: ImportEntry, parent: str) -> PublishFolder:
        """The request with its parent: as the weights prove again, or as stated by the person who edited the plan."""
        place = entry.trained_on
        folder = None if place is None else self._trained_on(place)
        if _by_a_merge(entry):
            return made
        if entry.proof is None or place is None or folder is None:
            return made if entry.proof is not None else made.with_request(parent=parent)
        if (problem := self._model_problem(place)) is not None:
            raise problem
        trained = TrainedFolder(folder, place)
        if place not in self.compared:
            found = self.target.compare(replace(made, trained_on=trained, beside=None), self.progress)
            assert found.request.compared is not None, "a search says what it came to"
            self.compared[place] = found.request.compared
        beside = Beside.of(trained, made.saved, None if self.source is None else Around(self.source))
        compared = self.compared[place].beside(place, beside.times, beside.recorded, covered=beside.covered)
        several = len({one.weights for one in compared.fitting}) > 1
        return replace(made, trained_on=None).with_request(compared=compared, parent=parent if several else None)

    def _trained_on(self, place: str) -> Path | None:
        if place in self.entries:
            return self._folder(place)
        folder = Path(place)
        return folder if folder.is_absolute() and folder.is_dir() else None

    def _model_problem(self, place: str) -> ConflictError | None:
        """Why a model can't be trusted to be what the plan saw; checked once."""
        if place not in self.checked:
            self.checked[place] = None
            if (entry := self.entries.get(place)) is not None:
                try:
                    self._require_unchanged(entry)
                except ConflictError as problem:
                    self.checked[place] = problem
        return self.checked[place]

    def _require_unchanged(self, entry: ImportEntry) -> None:
        folder = self._folder(entry.folder)
        self.progress.begin(f"Checking {entry.folder}", sum(one.size for one in entry.files))
        found = {}
        for one in entry.files:
            try:
                found[one.path] = hash_found(folder / one.path, self.progress).digest
            except NotFoundError:
                found[one.path] = "gone"
        _require_same(entry, found)


def _require_same(entry: ImportEntry, found: Mapping[str, str]) -> None:
    """Check that a folder has the files that the plan saw.

    Raises:
        ConflictError: ``changed_since``.
    """
    seen = {one.path: one.digest for one in entry.files}
    if seen != found:
        first = min(path for path in seen.keys() | found.keys() if seen.get(path) != found.get(path))
        what = "is new" if first not in seen else "is gone" if found.get(first, "gone") == "gone" else "has changed"
        raise ConflictError(
            f"{entry.folder} is not what the plan saw: {first} {what} since. Make the plan again.",
            code="changed_since",
        )


def _with_a_way(entry: ImportEntry, problem: ConflictError) -> ConflictError:
    """A registry's refusal of a parent, with what to do about it in a plan, if a merged model is its proof."""
    if problem.code != "parent_unproven" or not _by_a_merge(entry):
        return problem
    return ConflictError(
        f"Only a merged model shows the parent of {entry.folder} ({entry.parent}), which is assumed and not accepted "
        'here (REGISTRY_PARENTS): if it was trained on that, set its parent_known_by to "given" in the plan, which '
        "makes it your word, and apply it again.",
        code=problem.code,
    )


def _by_a_merge(entry: ImportEntry) -> bool:
    """Whether a plan has only the word of a model that is both: what it was merged into, it was trained on."""
    return entry.proof is None and entry.parent_known_by == "assumed"


def _outcome(entry: ImportEntry, path: TreePath, answer: Published) -> FolderOutcome:
    state: FolderState = "published" if answer.created else "existing"
    return FolderOutcome(folder=entry.folder, path=str(path), state=state, published=answer)
