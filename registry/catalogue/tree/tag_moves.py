"""What tags point at and pointed at over time, from events; and all revisions at and under a path, in pages."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    String,
    and_,
    bindparam,
    case,
    cast,
    func,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database.prepared import Prepared, reading
from registry.catalogue.database.tables import (
    HAS_REVISIONS,
    IS_DELETION,
    Adapter,
    EventRecord,
    Metric,
    Revision,
    Tag,
    table_of,
)
from registry.catalogue.database.transactions import plan_for_values
from registry.catalogue.database.visibility import in_subtree
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import ancestry, browse, old_names, order
from registry.catalogue.tree.old_names import adapter_is_listed, new_name
from registry.catalogue.tree.order import PLACE
from registry.catalogue.tree.revisions import RevisionRow
from registry.errors import UsageError
from registry.reference import Path, Reference
from registry.schemas.form import check_text
from registry.schemas.tags import TagHistory, TagMove, TagsRequest, TagState


def subtree(
    session: Session, path: Path, *, after: Reference | None = None, limit: int | None = None
) -> tuple[str, ...]:
    """References of all revisions at and under a path, parents before children: adapters as in the tree, by number.

    Those after a reference, at most ``limit``. Without old names, unless ``path`` is one.

    Raises:
        NotFoundError: nothing exists at ``path``; offers the nearest.
        UsageError: ``after`` names no revision by its number.
    """
    browse.check_there(session, path)
    if after is not None and after.number is None:
        raise UsageError(f"{after} names no revision by its number: give the last reference of the previous page.")
    query = select(Adapter.id, Adapter.path, Adapter.live_revisions).where(order.within(path), HAS_REVISIONS)
    if old_names.new_name(session, path) is None:
        query = query.where(old_names.adapter_is_listed(session))
    begun: list[str] = []
    if after is not None:
        own = session.execute(query.where(Adapter.path == str(after.path))).one_or_none()
        begun = [] if own is None else _of_adapter(session, own, after.number or 0, limit)
        query = query.where(order.after(after.path))
    left = None if limit is None else limit - len(begun)
    return (*begun, *_of_adapters(session, session.execute(query.order_by(PLACE).limit(left)).all(), left))


_Counted = Row[int, str, int]
"""Key and path of an adapter, and how many revisions it has."""


def _of_adapters(session: Session, adapters: Sequence[_Counted], limit: int | None) -> Iterator[str]:
    """The first references of some adapters: of as many as fit all, and then the first of one."""
    whole: list[_Counted] = []
    for adapter in adapters:
        if limit is not None and adapter.live_revisions > limit:
            yield from _of_whole(session, whole)
            yield from _of_adapter(session, adapter, 0, limit)
            return
        whole.append(adapter)
        limit = None if limit is None else limit - adapter.live_revisions
    yield from _of_whole(session, whole)


def _of_whole(session: Session, adapters: Sequence[_Counted]) -> Iterator[str]:
    for part in parts(adapters):
        keys = [adapter.id for adapter in part]
        query = select(Revision.adapter_id, Revision.number).where(Revision.adapter_id.in_(keys))
        numbers: dict[int, list[int]] = {key: [] for key in keys}
        for key, number in session.execute(query):
            numbers[key].append(number)
        yield from (f"{adapter.path}@{number}" for adapter in part for number in sorted(numbers[adapter.id]))


def _of_adapter(session: Session, adapter: _Counted, after: int, limit: int | None) -> list[str]:
    """The references of an adapter above a number, at most ``limit``."""
    if limit == 0:
        return []
    query = select(Revision.number).where(Revision.adapter_id == adapter.id, Revision.number > after)
    return [f"{adapter.path}@{number}" for number in session.scalars(query.order_by(Revision.number).limit(limit))]


LISTED: Final = 20
"""Tags of a revision, moves of a tag, and removed tags of an adapter."""
OF_ADAPTER: Final = 100
"""Tags of an adapter."""
_READ: Final = 1000
"""Events of an adapter that histories are made of; older ones are not looked at."""


def histories(session: Session, row: RevisionRow, tags: Collection[str]) -> tuple[TagHistory, ...]:
    """The histories of the tags that point at a revision (``tags``) or did, by name; of many, those that do first."""
    moves: dict[str, list[TagMove]] = {tag: [] for tag in tags}
    for tag, move in _moves(reading(session).rows(_LATEST, _values(Path.parse(row.path)))):
        moves.setdefault(tag, []).append(move)
    found = [
        # A move that no event records (a database of an early version) leaves what points at it now.
        TagHistory(tag=tag, points_at=row.reference if tag in tags else own[0].new, moves=tuple(own[:LISTED]))
        for tag, own in moves.items()
        if tag in tags or any(row.reference in {move.old, move.new} for move in own)
    ]
    found.sort(key=lambda one: (one.tag not in tags, one.tag))
    return tuple(sorted(found[:LISTED], key=lambda one: one.tag))


def of_adapter(session: Session, path: Path) -> tuple[TagHistory, ...]:
    """The tags of an adapter with their moves, by name, at most `OF_ADAPTER`; then those that were removed."""
    query = select(Tag.name, Revision.number).join(Revision, Revision.id == Tag.revision_id)
    query = query.join(Adapter, Adapter.id == Tag.adapter_id).where(Adapter.path == str(path))
    rows = session.execute(query.order_by(Tag.name).limit(OF_ADAPTER))
    named: dict[str, str | None] = {tag: f"{path}@{number}" for tag, number in rows}
    moves: dict[str, list[TagMove]] = {tag: [] for tag in named}
    unlisted: set[str] = set()
    for tag, move in _moves(reading(session).rows(_LATEST, _values(path))):
        if tag not in moves and move.new is not None:  # its newest move: the tag exists, and is not among the first
            unlisted.add(tag)
        if tag not in unlisted:
            moves.setdefault(tag, []).append(move)
    gone = sorted(moves.keys() - named.keys())[:LISTED]
    histories = ((tag, named.get(tag), moves[tag][:LISTED]) for tag in (*named, *gone))
    return tuple(TagHistory(tag=tag, points_at=at, moves=tuple(own)) for tag, at, own in histories)


def last(session: Session, path: Path, tag: str) -> TagMove | None:
    """The last move of a tag, by itself or with the deletion or restoring of its revision; None: it never was."""
    return next((move for name, move in _moves(session.execute(_events(), _values(path))) if name == tag), None)


def _moves(events: Iterable[Any]) -> Iterator[tuple[str, TagMove]]:
    """Moves of an adapter's tags, newest first, each with its tag."""
    for at, action, subject, actor, detail in events:
        for tag, old, new in _changes(action, subject, detail):
            yield tag, TagMove(at=at, actor=actor, old=old, new=new)


