"""The tree and its revisions as people look at them, in a handful of queries however large it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Any

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue import bases, revisions
from registry.catalogue.tables import (
    Adapter,
    Annotation,
    BaseModelRecord,
    Metric,
    Revision,
    RevisionTarget,
    Tag,
)
from registry.errors import NotFoundError
from registry.reference import Path
from registry.schemas import LineageEntry, Log, RevisionSummary, TargetGroup, Tree, TreeNode


def summary(session: Session, revision_id: int) -> RevisionSummary:
    """One revision, as lists show it.

    Raises:
        NotFoundError: it does not exist any more.
    """
    found = summaries(session, select(Revision.id).where(Revision.id == revision_id))
    if not found:
        raise NotFoundError("The revision does not exist any more.")
    return found[revision_id]


def with_digest(session: Session, path: Path, digest: str) -> RevisionSummary | None:
    """The adapter's revision with exactly this digest; None when there is no such adapter or revision."""
    query = select(Revision.id).join(Adapter, Adapter.id == Revision.adapter_id)
    found = session.scalar(query.where(Adapter.path == str(path), Revision.digest == digest))
    return None if found is None else summary(session, found)


def summaries(session: Session, chosen: Select[int]) -> dict[int, RevisionSummary]:
    """The revisions whose keys a query gives, by key."""
    tags: dict[int, list[str]] = defaultdict(list)
    for revision_id, tag in session.execute(select(Tag.revision_id, Tag.name).where(Tag.revision_id.in_(chosen))):
        tags[revision_id].append(tag)
    metrics: dict[int, dict[str, float]] = defaultdict(dict)
    for revision_id, name, value in session.execute(
        select(Metric.revision_id, Metric.name, Metric.value).where(Metric.revision_id.in_(chosen))
    ):
        metrics[revision_id][name] = value
    annotations: dict[int, dict[str, str]] = defaultdict(dict)
    for revision_id, key, text in session.execute(
        select(Annotation.revision_id, Annotation.key, Annotation.value).where(Annotation.revision_id.in_(chosen))
    ):
        annotations[revision_id][key] = text
    behind = _behind(session, chosen)
    return {
        row.id: RevisionSummary(
            reference=f"{row.path}@{row.number}",
            path=row.path,
            number=row.number,
            digest=row.digest,
            parent=row.path.split("/")[0] if row.parent_path is None else f"{row.parent_path}@{row.parent_number}",
            behind=row.id in behind,
            rank=row.rank,
            parameters=row.parameters,
            size=row.size,
            message=row.message,
            author=row.author,
            created_at=row.created_at,
            tags=tuple(sorted(tags[row.id])),
            metrics=dict(sorted(metrics[row.id].items())),
            annotations=dict(sorted(annotations[row.id].items())),
            trained_on=row.trained_on,
            notices=tuple(row.notices),
        )
        for row in session.execute(_shown().where(Revision.id.in_(chosen)))
    }


@cache  # made once: it takes longer to make than to run
def _shown() -> Select[*tuple[Any, ...]]:
    parent, parent_adapter = aliased(Revision), aliased(Adapter)
    return (
        select(
            Revision.id,
            Revision.number,
            Revision.digest,
            Revision.rank,
            Revision.parameters,
            Revision.size,
            Revision.message,
            Revision.author,
            Revision.created_at,
            Revision.trained_on,
            Revision.notices,
            Adapter.path,
            parent_adapter.path.label("parent_path"),
            parent.number.label("parent_number"),
        )
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .outerjoin(parent, parent.id == Revision.parent_id)
        .outerjoin(parent_adapter, parent_adapter.id == parent.adapter_id)
    )


def newest_number(adapter_id: ColumnElement[int] | InstrumentedAttribute[int]) -> ColumnElement[int]:
    """The number of an adapter's newest revision, as an expression."""
    other = aliased(Revision)
    return select(func.max(other.number)).where(other.adapter_id == adapter_id).scalar_subquery()


def _behind(session: Session, chosen: Select[int]) -> frozenset[int]:
    """Those revisions, among the chosen and their ancestors, that are behind."""
    start = select(Revision.id, Revision.parent_id, Revision.adapter_id, Revision.number).where(Revision.id.in_(chosen))
    found = start.cte("found", recursive=True)
    above = aliased(Revision)
    found = found.union(
        select(above.id, above.parent_id, above.adapter_id, above.number).join(found, above.id == found.c.parent_id)
    )
    parents: dict[int, int | None] = {}
    outdated: dict[int, bool] = {}
    for key, parent_id, old in session.execute(
        select(found.c.id, found.c.parent_id, found.c.number < newest_number(found.c.adapter_id))
    ):
        parents[key], outdated[key] = parent_id, old
    behind: dict[int | None, bool] = {None: False}

    def is_behind(key: int) -> bool:
        if key not in behind:
            parent = parents[key]
            behind[key] = parent is not None and (outdated[parent] or is_behind(parent))
        return behind[key]

    return frozenset(key for key in parents if is_behind(key))


