"""Sessions: what they leave in a browser, who sees and ends them, and what was written when one ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html import unescape

import httpx
import pytest
from sqlalchemy import delete, select

from registry.catalogue.database.team_tables import SessionRecord
from registry.schemas.protocol import API
from tests.kit.gallery_story import LLAMA
from tests.kit.pages import Visitor
from tests.web.conftest import OpenReader, Visitors
from tests.web.kit import Site
from tests.web.parsed import Form, forms_of
from tests.web.pressing import form_with, press, said

PAGE = f"/tree/{LLAMA}/support/french"
CARD = f"{LLAMA}/support/french"
TEXT = '# Mine\n\nAll that I "wrote" <b>today</b> & more\n'
Open = Callable[[str], Visitor]


@pytest.fixture
def opened(site: Site) -> Iterator[Open]:
    """Opens browsers without windows, in which somebody is signed in, by who it is or by a token."""
    made: list[Visitor] = []

    def open_one(who: str) -> Visitor:
        made.append(Visitor(site.address))
        assert made[-1].sign_in(site.secrets.get(who, who)).status_code == 303
        return made[-1]

    yield open_one
    for one in made:
        one.client.close()


def sessions(site: Site) -> set[str]:
    with site.registry.deployment.read() as session:
        return set(session.scalars(select(SessionRecord.digest)))


def end(site: Site, others: set[str]) -> None:
    """End all sessions but others."""
    mine = SessionRecord.digest.not_in(others)
    site.registry.deployment.change(lambda session: session.execute(delete(SessionRecord).where(mine)))


@pytest.mark.parametrize("javascript", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["js", "none"])
def test_back_after_signing_out_shows_nothing(reader: OpenReader, javascript: bool) -> None:
    somebody = reader("reader", javascript=javascript)
    somebody.open("/activity")
    somebody.open(PAGE)
    assert CARD in somebody.text
    somebody.press("Sign out")
    somebody.expected |= {401}
    for _ in range(2):
        somebody.page.go_back()
        somebody.page.wait_for_load_state()
        assert "Sign in" in somebody.page.inner_text("h1")
        assert CARD not in somebody.text
        assert "Activity" not in somebody.page.inner_text("h1")


def test_what_a_session_saw_is_not_kept_and_what_a_token_saw_is(site: Site, visitors: Visitors, opened: Open) -> None:
    admin = visitors["admin"]
    figure = next(one for one in re.findall(r'href="(/figures/[^"]+)"', admin.get(PAGE).text))
    file = f"/download/published/{CARD}@3/-/adapter_config.json"
    for path in ("/", PAGE, unescape(figure), file, "/tree/nothing", "/sessions"):
        assert admin.get(path).headers["cache-control"] == "no-store", path
    bearer = {"Authorization": f"Bearer {site.secrets['admin']}"}
    with httpx.Client(base_url=site.address, headers=bearer, timeout=120) as program:
        for path in (file, f"{API}/artifacts?ref={CARD}@3&kind=published"):
            first = program.get(path)
            assert first.headers["cache-control"] == "private, no-cache"
            again = program.get(path, headers={"If-None-Match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
    leaving = opened("reader")
    answer = leaving.send("/sign-out", {}, token=leaving.token(leaving.get("/")))
    assert answer.headers["clear-site-data"] == '"cache"'  # never cookies: those of other ports and pages go too


def test_signing_in_again_ends_the_older_session_of_that_browser(site: Site, opened: Open) -> None:
    somebody, other = opened("reader"), opened("reader")
    before = dict(somebody.client.cookies)
    count = len(sessions(site))
    assert somebody.sign_in(site.secrets["writer"]).status_code == 303
    assert len(sessions(site)) == count
    assert httpx.get(site.address + "/", cookies=before, timeout=120).status_code == 401
    assert other.get("/").status_code == somebody.get("/").status_code == 200
    assert somebody.sign_in("reg_wrong").status_code == 401  # and the session that there is goes on
    assert len(sessions(site)) == count


def test_somebody_sees_and_ends_their_sessions(site: Site, opened: Open) -> None:
    secret = site.registry.create_token("writer", name="of several browsers").secret
    here, there, elsewhere = (opened(secret) for _ in range(3))
    others = sessions(site)
    stranger = opened("reader")
    page = here.get("/sessions")
    assert said(page).count("Another browser") == 2
    assert said(page).count("This browser") == 1
    ends = [form for form in forms_of(page.text) if form.action == "/sessions/end" and "id" in form.fields]
    assert len(ends) == 2
    for _ in range(2):
        assert press(here, ends[0], "End").headers["location"] == "/sessions"
    assert sorted(one.get("/").status_code for one in (there, elsewhere)) == [200, 401]
    (foreign,) = (digest[:16] for digest in sessions(site) - others)
    assert foreign not in page.text
    assert press(here, form_with(page, "End all others"), "End all others").status_code == 303
    assert [one.get("/").status_code for one in (here, there, elsewhere)] == [200, 401, 401]
    assert here.send("/sessions/end", {"id": foreign}).status_code == 303
    assert stranger.get("/").status_code == 200


def test_who_is_not_signed_in_has_no_sessions_to_end(site: Site, visitors: Visitors) -> None:
    before = sessions(site)
    bearer = {"Authorization": f"Bearer {site.secrets['admin']}"}
    assert said(visitors["admin"].client.get("/sessions", headers=bearer)).count("Another browser") == 1
    assert visitors[None].get("/sessions").status_code == 401
    assert visitors[None].send("/sessions/end", {}).status_code == 401
    assert sessions(site) == before


def sign_in_form(page: httpx.Response) -> Form:
    found = [form for form in forms_of(page.text) if form.action == "/sign-in"]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("cookie", [True, False], ids=["kept", "dropped"])
def test_what_was_written_when_the_session_ended_is_sent_after_signing_in(
    site: Site, opened: Open, cookie: bool
) -> None:
    """Browsers drop the cookie at the end of the session, or keep it where somebody ended it elsewhere."""
    others, before = sessions(site), site.registry.card(CARD)
    writer = opened("writer")
    form = form_with(writer.get(f"/card/{CARD}"), "Save")
    end(site, others)
    if not cookie:
        writer.client.cookies.clear()
    ended = press(writer, form, "Save", text=TEXT)
    assert ended.status_code == 401
    assert "What you wrote is kept" in said(ended)
    wrong = press(writer, sign_in_form(ended), "Sign in", token="reg_wrong")
    assert (wrong.status_code, "reg_wrong" in wrong.text) == (401, False)
    again = press(writer, sign_in_form(wrong), "Sign in", token=site.secrets["writer"])
    assert again.status_code == 200
    assert again.headers["cache-control"] == "no-store"
    assert "You are signed in again" in said(again)
    assert site.secrets["writer"] not in again.text
    assert site.registry.card(CARD) == before  # nothing was done yet
    kept = form_with(again, "Send it")
    assert kept.fields["text"] == TEXT
    assert press(writer, kept, "Send it").status_code == 303
    assert site.registry.card(CARD).text == TEXT
    site.registry.set_card(CARD, None)


def test_what_was_written_before_signing_in_elsewhere_is_sent_again(site: Site, opened: Open) -> None:
    """Another window of the same browser signed in: the page is of an older session, and its text is not lost."""
    writer = opened("writer")
    form = form_with(writer.get(f"/card/{CARD}"), "Save")
    writer.sign_in(site.secrets["writer"])
    refused = press(writer, form, "Save", text=TEXT)
    assert (refused.status_code, "earlier session" in said(refused)) == (403, True)
    kept = form_with(refused, "Send it")
    assert kept.fields["text"] == TEXT
    assert press(writer, kept, "Send it").status_code == 303
    assert site.registry.card(CARD).text == TEXT
    site.registry.set_card(CARD, None)


def test_a_wrong_value_is_corrected_where_the_page_says_so(visitors: Visitors) -> None:
    admin = visitors["admin"]
    label = "Make it"
    form = form_with(admin.get("/admin"), label)
    for name, days, word in (
        ("n" * 129, "30", "name"),
        ("ok", "-3", "days"),
        ("ok", "1.5", "days"),
        ("ok", "0", "days"),
    ):
        refused = press(admin, form, label, name=name, days=days)
        assert (refused.status_code, f"The field {word}" in said(refused)) == (422, True)
        form = form_with(refused, label)  # the page itself, with what was written
        assert form.fields["name"] == name
    made = press(admin, form, label, days="2")
    assert (made.status_code, "Token for ok" in said(made)) == (200, True)


def test_a_page_of_another_site_is_given_nothing_back(site: Site, visitors: Visitors) -> None:
    for who in (None, "writer"):
        answer = visitors[who].send(f"/card/{CARD}", {"text": "forged", "expected": ""}, origin="https://evil.example")
        assert (answer.status_code, "forged" in answer.text) == (403, False)


def test_a_kept_form_is_sent_to_our_own_pages_only(site: Site, visitors: Visitors) -> None:
    with Visitor(site.address) as somebody:
        for to in ("//evil.example/", "https://evil.example/", "evil"):
            answer = somebody.sign_in(site.secrets["reader"], **{"kept to": to, "kept.text": "x"})
            assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_card_is_saved_after_signing_in_in_place(reader: OpenReader, site: Site) -> None:
    """In a browser: the text is there all the way, and nobody copies it anywhere."""
    others = sessions(site)
    writer = reader("writer")
    writer.open(f"/card/{CARD}")
    writer.page.locator("textarea[name=text]").fill(TEXT)
    end(site, others)
    writer.press("Save", status=401)
    assert "What you wrote is kept" in writer.text
    writer.fill("Token", site.secrets["writer"])
    writer.press("Sign in", within="main")
    assert writer.page.locator("textarea[name=text]").input_value() == TEXT
    assert writer.axe() == []
    writer.press("Send it")
    assert writer.path == PAGE
    assert site.registry.card(CARD).text == TEXT
    site.registry.set_card(CARD, None)
