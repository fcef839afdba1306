"""Queries of the Hub-compatible views, and the repo ids that mean a base model without being its path.

A path counts first: an id whose first part is the name of a base model, visible or not, means nothing else. Then what
an admin gave it, then the repo it was taken from; of several base models with the same source, the one added first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import BindParameter, ColumnElement, Row, Select, bindparam, func, or_, select, union
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import (
    HAS_REVISIONS,
    Adapter,
    BaseModelRecord,
    BaseRepoId,
    CommitRecord,
    Revision,
    Tag,
)
from registry.catalogue.database.team_tables import MaterialisationRecord
from registry.catalogue.database.transactions import plan_for_values
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED, rights_of
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import bases, cards, revisions
from registry.catalogue.tree.ancestry import ancestry, newest_number
from registry.catalogue.tree.bases import BaseRow
from registry.catalogue.tree.old_names import base_is_listed, visible_new_base, visible_new_name
from registry.reference import Path, on_the_hub
from registry.rights import Rights
from registry.schemas import ArtifactKind
from registry.schemas.artifacts import KINDS

_EVERYTHING = {**IGNORE_RIGHTS, **INCLUDE_DELETED}
_HOLDER = aliased(BaseModelRecord)


def base_answering(session: Session, repo_id: str) -> str | None:
    """The base model that answers under a repo id which is no path's; None: this session sees none."""
    if "/" in repo_id and begins_with_a_base(session, repo_id):  # without a slash it is no path
        return None
    if _is_given(session, repo_id):
        return _by_given(session, repo_id)
    begins = BaseModelRecord.source.startswith(_as_source(repo_id), autoescape=True)
    query = select(BaseModelRecord.name, BaseModelRecord.source).where(begins, base_is_listed(session))
    found = session.execute(query.order_by(BaseModelRecord.id)).all()
    # SQLite compares without regard to capital letters.
    return next((name for name, source in found if (source or "").startswith(_as_source(repo_id))), None)


def is_private(session: Session, repo_id: str) -> bool:
    """Whether only this registry answers for a repo id, whoever requests it: others are not to learn its names.

    True of all below the name of a base model, of what an admin gave, and of sources at other Hubs; in any letters,
    since Hubs may take capital letters for small ones.
    """
    if begins_with_a_base(session, repo_id) or _is_given(session, repo_id):
        return True
    begins = BaseModelRecord.source.istartswith(_as_source(repo_id), autoescape=True)
    sources = session.scalars(select(BaseModelRecord.source).where(begins), execution_options=_EVERYTHING)
    return any(on_the_hub(source) is None for source in sources)


def begins_with_a_base(session: Session, repo_id: str, *, seen: bool = False) -> bool:
    """Whether the first part of a repo id is the name of a base model, deleted ones included; ``seen`` by this session,
    or by nobody.
    """
    first = repo_id.partition("/")[0].lower()
    query = select(BaseModelRecord.id).where(BaseModelRecord.name == first).limit(1)
    return session.scalar(query, execution_options=INCLUDE_DELETED if seen else _EVERYTHING) is not None


def given_to(session: Session, base_id: int) -> tuple[str, ...]:
    """The repo ids that an admin gave a base model."""
    query = select(BaseRepoId.repo_id).where(BaseRepoId.base_id == base_id)
    return tuple(session.scalars(query.order_by(BaseRepoId.repo_id)))


def _is_given(session: Session, repo_id: str) -> bool:
    query = select(BaseRepoId.repo_id).where(func.lower(BaseRepoId.repo_id) == repo_id.lower()).limit(1)
    return session.scalar(query) is not None


def _by_given(session: Session, repo_id: str) -> str | None:
    """By an id that an admin gave: the newest name of the base model that is seen, or else an old one."""
    named = or_(BaseModelRecord.id == _HOLDER.id, BaseModelRecord.renamed_to == _HOLDER.name)
    query = (
        select(BaseModelRecord.name)
        .join(_HOLDER, named)
        .join(BaseRepoId, BaseRepoId.base_id == _HOLDER.id)
        .where(BaseRepoId.repo_id == repo_id)
        .order_by(BaseModelRecord.id.desc())
        .limit(1)
    )
    return session.scalar(query)


def _as_source(repo_id: str) -> str:
    return f"hf:{repo_id}@"


Numbered = Row[int, str, str, str, datetime]


@dataclass(frozen=True)
class RepoRow:
    """A visible path, and what it is made on."""

    base: BaseRow
    created_at: datetime
    renamed_to: str | None  # if this is an old name, and the session sees the new one


def repo(session: Session, path: Path) -> RepoRow:
    """A base model, or an adapter with revisions.

    Raises:
        NotFoundError: nothing exists at this path; offers the nearest.
    """
    row = reading(session).first(_BASE if path.is_base else _ADAPTER, {"name": path.base, "path": str(path)})
    if row is None:
        raise bases.missing(session, path.base)
    if row.since is None:
        raise revisions.missing_adapter(session, path)
    return RepoRow(bases.row_of(row), row.since, row.renamed_to)


