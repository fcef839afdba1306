"""A revision and all that is above it, with their files, in one query however deep it is: what composing needs.

They are visible whole, also above the rights, once the last one is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, get_args

from sqlalchemy import CTE, Select, bindparam, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import Adapter, BaseModelRecord, Blob, Revision, RevisionFile, RevisionTarget
from registry.catalogue.database.upsert import collected, rows_in
from registry.catalogue.store.blobs import BLOB_COLUMNS
from registry.catalogue.tree import revisions
from registry.catalogue.tree.ancestry import newest_number, of_sources
from registry.catalogue.tree.revisions import COLUMNS, Kind, RevisionRow, selected, selector
from registry.digest import StoredFile
from registry.errors import NotFoundError
from registry.reference import Reference
from registry.rights import Rights
from registry.schemas import TargetGroup

_Found = Select[*tuple[Any, ...]]

LINK: Final = aliased(Revision)
OF_LINK: Final = aliased(Adapter)
_ABOVE: Final = aliased(Revision)


@dataclass(frozen=True)
class LinkRow:
    """A revision of a lineage, with what belongs to it."""

    revision: RevisionRow
    newest: int | None  # number of its adapter's newest revision; None: the adapter is not seen
    targets: tuple[TargetGroup, ...]  # by name
    files: tuple[StoredFile, ...]  # by path

    @property
    def scalings(self) -> tuple[float, ...]:
        """The distinct ones, ascending."""
        return tuple(sorted({one for group in self.targets for one in group.scalings}))


def links(session: Session, reference: Reference) -> tuple[LinkRow, ...]:
    """The revisions from the one on the base model down to the one that a reference means now, root first.

    Raises:
        NotFoundError: naming what is missing and offering the nearest.
        UsageError: a digest prefix that several revisions share, or the reference of a base model.
    """
    if not reference.path.is_base:
        kind, value = selector(reference)
        given = {"path": str(reference.path), "value": value, "end": f"{value}g"}
        rows = reading(session).rows(_MEANT[kind], given)
        tips = {row.id for row in rows} - {row.parent_id for row in rows}
        if len(tips) == 1:
            return _with_sources(session, _in_order(rows, tips.pop()))
    return links_to(session, revisions.find(session, reference).id)


def links_to(session: Session, revision_id: int) -> tuple[LinkRow, ...]:
    """Those down to a revision by its row's key, be it seen or not.

    Raises:
        NotFoundError: it does not exist any more.
    """
    rows = reading(session).rows(_ONE, {"id": revision_id})
    if not rows:
        raise NotFoundError("The revision no longer exists.")
    return _with_sources(session, _in_order(rows, revision_id))


def _in_order(rows: Sequence[Any], tip: int) -> tuple[LinkRow, ...]:
    # Ordered here: a join with the chain lets SQLite read the whole table.
    by_key = {row.id: row for row in rows}
    found: list[LinkRow] = []
    at: int | None = tip
    while at is not None:
        row = by_key[at]
        at = row.parent_id
        found.append(_link(row, None if at is None else by_key[at]))
    return tuple(reversed(found))


def _with_sources(session: Session, found: tuple[LinkRow, ...]) -> tuple[LinkRow, ...]:
    """The links, a combination being retracted if one of its sources is."""
    taken = of_sources(session, [link.revision.id for link in found if link.revision.combined])
    if not taken:
        return found
    return tuple(
        replace(link, revision=replace(link.revision, retracted=link.revision.retracted or taken.get(link.revision.id)))
        for link in found
    )


def _link(row: Any, above: Any) -> LinkRow:
    parent = row.base if above is None else f"{above.path}@{above.number}"
    targets = (
        TargetGroup(name=name, modules=modules, ranks=tuple(ranks), scalings=tuple(scalings))
        for name, modules, ranks, scalings in sorted(rows_in(row.targets))
    )
    files = sorted((StoredFile(*file) for file in rows_in(row.files)), key=lambda file: file.path)
    return LinkRow(revisions.row_of(row, parent), row.newest, tuple(targets), tuple(files))


def chain_above(tip: CTE) -> CTE:
    """The keys of some revisions (``id``, ``parent_id``) and of all that is above them."""
    chain = select(tip.c.id, tip.c.parent_id).cte("chain", recursive=True)
    return chain.union_all(select(_ABOVE.id, _ABOVE.parent_id).join(chain, _ABOVE.id == chain.c.parent_id))


def of_the_base(column: InstrumentedAttribute[str]) -> ColumnElement[str]:
    """A column of the base model of a link."""
    # A value, and no join: with that, SQLite begins at the base models.
    return select(column).where(BaseModelRecord.id == OF_LINK.base_id).scalar_subquery()


def _links(tip: _Found) -> _Found:
    chain = chain_above(tip.cte("tip"))
    files = collected(*BLOB_COLUMNS, RevisionFile.path).join_from(
        RevisionFile, Blob, Blob.digest == RevisionFile.digest
    )
    targets = collected(RevisionTarget.name, RevisionTarget.modules, RevisionTarget.ranks, RevisionTarget.scalings)
    return (
        select(
            *(getattr(LINK, column.key) for column in COLUMNS),
            OF_LINK.path,
            OF_LINK.base_id,
            of_the_base(BaseModelRecord.name).label("base"),
            newest_number(Adapter.id).label("newest"),  # of an adapter that is not seen, none is known
            files.where(RevisionFile.revision_id == LINK.id).scalar_subquery().label("files"),
            targets.where(RevisionTarget.revision_id == LINK.id).scalar_subquery().label("targets"),
        )
        .join(OF_LINK, OF_LINK.id == LINK.adapter_id)
        .outerjoin(Adapter, Adapter.id == LINK.adapter_id)
        .where(LINK.id.in_(select(chain.c.id)))
    )


def _meant(kind: Kind, _rights: Rights) -> _Found:
    found = select(Revision.id, Revision.parent_id).join(Adapter, Adapter.id == Revision.adapter_id)
    return _links(selected(found, kind))


_MEANT: Final[dict[Kind, Prepared]] = {kind: Prepared(partial(_meant, kind)) for kind in get_args(Kind)}
# Of revisions themselves, rights hide none: their adapters are hidden.
_ONE: Final = Prepared(lambda _: _links(select(Revision.id, Revision.parent_id).where(Revision.id == bindparam("id"))))
