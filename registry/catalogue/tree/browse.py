"""The tree and its revisions for display, in a constant number of queries."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database.tables import (
    Adapter,
    Annotation,
    BaseModelRecord,
    Metric,
    Revision,
    RevisionTarget,
    Tag,
)
from registry.catalogue.database.visibility import in_subtree
from registry.catalogue.tree import bases, old_names, provenance, revisions
from registry.catalogue.tree.ancestry import ancestry, newest_number
from registry.errors import NotFoundError
from registry.reference import Path
from registry.schemas import CopiedFrom, LineageEntry, Log, RevisionSummary, TargetGroup, Tree, TreeNode


def summary(session: Session, revision_id: int) -> RevisionSummary:
    """One revision, as lists show it.

    Raises:
        NotFoundError: it does not exist any more.
    """
    found = summaries(session, select(Revision.id).where(Revision.id == revision_id))
    if not found:
        raise NotFoundError("The revision no longer exists.")
    return found[revision_id]


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
    about = ancestry(session, chosen)
    rows = session.execute(_shown().where(Revision.id.in_(chosen))).all()
    derived = provenance.shown(session, {row.id: row.derived_from for row in rows})
    new_names = old_names.visible_names(session, (row.renamed_to for row in rows))
    return {
        row.id: RevisionSummary(
            reference=f"{row.path}@{row.number}",
            path=row.path,
            number=row.number,
            digest=row.digest,
            parent=row.path.split("/")[0] if row.parent_path is None else f"{row.parent_path}@{row.parent_number}",
            behind=row.id in about.behind,
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
            retracted=about.retracted.get(row.id),
            source=row.source,
            parent_known_by=row.parent_known_by,
            derived_from=derived.get(row.id),
            copied_from=None
            if row.copied_from is None
            else CopiedFrom.model_validate_json(json.dumps(row.copied_from)),
            renamed_to=row.renamed_to if row.renamed_to in new_names else None,
        )
        for row in rows
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
            Revision.source,
            Revision.parent_known_by,
            Revision.derived_from,
            Revision.copied_from,
            Adapter.path,
            Adapter.renamed_to,
            parent_adapter.path.label("parent_path"),
            parent.number.label("parent_number"),
        )
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .outerjoin(parent, parent.id == Revision.parent_id)
        .outerjoin(parent_adapter, parent_adapter.id == parent.adapter_id)
    )


def tree(session: Session, path: Path | None = None, *, with_old_names: bool = False) -> Tree:
    """Adapters with their newest revisions as a tree: everything, or what is at and under ``path``.

    Without old names, unless ``path`` is one.

    Raises:
        NotFoundError: there is nothing at ``path``; offers the nearest.
    """
    newest = (
        select(Revision.id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Revision.number == newest_number(Adapter.id))
    )
    names = select(BaseModelRecord.name)
    if path is not None:
        check_there(session, path)
        newest = newest.where(in_subtree(path))
        with_old_names = with_old_names or old_names.new_name(session, path) is not None
    if not with_old_names:
        newest = newest.where(old_names.adapter_is_listed(session))
        names = names.where(old_names.base_is_listed(session))
    roots = [path] if path is not None else [Path(name) for name in session.scalars(names)]
    shown = {one.path: one for one in summaries(session, newest).values()}
    under: dict[str, list[str]] = defaultdict(list)
    for below in shown:
        under[_seen_above(below, shown)].append(below)

    def node(at: str, above: str) -> TreeNode:
        children = tuple(node(below, at) for below in sorted(under[at]))
        return TreeNode(path=at, name=at.removeprefix(f"{above}/"), revision=shown.get(at), children=children)

    return Tree(roots=tuple(node(str(root), str(root.parent or "")) for root in sorted(roots)))


def _seen_above(path: str, seen: Collection[str]) -> str:
    """The nearest visible ancestor of an adapter: hidden ones are skipped."""
    above = path.rpartition("/")[0]
    while "/" in above and above not in seen:
        above = above.rpartition("/")[0]
    return above


def check_there(session: Session, path: Path) -> None:
    """Check that a path has a base model or an adapter; raises `NotFoundError`, which offers the nearest."""
    if not path.is_base:
        revisions.adapter(session, path)
    elif session.scalar(select(BaseModelRecord.id).where(BaseModelRecord.name == path.base)) is None:
        raise bases.missing(session, path.base)


def log(session: Session, path: Path, *, before: int | None = None, limit: int | None = None) -> Log:
    """All revisions of an adapter, newest first; those below a number, at most ``limit``.

    Raises:
        NotFoundError: there is no such adapter; offers the nearest.
        UsageError: the path names a base model.
    """
    adapter_id = revisions.adapter(session, path)
    chosen = select(Revision.id).where(Revision.adapter_id == adapter_id)
    if before is not None:
        chosen = chosen.where(Revision.number < before)
    if limit is not None:
        chosen = chosen.order_by(Revision.number.desc()).limit(limit)
    found = summaries(session, chosen)
    return Log(path=str(path), revisions=tuple(sorted(found.values(), key=lambda one: -one.number)))


def subtree(session: Session, path: Path) -> tuple[str, ...]:
    """References of all revisions at and under a path, parents before children: in the order of publishing.

    Without old names, unless ``path`` is one.

    Raises:
        NotFoundError: there is nothing at ``path``; offers the nearest.
    """
    check_there(session, path)
    query = select(Adapter.path, Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
    if old_names.new_name(session, path) is None:
        query = query.where(old_names.adapter_is_listed(session))
    found = session.execute(query.where(in_subtree(path)).order_by(Revision.id))
    return tuple(f"{at}@{number}" for at, number in found)


def lineage_entries(session: Session, revision_id: int) -> tuple[LineageEntry, ...]:
    """The lineage of a revision with the base model before it, root first.

    Raises:
        NotFoundError: the revision does not exist any more.
    """
    links = revisions.lineage(session, revision_id)
    if not links:
        raise NotFoundError("The revision no longer exists.")
    newest = _newest_of(session, [link.adapter_id for link in links])
    return (
        base_entry(session, links[0].base),
        *(
            LineageEntry(
                reference=link.reference,
                digest=link.digest,
                number=link.number,
                rank=link.rank,
                newest=newest.get(link.adapter_id),
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
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Revision.adapter_id.in_(list(adapter_ids)))
        .group_by(Revision.adapter_id)
    )
    return dict(session.execute(query).all())


def scalings(session: Session, revision_ids: Sequence[int]) -> dict[int, tuple[float, ...]]:
    """The distinct scalings of each of some revisions, ascending, by key."""
    found: dict[int, set[float]] = {key: set() for key in revision_ids}
    for key, own in session.execute(_scalings(), {"keys": list(revision_ids)}):
        found[key].update(own)
    return {key: tuple(sorted(own)) for key, own in found.items()}


@cache
def _scalings() -> Select[*tuple[Any, ...]]:
    query = select(RevisionTarget.revision_id, RevisionTarget.scalings)
    return query.where(RevisionTarget.revision_id.in_(bindparam("keys", expanding=True)))


def targets(session: Session, revision_id: int) -> tuple[TargetGroup, ...]:
    """The target modules of a revision, grouped by leaf name."""
    rows = session.scalars(select(RevisionTarget).where(RevisionTarget.revision_id == revision_id))
    return tuple(
        TargetGroup(name=row.name, modules=row.modules, ranks=tuple(row.ranks), scalings=tuple(row.scalings))
        for row in sorted(rows, key=lambda row: row.name)
    )
