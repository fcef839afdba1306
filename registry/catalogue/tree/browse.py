"""Revisions for display, in a constant number of queries."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Final

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import (
    Adapter,
    Annotation,
    BaseModelRecord,
    Metric,
    Revision,
    RevisionTarget,
    Tag,
)
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import ancestry, bases, old_names, provenance, resolution, revisions
from registry.errors import NotFoundError
from registry.reference import Path
from registry.schemas import CopiedFrom, LineageEntry, Log, RevisionSummary, TargetGroup

_About = Callable[[Select[int] | Sequence[int]], Select[*tuple[Any, ...]]]
"""A query about some revisions: their keys, or a query that gives them."""


def summary(session: Session, revision_id: int) -> RevisionSummary:
    """One revision, as lists show it.

    Raises:
        NotFoundError: it does not exist any more.
    """
    reader = reading(session)

    def ask(query: _About) -> Sequence[Any]:
        return reader.rows(_OF_ONE[query], {"id": revision_id})

    found = _summaries(session, ask(_shown), ask)
    if not found:
        raise NotFoundError("The revision no longer exists.")
    return found[revision_id]


def summaries(session: Session, chosen: Select[int] | Sequence[int]) -> dict[int, RevisionSummary]:
    """Some revisions, by key: their keys, or a query that gives them."""
    found: dict[int, RevisionSummary] = {}
    for rows in parts(session.execute(_shown(chosen))):
        found |= _summaries(session, rows, partial(_asked, session, [row.id for row in rows]))
    return found


def _asked(session: Session, keys: Sequence[int], query: _About) -> Sequence[Any]:
    return session.execute(query(keys)).all()


def _summaries(
    session: Session, rows: Sequence[Any], ask: Callable[[_About], Sequence[Any]]
) -> dict[int, RevisionSummary]:
    """What rows of `_shown` and answers to the other questions about the same revisions say together."""
    tags: dict[int, list[str]] = defaultdict(list)
    for revision_id, tag in ask(_tags):
        tags[revision_id].append(tag)
    metrics: dict[int, dict[str, float]] = defaultdict(dict)
    for revision_id, name, value in ask(_metrics):
        metrics[revision_id][name] = value
    annotations: dict[int, dict[str, str]] = defaultdict(dict)
    for revision_id, key, text in ask(_annotations):
        annotations[revision_id][key] = text
    about = ancestry.read(session, ask(ancestry.found))
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


def _tags(chosen: Select[int] | Sequence[int]) -> Select[*tuple[Any, ...]]:
    return select(Tag.revision_id, Tag.name).where(Tag.revision_id.in_(chosen))


def _metrics(chosen: Select[int] | Sequence[int]) -> Select[*tuple[Any, ...]]:
    return select(Metric.revision_id, Metric.name, Metric.value).where(Metric.revision_id.in_(chosen))


def _annotations(chosen: Select[int] | Sequence[int]) -> Select[*tuple[Any, ...]]:
    return select(Annotation.revision_id, Annotation.key, Annotation.value).where(Annotation.revision_id.in_(chosen))


def _shown(chosen: Select[int] | Sequence[int]) -> Select[*tuple[Any, ...]]:
    return _columns().where(Revision.id.in_(chosen))


@cache  # made once: it takes longer to make than to run
def _columns() -> Select[*tuple[Any, ...]]:
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


def _of_one(query: _About) -> Prepared:
    return Prepared(lambda _: query(select(Revision.id).where(Revision.id == bindparam("id"))))


_OF_ONE: Final[dict[_About, Prepared]] = {
    query: _of_one(query) for query in (_tags, _metrics, _annotations, ancestry.found, _shown)
}


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


def lineage_entries(session: Session, revision_id: int) -> tuple[LineageEntry, ...]:
    """The lineage of a revision with the base model before it, root first.

    Raises:
        NotFoundError: the revision does not exist any more.
    """
    links = revisions.lineage(session, revision_id)
    if not links:
        raise NotFoundError("The revision no longer exists.")
    newest = {row.adapter_id: row.newest for row in reading(session).rows(_OF_ONE[ancestry.found], {"id": revision_id})}
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
    found = reading(session).first(_BASE, {"name": name})
    if found is None:
        raise bases.missing(session, name)
    return resolution.base_entry(name, found.digest)


_BASE: Final = Prepared(lambda _: select(BaseModelRecord.digest).where(BaseModelRecord.name == bindparam("name")))


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
    rows = reading(session).rows(_TARGETS, {"id": revision_id})
    return tuple(
        TargetGroup(name=row.name, modules=row.modules, ranks=tuple(row.ranks), scalings=tuple(row.scalings))
        for row in sorted(rows, key=lambda row: row.name)
    )


_TARGETS: Final = Prepared(
    lambda _: select(RevisionTarget.name, RevisionTarget.modules, RevisionTarget.ranks, RevisionTarget.scalings).where(
        RevisionTarget.revision_id == bindparam("id")
    )
)