def _changes(action: str, subject: str, detail: dict[str, Any]) -> Iterator[tuple[str, str | None, str | None]]:
    if action in {"tag", "untag"}:
        yield detail["tag"], detail.get("old"), detail.get("new")
        return
    for tag in detail.get("tags") or ():
        yield (tag, subject, None) if action == "delete" else (tag, None, subject)


def _events(limit: int | None = None) -> Select[*tuple[Any, ...]]:
    action, subject = EventRecord.action, EventRecord.subject
    columns = (EventRecord.id, EventRecord.at, action, subject, EventRecord.actor, EventRecord.detail)
    moved = select(*columns).where(or_(action == "tag", action == "untag"), subject == bindparam("path"))
    # A tag also goes with the deletion of its revision, and comes back with it. Of a revision: see `is_revision_of`.
    taken = select(*columns).where(IS_DELETION, subject > bindparam("after"), subject < bindparam("before"))
    # Each by itself, since each has an index: of both together, all would be read and put in order.
    newest = (one.order_by(EventRecord.id.desc()).limit(limit).subquery() for one in (moved, taken))
    both = union_all(*(select(one) for one in newest)).subquery()
    shown = (both.c.at, both.c.action, both.c.subject, both.c.actor, both.c.detail)
    return select(*shown).order_by(both.c.id.desc()).limit(limit)


