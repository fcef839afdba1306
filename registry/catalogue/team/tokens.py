"""API tokens: created, authenticated, listed, revoked. A secret is shown once; only its sha256 is stored."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import Select, bindparam, or_, select, update
from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.database.prepared import Prepared
from registry.catalogue.database.team_tables import SessionRecord, TokenRecord
from registry.errors import ConflictError, NotAllowedError, NotFoundError, UnavailableError, UsageError
from registry.reference import Path
from registry.rights import ROLES, Principal, Rights, Role
from registry.schemas import Token, TokenCreated
from registry.schemas.form import check_text
from registry.schemas.protocol import TOKEN_PREFIX, own_form

MAX_NAME: Final = 128  # characters
MAX_LIFETIME: Final = 100 * 365 * 86400  # seconds
_NOTED_EVERY: Final = timedelta(minutes=1)
HELD: Final = (
    TokenRecord.id,
    TokenRecord.name,
    TokenRecord.role,
    TokenRecord.scopes,
    TokenRecord.expires_at,
    TokenRecord.revoked_at,
    TokenRecord.last_used_at,
)
"""Columns of which `admit` makes a principal."""
_HELD_QUERY: Final[Select[*tuple[Any, ...]]] = select(*HELD).where(TokenRecord.digest == bindparam("digest"))
_HELD: Final = Prepared(lambda _: _HELD_QUERY)  # run at every request
_Token = Any


def create(
    session: Session,
    principal: Principal,
    role: Role,
    *,
    name: str = "",
    scopes: Iterable[Path] = (),
    expires_in: int | None = None,
    form: str | None = None,
) -> TokenCreated:
    """Create a token; ``expires_in`` in seconds. Its secret is in this answer only.

    ``form`` is a random text, from which one token is made: its secret was shown if it is sent again.

    Raises:
        UsageError: an unknown role, a name that can't be stored, or a lifetime that is not positive.
        ConflictError: the token made from ``form`` exists already.
    """
    if role not in ROLES:
        raise UsageError(f"The role {role!r} is unknown: expected {', '.join(ROLES)}.")
    if len(check_text("The token's name", name)) > MAX_NAME:
        raise UsageError(f"The token's name has {len(name)} characters: at most {MAX_NAME} are expected.")
    if expires_in is not None and not 0 < expires_in <= MAX_LIFETIME:
        raise UsageError(f"A token can't expire in {expires_in} seconds: 1 to {MAX_LIFETIME} are expected.")
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    seed = secrets.token_bytes(7) if form is None else hashlib.sha256(form.encode()).digest()[:7]
    token_id = "tok_" + base64.b32encode(seed).decode().lower()[:10]
    if form is not None and session.get(TokenRecord, token_id) is not None:
        raise ConflictError(
            f"This form was sent before, and made the token {token_id}, whose secret was shown then: use that, or "
            "revoke it and make another one."
        )
    row = TokenRecord(
        id=token_id,
        digest=digest_of(secret),
        name=name,
        role=role,
        scopes=sorted({str(scope) for scope in scopes}),
        created_at=now,
        created_by=principal.name,
        expires_at=None if expires_in is None else now + timedelta(seconds=expires_in),
    )
    session.add(row)
    session.flush()
    detail = {"name": name, "role": role, "scopes": row.scopes, "expires_in": expires_in}
    events.record(session, "token create", row.id, principal, detail)
    return TokenCreated(token=_shown(row), secret=secret)


def sign_in(database: Database, secret: str, source: str | None = None) -> Principal:
    """The principal of a secret; the last use is recorded, at most once a minute.

    Raises:
        NotAllowedError: ``bad_token``.
    """
    return admit(database, next(iter(database.rows(_HELD, {"digest": digest_of(secret)})), None), source)


def admit(database: Database, row: _Token | None, source: str | None, *, by_session: str | None = None) -> Principal:
    """The principal of a row with the columns `HELD`, of a token that is used now; None: no such token exists.

    ``by_session`` is the digest of the session's secret, if it is used through one.

    Raises:
        NotAllowedError: ``bad_token``, it is unknown, revoked or expired.
    """
    row = check(row)
    last = row.last_used_at
    now = datetime.now(UTC)
    if last is None or last < now - _NOTED_EVERY:
        try:
            database.change(lambda session: touch(session, row.id, now))
        except (UnavailableError, NotAllowedError) as error:
            # Best effort: a long write of someone else, or a read-only disk, must not block readers.
            if error.code not in {"busy", "read_only", "disk_full"}:
                raise
    return _principal(row, source, by_session)


def authenticate(session: Session, secret: str) -> Principal:
    """The principal of a secret.

    Raises:
        NotAllowedError: ``bad_token``, it is unknown, revoked or expired.
    """
    return _principal(check(session.execute(_HELD_QUERY, {"digest": digest_of(secret)}).first()))


def hold(session: Session, principal: Principal) -> None:
    """Check again, in a transaction that changes something, that a principal may still act; it stays so till its end.

    On PostgreSQL the rows are locked for sharing: who revokes the token, or ends the session, waits for what has begun,
    and nothing is committed after that was answered. On SQLite one transaction writes at a time.

    Raises:
        NotAllowedError: ``bad_token``, the token was revoked or has expired, or the session has ended.
    """
    if principal.token is None:
        return
    held = select(TokenRecord.revoked_at, TokenRecord.expires_at, TokenRecord.id).where(
        TokenRecord.id == principal.token
    )
    check(session.execute(held.with_for_update(read=True)).first())
    if principal.session is not None:
        mine = select(SessionRecord.expires_at).where(SessionRecord.digest == principal.session)
        check_session(session.scalar(mine.with_for_update(read=True)))


def check_session(ends_at: datetime | None) -> None:
    """Check that a session goes on; None: it was ended.

    Raises:
        NotAllowedError: ``bad_token``.
    """
    if ends_at is None or ends_at <= datetime.now(UTC):
        raise NotAllowedError("The session has ended: sign in again.", code="bad_token")


def touch(session: Session, token_id: str, now: datetime) -> None:
    """Record the use of a token, unless one was recorded within the last minute."""
    stale = or_(TokenRecord.last_used_at.is_(None), TokenRecord.last_used_at < now - _NOTED_EVERY)
    session.execute(update(TokenRecord).where(TokenRecord.id == token_id, stale).values(last_used_at=now))


def get(session: Session, token_id: str) -> Token:
    """A token by its id.

    Raises:
        NotFoundError: it does not exist.
    """
    return _shown(_row(session, token_id))


def listing(session: Session, *, limit: int | None = None, after: str | None = None) -> tuple[Token, ...]:
    """All tokens, newest first; ``after`` is the id of the last one of the page before.

    Raises:
        NotFoundError: the token ``after`` does not exist.
    """
    query = select(TokenRecord).order_by(TokenRecord.created_at.desc(), TokenRecord.id.desc()).limit(limit)
    if after is not None:
        last = _row(session, after)
        query = query.where(
            or_(
                TokenRecord.created_at < last.created_at,
                (TokenRecord.created_at == last.created_at) & (TokenRecord.id < last.id),
            )
        )
    return tuple(_shown(row) for row in session.scalars(query))


def revoke(session: Session, token_id: str, principal: Principal) -> Token:
    """Revoke a token; idempotent.

    Raises:
        NotFoundError: the token does not exist.
    """
    row = _row(session, token_id)
    if row.revoked_at is None:
        row.revoked_at = datetime.now(UTC)
        session.flush()
        events.record(session, "token revoke", row.id, principal, {"name": row.name, "role": row.role})
    return _shown(row)


def any_exist(session: Session) -> bool:
    """Whether any token was ever created: then anonymous access is closed."""
    return session.scalar(select(TokenRecord.id).limit(1)) is not None


def digest_of(secret: str) -> str:
    """What is stored of a secret, in either of its forms. Secrets are random: a slow hash would protect nothing."""
    return hashlib.sha256(own_form(secret).encode("utf-8", "surrogatepass")).hexdigest()


def check(row: _Token | None) -> _Token:
    """A token that may be used; None: no such token exists.

    Raises:
        NotAllowedError: ``bad_token``, it is unknown, revoked or expired.
    """
    if row is None or row.revoked_at is not None:
        raise NotAllowedError(
            "The token is unknown or was revoked: ask an admin of the registry for a new one.", code="bad_token"
        )
    if row.expires_at is not None and row.expires_at <= datetime.now(UTC):
        raise NotAllowedError(
            f"The token {row.id} expired on {row.expires_at:%Y-%m-%d}: ask an admin of the registry for a new one.",
            code="bad_token",
        )
    return row


def _row(session: Session, token_id: str) -> TokenRecord:
    row = session.get(TokenRecord, token_id)
    if row is None:
        raise NotFoundError(f"There is no token {token_id}: `registry token list` shows all.")
    return row


def _principal(row: _Token, source: str | None = None, by_session: str | None = None) -> Principal:
    rights = Rights(row.role, tuple(Path.parse(scope) for scope in row.scopes))
    return Principal(row.name or row.id, rights, token=row.id, source=source, session=by_session)


def _shown(row: TokenRecord) -> Token:
    return Token(
        id=row.id,
        name=row.name,
        role=cast(Role, row.role),
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
