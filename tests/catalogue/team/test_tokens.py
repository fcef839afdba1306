"""Tokens: shown once, recognised by their sha256, worthless when revoked or expired."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.team import sessions, tokens
from registry.errors import ConflictError, NotAllowedError, NotFoundError, UsageError
from registry.reference import Path
from registry.rights import Principal, Rights
from registry.schemas import Token, TokenCreated
from registry.schemas.protocol import hub_form
from tests.catalogue.rows import BOB, ON_SQLITE, TESTER

SUPPORT = Path.parse("llama/support")


@pytest.fixture
def made(database: Database) -> TokenCreated:
    return database.change(lambda session: tokens.create(session, TESTER, "writer", name="ci", scopes=[SUPPORT]))


def row(database: Database, token_id: str) -> Token:
    with database.read() as session:
        return tokens.get(session, token_id)


def test_a_secret_is_in_the_answer_and_nowhere_else(database: Database, made: TokenCreated) -> None:
    assert re.fullmatch(r"reg_[A-Za-z0-9_-]{43}", made.secret)
    assert re.fullmatch(r"tok_[a-z2-7]{10}", made.token.id)
    with database.read() as session:
        kept = session.execute(text("SELECT * FROM tokens")).all()
        noted = events.recent(session, 9)
    assert made.secret not in str(kept) + str(noted) + str(made.token)
    assert (noted[0].action, noted[0].subject, noted[0].actor) == ("token create", made.token.id, "tester")


def test_a_token_says_who_it_is(database: Database, made: TokenCreated) -> None:
    rights = Rights("writer", (SUPPORT,))
    assert tokens.sign_in(database, made.secret, "192.0.2.1") == Principal("ci", rights, made.token.id, "192.0.2.1")
    with database.read() as session:
        assert tokens.authenticate(session, made.secret) == Principal("ci", rights, made.token.id)
    nameless = database.change(lambda session: tokens.create(session, TESTER, "reader"))
    assert tokens.sign_in(database, nameless.secret).name == nameless.token.id


def test_the_form_for_hub_clients_is_the_same_token(database: Database, made: TokenCreated) -> None:
    form = hub_form(made.secret)
    assert form == f"hf_{made.secret}"
    assert tokens.sign_in(database, form) == tokens.sign_in(database, made.secret)
    # After hf_ a secret of the Hub has letters and digits only, by which scanners know it and send it there.
    assert re.search(r"hf_[A-Za-z0-9]{34}", form) is None
    assert hub_form(form) == form
    session, _ = database.change(lambda session: sessions.open_session(session, made.token.id))
    assert sessions.principal_of(database, session).token == made.token.id
    for wrong in (f"hf_{form}", f"hf_{made.secret[4:]}", "hf_", "hf_reg_", f"hf_{made.token.id}", f"hf_{session}"):
        with pytest.raises(NotAllowedError, match="The token is unknown or was revoked"):
            tokens.sign_in(database, wrong)
    with pytest.raises(NotAllowedError):
        sessions.principal_of(database, f"hf_{session}")
    database.change(lambda session: tokens.revoke(session, made.token.id, BOB))
    with pytest.raises(NotAllowedError, match="is unknown or was revoked"):
        tokens.sign_in(database, form)


@pytest.mark.long_on("postgresql")
@pytest.mark.parametrize("secret", ["", "reg_", "reg_" + "x" * 43, "\ud800", "ü" * 1000])
def test_unknown_secrets(database: Database, made: TokenCreated, secret: str) -> None:
    for wrong in (secret, made.secret + secret if secret else made.secret[:-1], made.token.id):
        with pytest.raises(NotAllowedError, match="The token is unknown or was revoked") as caught:
            tokens.sign_in(database, wrong)
        assert caught.value.code == "bad_token"


def test_a_revoked_token_is_worthless_at_once(database: Database, made: TokenCreated) -> None:
    tokens.sign_in(database, made.secret)
    revoked = database.change(lambda session: tokens.revoke(session, made.token.id, BOB))
    assert revoked.revoked_at is not None
    with pytest.raises(NotAllowedError, match="is unknown or was revoked"):
        tokens.sign_in(database, made.secret)
    assert database.change(lambda session: tokens.revoke(session, made.token.id, TESTER)) == revoked
    with database.read() as session:
        assert [(one.action, one.actor) for one in events.recent(session, 9)] == [
            ("token revoke", "bob"),
            ("token create", "tester"),
        ]
    with pytest.raises(NotFoundError, match="no token tok_none"):
        database.change(lambda session: tokens.revoke(session, "tok_none", BOB))


def test_an_expired_token_says_so(database: Database) -> None:
    made = database.change(lambda session: tokens.create(session, TESTER, "reader", expires_in=60))
    assert made.token.expires_at is not None
    assert timedelta(0) < made.token.expires_at - datetime.now(UTC) <= timedelta(seconds=60)
    tokens.sign_in(database, made.secret)
    with database.write() as session:
        session.execute(text("UPDATE tokens SET expires_at = '2026-01-02 03:04:05.000000'"))
    with pytest.raises(NotAllowedError, match=rf"The token {made.token.id} expired on 2026-01-02") as caught:
        tokens.sign_in(database, made.secret)
    assert caught.value.code == "bad_token"


def test_the_last_use_is_noted_once_a_minute(database: Database, made: TokenCreated) -> None:
    assert row(database, made.token.id).last_used_at is None
    tokens.sign_in(database, made.secret)
    first = row(database, made.token.id).last_used_at
    tokens.sign_in(database, made.secret)
    assert row(database, made.token.id).last_used_at == first is not None
    with database.write() as session:
        tokens.touch(session, made.token.id, first + timedelta(seconds=61))
    assert row(database, made.token.id).last_used_at == first + timedelta(seconds=61)


def test_a_principal_is_asked_again_in_the_transaction(database: Database, made: TokenCreated) -> None:
    principal = tokens.sign_in(database, made.secret)
    database.change(lambda session: tokens.hold(session, principal))
    database.change(lambda session: tokens.hold(session, TESTER))  # of a folder, without a token
    database.change(lambda session: tokens.revoke(session, made.token.id, BOB))
    with pytest.raises(NotAllowedError, match="is unknown or was revoked") as caught:
        database.change(lambda session: tokens.hold(session, principal))
    assert caught.value.code == "bad_token"
    other = database.change(lambda session: tokens.create(session, TESTER, "writer", expires_in=60))
    late = tokens.sign_in(database, other.secret)
    with database.write() as session:
        session.execute(text("UPDATE tokens SET expires_at = '2026-01-02 03:04:05.000000'"))
    with pytest.raises(NotAllowedError, match="expired on 2026-01-02"):
        database.change(lambda session: tokens.hold(session, late))


def test_who_revokes_a_token_waits_for_what_it_has_begun_to_commit(database: Database, made: TokenCreated) -> None:
    """So nothing is committed after the revocation was answered."""
    principal = tokens.sign_in(database, made.secret)
    order: list[str] = []
    begun, going = threading.Event(), threading.Event()

    def change(session: Session) -> None:
        tokens.hold(session, principal)
        begun.set()
        going.wait(60)
        order.append("changed")

    def revoke() -> None:
        database.change(lambda session: tokens.revoke(session, made.token.id, BOB))
        order.append("revoked")

    with ThreadPoolExecutor(2) as pool:
        changing = pool.submit(database.change, change)
        assert begun.wait(60)
        revoking = pool.submit(revoke)
        with pytest.raises(TimeoutError):
            revoking.result(timeout=0.3)
        going.set()
        changing.result(60)
        revoking.result(60)
    assert order == ["changed", "revoked"]
    with pytest.raises(NotAllowedError):
        database.change(lambda session: tokens.hold(session, principal))


@ON_SQLITE
def test_a_use_that_can_not_be_noted_keeps_nobody_out(database: Database, url: str, made: TokenCreated) -> None:
    """Another process holds the lock for writing for longer than a reader should wait."""
    impatient = Database(url, busy_timeout=0.05)
    with database.write():
        assert tokens.sign_in(impatient, made.secret).token == made.token.id
    impatient.dispose()


def test_tokens_are_listed_newest_first_in_pages(database: Database) -> None:
    with database.read() as session:
        assert not tokens.any_exist(session)
    made = [database.change(lambda session: tokens.create(session, TESTER, "admin")).token.id for _ in range(5)]
    with database.write() as session:  # two of the same moment
        session.execute(
            text("UPDATE tokens SET created_at = '2026-01-02 03:04:05.000000' WHERE id IN (:a, :b)"),
            {"a": made[1], "b": made[3]},
        )
    expected = [made[4], made[2], made[0], *sorted([made[1], made[3]], reverse=True)]
    with database.read() as session:
        assert tokens.any_exist(session)
        assert [one.id for one in tokens.listing(session)] == expected
        found: list[str] = []
        while page := tokens.listing(session, limit=2, after=found[-1] if found else None):
            found += [one.id for one in page]
        assert found == expected
        with pytest.raises(NotFoundError, match="no token tok_x"):
            tokens.listing(session, after="tok_x")


@pytest.mark.long_on("postgresql")
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"role": "owner"}, "The role 'owner' is unknown: expected reader, writer, admin."),
        ({"role": "reader", "name": "x" * 129}, "at most 128"),
        ({"role": "reader", "name": "\x00"}, "NUL"),
        ({"role": "reader", "expires_in": 0}, "can't expire in 0 seconds"),
        ({"role": "reader", "expires_in": 10**12}, "can't expire"),
    ],
)
def test_tokens_that_can_not_be(database: Database, given: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        database.change(lambda session: tokens.create(session, TESTER, **given))  # type: ignore[arg-type]
    with database.read() as session:
        assert not tokens.any_exist(session)


def test_a_form_makes_one_token(database: Database) -> None:
    def make(form: str) -> TokenCreated:
        return database.change(lambda session: tokens.create(session, TESTER, "reader", name="ci", form=form))

    made = make("a random text")
    assert re.fullmatch(r"tok_[a-z2-7]{10}", made.token.id)
    assert tokens.sign_in(database, made.secret).token == made.token.id
    with pytest.raises(ConflictError, match=f"made the token {made.token.id}, whose secret was shown then"):
        make("a random text")
    assert make("another one").token.id != made.token.id
    with database.read() as session:
        assert len(tokens.listing(session)) == 2
