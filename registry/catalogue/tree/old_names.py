"""Old names: adapters and base models that were renamed, whose rows stay beside those of the new name.

`registry.catalogue.changes.rename` makes them. An old name knows the newest one, and everything below it is an old name
too. Who may not see the new name learns nothing of it, and for them the old one is listed as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import CompoundSelect, bindparam, or_, select, union_all
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, BaseModelRecord, Revision
from registry.catalogue.database.visibility import (
    IGNORE_RIGHTS,
    INCLUDE_DELETED,
    covers_base,
    covers_path,
    live,
    rights_of,
)
from registry.catalogue.store.blobs import parts
from registry.errors import ConflictError
from registry.reference import Path
from registry.rights import Rights

# Made once: each new alias makes the expressions of its columns anew, which takes longer than the query.
_NEW, _NEW_BASE = aliased(Adapter), aliased(BaseModelRecord)


def adapter_is_listed(session: Session) -> ColumnElement[bool]:
    """The condition that lists show an adapter: it is no old name, or this session does not see its new name."""
    return or_(Adapter.renamed_to.is_(None), visible_new_name(rights_of(session)).is_(None))


def visible_new_name(rights: Rights) -> ColumnElement[str | None]:
    """The new name of an adapter, if it is visible with these rights; an expression."""
    # A value, and no condition that it exists: PostgreSQL would read all adapters for that.
    new = select(_NEW.path).where(
        _NEW.path == Adapter.renamed_to, covers_path(rights, _NEW.path), _NEW.live_revisions > 0
    )
    return new.scalar_subquery()


def visible_new_base(rights: Rights) -> ColumnElement[str | None]:
    """The same of a base model."""
    new = select(_NEW_BASE.name).where(
        _NEW_BASE.name == BaseModelRecord.renamed_to, live(_NEW_BASE), covers_base(rights, _NEW_BASE.name)
    )
    return new.scalar_subquery()


def base_is_listed(session: Session) -> ColumnElement[bool]:
    """The same of a base model."""
    return or_(BaseModelRecord.renamed_to.is_(None), visible_new_base(rights_of(session)).is_(None))


def visible_names(session: Session, names: Iterable[str | None]) -> frozenset[str]:
    """Those of some new names, of adapters or base models, that this session sees."""
    wanted = {name for name in names if name is not None}
    found: set[str] = set()
    for part in parts(sorted(name for name in wanted if "/" in name)):
        found.update(session.scalars(select(Adapter.path).where(Adapter.path.in_(part), HAS_REVISIONS)))
    if bases := [name for name in wanted if "/" not in name]:
        found.update(session.scalars(select(BaseModelRecord.name).where(BaseModelRecord.name.in_(bases))))
    return frozenset(found)


def names(session: Session, path: Path) -> tuple[str, ...]:
    """A path, and its newest name if that is another, as far as this session sees them."""
    row = reading(session).first(_BASE_NAMES if path.is_base else _NAMES, {"path": str(path)})
    return () if row is None else tuple(dict.fromkeys(name for name in row if name is not None))


def new_name(session: Session, path: Path) -> str | None:
    """The newest name of a path; None: it is no old name, or this session does not see the new one."""
    return next(iter(names(session, path)[1:]), None)


_NAMES: Final = Prepared(
    lambda rights: select(Adapter.path, visible_new_name(rights).label("new")).where(Adapter.path == bindparam("path"))
)
_BASE_NAMES: Final = Prepared(
    lambda rights: select(BaseModelRecord.name, visible_new_base(rights).label("new")).where(
        BaseModelRecord.name == bindparam("path")
    )
)


def check_current(session: Session, path: Path) -> None:
    """Refuse to publish to an old name, or below one, whether the session sees it or not.

    Raises:
        ConflictError: ``renamed``, with the new path if it may be seen.
    """
    above = [str(Path(path.base, path.names[:count])) for count in range(1, len(path.names) + 1)]
    found = session.execute(_renamed(), {"above": above, "base": path.base}).all()
    if found:
        old, new = max(found, key=lambda row: len(row[0]))
        raise _refusal(rights_of(session), path, old, new or "")


@cache  # made once: it takes longer to make than to run
def _renamed() -> CompoundSelect[*tuple[Any, ...]]:
    """Old names, and what they are called now: of some adapters and a base model, whether seen or not."""
    old = select(_NEW.path, _NEW.renamed_to).where(
        _NEW.path.in_(bindparam("above", expanding=True)), _NEW.renamed_to.is_not(None)
    )
    base = select(_NEW_BASE.name, _NEW_BASE.renamed_to).where(
        _NEW_BASE.name == bindparam("base"), live(_NEW_BASE), _NEW_BASE.renamed_to.is_not(None)
    )
    return union_all(old, base)


def _refusal(rights: Rights, path: Path, old: str, new: str) -> ConflictError:
    """The error for a publish to ``path``, which is ``old`` or below it, now that this is called ``new``."""
    instead = Path.parse(new + str(path).removeprefix(old))
    if rights.covers(instead):
        sentence = f"{old} was renamed to {new}, so nothing can be published to {path}: publish to {instead} instead."
    else:
        sentence = (
            f"{old} was renamed, so nothing can be published to {path} any more; ask an admin for a token of the new "
            "name."
        )
    return ConflictError(sentence, code="renamed")


def all_names(session: Session, path: str, *, visible: bool = False) -> list[str]:
    """The paths of all names of an adapter, old and new; itself alone if it was never renamed.

    ``visible``: only those that this session sees.
    """
    options: dict[str, Any] = {} if visible else {**IGNORE_RIGHTS}
    own = select(Adapter.renamed_to).where(Adapter.path == path)
    newest = session.scalar(own, execution_options=options) or path
    query = select(Adapter.path).where(or_(Adapter.path == newest, Adapter.renamed_to == newest)).order_by(Adapter.id)
    return list(session.scalars(query, execution_options=options))


@dataclass(frozen=True)
class SameContent:
    """A revision under one of the names of its adapter."""

    id: int
    reference: str
    retracted_reason: str | None


def lock_everywhere(session: Session, revision_id: int) -> list[SameContent]:
    """A revision under all names of its adapter, visible or not, deleted ones included: locked for a change, by key."""
    held: set[int] = set()
    while True:  # a rename that holds one of them may have written another
        found = read_everywhere(session, revision_id, lock=True)
        if held >= {row.id for row in found}:
            return found
        held |= {row.id for row in found}


def read_everywhere(session: Session, revision_id: int, *, lock: bool = False) -> list[SameContent]:
    """The same, as it is now; nothing is locked."""
    query = select(Adapter.path, Revision.digest).join(Adapter, Adapter.id == Revision.adapter_id)
    everything: dict[str, Any] = {**IGNORE_RIGHTS, **INCLUDE_DELETED}
    path, digest = session.execute(query.where(Revision.id == revision_id), execution_options=everything).one()
    same = (
        select(Revision.id, Revision.number, Revision.retracted_reason, Adapter.path)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(Adapter.path.in_(all_names(session, path)), Revision.digest == digest)
        .order_by(Revision.id)
    )
    rows = session.execute(same.with_for_update(of=Revision) if lock else same, execution_options=everything).all()
    return [SameContent(row.id, f"{row.path}@{row.number}", row.retracted_reason) for row in rows]
