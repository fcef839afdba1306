"""Paths as repos of the Hub-compatible views: from a repo id and the name of a revision to what is served.

Names are ``main`` (the newest revision), ``r3`` (a number), tags, and commit ids.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.tree import commits, repo_rows, revisions
from registry.catalogue.tree.bases import BaseRow
from registry.catalogue.tree.commits import MEANT
from registry.catalogue.tree.links import links
from registry.catalogue.tree.revisions import RevisionRow
from registry.errors import NotFoundError, RetractedError, UnavailableError, UsageError
from registry.reference import MAIN, Path, Reference, check_tag, number_in_view
from registry.schemas import ArtifactKind, Options
from registry.schemas.artifacts import KINDS
from registry.schemas.tree import of_diffusers
from registry.services.artifacts.commits import RepoNames, is_commit, kept_for, plain_plan
from registry.services.artifacts.load import path_in, path_of
from registry.services.artifacts.opened import Asked
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT, fingerprint
from registry.tensors.lineage.paths import LoadedPath
from registry.tensors.lineage.plan import make_plan

_AT_COMMIT: Final = re.compile(r"hf:[^@]+@([0-9a-f]{40})(?: at .*)?")
MOST_REFS: Final = 10_000
"""The most numbers that a repo lists as refs: clients request all of them at once."""


@dataclass(frozen=True)
class Repo:
    """A visible path in a view."""

    view: ArtifactKind
    path: Path
    base: BaseRow
    names: RepoNames
    created_at: datetime
    renamed_to: str | None = None  # if this is an old name; commits of both stay valid

    @property
    def kind(self) -> ArtifactKind:
        """The kind that is served: in every view a base model is served verbatim."""
        return self.names.kind

    @property
    def options(self) -> Options:
        """What is served: a composed LoRA of an image model as diffusers reads it, which finds nothing of PEFT's."""
        image = of_diffusers(self.base.table_source, self.base.architecture)
        layout = image and self.kind == "lora" and not self.path.is_base
        return Options(kind=self.kind, layout="diffusers" if layout else None)

    @property
    def is_model(self) -> bool:
        """Whether it holds a whole model rather than an adapter."""
        return self.path.is_base or KINDS[self.kind].is_model


@dataclass(frozen=True)
class Pinned:
    """A repo at a commit: its bytes never change."""

    repo: Repo
    commit: str
    asked: Asked
    revision: RevisionRow | None  # None: a base model

    @property
    def at(self) -> datetime:
        """When the revision was published."""
        return self.repo.created_at if self.revision is None else self.revision.created_at

    @property
    def rendering(self) -> str:
        """The identity of the bytes."""
        asked = self.asked
        if asked.materialised is not None:
            return asked.materialised.rendering
        plan = asked.plan or make_plan(asked.path, None, asked.options)
        return plan.rendering


@dataclass(frozen=True)
class Ref:
    """A name that a revision has in a repo."""

    name: str
    commit: str


@dataclass(frozen=True)
class Commit:
    """A revision in the history of a repo."""

    number: int | None  # None: the base model itself
    id: str
    message: str
    author: str | None
    at: datetime


def find_repo(session: Session, view: ArtifactKind, repo_id: str) -> Repo:
    """The repo of an id: of a path, or of a base model by another of its ids (`registry.catalogue.tree.repo_rows`).

    Raises:
        UsageError: the id is outside the grammar.
        NotFoundError: the path does not exist, or is hidden.
    """
    try:
        path = Path.of_repo_id(repo_id)
        row = repo_rows.repo(session, path)
    except (UsageError, NotFoundError):
        base = repo_rows.base_answering(session, repo_id)
        if base is None:
            raise
        path = Path(base)
        row = repo_rows.repo(session, path)
    return Repo(view, path, row.base, RepoNames.of(view, path, row.base), row.created_at, row.renamed_to)


def pin(session: Session, repo: Repo, name: str) -> Pinned:
    """A repo at the revision of this name.

    Raises:
        NotFoundError: no revision has the name.
        RetractedError: the revision or one of its ancestors was retracted.
        UnavailableError: ``numerics``, this machine's arithmetic does not render the bytes of this commit.
    """
    options = repo.options
    if repo.path.is_base:
        _check_base_name(session, repo, name)
        return Pinned(repo, repo.names.commit(None), Asked(path_of(repo.base, ()), None, options), None)
    found = links(session, reference_of(session, repo, name))
    path, row = path_of(repo.base, found), found[-1].revision
    plan, own = plain_plan(path, options), repo.names.commit(row.digest)
    kept = kept_for(session, path, plan)
    if kept is not None:
        commit = repo.names.meaning(row.digest) + repo.names.made_by(kept.numerics)
        if not is_commit(name) or name == commit:
            return Pinned(repo, commit, Asked(path, None, options, kept, plan), row)
    if is_commit(name) and name != own:
        raise _not_ours(repo, path, name, own)
    return Pinned(repo, own, Asked(path, None, options, plan=plan), row)


def _not_ours(repo: Repo, path: LoadedPath, name: str, commit: str) -> NotFoundError | UnavailableError:
    """The error for a commit that means a revision but that this machine does not render."""
    if KINDS[repo.kind].is_verbatim:  # copied bytes are the same everywhere
        return _no_revision(repo, name, "no revision has this commit in this view")
    return UnavailableError(
        f"The commit {name} is {path.reference} with bytes computed with another arithmetic, or another version of "
        f"the registry: this service computes them as {commit}. Request {MAIN} again, or use a service that can "
        "compute them.",
        code="numerics",
    )


