"""What is recorded of the deltas of paths, so that paths are compared without their weights.

Fingerprints are elements that a path makes of its base model: by them the revisions are found whose path a folder may
have. Sketches are projections of a delta, by which a revision is compared with its siblings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session, aliased

from registry.catalogue.changes import notices
from registry.catalogue.changes.notices import Noticed
from registry.catalogue.database import events
from registry.catalogue.database.statistics_tables import FingerprintRecord, NoticeRecord, SketchRecord
from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, BaseModelRecord, Revision, RevisionFile
from registry.catalogue.database.visibility import IGNORE_RIGHTS
from registry.catalogue.tree.ancestry import newest_number
from registry.catalogue.tree.old_names import adapter_is_listed
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.reference import Path
from registry.rights import Principal

PAGE: Final = 1000
"""Siblings that are read at a time."""


FORMAT: Final = 1
"""Raised where sketches are made another way: older ones are made again."""


@dataclass(frozen=True)
class Sketch:
    """The sketch of a revision."""

    direction: bytes
    noticed: bool  # whether what takes computing was noticed
    relative: bool  # whether the base's norms were known then

    def tells(self, *, relative: bool) -> bool:
        """Whether all was noticed that can be, with the base's norms or without."""
        return self.noticed and self.relative >= relative


class Sibling(NamedTuple):
    """The newest revision of another child of the same parent."""

    id: int
    reference: str
    place: int  # the key of its adapter
    direction: bytes | None  # its sketch, if it has one


def kept_sketch(session: Session, revision_id: int) -> Sketch | None:
    """The sketch of a revision, if it has one in this version's form."""
    row = session.get(SketchRecord, revision_id)
    if row is None or row.format != FORMAT:
        return None
    return Sketch(row.direction, row.noticed, row.relative)


def keep_sketch(session: Session, revision_id: int, direction: bytes) -> None:
    """Store the sketch of a revision that has none in this version's form; of a deleted revision nothing is stored.

    Args:
        session: a write transaction.
        revision_id: the revision.
        direction: its sketch.
    """
    if not _held(session, revision_id) or kept_sketch(session, revision_id) is not None:
        return
    row = session.get(SketchRecord, revision_id) or SketchRecord(revision_id=revision_id)
    row.format, row.direction, row.noticed, row.relative = FORMAT, direction, False, False
    session.add(row)
    session.flush()


def keep_noticed(
    session: Session,
    revision_id: int,
    noticed: Sequence[Noticed],
    *,
    codes: Collection[str],
    relative: bool,
    principal: Principal,
) -> None:
    """Store what was noticed, instead of earlier notices of these codes, and record it; once, whoever comes first.

    Args:
        session: a write transaction.
        revision_id: a revision with a sketch.
        noticed: what was noticed.
        codes: what was looked for.
        relative: whether the base's norms were known.
        principal: who looked.
    """
    if not _held(session, revision_id):
        return
    sketch = kept_sketch(session, revision_id)
    row = session.get(SketchRecord, revision_id)
    if row is None or sketch is None or sketch.tells(relative=relative):
        return
    row.noticed, row.relative = True, relative
    session.flush()
    _keep_instead(session, revision_id, noticed, codes, principal)


def keep_fidelity(session: Session, revision_id: int, noticed: Sequence[Noticed], principal: Principal) -> None:
    """Store the notice about a revision's fidelity, or that it has none any more, and record it once.

    Args:
        session: a write transaction.
        revision_id: the revision; of a deleted one nothing is stored.
        noticed: the notice, or none.
        principal: who looked.
    """
    if _held(session, revision_id):
        _keep_instead(session, revision_id, noticed, ("low_fidelity",), principal)


def _keep_instead(
    session: Session, revision_id: int, noticed: Sequence[Noticed], codes: Collection[str], principal: Principal
) -> None:
    """Keep notices instead of earlier ones of these codes, and record those that are new."""
    old = NoticeRecord.code.in_(codes) & (NoticeRecord.revision_id == revision_id)
    before = {(row.code, row.other_id) for row in session.execute(select(NoticeRecord).where(old)).scalars()}
    session.execute(delete(NoticeRecord).where(old))
    notices.keep_notices(session, revision_id, noticed)
    new = [one for one in noticed if (one.notice.code, one.other_id) not in before]
    _record(session, revision_id, new, principal)


