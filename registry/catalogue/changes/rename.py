"""Renaming: a subtree gets a new last name, or a base model a new one, as new rows over the same bytes.

The old names stay: see `registry.catalogue.tree.old_names`. The base model is locked for the whole change, as it is by
who publishes, and every revision is locked as by who retracts: so nothing that happens meanwhile is left out.

The rows are written in a few statements, whatever their number. Numbers, digests and everything recorded about
revisions stay. Inside the subtree the parents of new rows are new rows; above it they are the revisions that were
trained on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row, Select, Table, func, insert, literal, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import Subquery

from registry.catalogue.changes import also_known_as, tagging
from registry.catalogue.database import events
from registry.catalogue.database.statistics_tables import (
    BaseNormsRecord,
    EngineAnswerRecord,
    NoticeRecord,
    SketchRecord,
    StatisticsRecord,
    StatisticValueRecord,
)
from registry.catalogue.database.tables import (
    HAS_REVISIONS,
    Adapter,
    Annotation,
    BaseFile,
    BaseModelRecord,
    BaseRepoId,
    Metric,
    Revision,
    RevisionFile,
    RevisionSource,
    RevisionTarget,
    Tag,
    table_of,
)
from registry.catalogue.database.team_tables import (
    CardRecord,
    MaterialisationRecord,
    ProtectedTagRecord,
    RetentionRecord,
)
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED, in_subtree, live, rights_of
from registry.catalogue.tree import bases, commits, old_names, revisions
from registry.errors import ConflictError, UsageError
from registry.reference import Path
from registry.rights import Principal
from registry.schemas.labels import ProtectedTagLeft, Renamed
from registry.schemas.team import EventKind

_ADAPTERS: Final = table_of(Adapter)
_REVISIONS: Final = table_of(Revision)
_TAGS: Final = table_of(Tag)
_BASES: Final = table_of(BaseModelRecord)
_REPO_IDS: Final = table_of(BaseRepoId)
_CARDS: Final = table_of(CardRecord)
_NOTICES: Final = table_of(NoticeRecord)
_RULES: Final = table_of(RetentionRecord)
_SOURCES: Final = table_of(RevisionSource)
_OF_REVISIONS: Final = (
    *map(table_of, (RevisionFile, RevisionTarget, RevisionSource, Metric, Annotation)),
    *map(table_of, (StatisticsRecord, StatisticValueRecord, EngineAnswerRecord, SketchRecord, NoticeRecord)),
)
"""Tables with rows of revisions that the new name has too; what expires or is set by others is not among them."""
_OF_BASES: Final = tuple(map(table_of, (BaseFile, ProtectedTagRecord, BaseNormsRecord)))

_OF_THE_ROW: Final = frozenset({"id", "renamed_to", "live_revisions", "live_adapters"})
"""Columns that are not written again: keys, and what triggers count."""

_OLD_ADAPTER, _NEW_ADAPTER = _ADAPTERS.alias("old_adapter"), _ADAPTERS.alias("new_adapter")
_OLD, _NEW = _REVISIONS.alias("old"), _REVISIONS.alias("new")


@dataclass(frozen=True)
class Renaming:
    """The path of an adapter, or the name of a base model, and what it is called now."""

    old: Path
    new: Path

    def under(self, column: Any) -> ColumnElement[bool]:
        """The condition that a path is at or under the old name."""
        return in_subtree(self.old, column)

    def renamed(self, column: Any) -> ColumnElement[str]:
        """A path at or under the old name, under the new one."""
        return literal(str(self.new)) + func.substr(column, len(str(self.old)) + 1)


def copy_base(session: Session, renaming: Renaming) -> int:
    """Write the row of a base model again, with its files and protected patterns; the key of the new row.

    Its other repo ids go over to the new name.
    """
    base = _BASES.alias("base")
    given = {"name": literal(str(renaming.new))}
    _insert(session, _BASES, given, base, select(base).where(base.c.name == str(renaming.old)))
    keys = {
        name: session.execute(select(_BASES.c.id).where(_BASES.c.name == str(name))).scalar_one()
        for name in (renaming.old, renaming.new)
    }
    for table in _OF_BASES:
        rows = table.alias("of_base")
        wanted = select(rows).where(rows.c.base_id == keys[renaming.old])
        _insert(session, table, {"base_id": literal(keys[renaming.new])}, rows, wanted)
    moved = update(_REPO_IDS).where(_REPO_IDS.c.base_id == keys[renaming.old])  # each is of one base model
    session.execute(moved.values(base_id=keys[renaming.new]))
    return int(keys[renaming.new])


def copy_adapters(session: Session, renaming: Renaming, base_id: int | None = None) -> None:
    """Write adapters and revisions again. Deleted revisions only keep their numbers.

    Args:
        session: a write transaction that holds the base model, so that nothing is published meanwhile.
        renaming: what is renamed. Old names under it get no other new name.
        base_id: the key of the base model under the new name, if that is what is renamed.
    """
    current = renaming.under(_OLD_ADAPTER.c.path) & _OLD_ADAPTER.c.renamed_to.is_(None)
    given: dict[str, Any] = {"path": renaming.renamed(_OLD_ADAPTER.c.path)}
    if base_id is not None:
        given["base_id"] = literal(base_id)
    _insert(session, _ADAPTERS, given, _OLD_ADAPTER, select(_OLD_ADAPTER).where(current).order_by(_OLD_ADAPTER.c.id))
    is_new = in_subtree(renaming.new, _ADAPTERS.c.path)
    root = _ADAPTERS.c.path == str(renaming.new)  # none if a base model is renamed
    session.execute(update(_ADAPTERS).where(root).values(name=renaming.new.name))
    below = is_new & ~root
    above = (
        select(_NEW_ADAPTER.c.id)
        .join(_OLD_ADAPTER, _NEW_ADAPTER.c.path == renaming.renamed(_OLD_ADAPTER.c.path))
        .where(_OLD_ADAPTER.c.id == _ADAPTERS.c.parent_id)
        .scalar_subquery()
    )
    session.execute(update(_ADAPTERS).where(below).values(parent_id=above))
    _insert(session, _REVISIONS, {"adapter_id": _NEW_ADAPTER.c.id}, _OLD, _old_revisions(renaming))
    pairs = _pairs(renaming)
    parent = select(pairs.c.new).where(pairs.c.old == _REVISIONS.c.parent_id).scalar_subquery()
    new_adapters = select(_ADAPTERS.c.id).where(below)
    session.execute(update(_REVISIONS).where(_REVISIONS.c.adapter_id.in_(new_adapters)).values(parent_id=parent))
    commits.write_under(session, renaming.new)


def copy_details(session: Session, renaming: Renaming, protected: Collection[str]) -> tuple[ProtectedTagLeft, ...]:
    """Write again what is recorded about the revisions, and their tags; those of ``protected`` are returned instead."""
    pairs = _pairs(renaming)
    for table in _OF_REVISIONS:
        rows = table.alias("of_revision")
        wanted = select(rows).join(pairs, pairs.c.old == rows.c.revision_id)
        _insert(session, table, {"revision_id": pairs.c.new}, rows, wanted)
    _copy_cards(session, renaming)
    new_source = select(pairs.c.new).where(pairs.c.old == _SOURCES.c.source_id).scalar_subquery()
    made_of = _SOURCES.c.revision_id.in_(select(pairs.c.new)) & _SOURCES.c.source_id.in_(select(pairs.c.old))
    session.execute(update(_SOURCES).where(made_of).values(source_id=new_source))
    new_other = select(pairs.c.new).where(pairs.c.old == _NOTICES.c.other_id).scalar_subquery()
    about = _NOTICES.c.revision_id.in_(select(pairs.c.new)) & _NOTICES.c.other_id.in_(select(pairs.c.old))
    session.execute(update(_NOTICES).where(about).values(other_id=new_other))
    rows = _TAGS.alias("of_revision")
    tags = select(rows).join(pairs, pairs.c.old == rows.c.revision_id)
    free = tags.where(rows.c.name.not_in(protected)) if protected else tags
    _insert(session, _TAGS, {"adapter_id": pairs.c.adapter, "revision_id": pairs.c.new}, rows, free)
    if not protected:
        return ()
    left = tags.with_only_columns(pairs.c.path, pairs.c.number, rows.c.name).where(rows.c.name.in_(protected))
    ordered = left.order_by(pairs.c.path, pairs.c.number, rows.c.name)
    return tuple(
        ProtectedTagLeft(reference=f"{row.path}@{row.number}", tag=row.name) for row in session.execute(ordered)
    )


def _copy_cards(session: Session, renaming: Renaming) -> None:
    rows = _CARDS.alias("of_adapter")
    cards = (
        select(rows)
        .join(_OLD_ADAPTER, _OLD_ADAPTER.c.id == rows.c.adapter_id)
        .join(_NEW_ADAPTER, _NEW_ADAPTER.c.path == renaming.renamed(_OLD_ADAPTER.c.path))
        .where(renaming.under(_OLD_ADAPTER.c.path), _OLD_ADAPTER.c.renamed_to.is_(None))
    )
    _insert(session, _CARDS, {"adapter_id": _NEW_ADAPTER.c.id}, rows, cards)


def move_rules(session: Session, renaming: Renaming) -> None:
    """Give the retention rules to the new names: nothing is published to the old ones, so nothing reaches them."""
    new = (
        select(_NEW_ADAPTER.c.id)
        .join(_OLD_ADAPTER, _NEW_ADAPTER.c.path == renaming.renamed(_OLD_ADAPTER.c.path))
        .where(_OLD_ADAPTER.c.id == _RULES.c.adapter_id)
        .scalar_subquery()
    )
    old = select(_OLD_ADAPTER.c.id).where(renaming.under(_OLD_ADAPTER.c.path), _OLD_ADAPTER.c.renamed_to.is_(None))
    session.execute(update(_RULES).where(_RULES.c.adapter_id.in_(old)).values(adapter_id=new))


def mark(session: Session, renaming: Renaming) -> None:
    """Let everything at and under the old name, and what had been renamed to it, name the new one."""
    if renaming.old.is_base:
        earlier = (_BASES.c.name == str(renaming.old)) | (_BASES.c.renamed_to == str(renaming.old))
        session.execute(update(_BASES).where(earlier).values(renamed_to=str(renaming.new)))
    for column in (_ADAPTERS.c.renamed_to, _ADAPTERS.c.path):
        old = renaming.under(column)
        if column is _ADAPTERS.c.path:
            old &= _ADAPTERS.c.renamed_to.is_(None)
        session.execute(update(_ADAPTERS).where(old).values(renamed_to=renaming.renamed(column)))


def tags_under(session: Session, renaming: Renaming) -> list[str]:
    """The names of all tags at and under the old name."""
    query = select(_TAGS.c.name).distinct().join(_OLD_ADAPTER, _OLD_ADAPTER.c.id == _TAGS.c.adapter_id)
    return list(session.execute(query.where(renaming.under(_OLD_ADAPTER.c.path))).scalars())


def _old_revisions(renaming: Renaming) -> Select[*tuple[Any, ...]]:
    return (
        select(_OLD)
        .join(_OLD_ADAPTER, _OLD_ADAPTER.c.id == _OLD.c.adapter_id)
        .join(_NEW_ADAPTER, _NEW_ADAPTER.c.path == renaming.renamed(_OLD_ADAPTER.c.path))
        .where(renaming.under(_OLD_ADAPTER.c.path), live(_OLD.c))
        .order_by(_OLD.c.id)  # parents before children, as keys are given in this order
    )


def _pairs(renaming: Renaming) -> Subquery:
    """The keys of revisions under the old and the new name, and the adapter, path and number under the new one."""
    return (
        _old_revisions(renaming)
        .join(_NEW, (_NEW.c.adapter_id == _NEW_ADAPTER.c.id) & (_NEW.c.number == _OLD.c.number))
        .with_only_columns(
            _OLD.c.id.label("old"),
            _NEW.c.id.label("new"),
            _NEW_ADAPTER.c.id.label("adapter"),
            _NEW_ADAPTER.c.path.label("path"),
            _NEW.c.number.label("number"),
        )
        .order_by(None)
        .subquery("pairs")
    )


def _insert(
    session: Session, table: Table, given: Mapping[str, Any], rows: Any, wanted: Select[*tuple[Any, ...]]
) -> None:
    """Write rows of a table again but for the values ``given``, with keys of their own."""
    columns = [column.name for column in table.c if column.name not in _OF_THE_ROW]
    values = [given.get(name, rows.c[name]) for name in columns]
    session.execute(insert(table).from_select(columns, wanted.with_only_columns(*values)))


def rename(session: Session, old: Path, new: Path, principal: Principal) -> Renamed:
    """Give an adapter and everything under it a new last name; doing so again changes nothing.

    Raises:
        NotFoundError: the adapter does not exist; offers the nearest.
        UsageError: it has this name already, or a path under it would be too long.
        ConflictError: ``renamed``, it is an old name; ``name_taken``, the new name is used or was.
    """
    _lock_base(session, old.base)
    found = session.execute(select(Adapter.renamed_to).where(Adapter.path == str(old), HAS_REVISIONS)).one_or_none()
    if found is None:
        raise revisions.missing_adapter(session, old)
    renaming = Renaming(old, new)
    if _is_done(session, renaming, found.renamed_to):
        return _already(session, renaming)
    _check_length(session, renaming)
    _check_free(session, new)
    return _copy(session, renaming, principal)


def rename_base(session: Session, old: Path, new: Path, principal: Principal) -> Renamed:
    """Give a base model and all adapters below it a new name; doing so again changes nothing.

    Raises:
        NotFoundError: the base model does not exist; offers the nearest.
        UsageError: it has this name already.
        ConflictError: ``renamed``, it is an old name; ``name_taken``, the new name is used or was.
    """
    row = _lock_base(session, old.base)
    renaming = Renaming(old, new)
    if _is_done(session, renaming, row.renamed_to):
        return _already(session, renaming)
    taken = select(BaseModelRecord.deleted_at).where(BaseModelRecord.name == str(new))
    there = session.execute(taken, execution_options={**IGNORE_RIGHTS, **INCLUDE_DELETED}).one_or_none()
    if there is not None:
        state = "already exists" if there.deleted_at is None else "is the name of a base model that was deleted"
        raise ConflictError(f"{new} {state}: choose another name for {old}.")
    _check_free(session, new)
    also_known_as.check_free(session, new.base)
    return _copy(session, renaming, principal)


def _lock_base(session: Session, name: str) -> Row[int, str | None]:
    """The base model, held against everything that is published, deleted or restored below it."""
    held = select(BaseModelRecord.id, BaseModelRecord.renamed_to).where(BaseModelRecord.name == name).with_for_update()
    found = session.execute(held).one_or_none()
    if found is None:
        raise bases.missing(session, name)
    return found


def _is_done(session: Session, renaming: Renaming, renamed_to: str | None) -> bool:
    if renaming.old == renaming.new:
        raise UsageError(f"{renaming.old} already has this name.")
    if renamed_to is None:
        return False
    if renamed_to == str(renaming.new) and old_names.visible_names(session, [renamed_to]):
        return True
    if renamed_to == str(renaming.new):
        sentence = f"{renaming.old} was already renamed, to {renaming.new}, which is deleted."
    elif rights_of(session).covers(Path.parse(renamed_to)):
        sentence = f"{renaming.old} was already renamed, to {renamed_to}: rename that."
    else:
        sentence = f"{renaming.old} is an old name, and can't be renamed again."
    raise ConflictError(sentence, code="renamed")


def _counted(session: Session, path: Path) -> tuple[int, int]:
    """The number of adapters and revisions at and under a path."""
    query = select(func.count(Adapter.id.distinct()), func.count(Revision.id))
    found = session.execute(query.join(Revision, Revision.adapter_id == Adapter.id).where(in_subtree(path))).one()
    return found[0], found[1]


def _already(session: Session, renaming: Renaming) -> Renamed:
    adapters, written = _counted(session, renaming.new)
    return Renamed(
        path=str(renaming.old), renamed_to=str(renaming.new), adapters=adapters, revisions=written, already=True
    )


def _check_length(session: Session, renaming: Renaming) -> None:
    """Refuse if a path below would be longer than paths may be."""
    query = select(Adapter.path).where(in_subtree(renaming.old)).order_by(func.length(Adapter.path).desc()).limit(1)
    longest = session.scalars(query).one()
    Path.parse(str(renaming.new) + longest.removeprefix(str(renaming.old)))


def _check_free(session: Session, new: Path) -> None:
    """Refuse a name under which anything exists or existed: numbers are never reused, and old names go on."""
    query = select(Adapter.path, Adapter.renamed_to, HAS_REVISIONS.label("there")).where(in_subtree(new))
    found = session.execute(query.order_by(Adapter.path).limit(1), execution_options=IGNORE_RIGHTS).one_or_none()
    if found is None:
        return
    if found.renamed_to is not None:
        why = f"{found.path} is an old name, which goes on"
    elif found.there:
        why = f"{found.path} already exists"
    else:
        why = f"revisions of {found.path} were deleted, and their numbers are never reused"
    raise ConflictError(f"{why}: choose another name.")


def _copy(session: Session, renaming: Renaming, principal: Principal) -> Renamed:
    old, new = str(renaming.old), str(renaming.new)
    _lock_revisions(session, renaming)
    protected = tagging.protected(session, renaming.old.base, tags_under(session, renaming))
    base_id = copy_base(session, renaming) if renaming.old.is_base else None
    copy_adapters(session, renaming, base_id)
    left = copy_details(session, renaming, protected)
    move_rules(session, renaming)
    kept = _materialisations(session, renaming.old)
    adapters, written = _counted(session, renaming.new)
    mark(session, renaming)
    action: EventKind = "base rename" if renaming.old.is_base else "rename"
    events.record(session, action, old, principal, {"to": new, "revisions": written})
    events.record(session, action, new, principal, {"from": old, "revisions": written})
    return Renamed(
        path=old, renamed_to=new, adapters=adapters, revisions=written, tags_left=left, materialisations=kept
    )


def _lock_revisions(session: Session, renaming: Renaming) -> None:
    """Hold everything under the old name, so that what is copied is neither retracted nor deleted meanwhile."""
    held = (
        select(Revision.id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(in_subtree(renaming.old))
        .order_by(Revision.id)
        .with_for_update(read=True, of=Revision)
        .subquery()
    )
    session.execute(select(func.count()).select_from(held))


def _materialisations(session: Session, old: Path) -> int:
    """How many the old name has: they belong to its rows, and the new one has none."""
    query = (
        select(func.count(MaterialisationRecord.id))
        .join(Revision, Revision.id == MaterialisationRecord.revision_id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(in_subtree(old), MaterialisationRecord.expires_at > datetime.now(UTC))
    )
    return session.scalar(query) or 0