def reference_of(session: Session, repo: Repo, name: str) -> Reference:
    """The reference that the name of a revision means, in an adapter's repo.

    Raises:
        NotFoundError: no revision has the name.
    """
    if name == MAIN:
        return Reference(repo.path)
    if (number := number_in_view(name)) is not None:
        return Reference(repo.path, number=number)
    if is_commit(name):
        found = commits.candidates(session, repo.kind, name[:MEANT])
        digest = repo.names.find(name, (digest for path, digest in found if path == repo.path))
        if digest is None:
            raise _no_revision(repo, name, "no revision has this commit in this view")
        return Reference(repo.path, digest_prefix=digest)
    try:
        return Reference(repo.path, tag=check_tag(name))
    except UsageError:
        raise _no_revision(repo, name, f"{MAIN}, r with a number, a tag or a full commit id is expected") from None


def _no_revision(repo: Repo, name: str, why: str) -> NotFoundError:
    return NotFoundError(f"{repo.path.repo_id} has no revision {name[:96]!r}: {why}.")


# ------------------------------------------------------------------ lists


def refs(session: Session, repo: Repo) -> tuple[Ref | None, tuple[Ref, ...]]:
    """``main`` (None if its revision is retracted), the `MOST_REFS` newest numbers, those with tags, and all tags.

    Without what is retracted.
    """
    if repo.path.is_base:
        return Ref(MAIN, repo.names.commit(None)), ()
    newest = repo_rows.numbered(session, repo.path, limit=1)[0].number
    rows, made = repo_rows.served(session, repo.path, repo.kind, limit=MOST_REFS), _Makings(session, repo)
    ids = {row.id: made.commit(row.number, row.digest, row.meaning) for row in rows}
    named = [(f"r{row.number}", row.id) for row in reversed(rows)]
    found = (Ref(name, ids[key]) for name, key in (*named, *repo_rows.tags(session, repo.path)) if key in ids)
    return Ref(MAIN, ids[rows[0].id]) if rows and rows[0].number == newest else None, tuple(found)


def history(session: Session, repo: Repo, name: str, *, below: int | None, limit: int) -> tuple[Commit, ...]:
    """Commits from a revision back to the first, newest first; those below a number, at most ``limit``.

    Raises:
        NotFoundError: no revision has the name.
    """
    if repo.path.is_base:
        _check_base_name(session, repo, name)
        return (Commit(None, repo.names.commit(None), "The base model", None, repo.created_at),)
    newest = revisions.find(session, reference_of(session, repo, name)).number
    made = _Makings(session, repo)
    return tuple(
        Commit(row.number, made.commit(row.number, row.digest), row.message, row.author, row.created_at)
        for row in repo_rows.numbered(session, repo.path, newest=newest, below=below, limit=limit)
    )


def count_commits(session: Session, repo: Repo, name: str) -> int:
    """The number of commits from a revision back to the first; raises as `history`."""
    if repo.path.is_base:
        _check_base_name(session, repo, name)
        return 1
    return repo_rows.count_up_to(session, repo.path, revisions.find(session, reference_of(session, repo, name)).number)


class _Makings:
    """The commits of a repo's revisions: as this machine renders them, or as another machine materialised them."""

    def __init__(self, session: Session, repo: Repo) -> None:
        self._names = repo.names
        self._own = repo.names.making
        self._others = {} if KINDS[repo.kind].is_verbatim else _kept_by_others(session, repo)

    def commit(self, number: int, digest: str, meaning: str | None = None) -> str:
        """The commit of a revision, whose first digits may be known."""
        return (meaning or self._names.meaning(digest)) + self._others.get(number, self._own)


def _kept_by_others(session: Session, repo: Repo) -> dict[int, str]:
    """How materialisations of another arithmetic were made, by revision number. Mostly empty."""
    rows = repo_rows.kept_by_others(
        session, repo.path, repo.kind, numerics=fingerprint(), artifact_format=ARTIFACT_FORMAT
    )
    found = {}
    for number, plan_digest, numerics in rows:
        try:
            plan = plain_plan(path_in(session, Reference(repo.path, number=number)), repo.options)
        except RetractedError:
            continue  # retracted revisions are not served, regardless of who rendered them
        if plan is not None and plan.digest == plan_digest:
            found[number] = repo.names.made_by(numerics)
    return found


# ------------------------------------------------------------------ base models


def _check_base_name(session: Session, repo: Repo, name: str) -> None:
    """Check that a base model has a revision of this name.

    transformers requests an adapter's base at the revision that was requested of the adapter. So in the view of
    composed adapters a base model also answers to the revision names of its adapters.
    """
    if name in {MAIN, repo.names.commit(None)} or name == _commit_at_source(repo):
        return
    if not KINDS[repo.view].is_composed or not _is_name_below(session, repo, name):
        raise _no_revision(repo, name, f"it is a base model, and {MAIN} and its commit are the only ones")


def _commit_at_source(repo: Repo) -> str | None:
    """The commit that the base model was taken at: scripts that pin it mean these bytes."""
    found = None if repo.base.source is None else _AT_COMMIT.fullmatch(repo.base.source)
    return None if found is None else found[1]


def _is_name_below(session: Session, repo: Repo, name: str) -> bool:
    """Whether a visible adapter revision below the base model has this name."""
    if (number := number_in_view(name)) is not None:
        return repo_rows.is_number_below(session, repo.path.base, number)
    if not is_commit(name):
        return repo_rows.is_tag_below(session, repo.path.base, name)
    found = commits.candidates(session, repo.view, name[:MEANT])
    return any(repo.names.beside(repo.view, path).find(name, [digest]) for path, digest in found)
