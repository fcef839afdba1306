"""Reports of followers: each writes its own rows, and only what changed of them.

Nearly every report changes nothing but its times, which is one statement by a key. A report keeps nothing of names
outside the scopes of its token, and says the same of them whether they exist or not: nothing is looked up. A name in
scope need not exist either: that somebody still serves what was deleted is what has to be seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import table_of
from registry.catalogue.database.team_tables import FollowedRecord, FollowerRecord
from registry.errors import ConflictError, UsageError
from registry.reference import Reference
from registry.rights import Principal
from registry.schemas.form import check_text
from registry.schemas.running import MAX_FOLLOWERS, NameReport, Reported, ReportRequest

LEASE: Final = timedelta(seconds=30)
"""For how long a report counts."""
AGAIN: Final = LEASE / 3
"""When the next one is expected: two may be lost."""
KEPT: Final = timedelta(days=1)
"""How long a follower is shown as lost."""
_REMOVED: Final = 100  # at most, at once
_LOCK: Final = 0x666F6C6C  # any fixed number: the first half of the names of PostgreSQL's advisory locks


@dataclass(frozen=True)
class Said:
    """A report that was read: the names that the token's scopes cover, as they are written everywhere."""

    request: ReportRequest
    names: dict[str, tuple[Reference, NameReport]]
    left_out: tuple[str, ...]
    state: str  # a digest of all that is said of names


def read(request: ReportRequest, principal: Principal) -> Said:
    """Read a report, before any transaction.

    Raises:
        UsageError: a name is malformed, given twice, or a base model; a text can't be stored.
    """
    _check(request)
    names, left_out = _in_scope(request.names, principal)
    return Said(request, names, left_out, _digest_of(names.values()))


def report(session: Session, said: Said, principal: Principal, now: datetime) -> Reported:
    """Write what a follower reports, and for how long it counts.

    Raises:
        ConflictError: ``too_many_followers``: the token has as many live ones as it may.
    """
    request, names, state = said.request, said.names, said.state
    who = principal.token or principal.name
    mine = (FollowerRecord.who == who) & (FollowerRecord.id == request.id)
    if request.gone:
        session.execute(delete(FollowerRecord).where(mine))
        return Reported(lease=0.0, again=0.0)
    values = {
        "actor": principal.name,
        "kind": request.kind,
        "name": request.name,
        "version": request.version,
        "seen_at": now,
        "lease_until": now + LEASE,
    }
    known = session.execute(select(FollowerRecord.key, FollowerRecord.state).where(mine).with_for_update()).first()
    if known is None:
        _make_room(session, who, request, now)
        first = {"who": who, "id": request.id, "token": principal.token, "state": state, "started_at": now}
        row = session.execute(insert(FollowerRecord).values(**first, **values).returning(FollowerRecord.key))
        _write(session, row.scalar_one(), {}, names, now)
    else:
        session.execute(update(FollowerRecord).where(FollowerRecord.key == known.key).values(state=state, **values))
        if known.state != state:
            _write(session, known.key, _kept(session, known.key), names, now)
    return Reported(lease=LEASE.total_seconds(), again=AGAIN.total_seconds(), left_out=said.left_out)


def _check(request: ReportRequest) -> None:
    for what, text in (("The name of the follower", request.name), ("The version of the follower", request.version)):
        check_text(what, text)
    for one in request.names:
        check_text(f"The error of {one.name}", one.error or "")
    twice = len(request.names) - len({one.name for one in request.names})
    if twice:
        raise UsageError(f"The report says {twice} names twice: each is expected once, with what it serves now.")


