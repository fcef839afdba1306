"""Whatever is written into a field of a page, or asked for in an address, is shown as text and runs nowhere.

What was written through other interfaces is the adapter of `tests.kit.gallery_hostile`, whose pages are in the table.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit

import pytest
from fastapi.routing import APIRoute

from registry.schemas.protocol import API
from registry.web.routes import PAGES as FACE
from tests.kit.gallery_hostile import ADAPTER
from tests.kit.gallery_story import HOSTILE as HOSTILE_BASE
from tests.kit.gallery_story import LLAMA
from tests.kit.gallery_texts import ATTACKS, LINKS
from tests.kit.pages import Visitor
from tests.web.conftest import OpenReader, Visitors
from tests.web.kit import Site
from tests.web.page_table import PAGES, PageRow, page_path
from tests.web.parsed import Form, Parsed, forms_of
from tests.web.pressing import said
from tests.web.rules import assert_harmless

TEXTS = (*ATTACKS, *LINKS)
EACH = pytest.mark.parametrize(
    "texts", [(ATTACKS[1], LINKS[0]), pytest.param(TEXTS, marks=pytest.mark.long)], ids=["two", "all"]
)
HOSTILE = [row for row in PAGES if "hostile" in row.name]


def shape(form: Form) -> tuple[object, ...]:
    """What forms of one kind have in common, whatever they are about."""
    whole = form.action.startswith(("/admin", "/sessions"))
    return form.method, form.action if whole else form.action.split("/")[1], tuple(form.fields)


def kinds(site: Site, admin: Visitor, *, posts: bool) -> list[Form]:
    """One form of each kind that an admin finds in the pages."""
    found: dict[tuple[object, ...], Form] = {}
    for row in PAGES:
        if row.who in ("admin", None):
            for form in forms_of(admin.get(page_path(site, row)).text):
                if form.posts == posts:
                    found.setdefault(shape(form), form)
    return list(found.values())


@pytest.mark.slow_on("two")
@EACH
def test_what_is_written_into_forms_is_text(site: Site, visitors: Visitors, texts: tuple[str, ...]) -> None:
    admin, tried = visitors["admin"], 0
    for form in kinds(site, admin, posts=True):
        if form.action.endswith(("/sign-in", "/sign-out")):
            continue
        for name in form.written:
            for text in texts:
                for fields in form.sent(**{name: text}):
                    answer = admin.send(form.action, fields)
                    assert answer.status_code < 500, (form.action, fields)
                    shown = admin.get(answer.headers["location"]) if answer.status_code == 303 else answer
                    assert_harmless(shown.text)
                    tried += 1
    assert tried >= 10 * len(texts)
    for row in PAGES:
        if row.who == "admin":
            assert_harmless(admin.get(page_path(site, row)).text)


ODD = {
    "empty": b"",
    "blank": b" ",
    "zero": b"0",
    "negative": b"-1",
    "huge": b"9" * 40,
    "infinite": b"1e999",
    "no number": b"nan",
    "129": b"n" * 129,
    "long": b"n" * 20_001,
    "NUL": b"a\0b",
    "no UTF-8": b"\xff\xfe",
    "half a pair": b"\xed\xa0\x80",
    "lines": b"a\r\nb",
    "reference": b"llama-3.2-1b/support@99999999999999999999",
    "path": b"/../../etc",
}
POSTS = [
    route
    for router in FACE.routers
    for route in router.routes
    if isinstance(route, APIRoute) and "POST" in (route.methods or ())
]


@pytest.fixture(scope="module")
def posted(site: Site, visitors: Visitors) -> list[Form]:
    """The forms of the pages, before any of them was sent."""
    with Visitor(site.address) as other:
        other.sign_in(site.secrets["admin"])  # a session that can be ended
    site.registry.delete(f"{LLAMA}/support@1", with_tags=True)  # a revision that can be restored
    return kinds(site, visitors["admin"], posts=True)


@pytest.mark.parametrize("route", POSTS, ids=lambda route: route.path)
def test_no_value_of_a_form_is_a_fault_of_the_service(site: Site, posted: list[Form], route: APIRoute) -> None:
    """Every field of every form, whatever is in it; given twice; and one that no form has."""
    forms = [form for form in posted if route.path_regex.match(form.action)]
    assert forms, f"no page has a form that is sent to {route.path}"
    action, fields = forms[0].action, {key: one for form in forms for sent in form.sent() for key, one in sent.items()}
    with Visitor(site.address) as somebody:  # with a token of their own, whose other sessions they may end
        somebody.sign_in(site.registry.create_token("admin", name="odd").secret)
        token = somebody.token(somebody.get("/sign-in"))
        headers = {"Origin": somebody.address, "Content-Type": "application/x-www-form-urlencoded"}

        def send(*sent: tuple[str, object]) -> None:
            body = urlencode([("form_token", token), *sent])
            answer = somebody.client.post(action, content=body.encode(), headers=headers)
            assert answer.status_code < 500, (action, body[:300], answer.text[:500])
            if answer.status_code >= 400:
                assert said(answer), (action, body[:300])
                assert_harmless(answer.text)

        send()
        send(*fields.items(), ("unknown", "x"))
        for name in fields:
            send(*fields.items(), (name, "twice"))
            for value in ODD.values():
                send(*({**fields, name: value}).items())


@EACH
def test_what_is_asked_for_in_an_address_is_text(site: Site, visitors: Visitors, texts: tuple[str, ...]) -> None:
    admin = visitors["admin"]
    asked: set[tuple[str, str]] = set()
    for row in PAGES:
        if row.who != "admin":
            continue
        text = admin.get(page_path(site, row)).text
        for address in (*Parsed(text).addresses("a"), *(form.action for form in forms_of(text) if not form.posts)):
            parts = urlsplit(urljoin(row.path, address))
            if not parts.netloc and parts.path.startswith("/") and not parts.path.startswith("/static"):
                asked |= {(parts.path, name) for name, _ in parse_qsl(parts.query)}
        for form in forms_of(text):
            asked |= {
                (urljoin(row.path, form.action).partition("?")[0], name) for name in form.written if not form.posts
            }
    one_of_each = {(path.split("/")[1], name): path for path, name in sorted(asked)}
    assert one_of_each
    for (_, name), path in one_of_each.items():
        for text in texts:
            answer = admin.get(path, params={name: text})
            assert answer.status_code < 500, (path, name, text)
            if answer.headers.get("content-type", "").startswith("text/html"):
                assert_harmless(answer.text)


@pytest.mark.parametrize("first", sorted({row.route.split("/")[1] for row in PAGES} - {""}))
def test_what_an_address_names_is_text(visitors: Visitors, first: str) -> None:
    for text in TEXTS:
        for path in (f"/{first}/{quote(text, safe='')}", f"/{first}/llama-3.2-1b/{quote(text)}", f"/{quote(text)}"):
            answer = visitors["admin"].get(path)
            assert answer.status_code in (400, 404, 405, 422), (path, answer.status_code)
            assert_harmless(answer.text)


def test_signing_in_with_an_attack_is_text(visitors: Visitors) -> None:
    stranger = visitors[None]
    for text in TEXTS:
        for fields in ({"token": text}, {"token": "reg_x", "next": text}, {text: text}):
            answer = stranger.send("/sign-in", fields)
            assert answer.status_code in (401, 422)
            assert_harmless(answer.text)
        assert_harmless(stranger.get(f"/tree/{quote(text)}").text)


def test_a_published_file_is_never_a_page(site: Site, visitors: Visitors) -> None:
    """It would be one of our own, with all that its reader may do: from wherever it is handed out, it is downloaded."""
    admin = visitors["admin"]
    files = {file.path: file.digest for file in site.registry.bundle(f"{ADAPTER}@1").links[-1].files}
    rendering = site.registry.artifact(f"{ADAPTER}@1", kind="published").rendering.removeprefix("sha256:")
    bearer = {"Authorization": f"Bearer {site.secrets['admin']}"}
    for name in ("evil.html", "evil.svg", "evil.xml", "evil.js", "README.md"):
        for path in (
            f"/download/published/{ADAPTER}@1/-/{name}",
            f"/hf-published/{ADAPTER}/resolve/r1/{name}",
            f"{API}/artifacts/{rendering}/{name}?ref={ADAPTER}@1&kind=published",
            f"{API}/blobs/{files[name]}?ref={ADAPTER}@1",
        ):
            answer = admin.get(path, headers={} if "/download" in path else bearer, follow_redirects=True)
            assert answer.status_code == 200, (path, answer.status_code)
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["content-disposition"].startswith("attachment")
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_figure_on_its_own_runs_nothing(visitors: Visitors) -> None:
    """It is a document of ours when it is opened: by its policy, and by what is in it."""
    admin = visitors["admin"]
    page = admin.get(f"/tree/{ADAPTER}@1").text + admin.get(f"/tree/{HOSTILE_BASE}?view=drawing").text
    files = [one for one in Parsed(page).addresses("a") if ".svg" in one or "form=svg" in one]
    assert files
    for path in files:
        answer = admin.get(path)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers.get("content-security-policy", "") or answer.headers[
            "content-disposition"
        ].startswith("attachment")
        drawn = Parsed(answer.text)
        assert drawn.named("script") == []
        assert [one for one in drawn.addresses() if not one.startswith(("/", "#"))] == []
        assert [name for _, given in drawn.elements for name in given if name.startswith("on")] == []


@pytest.mark.long_but("tree-hostile", "card-hostile")
@pytest.mark.long_on("compare", "search", "adapter")
@pytest.mark.slow
@pytest.mark.long_on(
    "edit", "tensors", "activity", "files", "retracted", "merged", "use", "table", "history", "drawing", "retract"
)
@pytest.mark.parametrize("row", HOSTILE, ids=lambda row: row.name)
def test_nothing_runs_on_a_hostile_page(reader: OpenReader, site: Site, row: PageRow) -> None:
    """By a person who clicks on whatever there is."""
    somebody = reader("admin")
    path = page_path(site, row)
    somebody.open(path)
    for number in range(somebody.page.locator("main a, main summary").count()):
        one = somebody.page.locator("main a, main summary").nth(number)
        if not one.is_visible():
            continue
        address = one.get_attribute("href") or ""
        if re.match("https?:|mailto:", address):
            one.hover()
            continue
        one.click()
        somebody.page.wait_for_load_state()
        somebody.look()
        somebody.expected |= {400, 404, 422, 409}
        somebody.open(path)
    for field in somebody.page.locator("main input:visible, main textarea:visible, main button:visible").all():
        field.hover()
        field.focus()
    somebody.look()
