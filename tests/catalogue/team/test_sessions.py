"""Sessions: opened with a token, worth what the token is worth at the moment, and ended by its end or their own."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, func, select, text

from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.database.team_tables import SessionRecord, TokenRecord
from registry.catalogue.team import sessions, tokens
from registry.errors import NotAllowedError
from registry.reference import Path
from registry.rights import Principal, Rights
from registry.schemas import TokenCreated
from tests.catalogue.rows import BOB, TESTER
from tests.kit.statements import statements

SUPPORT = Path.parse("llama/support")
PAST = "2026-01-02 03:04:05.000000"


@pytest.fixture
def made(database: Database) -> TokenCreated:
    return database.change(lambda session: tokens.create(session, TESTER, "writer", name="ci", scopes=[SUPPORT]))


def opened(database: Database, token_id: str, lifetime: timedelta = sessions.LIFETIME) -> tuple[str, datetime]:
    return database.change(lambda session: sessions.open_session(session, token_id, lifetime))


def kept(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(SessionRecord)) or 0


def ended(database: Database, secret: str) -> str:
    with pytest.raises(NotAllowedError) as caught:
        sessions.principal_of(database, secret)
    assert caught.value.code == "bad_token"
    return str(caught.value)


def test_a_session_acts_for_its_token(database: Database, made: TokenCreated) -> None:
    before = datetime.now(UTC)
    secret, ends = opened(database, made.token.id)
    assert before + sessions.LIFETIME <= ends <= datetime.now(UTC) + sessions.LIFETIME
    rights = Rights("writer", (SUPPORT,))
    expected = Principal("ci", rights, made.token.id, "192.0.2.1", tokens.digest_of(secret))
    assert sessions.principal_of(database, secret, "192.0.2.1") == expected
    with database.read() as session:
        assert tokens.get(session, made.token.id).last_used_at is not None
    with statements() as sent:
        assert sessions.principal_of(database, secret, "192.0.2.1") == expected
    assert len(sent) == 1  # the use was noted before


def test_its_secret_is_in_the_answer_and_nowhere_else(
    database: Database, made: TokenCreated, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "registry"):
        secret, _ = opened(database, made.token.id)
        sessions.principal_of(database, secret)
        told = ended(database, secret + "x")
    with database.read() as session:
        rows = session.execute(text("SELECT * FROM sessions")).all()
        noted = events.recent(session, 9)
    assert len(secret) > 43
    assert secret not in str(rows) + str(noted) + told + caplog.text


def test_secrets_of_tokens_and_of_sessions_are_not_the_same(database: Database, made: TokenCreated) -> None:
    secret, _ = opened(database, made.token.id)
    assert ended(database, made.secret) == "The session has ended: sign in again."
    with pytest.raises(NotAllowedError):
        tokens.sign_in(database, secret)


def test_unknown_secrets(database: Database, made: TokenCreated) -> None:
    opened(database, made.token.id)
    for secret in ("", "regses_", "regses_" + "x" * 43, "\ud800", "ü" * 1000):
        assert ended(database, secret) == "The session has ended: sign in again."


def test_revoking_a_token_ends_its_sessions_at_once(database: Database, url: str, made: TokenCreated) -> None:
    secret, _ = opened(database, made.token.id)
    replica = Database(url)
    sessions.principal_of(replica, secret)
    database.change(lambda session: tokens.revoke(session, made.token.id, BOB))
    assert ended(replica, secret).startswith("The token is unknown or was revoked")
    replica.dispose()
    with pytest.raises(NotAllowedError, match="was revoked"):
        opened(database, made.token.id)
    with pytest.raises(NotAllowedError, match="is unknown"):
        opened(database, "tok_none")


def test_signing_out_ends_one_session(database: Database, made: TokenCreated) -> None:
    (secret, _), (other, _) = (opened(database, made.token.id) for _ in range(2))
    database.change(lambda session: sessions.close_session(session, secret))
    database.change(lambda session: sessions.close_session(session, secret))
    assert ended(database, secret) == "The session has ended: sign in again."
    sessions.principal_of(database, other)


def test_who_has_signed_out_changes_nothing_any_more(database: Database, made: TokenCreated) -> None:
    """Of a request that had begun before."""
    secret, _ = opened(database, made.token.id)
    principal = sessions.principal_of(database, secret)
    database.change(lambda session: tokens.hold(session, principal))
    database.change(lambda session: sessions.close_session(session, secret))
    with pytest.raises(NotAllowedError, match="The session has ended: sign in again") as caught:
        database.change(lambda session: tokens.hold(session, principal))
    assert caught.value.code == "bad_token"


def test_a_session_ends_by_itself_and_never_after_its_token(database: Database) -> None:
    made = database.change(lambda session: tokens.create(session, TESTER, "reader", expires_in=60))
    secret, ends = opened(database, made.token.id)
    assert ends == made.token.expires_at
    _, sooner = opened(database, made.token.id, timedelta(seconds=5))
    assert sooner < ends
    with database.write() as session:
        session.execute(text(f"UPDATE tokens SET expires_at = '{PAST}'"))
    assert "expired on 2026-01-02" in ended(database, secret)
    with database.write() as session:
        session.execute(text(f"UPDATE sessions SET expires_at = '{PAST}'"))
    assert ended(database, secret) == "The session has ended: sign in again."


def test_ended_sessions_are_removed_and_of_one_token_there_are_not_too_many(
    database: Database, made: TokenCreated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST", 3)
    monkeypatch.setattr(sessions, "_REMOVED", 2)
    other = database.change(lambda session: tokens.create(session, TESTER, "reader"))
    others, _ = opened(database, other.token.id)
    secrets = [opened(database, made.token.id)[0] for _ in range(4)]
    assert ended(database, secrets[0]) == "The session has ended: sign in again."
    for secret in (others, *secrets[1:]):
        sessions.principal_of(database, secret)
    with database.write() as session:
        session.execute(text(f"UPDATE sessions SET expires_at = '{PAST}'"))
    opened(database, other.token.id)
    assert kept(database) == 4 - 2 + 1
    opened(database, other.token.id)
    assert kept(database) == 2


def test_sessions_go_with_their_token(database: Database, made: TokenCreated) -> None:
    opened(database, made.token.id)
    with database.write() as session:
        session.execute(delete(TokenRecord))
    assert kept(database) == 0