def siblings(session: Session, path: Path, after: int | None = None) -> tuple[Sibling, ...]:
    """The newest revisions of some other children of the parent of ``path``, those that the session sees.

    Args:
        session: a read transaction.
        path: an adapter; it may not exist yet.
        after: the `place` of the last one of the page before. None: the first page, of the adapters made last.
    """
    above = aliased(Adapter)  # it may be hidden
    of_parent: ColumnElement[bool]
    if path.parent is None or path.parent.is_base:
        base_id = select(BaseModelRecord.id).where(BaseModelRecord.name == path.base).scalar_subquery()
        of_parent = Adapter.parent_id.is_(None) & (Adapter.base_id == base_id)
    else:
        of_parent = Adapter.parent_id == select(above.id).where(above.path == str(path.parent)).scalar_subquery()
    query = (
        select(Revision.id, Adapter.path, Revision.number, Adapter.id.label("place"), SketchRecord.direction)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .outerjoin(SketchRecord, (SketchRecord.revision_id == Revision.id) & (SketchRecord.format == FORMAT))
        .where(of_parent, HAS_REVISIONS, Adapter.path != str(path), Adapter.renamed_to.is_(None))
        .where(Revision.number == newest_number(Adapter.id))
        .order_by(Adapter.id.desc())
        .limit(PAGE)
    )
    if after is not None:
        query = query.where(Adapter.id < after)
    return tuple(
        Sibling(row.id, f"{row.path}@{row.number}", row.place, row.direction) for row in session.execute(query)
    )


def _held(session: Session, revision_id: int) -> bool:
    """Whether a revision exists; it is not deleted, and nobody else keeps anything about it, until the end."""
    return session.scalar(select(Revision.id).where(Revision.id == revision_id).with_for_update()) is not None


def _record(session: Session, revision_id: int, noticed: Sequence[Noticed], principal: Principal) -> None:
    """Record notices for whom they are for.

    Those about the revision alone are of the revision. One about another revision too is of the adapter above both,
    since who sees that sees both; of a base model, which more see, there is no event.
    """
    found = select(Adapter.path, Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
    path, number = session.execute(found.where(Revision.id == revision_id)).one()
    reference, above = f"{path}@{number}", Path.parse(path).parent
    alone = [one.notice.code for one in noticed if one.other_id is None]
    if alone:
        events.record(session, "notice", reference, principal, {"codes": alone})
    if above is None or above.is_base:
        return
    for one in noticed:
        if one.other_id is not None:
            detail = {"codes": [one.notice.code], "revision": reference, "other": one.notice.reference}
            events.record(session, "notice", str(above), principal, detail)


_AT_ONCE: Final = 500  # rows


class Searched(NamedTuple):
    """A revision that is searched."""

    id: int
    reference: str
    above: tuple[int, ...]  # the keys of the revisions of its path, root first, its own last


def searched(session: Session, base_id: int) -> tuple[Searched, ...]:
    """All revisions on a base model that the session sees, retracted ones too, newest first.

    Those above them are included as keys, even if they are hidden: a path that is seen is seen whole.
    """
    parents = (
        select(Revision.id, Revision.parent_id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Adapter.base_id == base_id)
    )
    above = {row.id: row.parent_id for row in session.execute(parents, execution_options=IGNORE_RIGHTS)}
    query = (
        select(Revision.id, Adapter.path, Revision.number)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Adapter.base_id == base_id, HAS_REVISIONS, adapter_is_listed(session))
        .order_by(Revision.id.desc())
    )
    return tuple(
        Searched(row.id, f"{row.path}@{row.number}", tuple(reversed(list(_chain(row.id, above)))))
        for row in session.execute(query)
    )


def with_weights(session: Session, base_id: int, digest: str) -> frozenset[int]:
    """The keys of all revisions on a base model whose weights have a digest, as far as the session sees them."""
    query = (
        select(Revision.id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .join(RevisionFile, RevisionFile.revision_id == Revision.id)
        .where(Adapter.base_id == base_id, RevisionFile.path == ADAPTER_WEIGHTS, RevisionFile.digest == digest)
    )
    return frozenset(session.scalars(query).all())


def _chain(key: int | None, above: Mapping[int, int | None]) -> Iterator[int]:
    while key is not None:
        yield key
        key = above[key]


def kept(session: Session, ids: Collection[int], table_digest: str) -> dict[int, bytes]:
    """The fingerprints of some revisions, by key, as far as they were made with this target table."""
    found: dict[int, bytes] = {}
    keys = sorted(ids)
    for start in range(0, len(keys), _AT_ONCE):
        query = select(FingerprintRecord.revision_id, FingerprintRecord.document).where(
            FingerprintRecord.revision_id.in_(keys[start : start + _AT_ONCE]),
            FingerprintRecord.table_digest == table_digest,
        )
        found |= {row.revision_id: row.document for row in session.execute(query)}
    return found


def keep(session: Session, made: Mapping[int, bytes], table_digest: str) -> None:
    """Store fingerprints, instead of those of another table; of deleted revisions nothing is stored.

    Args:
        session: a write transaction.
        made: by the keys of revisions.
        table_digest: of the target table that they were made with.
    """
    there = select(Revision.id).where(Revision.id.in_(made)).order_by(Revision.id).with_for_update(key_share=True)
    for key in session.scalars(there).all():
        row = session.get(FingerprintRecord, key) or FingerprintRecord(revision_id=key)
        row.table_digest, row.document = table_digest, made[key]
        session.add(row)
    session.flush()
