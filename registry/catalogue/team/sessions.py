"""Processes and people at a service: sessions of the web pages, and the replicas that answer requests.

Who signed in with a token stays signed in until the session or the token ends. The cookie has a random secret, of which
the sha256 is stored. A session has no rights of its own: those of its token are read at each request. A replica is as
it last wrote of itself.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import ColumnElement, Select, bindparam, delete, func, select, update
from sqlalchemy.orm import Session

from registry.catalogue.database.database import Database
from registry.catalogue.database.prepared import Prepared
from registry.catalogue.database.team_tables import ReplicaRecord, SessionRecord, TokenRecord
from registry.catalogue.team import tokens
from registry.rights import Principal
from registry.schemas.jobs import Replica, ReplicaFigures

BEAT: Final = timedelta(seconds=30)
"""How often a replica writes its row."""
SILENT: Final = 3 * BEAT
"""A replica that wrote nothing for longer does not answer any more, or can't reach the database."""
KEPT: Final = timedelta(days=1)
"""How long the row of a replica that ended without removing it is retained."""


def note(session: Session, replica: Replica) -> None:
    """Write the row of a replica, and remove those of replicas that are long gone."""
    values = {
        "host": replica.host,
        "process": replica.process,
        "worker": replica.worker,
        "version": replica.version,
        "processor": replica.processor,
        "numerics": replica.numerics,
        "started_at": replica.started_at,
        "seen_at": replica.seen_at,
        "figures": replica.figures.model_dump(),
    }
    done: Any = session.execute(update(ReplicaRecord).where(ReplicaRecord.id == replica.id).values(**values))
    if not cast(int, done.rowcount):  # nobody else writes this row
        session.add(ReplicaRecord(id=replica.id, **values))
    session.execute(delete(ReplicaRecord).where(ReplicaRecord.seen_at < replica.seen_at - KEPT))


def remove(session: Session, replica_id: str) -> None:
    """Remove the row of a replica that ends."""
    session.execute(delete(ReplicaRecord).where(ReplicaRecord.id == replica_id))


def listing(session: Session, now: datetime) -> tuple[Replica, ...]:
    """All replicas, by host and process."""
    rows = session.scalars(select(ReplicaRecord))
    return tuple(sorted((_replica(row, now) for row in rows), key=lambda one: (one.host, one.process, one.id)))


def _replica(row: ReplicaRecord, now: datetime) -> Replica:
    known = ReplicaFigures.model_fields  # a replica of another version may report more, or less
    return Replica(
        id=row.id,
        host=row.host,
        process=row.process,
        worker=row.worker,
        version=row.version,
        processor=row.processor,
        numerics=row.numerics,
        started_at=row.started_at,
        seen_at=row.seen_at,
        answers=now - row.seen_at < SILENT,
        figures=ReplicaFigures(**{name: value for name, value in row.figures.items() if name in known}),
    )


SECRET_PREFIX: Final = "regses_"  # noqa: S105 - prefix of all secrets, for secret scanners
LIFETIME: Final = timedelta(hours=12)
MOST: Final = 1000
"""Sessions of one token; the oldest one ends when another one is opened."""
_ID: Final = 16
"""Digits of the digest that name a session on its page; whoever knows them can't become it."""
_REMOVED: Final = 100  # at most, when one is opened

_HELD_QUERY: Final[Select[*tuple[Any, ...]]] = (
    select(*tokens.HELD, SessionRecord.expires_at.label("ends_at"))
    .join(TokenRecord, TokenRecord.id == SessionRecord.token_id)
    .where(SessionRecord.digest == bindparam("digest"))
)
_HELD: Final = Prepared(lambda _: _HELD_QUERY)  # run at every request


def open_session(session: Session, token_id: str, lifetime: timedelta = LIFETIME) -> tuple[str, datetime]:
    """Open a session of a token; returns its secret, which is shown once, and when it ends: never after the token.

    Raises:
        NotAllowedError: ``bad_token``, the token was revoked or expired meanwhile.
    """
    token = tokens.check(session.get(TokenRecord, token_id))
    now = datetime.now(UTC)
    _remove(session, select(SessionRecord.digest).where(SessionRecord.expires_at <= now))
    newest = select(SessionRecord.digest).where(SessionRecord.token_id == token_id)
    _remove(session, newest.order_by(SessionRecord.created_at.desc()).offset(MOST - 1))
    secret = SECRET_PREFIX + secrets.token_urlsafe(32)
    ends = now + lifetime if token.expires_at is None else min(now + lifetime, token.expires_at)
    session.add(SessionRecord(digest=tokens.digest_of(secret), token_id=token_id, created_at=now, expires_at=ends))
    session.flush()
    return secret, ends


def principal_of(database: Database, secret: str, source: str | None = None) -> Principal:
    """The principal of a session's secret; the last use of its token is recorded, at most once a minute.

    Raises:
        NotAllowedError: ``bad_token``, the session has ended, or its token was revoked or expired.
    """
    digest = tokens.digest_of(secret)
    row = next(iter(database.rows(_HELD, {"digest": digest})), None)
    tokens.check_session(None if row is None else row.ends_at)
    return tokens.admit(database, row, source, by_session=digest)


def close_session(session: Session, secret: str) -> None:
    """End a session; does nothing if it has ended."""
    session.execute(delete(SessionRecord).where(SessionRecord.digest == tokens.digest_of(secret)))


@dataclass(frozen=True)
class OpenSession:
    """A session that goes on. Nothing is recorded of the browser that has it."""

    id: str
    created_at: datetime
    expires_at: datetime
    is_mine: bool  # the one that asks


def of_token(session: Session, principal: Principal, limit: int = 50) -> tuple[tuple[OpenSession, ...], int]:
    """The sessions of a principal's token, the newest ones first, and their number."""
    query = select(SessionRecord).where(_is_open_of(principal))
    count = session.scalar(select(func.count()).select_from(query.subquery())) or 0
    rows = session.scalars(query.order_by(SessionRecord.created_at.desc(), SessionRecord.digest).limit(limit))
    found = (
        OpenSession(row.digest[:_ID], row.created_at, row.expires_at, row.digest == principal.session) for row in rows
    )
    return tuple(found), count


def end(session: Session, principal: Principal, id_: str | None) -> None:
    """End a session of a principal's token, or all but the one that asks. What has ended stays so."""
    which = SessionRecord.digest != (principal.session or "")
    if id_ is not None:
        which = func.substr(SessionRecord.digest, 1, _ID) == id_
    session.execute(delete(SessionRecord).where(SessionRecord.token_id == principal.token, which))


def _is_open_of(principal: Principal) -> ColumnElement[bool]:
    return (SessionRecord.token_id == principal.token) & (SessionRecord.expires_at > datetime.now(UTC))


def _remove(session: Session, digests: Select[str]) -> None:
    # A subquery and not a list: PostgreSQL and SQLite both stop after so many rows.
    session.execute(delete(SessionRecord).where(SessionRecord.digest.in_(digests.limit(_REMOVED))))