def _base(rights: Rights) -> Select[*tuple[Any, ...]]:
    since = BaseModelRecord.created_at.label("since")
    return bases.with_blobs().add_columns(since, visible_new_base(rights).label("renamed_to"))


def _adapter(rights: Rights) -> Select[*tuple[Any, ...]]:
    found = bases.with_blobs().outerjoin(Adapter, (Adapter.path == bindparam("path")) & HAS_REVISIONS)
    return found.add_columns(Adapter.created_at.label("since"), visible_new_name(rights).label("renamed_to"))


_BASE: Final = Prepared(_base)
_ADAPTER: Final = Prepared(_adapter)


def numbered(
    session: Session, path: Path, *, newest: int | None = None, below: int | None = None, limit: int | None = None
) -> Sequence[Numbered]:
    """Number, digest, message, author and time of an adapter's revisions, newest first."""
    columns = (Revision.number, Revision.digest, Revision.message, Revision.author, Revision.created_at)
    query = select(*columns).where(Revision.adapter_id == _key_of(str(path)))
    if newest is not None:
        query = query.where(Revision.number <= newest)
    if below is not None:
        query = query.where(Revision.number < below)
    return session.execute(query.order_by(Revision.number.desc()).limit(limit)).all()


def count_up_to(session: Session, path: Path, newest: int) -> int:
    """How many revisions an adapter has, up to a number."""
    query = select(func.count()).where(Revision.adapter_id == _key_of(str(path)), Revision.number <= newest)
    return session.scalar(query) or 0


def _key_of(path: str | BindParameter[str]) -> ColumnElement[int]:
    """The key of an adapter, looked up once: of what is joined, PostgreSQL takes no rows in the order of an index."""
    return select(Adapter.id).where(Adapter.path == path).scalar_subquery()


@dataclass(frozen=True)
class Served:
    """A revision that a repo hands out."""

    id: int
    number: int
    digest: str
    meaning: str | None
    """The digits of its commit; None if the program that published it recorded none."""


def served(session: Session, path: Path, kind: ArtifactKind, *, limit: int) -> list[Served]:
    """The newest of an adapter's revisions and all that have tags, newest first.

    Without those of whose lineage something was retracted.
    """
    rows = list(reading(session).rows(_NEWEST[kind], {"path": str(path), "limit": limit}))
    if len(rows) == limit:
        older = {key for _, key in tags(session, path)} - {row.id for row in rows}
        for part in parts(sorted(older, reverse=True)):
            rows += session.execute(_shown(kind).where(Revision.id.in_(part)))
    parents = sorted({row.parent_id for row in rows if row.parent_id is not None})  # many revisions have few
    asked = sorted({*parents, *(row.id for row in rows if row.combined)})
    withheld = {key for part in parts(asked) for key in ancestry(session, part).retracted}
    return [
        Served(row.id, row.number, row.digest, row.meaning)
        for row in rows
        if row.retracted_at is None and withheld.isdisjoint((row.id, row.parent_id))
    ]


def _shown(kind: ArtifactKind) -> Select[*tuple[Any, ...]]:
    said = (Revision.id, Revision.number, Revision.digest, Revision.parent_id)
    query = select(*said, Revision.retracted_at, Revision.combined, getattr(CommitRecord, kind).label("meaning"))
    return query.outerjoin(CommitRecord, CommitRecord.revision_id == Revision.id).order_by(Revision.number.desc())


def _newest(kind: ArtifactKind) -> Prepared:
    def make(_: Rights) -> Select[*tuple[Any, ...]]:
        return _shown(kind).where(Revision.adapter_id == _key_of(bindparam("path"))).limit(bindparam("limit"))

    return Prepared(make)


_NEWEST: Final = {kind: _newest(kind) for kind in KINDS}


def tags(session: Session, path: Path) -> tuple[tuple[str, int], ...]:
    """The tags of an adapter, by name, and the keys of the revisions that they name."""
    query = select(Tag.name, Tag.revision_id).join(Adapter, Adapter.id == Tag.adapter_id)
    rows = session.execute(query.where(Adapter.path == str(path))).all()
    return tuple(sorted((name, revision_id) for name, revision_id in rows))


def is_number_below(session: Session, base: str, number: int) -> bool:
    """Whether an adapter of a base model, as the session sees them, has a revision of this number."""
    return session.execute(_below(base).where(Revision.number == number).limit(1)).first() is not None


def is_tag_below(session: Session, base: str, tag: str) -> bool:
    """Whether an adapter of a base model, as the session sees them, has this tag."""
    query = _below(base).join(Tag, Tag.revision_id == Revision.id).where(Tag.name == tag)
    return session.execute(query.limit(1)).first() is not None