def _values(path: Path) -> dict[str, str]:
    return {"path": str(path), "after": f"{path}@", "before": f"{path}A"}


_LATEST: Final = Prepared(lambda _: _events(_READ))


_SORT: Final = re.compile(r"\s*(max|min):(?:(change:)|(?!change:))([A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63})\s*")


@dataclass(frozen=True)
class TagOrder:
    """What a list of tags is ordered by; among equals, and if by nothing else, by path and name."""

    by: Literal["path", "time", "metric", "change"] = "path"
    largest: bool = False
    metric: str = ""

    @classmethod
    def parse(cls, text: str | None) -> TagOrder:
        """``newest``, ``oldest``, ``max:acc``, or ``min:change:acc``; None: by path.

        Raises:
            UsageError: it is malformed; says the form.
        """
        if text is None:
            return cls()
        if (word := text.strip()) in {"newest", "oldest"}:
            return cls("time", largest=word == "newest")
        match = _SORT.fullmatch(text)
        if match is None:
            raise UsageError(
                f"Sort order {text!r} is malformed: 'newest', 'oldest', 'max:acc', or 'min:change:acc' is expected."
            )
        return cls("change" if match[2] else "metric", match[1] == "max", match[3])

    def key(self, one: TagState) -> object:
        """Where a list goes on after a tag."""
        value: object = None
        if self.by == "time":
            value = None if one.at is None else one.at.isoformat()
        elif self.by == "metric":
            value = one.metrics[self.metric]
        elif self.by == "change":
            value = _change(one.metrics[self.metric], one.previous_metrics[self.metric])
        return [value, one.path, one.tag]


def _change(now: Any, before: Any) -> Any:
    """Half of how much larger a metric is, which can't be too large for a number."""
    return now / 2 - before / 2


def listed(
    session: Session,
    request: TagsRequest,
    by: TagOrder,
    *,
    after: tuple[datetime | float | None, str, str] | None = None,
    limit: int | None = None,
    only: Collection[str] | None = None,
) -> tuple[TagState, ...]:
    """Tags that meet every given condition, in an order; ``after`` is the key of the last one of the page before.

    With ``only``, those of these names of the adapter at the path itself, as its newest events tell of them: for a page
    that shows much else, and shows where the others are.

    Raises:
        NotFoundError: nothing exists at the path; offers the nearest.
        UsageError: a condition is no text that can be stored, or the key is of another order.
    """
    plan_for_values(session)
    conditions = [*_conditions(session, request)]
    if only is not None:
        conditions += [Adapter.path == request.path, Tag.name.in_(only)]
    subjects = true() if request.path is None else in_subtree(Path.parse(request.path), _EVENTS.c.subject)
    if only is not None:
        oldest = select(_OWN.c.id).where(_OWN.c.subject == request.path).order_by(_OWN.c.id.desc())
        since = func.coalesce(oldest.offset(_RECENT).limit(1).scalar_subquery(), 0)
        subjects = and_(_EVENTS.c.subject == request.path, _EVENTS.c.id > since)
    elif (
        by.by == "path" and limit is not None and limit <= _AT_ONCE and request.actor is None and request.after is None
    ):
        first = _first(session, request, conditions, by, after, limit)
        conditions = [tuple_(Tag.adapter_id, Tag.name).in_([(row.adapter_id, row.name) for row in first])]
        subjects = _EVENTS.c.subject.in_({row.path for row in first})
    of_tags = _tags(conditions, subjects).subquery()
    event, before = _EVENTS.alias("event"), aliased(Revision)
    last = case((of_tags.c.restored > func.coalesce(of_tags.c.moved, 0), of_tags.c.restored), else_=of_tags.c.moved)
    old = event.c.detail["old"].as_string()
    begin = of_tags.c.path + "@"
    is_of_adapter = func.substr(old, 1, func.length(of_tags.c.path) + 1) == begin
    number = case((is_of_adapter, cast(func.substr(old, func.length(of_tags.c.path) + 2), BigInteger)))
    query = (
        select(of_tags, event.c.at, event.c.actor, number.label("before"), before.id.label("before_id"))
        .outerjoin(event, event.c.id == last)
        .outerjoin(before, and_(before.adapter_id == of_tags.c.adapter_id, before.number == number))
    )
    if request.actor is not None:
        query = query.where(event.c.actor == check_text("The name of the actor", request.actor))
    if request.after is not None:
        query = query.where(event.c.at >= request.after)
    if request.outdated:
        query = query.where(of_tags.c.newest > of_tags.c.number)
    name = _ordered(session, of_tags.c.tag)
    value, query = _valued(query, by, of_tags.c.id, before.id, event.c.at)
    if value is not None:
        query = query.order_by(value.is_(None), value.desc() if by.largest else value.asc())
    if after is not None:
        query = query.where(_rest(by, value, of_tags.c.place, name, after))
    rows = session.execute(query.order_by(of_tags.c.place, name).limit(limit)).all()
    return _states(session, rows)


