"""Soft deletion: a mark that hides rows from every query, see `registry.catalogue.database.visibility`.

`registry.catalogue.changes.undeletion` undoes it. The number stays taken and the event remains. The undo ends when the
collector purges the row after the grace period, or when the same content is published again, see
`registry.catalogue.store.purge`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Select, func, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Session

from registry.catalogue.changes import materialise, retention, tagging
from registry.catalogue.database import events
from registry.catalogue.database.tables import Adapter, Revision, RevisionFile, Tag
from registry.catalogue.database.visibility import in_subtree
from registry.catalogue.store import blobs
from registry.catalogue.store.blobs import combined_of
from registry.catalogue.tree import browse
from registry.catalogue.tree.cards import uses
from registry.errors import ConflictError
from registry.reference import Path
from registry.rights import Principal
from registry.schemas import Deleted, DeletedTree, RevisionSummary

DeletedTags = dict[str, tuple[str, ...]]
"""References of deleted revisions, and the tags that named each: ``PATH@tag``."""

_NAMED: Final = 8  # children or tags; more would bury the sentence


def delete(session: Session, revision_id: int, principal: Principal, *, with_tags: bool = False) -> Deleted:
    """Delete a revision; ``with_tags``: also one that tags name, with them. Its materialisations are dropped.

    Raises:
        NotFoundError: it does not exist any more.
        ConflictError: ``has_children``, naming what was trained on it or combined of it, or ``tagged``.
        NotAllowedError: ``protected_tag``, a protected tag names it.
    """
    _use_blobs(session, [revision_id])
    # Locked before the query for its children, so that nothing pins, combines or tags it meanwhile.
    session.execute(select(Revision.id).where(Revision.id == revision_id).with_for_update())
    row = browse.summary(session, revision_id)
    _check_childless(session, revision_id, row.reference)
    _check_uncombined(session, [revision_id], row.reference)
    tags = _lock_tags(session, [revision_id]).get(revision_id, ())
    _check_tags(session, {Path.parse(row.path): tags}, principal, with_tags=with_tags)
    _mark(session, {revision_id: row}, {revision_id: tags}, datetime.now(UTC), principal)
    return _deleted(session, revision_id, row, tags, done=True)


def preview(session: Session, revision_id: int, principal: Principal, *, with_tags: bool = False) -> Deleted:
    """What deleting a revision would delete; changes nothing, and raises what `delete` raises."""
    row = browse.summary(session, revision_id)
    _check_childless(session, revision_id, row.reference)
    _check_uncombined(session, [revision_id], row.reference)
    _check_tags(session, {Path.parse(row.path): row.tags}, principal, with_tags=with_tags)
    return _deleted(session, revision_id, row, row.tags, done=False)


def _deleted(session: Session, revision_id: int, row: RevisionSummary, tags: tuple[str, ...], *, done: bool) -> Deleted:
    return Deleted(
        reference=row.reference,
        digest=row.digest,
        tags=_named(row, tags),
        done=done,
        use=uses(session, [revision_id]).together,
    )


def listing(session: Session, path: Path) -> DeletedTree:
    """What deleting everything at and under a path would delete.

    Raises:
        NotFoundError: nothing exists at the path.
        ConflictError: ``has_children``, a combination elsewhere is made of something there.
    """
    browse.check_there(session, path)
    rows = browse.summaries(session, _chosen(path))
    _check_uncombined(session, rows, str(path))
    tags = {key: row.tags for key, row in rows.items()}
    return _answer(session, path, rows, tags, done=False)


def delete_tree(
    session: Session, path: Path, principal: Principal, *, with_tags: bool = False, now: datetime | None = None
) -> DeletedTree:
    """Delete every revision at and under a path, with one deletion time, so that it can be undone together.

    Raises:
        NotFoundError: nothing exists at the path.
        ConflictError: ``tagged``; ``has_children``, a combination elsewhere is made of something there.
        NotAllowedError: ``protected_tag``.
    """
    browse.check_there(session, path)
    keys = _lock(session, path)
    _check_uncombined(session, keys, str(path))
    rows: dict[int, RevisionSummary] = {}
    for part in blobs.parts(keys):
        rows |= browse.summaries(session, select(Revision.id).where(Revision.id.in_(part)))
    tags = _lock_tags(session, keys)
    by_path: dict[Path, tuple[str, ...]] = {}
    for key, row in rows.items():
        where = Path.parse(row.path)
        by_path[where] = by_path.get(where, ()) + tags.get(key, ())
    _check_tags(session, by_path, principal, with_tags=with_tags)
    _mark(session, rows, tags, now or datetime.now(UTC), principal)
    return _answer(session, path, rows, tags, done=True)


def hold_revisions(session: Session, revision_ids: Collection[int]) -> None:
    """Lock revisions, so that nothing pins, combines, tags or materialises them before `delete_held`."""
    _use_blobs(session, revision_ids)
    for part in blobs.parts(sorted(revision_ids)):
        held = select(Revision.id).where(Revision.id.in_(part)).order_by(Revision.id).with_for_update()
        session.execute(held).all()


def delete_held(
    session: Session, revision_ids: Collection[int], principal: Principal, now: datetime, why: str
) -> DeletedTags:
    """Delete revisions that the caller locked, and found to be needed by nothing, with their tags.

    Args:
        session: a write transaction.
        revision_ids: the keys of the revisions.
        principal: who deletes them.
        now: the time of the deletion: those of one time can be restored together.
        why: for their events.

    Returns:
        The references of those that still existed, by their keys, with the tags that named each.
    """
    rows: dict[int, RevisionSummary] = {}
    for part in blobs.parts(sorted(revision_ids)):
        rows |= browse.summaries(session, part)
    tags = _lock_tags(session, rows)
    _mark(session, rows, tags, now, principal, why)
    return {rows[key].reference: _named(rows[key], tags.get(key, ())) for key in sorted(rows)}


def _chosen(path: Path) -> Select[int]:
    return select(Revision.id).join(Adapter, Adapter.id == Revision.adapter_id).where(in_subtree(path))


def use_blobs(session: Session, path: Path) -> None:
    """Restart the grace period of the bytes of everything at and under a path."""
    _use_blobs(session, session.scalars(_chosen(path)).all())


def _lock(session: Session, path: Path) -> list[int]:
    """Lock all revisions at and under a path, including those published while the locks were waited for."""
    use_blobs(session, path)
    held: list[int] = []
    while True:
        new = session.scalars(
            _chosen(path)
            .where(Revision.id > (held[-1] if held else 0))
            .order_by(Revision.id)
            .with_for_update(of=Revision)
        ).all()
        if not new:
            return held
        held += new
        _use_blobs(session, new)


def _use_blobs(session: Session, revision_ids: Iterable[int]) -> None:
    """Restart the grace period of their bytes; in publishing's lock order, which touches blobs first."""
    for part in blobs.parts(revision_ids):
        blobs.use(session, session.scalars(select(RevisionFile.digest).where(RevisionFile.revision_id.in_(part))))