def _below(base: str) -> Select[str, str]:
    return (
        select(Adapter.path, Revision.digest)
        .join(Revision, Revision.adapter_id == Adapter.id)
        .join(BaseModelRecord, BaseModelRecord.id == Adapter.base_id)
        .where(BaseModelRecord.name == base)
    )


def kept_by_others(
    session: Session, path: Path, kind: ArtifactKind, *, numerics: str, artifact_format: int
) -> Sequence[tuple[int, str, str]]:
    """Number, plan digest and arithmetic of an adapter's materialisations that another arithmetic made."""
    query = (
        select(Revision.number, MaterialisationRecord.plan_digest, MaterialisationRecord.numerics)
        .join(Revision, Revision.id == MaterialisationRecord.revision_id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(
            Adapter.path == str(path),
            MaterialisationRecord.kind == kind,
            MaterialisationRecord.artifact_format == artifact_format,
            MaterialisationRecord.numerics != numerics,
            MaterialisationRecord.expires_at > datetime.now(UTC),
        )
    )
    return [(row.number, row.plan_digest, row.numerics or "") for row in session.execute(query)]


@dataclass(frozen=True)
class NewestRevision:
    """The newest revision of a listed adapter."""

    manifest: str
    created_at: datetime
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """A base model or an adapter, as lists of repos show it; ``revision`` is its newest (None: a base model)."""

    path: Path
    base_id: int
    source: str | None  # of the base model
    created_at: datetime
    revision: NewestRevision | None
    front_matter: dict[str, Any]  # of the edited card


def bases_listed(session: Session, *, after: str, limit: int, author: str | None = None) -> list[Listed]:
    """Base models after a name, by name."""
    columns = (BaseModelRecord.id, BaseModelRecord.name, BaseModelRecord.source, BaseModelRecord.created_at)
    query = select(*columns).where(BaseModelRecord.name > after).order_by(BaseModelRecord.name).limit(limit)
    if author is not None:
        query = query.where(BaseModelRecord.name == author)
    return [Listed(Path(row.name), row.id, row.source, row.created_at, None, {}) for row in session.execute(query)]


def adapters_listed(session: Session, *, after: str, limit: int, author: str | None = None) -> list[Listed | str]:
    """Adapters after a path, by path, in a constant number of queries; of one that is not served, only its path."""
    plan_for_values(session)
    newest = newest_number(Adapter.id)
    page = (
        select(Adapter.id, Adapter.path, newest.label("number"))
        .join(BaseModelRecord, BaseModelRecord.id == Adapter.base_id)
        .where(Adapter.path > after, newest.is_not(None))
        .order_by(Adapter.path)
        .limit(limit)
    )
    if author is not None:
        page = page.where(BaseModelRecord.name == author)
    # The page first: else PostgreSQL reads all revisions to find the newest of each adapter.
    chosen = _first_of_all(session, page).limit(limit).cte("page").prefix_with("MATERIALIZED")
    query = (
        select(
            Adapter.id.label("adapter_id"),
            Adapter.path,
            Adapter.base_id,
            Adapter.created_at.label("since"),
            BaseModelRecord.source,
            Revision.id,
            Revision.manifest,
            Revision.created_at,
        )
        .select_from(chosen)
        .join(Adapter, Adapter.id == chosen.c.id)
        .join(Revision, (Revision.adapter_id == chosen.c.id) & (Revision.number == chosen.c.number))
        .join(BaseModelRecord, BaseModelRecord.id == Adapter.base_id)
        .order_by(Adapter.path)
    )
    rows = session.execute(query).all()
    keys = [row.id for row in rows]
    retracted = ancestry(session, keys).retracted if keys else {}
    edited = cards.metadata(session, [row.adapter_id for row in rows])
    tagged: dict[int, list[str]] = {}
    for name, key in session.execute(select(Tag.name, Tag.revision_id).where(Tag.revision_id.in_(keys))):
        tagged.setdefault(key, []).append(name)
    return [
        row.path
        if row.id in retracted
        else Listed(
            Path.parse(row.path),
            row.base_id,
            row.source,
            row.since,
            NewestRevision(row.manifest, row.created_at, tuple(sorted(tagged.get(row.id, ())))),
            edited.get(row.adapter_id, {}),
        )
        for row in rows
    ]


def _first_of_all(session: Session, page: Select[int, str, int]) -> Select[int, str, int]:
    """A page of adapters by path: of several scopes the pages of each together, so that a range of paths gives each."""
    rights = rights_of(session)
    if rights.unlimited:
        return page
    within = [page.where(Adapter.path >= str(scope), Adapter.path < f"{scope}0") for scope in rights.scopes]
    found = union(*(select(one.subquery()) for one in within)).subquery()
    return select(found.c.id, found.c.path, found.c.number).order_by(found.c.path)