_AT_ONCE: Final = 1001  # tags that are chosen by their keys
_RECENT: Final = 2000  # events of one adapter


def _ordered(session: Session, name: ColumnElement[str]) -> ColumnElement[str]:
    """A name in the order of SQLite, whatever the database is set to."""
    return name.collate("C") if session.get_bind().dialect.name == "postgresql" else name


def _first(
    session: Session,
    request: TagsRequest,
    conditions: Sequence[ColumnElement[bool]],
    by: TagOrder,
    after: tuple[datetime | float | None, str, str] | None,
    limit: int,
) -> Sequence[Row[Any, Any, Any]]:
    """The first tags by path and name, so that the events of no other adapters are read."""
    name = _ordered(session, Tag.name.expression)
    query = select(Tag.adapter_id, Tag.name, Adapter.path).join(Adapter, Adapter.id == Tag.adapter_id)
    query = query.where(*conditions, PLACE >= "")
    if request.outdated:
        query = query.join(Revision, Revision.id == Tag.revision_id)
        query = query.where(ancestry.newest_number(Adapter.id) > Revision.number)
    if after is not None:
        query = query.where(_rest(by, None, PLACE, name, after))
    return session.execute(query.order_by(PLACE, name).limit(limit)).all()


def _tags(conditions: Sequence[ColumnElement[bool]], subjects: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """Tags with their adapter, what they name, and the newest events that let them name it.

    ``subjects`` is the condition that an event is of one of the adapters. Each event is read once: looking for those of
    one tag reads all of its adapter, of which a tag that is moved by each publish leaves many.
    """
    restored = _EVENTS.alias("restored")
    # Of the table itself, without the criteria of the session: the adapter is seen, so its events are.
    tag = _EVENTS.c.detail["tag"].as_string()
    moves = select(_EVENTS.c.subject, tag.label("tag"), func.max(_EVENTS.c.id).label("moved"))
    moved = moves.where(_EVENTS.c.action == "tag", subjects).group_by(_EVENTS.c.subject, tag).subquery()
    # A tag that went with the deletion of its revision came back with it.
    reference = Adapter.path + "@" + cast(Revision.number, String)
    newest_restoring = select(restored.c.id).where(restored.c.subject == reference, restored.c.action == "delete undo")
    return (
        select(
            Tag.name.label("tag"),
            Adapter.id.label("adapter_id"),
            Adapter.path,
            PLACE.label("place"),
            Revision.id,
            Revision.number,
            ancestry.newest_number(Adapter.id).label("newest"),
            moved.c.moved,
            newest_restoring.order_by(restored.c.id.desc()).limit(1).scalar_subquery().label("restored"),
        )
        .join(Adapter, Adapter.id == Tag.adapter_id)
        .join(Revision, Revision.id == Tag.revision_id)
        .outerjoin(moved, and_(moved.c.subject == Adapter.path, moved.c.tag == Tag.name))
        .where(*conditions)
    )


def _conditions(session: Session, request: TagsRequest) -> Iterator[ColumnElement[bool]]:
    """Which tags are asked for, by what they are called and where."""
    path = None if request.path is None else Path.parse(request.path)
    if path is not None:
        browse.check_there(session, path)
        yield order.within(path)
    if not request.old_names and (path is None or new_name(session, path) is None):
        yield adapter_is_listed(session)
    if request.tag is not None:
        yield _matches(check_text("The tag", request.tag))


def _matches(pattern: str) -> ColumnElement[bool]:
    """The condition that a tag has this name, or one that matches: ``*`` is any text, ``?`` any character."""
    if not {"*", "?"} & set(pattern):
        return Tag.name == pattern
    if pattern != pattern.lower():  # as no tag is; for SQLite, letters are alike in LIKE
        return Tag.name.is_(None)
    plain = re.sub(r"([\\%_])", r"\\\1", pattern)
    return Tag.name.like(plain.replace("*", "%").replace("?", "_"), escape="\\")


def _valued(
    query: Select[*tuple[Any, ...]], by: TagOrder, revision: Any, before: Any, at: Any
) -> tuple[ColumnElement[Any] | None, Select[*tuple[Any, ...]]]:
    """What tags are ordered by before all else, and the query for those that have it."""
    if by.by == "path":
        return None, query
    if by.by == "time":
        return at, query
    now, then = aliased(Metric), aliased(Metric)
    query = query.join(now, and_(now.revision_id == revision, now.name == by.metric))
    if by.by == "metric":
        return now.value.expression, query
    query = query.join(then, and_(then.revision_id == before, then.name == by.metric))
    return _change(now.value, then.value), query


def _rest(
    by: TagOrder, value: ColumnElement[Any] | None, place: Any, name: Any, after: tuple[Any, str, str]
) -> ColumnElement[bool]:
    """The condition that a tag comes after a key."""
    last, path, tag = after
    right: tuple[type, ...] = {"path": (), "time": (datetime,)}.get(by.by, (float,))
    if not (isinstance(last, right) or (last is None and by.by in {"path", "time"})):
        raise UsageError("The position to continue from is of tags in another order; start from the beginning.")
    here = order.place_of(path)
    rest = or_(place > here, and_(place == here, name > tag))
    if value is None:
        return rest
    if last is None:
        return and_(value.is_(None), rest)
    beyond = value < last if by.largest else value > last
    return or_(beyond, value.is_(None), and_(value == last, rest))


def _states(session: Session, rows: Sequence[Any]) -> tuple[TagState, ...]:
    keys = {row.id for row in rows}
    metrics: dict[int, dict[str, float]] = defaultdict(dict)
    retracted: set[int] = set()
    for some in parts(sorted(keys | {row.before_id for row in rows if row.before_id is not None})):
        values = select(Metric.revision_id, Metric.name, Metric.value).where(Metric.revision_id.in_(some))
        for key, name, value in session.execute(values.order_by(Metric.name)):
            metrics[key][name] = value
        retracted |= ancestry.ancestry(session, [key for key in some if key in keys]).retracted.keys()
    return tuple(_state(row, metrics, row.id in retracted) for row in rows)


def _state(row: Any, metrics: dict[int, dict[str, float]], retracted: bool) -> TagState:
    now, then = metrics.get(row.id, {}), metrics.get(row.before_id, {})
    changes = {name: now[name] - then[name] for name in now if name in then}
    return TagState(
        path=row.path,
        tag=row.tag,
        reference=f"{row.path}@{row.number}",
        newest=f"{row.path}@{row.newest}",
        retracted=retracted,
        at=row.at,
        actor=row.actor,
        previous=None if row.before is None else f"{row.path}@{row.before}",
        metrics=now,
        previous_metrics=then,
        changes={name: change for name, change in changes.items() if math.isfinite(change)},
    )


_EVENTS: Final = table_of(EventRecord)
_OWN: Final = _EVENTS.alias("own")
