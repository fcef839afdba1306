"""What runs: the names that followers follow, with what each has and what the name points at now.

A token sees the names in its scopes, and a follower only with them, or if it is its own: that one follows other names
too does not show. What nobody serves is looked for among tags that are protected by their very name, or that a follower
follows elsewhere: others, as those of releases, nobody expects to be served.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Select, and_, case, func, null, or_, select, tuple_
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, EventRecord, Revision, Tag, table_of
from registry.catalogue.database.team_tables import FollowedRecord, FollowerRecord, ProtectedTagRecord
from registry.catalogue.database.visibility import covers_path, in_subtree, rights_of
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import revisions
from registry.catalogue.tree.ancestry import ancestry, newest_number
from registry.catalogue.tree.old_names import adapter_is_listed
from registry.reference import Reference
from registry.schemas.running import Follower, Running, RunningState

_EVENTS: Final = table_of(EventRecord)


@dataclass(frozen=True)
class Place:
    """Where a listing goes on: after this path, name and follower. Followers that follow nothing have neither."""

    path: str
    name: str
    follower: int


@dataclass(frozen=True)
class Now:
    """The time of a listing, and until when the leases of those ended that it does not show any more."""

    at: datetime
    forgotten: datetime


def followed(
    session: Session, reference: Reference | None, who: str, now: Now, after: Place | None, limit: int
) -> list[tuple[Place, Running]]:
    """What followers have, by name, ``limit`` at most: first the followers that follow nothing."""
    rows: list[Any] = []
    if reference is None and (after is None or not after.path):
        rows = [*session.execute(_idle(session, who, now, after).limit(limit))]
    if len(rows) < limit:
        rows += session.execute(_named(session, reference, now, after).limit(limit - len(rows)))
    known = _Known(session, rows)
    return [(Place(row.path or "", row.followed or "", row.key), known.running(row, now.at)) for row in rows]


def unserved(
    session: Session, reference: Reference | None, now: Now, after: Place | None, limit: int
) -> list[tuple[Place, Running]]:
    """Names that nobody serves, by path and tag, ``limit`` at most."""
    live = select(FollowerRecord.key).where(
        FollowerRecord.key == FollowedRecord.follower_key, FollowerRecord.lease_until > now.at
    )
    served = select(FollowedRecord.name).where(
        FollowedRecord.path == Adapter.path,
        FollowedRecord.name == Adapter.path + "@" + Tag.name,
        FollowedRecord.serves.is_not(None),
        live.exists(),
    )
    # Of names that are seen: that a tag is called as one that is followed elsewhere must not show.
    elsewhere = select(FollowedRecord.tag).where(
        FollowedRecord.tag.is_not(None), covers_path(rights_of(session), FollowedRecord.path), live.exists()
    )
    protected = select(ProtectedTagRecord.base_id).where(
        ProtectedTagRecord.base_id == Adapter.base_id, ProtectedTagRecord.pattern == Tag.name
    )
    query = (
        select(Adapter.path, Tag.name.label("tag"))
        .join(Adapter, Adapter.id == Tag.adapter_id)
        .join(Revision, Revision.id == Tag.revision_id)
        .where(adapter_is_listed(session), or_(Tag.name.in_(elsewhere), protected.exists()), ~served.exists())
    )
    if reference is not None:
        if reference.tag is None:
            query = query.where(in_subtree(reference.path))
        else:
            query = query.where(Adapter.path == str(reference.path), Tag.name == reference.tag)
    name: ColumnElement[str] = Tag.name.expression
    if session.get_bind().dialect.name == "postgresql":  # in the order of SQLite, whatever the database is set to
        name = name.collate("C")
    if after is not None:
        tag = after.name.partition("@")[2]
        query = query.where(or_(Adapter.path > after.path, and_(Adapter.path == after.path, name > tag)))
    rows = [_Unserved(*row) for row in session.execute(query.order_by(Adapter.path, name).limit(limit))]
    known = _Known(session, rows)
    return [(Place(row.path, row.followed, 0), known.running(row, now.at)) for row in rows]


@dataclass(frozen=True)
class _Unserved:
    """A tag that nobody serves, with what rows of followers have besides."""

    path: str
    tag: str
    key: None = None
    number: None = None
    serves: None = None
    since: None = None
    wants: None = None
    code: None = None
    error: None = None

    @property
    def followed(self) -> str:
        return f"{self.path}@{self.tag}"


_FOLLOWER: Final = (
    FollowerRecord.key,
    FollowerRecord.id,
    FollowerRecord.kind,
    FollowerRecord.name,
    FollowerRecord.version,
    FollowerRecord.actor,
    FollowerRecord.token,
    FollowerRecord.started_at,
    FollowerRecord.seen_at,
    FollowerRecord.lease_until,
)
_FOLLOWED: Final = (
    FollowedRecord.name.label("followed"),
    FollowedRecord.path,
    FollowedRecord.tag,
    FollowedRecord.number,
    FollowedRecord.serves,
    FollowedRecord.since,
    FollowedRecord.wants,
    FollowedRecord.code,
    FollowedRecord.error,
)
_NOTHING: Final = ("followed", "path", "tag", "number", "serves", "since", "wants", "code", "error")


def _named(session: Session, reference: Reference | None, now: Now, after: Place | None) -> Select[*tuple[Any, ...]]:
    # The filter of sessions is not about this table, which browsing does not load.
    query = (
        select(*_FOLLOWER, *_FOLLOWED)
        .join(FollowerRecord, FollowerRecord.key == FollowedRecord.follower_key)
        .where(FollowerRecord.lease_until > now.forgotten, covers_path(rights_of(session), FollowedRecord.path))
    )
    if reference is not None:
        query = query.where(_is_meant(session, reference))
    place = (FollowedRecord.path, FollowedRecord.name, FollowedRecord.follower_key)
    if after is not None and after.path:
        query = query.where(tuple_(*place) > tuple_(after.path, after.name, after.follower))
    return query.order_by(*place)


def _is_meant(session: Session, reference: Reference) -> ColumnElement[bool]:
    """The condition that a name is at or under a path, is this tag, or that it follows or serves this revision."""
    if reference.tag is not None:
        return FollowedRecord.name == str(reference)
    if reference == Reference(reference.path):
        return in_subtree(reference.path, FollowedRecord.path)
    number = reference.number or revisions.find(session, reference).number
    has = or_(FollowedRecord.serves == number, FollowedRecord.number == number)
    return and_(FollowedRecord.path == str(reference.path), has)


def _idle(session: Session, who: str, now: Now, after: Place | None) -> Select[*tuple[Any, ...]]:
    """Followers that follow nothing: all, or those of the very token if it has scopes."""
    follows = select(FollowedRecord.name).where(FollowedRecord.follower_key == FollowerRecord.key)
    query = select(*_FOLLOWER, *(null().label(name) for name in _NOTHING)).where(
        FollowerRecord.lease_until > now.forgotten, ~follows.exists()
    )
    if not rights_of(session).unlimited:
        query = query.where(FollowerRecord.who == who)
    if after is not None:
        query = query.where(FollowerRecord.key > after.follower)
    return query.order_by(FollowerRecord.key)


@dataclass(frozen=True)
class _Target:
    """What a name points at, and whether that is retracted."""

    number: int
    retracted: bool


class _Known:
    """What the names of some rows point at now, and which of the revisions that they speak of are available."""

    def __init__(self, session: Session, rows: Sequence[Any]) -> None:
        self._session = session
        self._points = _pointed_at(session, rows)
        pairs = {(row.path, row.serves) for row in rows if row.serves is not None}
        self._state = _available(session, pairs | {pair for pair in self._points.values() if pair is not None})
        self._moved: dict[str, datetime | None] = {}
        self._followers: dict[int | None, Follower | None] = {None: None}

    def running(self, row: Any, now: datetime) -> Running:
        """A row as it is shown."""
        target = self.target(row)
        withdrawn: Literal["retracted", "deleted"] | None = None
        if row.serves is not None and self._state.get((row.path, row.serves)) != "available":
            withdrawn = "retracted" if (row.path, row.serves) in self._state else "deleted"
        if row.key not in self._followers:
            self._followers[row.key] = _follower(row)
        state: RunningState = "unserved" if row.key is None else state_of(row, target, is_live=row.lease_until > now)
        return Running(
            name=row.followed,
            state=state,
            points_at=_reference(row.path, target),
            moved_at=None if state == "in_place" else self._moved_at(row, target),
            serves=_reference(row.path, row.serves),
            since=row.since,
            withdrawn=withdrawn,
            wants=_reference(row.path, row.wants),
            code=row.code,
            error=row.error,
            follower=self._followers[row.key],
        )

    def target(self, row: Any) -> int | None:
        """The number of the available revision that the name of a row points at."""
        pair = self._points.get(row.followed)
        return None if pair is None or self._state.get(pair) != "available" else pair[1]

    def _moved_at(self, row: Any, target: int | None) -> datetime | None:
        """When a tag was moved to what it points at, if that is not what is served."""
        if target is None or row.tag is None or row.serves == target:
            return None
        if row.followed not in self._moved:
            # Of the table itself, without the criteria of the session: the adapter is seen, so its events are.
            moves = select(_EVENTS.c.at).where(
                _EVENTS.c.subject == row.path,
                _EVENTS.c.action == "tag",
                _EVENTS.c.detail["tag"].as_string() == row.tag,
            )
            self._moved[row.followed] = self._session.scalar(moves.order_by(_EVENTS.c.id.desc()).limit(1))
        return self._moved[row.followed]


def state_of(row: Any, target: int | None, *, is_live: bool) -> RunningState:
    """The state of a name at a follower, which should serve the revision of this number."""
    if not is_live:
        return "lost"
    if row.serves == target:
        return "in_place"
    return "behind" if row.error is None and row.code is None else "failed"


def _reference(path: str | None, number: int | None) -> str | None:
    return None if number is None else f"{path}@{number}"


def _follower(row: Any) -> Follower:
    return Follower(
        id=row.id,
        kind=row.kind,
        name=row.name,
        version=row.version,
        actor=row.actor,
        token=row.token,
        started_at=row.started_at,
        seen_at=row.seen_at,
        lease_until=row.lease_until,
    )


def _pointed_at(session: Session, rows: Sequence[Any]) -> dict[str, tuple[str, int] | None]:
    """The adapter and the number that each name points at; None: at nothing that this session sees."""
    found: dict[str, tuple[str, int] | None] = {row.followed: None for row in rows if row.followed is not None}
    tags, newest = {}, {}
    for row in rows:
        if row.number is not None:
            found[row.followed] = (row.path, row.number)
        elif row.tag is not None:
            tags[row.path, row.tag] = row.followed
        elif row.followed == row.path and row.path is not None:
            newest[row.path] = row.followed
        elif row.wants is not None:  # pinned by a digest: what it means never changes
            found[row.followed] = (row.path, row.wants)
    for some in parts(sorted(tags)):
        query = (
            select(Adapter.path, Tag.name, Revision.number)
            .join(Tag, Tag.adapter_id == Adapter.id)
            .join(Revision, Revision.id == Tag.revision_id)
            .where(tuple_(Adapter.path, Tag.name).in_(some))
        )
        found |= {tags[path, tag]: (path, number) for path, tag, number in session.execute(query)}
    for some_paths in parts(sorted(newest)):
        latest = select(Adapter.path, newest_number(Adapter.id)).where(Adapter.path.in_(some_paths), HAS_REVISIONS)
        found |= {newest[path]: (path, number) for path, number in session.execute(latest)}
    return found


def _available(
    session: Session, pairs: Iterable[tuple[str, int]]
) -> dict[tuple[str, int], Literal["available", "retracted"]]:
    """Whether revisions, by path and number, are available; those that are deleted, or never were, are left out."""
    keys: dict[int, tuple[str, int]] = {}
    for some in parts(sorted(pairs)):
        query = select(Revision.id, Adapter.path, Revision.number).join(Adapter, Adapter.id == Revision.adapter_id)
        rows = session.execute(query.where(tuple_(Adapter.path, Revision.number).in_(some)))
        keys |= {key: (path, number) for key, path, number in rows}
    state: dict[tuple[str, int], Literal["available", "retracted"]] = dict.fromkeys(keys.values(), "available")
    for some_keys in parts(sorted(keys)):
        retracted = ancestry(session, some_keys).retracted
        state |= {keys[key]: "retracted" for key in retracted.keys() & keys.keys()}
    return state


def counts(session: Session, now: Now) -> Iterator[tuple[str, dict[str, int]]]:
    """How many followers are live and lost, and in which states their names are: for metrics.

    Names of which many followers say the same are read once, so that it takes as long as there are names.
    """
    followers = {"live": 0, "lost": 0}
    for until in session.scalars(select(FollowerRecord.lease_until).where(FollowerRecord.lease_until > now.forgotten)):
        followers["live" if until > now.at else "lost"] += 1
    yield "followers", followers
    error = case((FollowedRecord.error.is_not(None), "some")).label("error")
    is_live = case((FollowerRecord.lease_until > now.at, 1), else_=0).label("is_live")
    shown = {column.key: column for column in _FOLLOWED}
    same = ("followed", "path", "tag", "number", "serves", "wants", "code")
    alike = [*(shown[name] for name in same), is_live, error]
    query = select(*alike, func.count().label("followers")).join(
        FollowerRecord, FollowerRecord.key == FollowedRecord.follower_key
    )
    rows = session.execute(query.where(FollowerRecord.lease_until > now.forgotten).group_by(*alike)).all()
    known = _Known(session, rows)
    names = dict.fromkeys(("in_place", "behind", "failed", "lost"), 0)
    for row in rows:
        names[state_of(row, known.target(row), is_live=bool(row.is_live))] += row.followers
    yield "followed_names", names