def at_and_under(path: Path) -> ColumnElement[bool]:
    """The condition that an adapter is at a path or below it."""
    # "0" is the character after "/": a range uses the index on every database, LIKE does not.
    return or_(Adapter.path == str(path), (Adapter.path > f"{path}/") & (Adapter.path < f"{path}0"))


def tree(session: Session, path: Path | None = None) -> Tree:
    """Adapters with their newest revisions as a tree: everything, or what is at and under ``path``.

    Raises:
        NotFoundError: there is nothing at ``path``; offers the nearest.
    """
    roots = [path] if path is not None else [Path(name) for name in session.scalars(select(BaseModelRecord.name))]
    under = at_and_under(path) if path is not None else Adapter.id.is_not(None)
    if path is not None:
        _check_there(session, path)
    newest = (
        select(Revision.id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(under, Revision.number == newest_number(Adapter.id))
    )
    shown = {one.path: one for one in summaries(session, newest).values()}
    names: dict[str, list[str]] = defaultdict(list)
    for below in session.scalars(select(Adapter.path).where(under)):
        names[below.rpartition("/")[0]].append(below)

    def node(at: str) -> TreeNode:
        children = tuple(node(below) for below in sorted(names[at]))
        return TreeNode(path=at, name=at.rpartition("/")[2], revision=shown.get(at), children=children)

    return Tree(roots=tuple(node(str(root)) for root in sorted(roots)))


def _check_there(session: Session, path: Path) -> None:
    if not path.is_base:
        revisions.adapter(session, path)
    elif session.scalar(select(BaseModelRecord.id).where(BaseModelRecord.name == path.base)) is None:
        raise bases.missing(session, path.base)


def log(session: Session, path: Path) -> Log:
    """All revisions of an adapter, newest first.

    Raises:
        NotFoundError: there is no such adapter; offers the nearest.
        UsageError: the path names a base model.
    """
    adapter_id = revisions.adapter(session, path)
    found = summaries(session, select(Revision.id).where(Revision.adapter_id == adapter_id))
    return Log(path=str(path), revisions=tuple(sorted(found.values(), key=lambda one: -one.number)))


def lineage_entries(session: Session, revision_id: int) -> tuple[LineageEntry, ...]:
    """The lineage of a revision with the base model before it, root first.

    Raises:
        NotFoundError: the revision does not exist any more.
    """
    links = revisions.lineage(session, revision_id)
    if not links:
        raise NotFoundError("The revision does not exist any more.")
    newest = _newest_of(session, [link.adapter_id for link in links])
    return (
        base_entry(session, links[0].base),
        *(
            LineageEntry(
                reference=link.reference,
                digest=link.digest,
                number=link.number,
                rank=link.rank,
                newest=newest[link.adapter_id],
            )
            for link in links
        ),
    )


def base_entry(session: Session, name: str) -> LineageEntry:
    """The base model as the first entry of a lineage.

    Raises:
        NotFoundError: there is none of this name; offers the nearest.
    """
    digest = session.scalar(select(BaseModelRecord.digest).where(BaseModelRecord.name == name))
    if digest is None:
        raise bases.missing(session, name)
    return LineageEntry(reference=name, digest=digest, number=None, rank=None, newest=None)


def _newest_of(session: Session, adapter_ids: Iterable[int]) -> dict[int, int]:
    query = (
        select(Revision.adapter_id, func.max(Revision.number))
        .where(Revision.adapter_id.in_(list(adapter_ids)))
        .group_by(Revision.adapter_id)
    )
    return dict(session.execute(query).all())


def targets(session: Session, revision_id: int) -> tuple[TargetGroup, ...]:
    """The target modules of a revision, grouped by leaf name."""
    rows = session.scalars(select(RevisionTarget).where(RevisionTarget.revision_id == revision_id))
    return tuple(
        TargetGroup(name=row.name, modules=row.modules, ranks=tuple(row.ranks), scalings=tuple(row.scalings))
        for row in sorted(rows, key=lambda row: row.name)
    )
