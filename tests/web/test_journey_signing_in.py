"""Journeys of people who sign in and out, with scripts and without."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from registry.catalogue.database.team_tables import SessionRecord
from tests.kit.gallery_story import LLAMA
from tests.web.conftest import OpenReader
from tests.web.kit import Site

SCRIPTS = pytest.mark.parametrize("javascript", [True, pytest.param(False, marks=pytest.mark.long)], ids=["js", "none"])
SLOW = pytest.mark.parametrize("javascript", [pytest.param(one, marks=pytest.mark.slow) for one in (True, False)])
PAGE = f"/tree/{LLAMA}/support/french"


@SCRIPTS
def test_a_stranger_signs_in_where_they_wanted_to_go_and_out_again(
    reader: OpenReader, site: Site, javascript: bool
) -> None:
    stranger = reader(javascript=javascript)
    stranger.open(PAGE, status=401)
    assert "support/french" not in stranger.page.inner_text("h1")
    stranger.fill("Token", "reg_nobody_has_this_one")
    stranger.press("Sign in", within="main", status=401)
    assert "bad_token" in stranger.text
    stranger.open(PAGE, status=401)
    stranger.fill("Token", site.secrets["reader"])
    stranger.press("Sign in", within="main")
    assert stranger.path == PAGE
    assert f"{LLAMA}/support/french" in stranger.page.inner_text("h1")
    stranger.press("Sign out")
    assert stranger.path == "/sign-in"
    stranger.page.go_back()
    stranger.open(PAGE, status=401)


@SLOW
def test_a_session_that_ended_leads_to_the_form_and_back(reader: OpenReader, site: Site, javascript: bool) -> None:
    somebody = reader("writer", javascript=javascript)
    past = datetime.now(UTC) - timedelta(minutes=1)
    site.registry.deployment.change(lambda session: session.execute(update(SessionRecord).values(expires_at=past)))
    somebody.open(PAGE, status=401)
    assert "session has ended" in somebody.text
    somebody.fill("Token", site.secrets["writer"])
    somebody.press("Sign in", within="main")
    assert somebody.path == PAGE


@SLOW
def test_revoking_a_token_ends_what_is_open_with_it(reader: OpenReader, site: Site, javascript: bool) -> None:
    made = site.registry.create_token("reader", name="for an hour")
    somebody = reader(javascript=javascript)
    somebody.sign_in_with(made.secret)
    somebody.open(PAGE)
    site.registry.revoke_token(made.token.id)
    somebody.open("/", status=401)
    somebody.sign_in_with(made.secret, status=401)
    assert "bad_token" in somebody.text


@pytest.mark.slow
def test_a_scoped_reader_sees_what_is_theirs(reader: OpenReader) -> None:
    somebody = reader("scoped reader")
    assert somebody.page.get_by_role("link", name=LLAMA, exact=True).count() == 1
    assert "mixtral" not in somebody.text
    somebody.click(LLAMA, within="main")
    assert "legal" not in somebody.text
    somebody.open(f"/tree/{LLAMA}/legal", status=404)
    somebody.open(PAGE)
