"""What a reference means now, with its lineage, in one query however deep it is."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, NamedTuple, get_args

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from registry.catalogue.database.prepared import Prepared, Reader
from registry.catalogue.database.tables import Adapter, BaseModelRecord, Revision, Tag
from registry.catalogue.tree import order
from registry.catalogue.tree.ancestry import newest_number, of_sources
from registry.catalogue.tree.links import LINK, OF_LINK, chain_above, of_the_base
from registry.catalogue.tree.old_names import adapter_is_listed, visible_new_base, visible_new_name
from registry.catalogue.tree.revisions import Kind, selected, selector
from registry.reference import NamePattern, Path, Reference
from registry.rights import Rights
from registry.schemas import LineageEntry, Resolved


class Meant(NamedTuple):
    """What a reference means."""

    resolved: Resolved
    combined: tuple[int | None, ...] = ()  # for each entry of the lineage: its key, if it is a combination


def resolve(reader: Reader, reference: Reference) -> Meant | None:
    """The revision or base model that a reference means; None: nothing visible, or several have this prefix.

    What combinations are made of is not looked at: that is `with_sources`.
    """
    if reference.path.is_base:
        base = reader.first(_BASE, {"name": reference.path.base})
        return None if base is None else Meant(_of_base(base))
    kind, value = selector(reference)
    rows = reader.rows(_LINEAGE[kind], {"path": str(reference.path), "value": value, "end": f"{value}g"})
    links = {row.id: row for row in rows}
    tips = links.keys() - {row.parent_id for row in rows}
    if len(tips) != 1:
        return None
    tip = row = links[tips.pop()]
    chain = [row]
    while row.parent_id is not None:
        row = links[row.parent_id]
        chain.append(row)
    chain.reverse()
    lineage = (base_entry(tip.base, tip.base_digest), *map(_entry, chain))
    found = Resolved(
        reference=lineage[-1].reference,
        digest=tip.digest,
        base=tip.base,
        base_digest=tip.base_digest,
        lineage=lineage,
        renamed_to=tip.renamed_to,
    )
    combined = (None, *(row.id if row.combined else None for row in chain))
    return Meant(found, combined if any(combined) else ())


def with_sources(session: Session, meant: Meant) -> Resolved:
    """The same, its combinations being retracted if one of their sources is."""
    taken = of_sources(session, [key for key in meant.combined if key is not None])
    lineage = tuple(
        entry.model_copy(update={"retracted": True}) if key in taken else entry
        for entry, key in zip(meant.resolved.lineage, meant.combined, strict=True)
    )
    return meant.resolved.model_copy(update={"lineage": lineage})


def matching(session: Session, pattern: NamePattern, limit: int) -> tuple[Reference, ...]:
    """The tags that a pattern means now, by path, at most ``limit``; old names are left out, as lists do."""
    literal = pattern.path.replace("\\", "\\\\").replace("_", "\\_").replace("*", "%")
    query = (
        select(Adapter.path)
        .join(Tag, Tag.adapter_id == Adapter.id)
        .join(Revision, Revision.id == Tag.revision_id)
        .where(Tag.name == pattern.tag, order.within(Path(pattern.base)), Adapter.path.like(literal, escape="\\"))
        .where(adapter_is_listed(session))
        .order_by(order.PLACE)
        .limit(limit)
    )
    return tuple(Reference(Path.parse(path), tag=pattern.tag) for path in session.scalars(query))


def _entry(row: Any) -> LineageEntry:
    reference = f"{row.path}@{row.number}"
    return LineageEntry(
        reference=reference,
        digest=row.digest,
        number=row.number,
        rank=row.rank,
        newest=row.newest,
        retracted=row.retracted_at is not None,
        combined=row.combined,
    )


def base_entry(name: str, digest: str) -> LineageEntry:
    """The base model as the first entry of a lineage."""
    return LineageEntry(reference=name, digest=digest, number=None, rank=None, newest=None)


def _of_base(row: Any) -> Resolved:
    return Resolved(
        reference=row.name,
        digest=row.digest,
        base=row.name,
        base_digest=row.digest,
        lineage=(base_entry(row.name, row.digest),),
        renamed_to=row.renamed_to,
    )


def _base(rights: Rights) -> Select[*tuple[Any, ...]]:
    query = select(BaseModelRecord.name, BaseModelRecord.digest, visible_new_base(rights).label("renamed_to"))
    return query.where(BaseModelRecord.name == bindparam("name"))


def _lineage(kind: Kind, rights: Rights) -> Select[*tuple[Any, ...]]:
    found = select(Revision.id, Revision.parent_id, visible_new_name(rights).label("renamed_to"))
    tip = selected(found.join(Adapter, Adapter.id == Revision.adapter_id), kind).cte("tip")
    chain = chain_above(tip)
    return (
        select(
            LINK.id,
            LINK.parent_id,
            LINK.number,
            LINK.digest,
            LINK.rank,
            LINK.retracted_at,
            LINK.combined,
            OF_LINK.path,
            # Of an adapter that is not seen, no newer revision is known.
            newest_number(Adapter.id).label("newest"),
            of_the_base(BaseModelRecord.name).label("base"),
            of_the_base(BaseModelRecord.digest).label("base_digest"),
            select(tip.c.renamed_to).limit(1).scalar_subquery().label("renamed_to"),
        )
        .join(OF_LINK, OF_LINK.id == LINK.adapter_id)
        .outerjoin(Adapter, Adapter.id == LINK.adapter_id)
        .where(LINK.id.in_(select(chain.c.id)))
    )


_BASE: Final = Prepared(_base)
_LINEAGE: Final[dict[Kind, Prepared]] = {kind: Prepared(partial(_lineage, kind)) for kind in get_args(Kind)}