def _lock_tags(session: Session, revision_ids: Collection[int]) -> dict[int, tuple[str, ...]]:
    """The tags of revisions, locked until the transaction ends."""
    found: dict[int, tuple[str, ...]] = {}
    for part in blobs.parts(revision_ids):
        query = select(Tag.revision_id, Tag.name).where(Tag.revision_id.in_(part)).order_by(Tag.adapter_id, Tag.name)
        for key, name in session.execute(query.with_for_update()):
            found[key] = (*found.get(key, ()), name)
    return found


def _check_tags(session: Session, tags: Mapping[Path, Iterable[str]], principal: Principal, *, with_tags: bool) -> None:
    named = [(path, tag) for path, names in tags.items() for tag in names]
    for path, tag in named:
        tagging.check_movable(session, path, tag, principal)
    if named and not with_tags:
        shown = ", ".join(f"{path}@{tag}" for path, tag in named[:_NAMED])
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        only = len(named) == 1
        raise ConflictError(
            f"The tag{'' if only else 's'} {shown}{more} point{'s' if only else ''} at what would be deleted: move or "
            f"remove {'it' if only else 'them'} first, or delete with --with-tags.",
            code="tagged",
        )


def _mark(
    session: Session,
    rows: Mapping[int, RevisionSummary],
    tags: Mapping[int, tuple[str, ...]],
    now: datetime,
    principal: Principal,
    why: str | None = None,
) -> None:
    materialised = materialise.among(session, rows)
    for key, row in sorted(rows.items()):
        own = tags.get(key, ())
        dropped = materialise.drop_of(session, key) if key in materialised else ()
        values = {"deleted_at": now, "deleted_by": principal.name, "deleted_tags": list(own)}
        session.execute(update(Revision).where(Revision.id == key).values(values))
        detail: dict[str, object] = {
            "digest": row.digest,
            "parent": row.parent,
            "message": row.message,
            "author": row.author,
            "tags": own,
        }
        if dropped:
            detail["materialisations"] = dropped
        if why is not None:
            detail["why"] = why
        events.record(session, "delete", row.reference, principal, detail)
    for part in blobs.parts(rows):
        session.execute(delete_rows(Tag).where(Tag.revision_id.in_(part)))
    retention.clear_where_nothing_is_left(session, rows, principal)
    session.flush()