def _in_scope(
    given: Iterable[NameReport], principal: Principal
) -> tuple[dict[str, tuple[Reference, NameReport]], tuple[str, ...]]:
    """The names that the token's scopes cover, as they are written everywhere, and the others."""
    names, left_out = {}, []
    for one in given:
        reference = Reference.parse(one.name)
        if reference.path.is_base:
            raise UsageError(f"{one.name} is a base model: the path of an adapter is expected, as in {one.name}/NAME.")
        if principal.rights.covers(reference.path):
            names[str(reference)] = (reference, one)
        else:
            left_out.append(one.name)
    return names, tuple(left_out)


def _digest_of(names: Iterable[tuple[Reference, NameReport]]) -> str:
    hashed = hashlib.sha256()
    for line in sorted(one.model_dump_json() for _, one in names):
        hashed.update(line.encode() + b"\n")
    return f"sha256:{hashed.hexdigest()}"


def _make_room(session: Session, who: str, request: ReportRequest, now: datetime) -> None:
    """Before a new follower: remove those that it takes the place of, and what is long gone.

    Raises:
        ConflictError: ``too_many_followers``.
    """
    if session.get_bind().dialect.name == "postgresql":  # of one token, new ones are counted one after another
        session.execute(select(func.pg_advisory_xact_lock(_LOCK, func.hashtext(who))))
    lost, mine = FollowerRecord.lease_until <= now, FollowerRecord.who == who
    _remove(session, FollowerRecord.lease_until <= now - KEPT)
    # Started again: what the one before had is what this one has found.
    _remove(session, lost & mine & (FollowerRecord.kind == request.kind) & (FollowerRecord.name == request.name))
    count = session.scalar(select(func.count()).select_from(FollowerRecord).where(mine)) or 0
    if count >= MAX_FOLLOWERS:
        _remove(session, lost & mine, count - MAX_FOLLOWERS + 1)
        if (session.scalar(select(func.count()).select_from(FollowerRecord).where(mine)) or 0) >= MAX_FOLLOWERS:
            raise ConflictError(
                f"The token reports for {MAX_FOLLOWERS} followers already, which is the most: {request.name} is not "
                "shown as running until one of them ends, or it has a token of its own.",
                code="too_many_followers",
            )


def _remove(session: Session, which: ColumnElement[bool], limit: int = _REMOVED) -> None:
    """Remove some followers with their names, those first that were silent longest; never waits for a lock."""
    oldest = select(FollowerRecord.key).where(which).order_by(FollowerRecord.lease_until, FollowerRecord.key)
    keys = session.scalars(oldest.limit(limit).with_for_update(skip_locked=True)).all()
    if keys:
        session.execute(delete(FollowerRecord).where(FollowerRecord.key.in_(keys)))


def _kept(session: Session, key: int) -> dict[str, Any]:
    columns = [column for column in table_of(FollowedRecord).columns if column.name != "follower_key"]
    rows = session.execute(select(*columns).where(table_of(FollowedRecord).c.follower_key == key)).mappings()
    return {row["name"]: dict(row) for row in rows}


def _write(
    session: Session,
    key: int,
    before: dict[str, Any],
    names: dict[str, tuple[Reference, NameReport]],
    now: datetime,
) -> None:
    """Make the rows of a follower those of its names; a row that says the same stays."""
    table = table_of(FollowedRecord)
    gone = [name for name in before if name not in names]
    changed = []
    for name, (reference, one) in names.items():
        old = before.get(name, {})
        since = old.get("since") if old.get("serves") == one.serves else now
        row = {
            "name": name,
            "path": str(reference.path),
            "tag": reference.tag,
            "number": reference.number,
            "serves": one.serves,
            "since": None if one.serves is None else since,
            "wants": one.wants,
            "code": one.code,
            "error": one.error,
        }
        if row != old:
            changed.append({"follower_key": key, **row})
    stale = [*gone, *(row["name"] for row in changed if row["name"] in before)]
    for place in range(0, len(stale), 500):
        some = stale[place : place + 500]
        session.execute(delete(table).where(table.c.follower_key == key, table.c.name.in_(some)))
    if changed:
        session.execute(insert(table), changed)
