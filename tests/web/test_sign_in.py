"""Who looks at the pages: sessions, forms that only our own pages send, and what is said to everybody else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from registry.app import service_app
from registry.schemas.protocol import API
from registry.services.local import LocalRegistry
from registry.web.frame.visit import POLICY
from tests.kit.library import Library, admin, library, running, service
from tests.kit.pages import PEOPLE, Visitor

__all__ = ["admin", "library", "service"]


@pytest.fixture
def browser(service: str) -> Iterator[Visitor]:
    with Visitor(service) as made:
        yield made


def test_who_is_not_signed_in_gets_the_form_and_then_the_page(browser: Visitor, library: Library) -> None:
    page = browser.get("/tree/tiny/a")
    assert page.status_code == 401
    assert 'name="token"' in page.text
    assert 'name="next" value="/tree/tiny/a"' in page.text
    answer = browser.sign_in(library.secrets["reader"], next="/tree/tiny/a")
    assert (answer.status_code, answer.headers["location"]) == (303, "/tree/tiny/a")
    assert "tiny/a" in browser.get("/tree/tiny/a").text


def test_a_session_is_a_cookie_that_scripts_do_not_read_and_holds_no_token(browser: Visitor, library: Library) -> None:
    secret = library.secrets["reader"]
    cookie = browser.sign_in(secret).headers["set-cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    assert re.search(r"Max-Age=(4319\d|43200)", cookie)  # 12 hours
    assert secret not in cookie
    page = browser.get("/")
    assert page.status_code == 200
    assert secret not in page.text
    assert "Secure" not in cookie  # http on this machine; behind TLS see below


def test_behind_tls_and_below_a_prefix(library: Library) -> None:
    app = service_app(library.registry, public_url="https://registry.example/team")
    with running(app) as address, Visitor(address) as browser:
        page = browser.get("/sign-in")
        assert 'action="/team/sign-in"' in page.text
        assert 'href="/team/static/' in page.text
        headers = {"Origin": "https://registry.example", "Cookie": page.headers["set-cookie"].partition(";")[0]}
        fields = {"form_token": browser.token(page), "token": library.secrets["reader"], "next": "/tree/tiny"}
        answer = httpx.post(f"{address}/sign-in", data=fields, headers={**PEOPLE, **headers})
        assert answer.headers["location"] == "/team/tree/tiny"
        assert {"Secure", "Path=/team"} <= set(answer.headers["set-cookie"].split("; "))
        headers["Cookie"] = answer.headers["set-cookie"].partition(";")[0]
        inside = httpx.get(f"{address}/tree/tiny", headers={**PEOPLE, **headers, "Host": "evil.example"}).text
        assert "https://registry.example/team/api/v1" in inside  # the address in commands
        assert "evil.example" not in inside
        addresses = re.findall(r'(?:href|src|action)="([^"#]*)"', inside)
        assert addresses
        assert all(one.startswith("/team/") for one in addresses)


@pytest.mark.parametrize(
    "target",
    ["//evil.example/", "https://evil.example", "/\\evil.example", "/\t/evil.example", "/\r\nSet-Cookie: a=b", "evil"],
)
def test_signing_in_leads_to_our_own_pages_only(browser: Visitor, library: Library, target: str) -> None:
    answer = browser.sign_in(library.secrets["reader"], next=target)
    if answer.status_code != 303:
        assert answer.status_code == 422
        return
    found = urlsplit(answer.headers["location"])
    assert (found.scheme, found.netloc) == ("", "")
    assert answer.headers["location"].startswith("/")
    assert not answer.headers["location"].startswith(("//", "/\\", "/\t"))


def test_what_is_no_token_says_so_on_the_form(browser: Visitor, library: Library) -> None:
    for secret in ("reg_unknown", "x" * 500, library.secrets["revoked"]):
        answer = browser.sign_in(secret)
        assert answer.status_code == 401
        assert "bad_token" in answer.text
        assert 'name="token"' in answer.text
        assert secret not in answer.text


def test_signing_out_ends_the_session_everywhere(browser: Visitor, library: Library) -> None:
    browser.sign_in(library.secrets["reader"])
    kept = dict(browser.client.cookies)
    page = browser.get("/")
    answer = browser.send("/sign-out", {}, token=browser.token(page))
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert browser.get("/").status_code == 401
    elsewhere = httpx.get(browser.address + "/", headers=PEOPLE, cookies=kept)
    assert elsewhere.status_code == 401
    assert "session has ended" in elsewhere.text


def test_a_session_ends_with_its_token(browser: Visitor, library: Library) -> None:
    made = library.registry.create_token("reader", name="short")
    browser.sign_in(made.secret)
    assert browser.get("/").status_code == 200
    library.registry.revoke_token(made.token.id)
    ended = browser.get("/")
    assert ended.status_code == 401
    assert "Max-Age=0" in ended.headers["set-cookie"]  # so that anonymous reading, where it is allowed, goes on


def test_the_form_after_a_session_ended_signs_in(browser: Visitor, library: Library) -> None:
    made = library.registry.create_token("reader", name="short")
    browser.sign_in(made.secret)
    library.registry.revoke_token(made.token.id)
    token = browser.token(browser.get("/tree/tiny/a"))  # of the form that is shown instead of the page
    answer = browser.send("/sign-in", {"token": library.secrets["reader"], "next": "/tree/tiny/a"}, token=token)
    assert (answer.status_code, answer.headers["location"]) == (303, "/tree/tiny/a")
    assert browser.get("/tree/tiny/a").status_code == 200


def test_the_api_takes_no_cookie(browser: Visitor, library: Library) -> None:
    browser.sign_in(library.secrets["admin"])
    assert browser.get("/").status_code == 200
    assert browser.get(API + "/whoami").status_code == 401
    assert browser.client.post(API + "/gc", json={}).status_code == 401


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1:1"])
def test_forms_of_other_sites_are_refused(browser: Visitor, library: Library, origin: str | None) -> None:
    browser.sign_in(library.secrets["reader"])
    answer = browser.send("/sign-out", {}, origin=origin, token=browser.token(browser.get("/")))
    assert answer.status_code == 403
    assert "sent from" in answer.text
    assert browser.get("/").status_code == 200


def test_forms_need_the_token_of_this_session(browser: Visitor, library: Library, service: str) -> None:
    with Visitor(service) as other:
        other.sign_in(library.secrets["reader"])
        foreign = other.token(other.get("/"))
    browser.sign_in(library.secrets["reader"])
    for token in (None, "", "0" * 64, foreign):
        answer = browser.send("/sign-out", {"any": "thing"}, token=token)
        assert answer.status_code == 403
        assert "earlier session" in answer.text
    assert browser.get("/").status_code == 200


def test_forms_are_read_strictly(browser: Visitor, library: Library) -> None:
    for fields in ({"token": library.secrets["reader"], "tokne": "x"}, {}, {"token": "a\0b"}):
        answer = browser.send("/sign-in", fields)
        assert answer.status_code == 422
        assert "malformed" in answer.text or "not as expected" in answer.text or "invalid" in answer.text
    asked = {"Origin": browser.address}
    assert browser.client.post("/sign-in", json={"token": "x"}, headers=asked).status_code == 422


def test_every_page_has_the_policy_and_nothing_inline(browser: Visitor, library: Library) -> None:
    browser.sign_in(library.secrets["admin"])
    for path in ("/", "/tree/tiny", "/tree/tiny/a", "/nothing", "/sign-in"):
        page = browser.get(path)
        assert page.headers["content-security-policy"] == POLICY
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert not re.search(r"<style|<script(?! type=\"module\" src=)|\son[a-z]+=|\sstyle=|javascript:", page.text)
    assert "'unsafe" not in POLICY


def test_an_error_is_a_page_for_people_and_a_problem_for_programs(browser: Visitor, library: Library) -> None:
    browser.sign_in(library.secrets["reader"])
    page = browser.get("/tree/tiny/none")
    assert page.status_code == 404
    assert "not_found" in page.text
    assert "tiny/none" in page.text
    told = browser.get("/tree/tiny/none", headers={"Accept": "*/*"})
    assert told.headers["content-type"] == "application/problem+json"
    assert told.json()["code"] == "not_found"
    api = browser.get(API + "/tree", headers=PEOPLE)
    assert api.headers["content-type"] == "application/problem+json"


def test_what_a_token_does_not_see_is_not_there(browser: Visitor, library: Library) -> None:
    browser.sign_in(library.secrets["reader of a"])
    home = browser.get("/")
    assert "tiny" in home.text
    assert "other" not in home.text
    hidden, absent = browser.get("/tree/tiny/b"), browser.get("/tree/tiny/z")
    assert (hidden.status_code, absent.status_code) == (404, 404)
    assert re.sub(r"<code>[0-9a-f]{32}</code>", "", hidden.text).replace("tiny/b", "tiny/z") == re.sub(
        r"<code>[0-9a-f]{32}</code>", "", absent.text
    )


def test_assets_are_kept_for_good_and_another_digest_is_another_file(browser: Visitor) -> None:
    page = browser.get("/sign-in")
    for address in re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text):
        found = browser.get(address)
        assert found.status_code == 200
        assert "immutable" in found.headers["cache-control"]
    wrong = browser.get("/static/0000000000000000/style.css")
    assert wrong.status_code == 404


def test_an_open_registry_needs_no_signing_in_but_a_form_of_its_own(tmp_path: Path) -> None:
    registry = LocalRegistry.open(tmp_path / "registry")
    with running(service_app(registry, "open")) as address, Visitor(address) as browser:
        page = browser.get("/")
        assert page.status_code == 200
        assert f"REGISTRY_URL={address}" in page.text  # what to do first, for this address
        assert browser.get("/", headers={"Host": "evil.example"}).status_code == 403
        headers = {"Origin": address, **PEOPLE}
        foreign = httpx.post(f"{address}/sign-out", data={"form_token": "0" * 64}, headers=headers)
        assert foreign.status_code == 403
    registry.close()


def test_refusals_are_noted(browser: Visitor, library: Library) -> None:
    browser.sign_in("reg_wrong_secret")
    found = [event for event in library.registry.events(limit=50) if event.action == "refused"]
    assert found[0].detail["code"] == "bad_token"
    assert "reg_wrong_secret" not in str(found[0])