def _named(row: RevisionSummary, tags: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{row.path}@{tag}" for tag in tags)


def _answer(
    session: Session,
    path: Path,
    rows: Mapping[int, RevisionSummary],
    tags: Mapping[int, tuple[str, ...]],
    *,
    done: bool,
) -> DeletedTree:
    references = {key: rows[key].reference for key in sorted(rows)}
    named = [tag for key in references for tag in _named(rows[key], tags.get(key, ()))]
    used = uses(session, references)
    return DeletedTree(
        path=str(path),
        revisions=tuple(references.values()),
        tags=tuple(sorted(named)),
        done=done,
        use=used.together,
        used=used.named(references),
    )


def _check_childless(session: Session, revision_id: int, reference: str) -> None:
    children = (
        select(Adapter.path, Revision.number)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Revision.parent_id == revision_id)
    )
    named = [f"{path}@{number}" for path, number in session.execute(children.order_by(Revision.id).limit(_NAMED))]
    if named:
        count = session.scalar(select(func.count()).where(Revision.parent_id == revision_id)) or 0
        more = f" and {count - len(named)} more" if count > len(named) else ""
        raise ConflictError(
            f"{reference} can't be deleted: {', '.join(named)}{more} {'was' if count == 1 else 'were'} trained on it. "
            "Retract it instead, which makes it and everything that contains it unavailable.",
            code="has_children",
        )


def _check_uncombined(session: Session, revision_ids: Collection[int], what: str) -> None:
    """Refuse to delete what a combination stands on that would stay."""
    standing = combined_of(session, revision_ids) - set(revision_ids)
    if not standing:
        return
    seen = select(Adapter.path, Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
    chosen = seen.where(Revision.id.in_(sorted(standing)[: blobs.AT_ONCE])).order_by(Revision.id).limit(_NAMED)
    named = [f"{path}@{number}" for path, number in session.execute(chosen)]
    count = len(standing) - len(named)
    others = f"{count} more" if named else "a combination that this token may not see"
    told = ", ".join(named) + (f"{' and ' if named else ''}{others}" if count else "")
    raise ConflictError(
        f"{what} can't be deleted: {told} {'is' if len(standing) == 1 else 'are'} combined of it. Delete the "
        f"combination{'' if len(standing) == 1 else 's'} first, or retract it instead, which makes it and everything "
        "that contains it unavailable.",
        code="has_children",
    )
