"""What a token may not see is not there in the pages either, and what it may not do, no form does."""

from __future__ import annotations

import re
from typing import Final

import pytest
from fastapi.routing import APIRoute

from registry.web.routes import PAGES as FACE
from tests.kit.gallery_story import LLAMA
from tests.kit.pages import Visitor
from tests.web.conftest import Visitors
from tests.web.kit import Site
from tests.web.page_table import PAGES, page_path
from tests.web.parsed import Form, Parsed, forms_of

IN: Final = f"{LLAMA}/support"
OUT: Final = f"{LLAMA}/legal"
ABSENT: Final = f"{LLAMA}/lagel"
HIDDEN: Final = ("legal", "medical", "mixtral", "poems", "code/python", "pen-test", "qwen", "mallory", "emre")
"""What is outside of the scope, and who published only there."""
ROUTES: Final = sorted(
    {
        route.path
        for router in FACE.routers
        for route in router.routes
        if isinstance(route, APIRoute) and "GET" in (route.methods or ())
    }
)
ABOUT: Final = [route for route in ROUTES if "{reference:path}" in route or "{path:path}" in route]


def about(route: str, path: str) -> str:
    return re.sub(r"\{\w+:path\}", path, route)


def told(visitor: Visitor, path: str, name: str) -> tuple[int, list[str]]:
    """A page without what differs each time, the name that was asked for, and hints: those are by how it is spelt."""
    answer = visitor.get(path)
    text = answer.text.replace(name, "NAME")
    assert [one for one in HIDDEN if one in text] == []
    return answer.status_code, re.sub(r"[0-9a-f]{32,64}| Did you mean [^<]*", "", text).splitlines()


@pytest.mark.parametrize("who", ["scoped reader", "scoped writer"])
@pytest.mark.parametrize("route", ABOUT)
def test_what_is_hidden_is_as_if_it_were_absent(visitors: Visitors, route: str, who: str) -> None:
    for tail in ("", "@1", "@prod", "/contracts", "@sha256:0123456789abcdef"):
        hidden = told(visitors[who], about(route, OUT + tail), "legal")
        absent = told(visitors[who], about(route, ABSENT + tail), "lagel")
        assert hidden == absent
        assert hidden[0] in (400, 404)


@pytest.mark.long_on("scoped writer")
@pytest.mark.slow
@pytest.mark.parametrize("who", ["scoped reader", "scoped writer"])
def test_no_page_names_what_is_hidden(site: Site, visitors: Visitors, who: str) -> None:
    """Of those that the scoped find by following links, and of those that others would get."""
    somebody = visitors[who]
    left, seen = (
        ["/", *(page_path(site, row) for row in PAGES if not any(name in row.path for name in HIDDEN))],
        set[str](),
    )
    while left and len(seen) < 150:
        path = left.pop(0)
        if path in seen:
            continue
        seen.add(path)
        answer = somebody.get(path)
        if answer.headers.get("content-type", "").startswith("text/html"):
            assert [name for name in HIDDEN if name in answer.text] == [], path
            found = (one.partition("#")[0] for one in Parsed(answer.text).addresses("a"))
            left += [one for one in found if one.startswith("/") and not one.startswith("//")]
    assert len(seen) >= 20


@pytest.mark.parametrize("route", ROUTES)
def test_a_stranger_sees_nothing(visitors: Visitors, route: str) -> None:
    answer = visitors[None].get(about(route, IN).replace("{digest}/{name}", "0/style.css"))
    open_to_all = route == "/sign-in" or route.startswith("/static/")
    assert (answer.status_code == 401) != open_to_all, answer.status_code
    assert not any(name in answer.text for name in HIDDEN)


def forms(site: Site, admin: Visitor) -> list[Form]:
    """What an admin's pages offer to change."""
    found = {
        (form.action, *sorted(form.fields)): form
        for row in PAGES
        if row.who == "admin"
        for form in forms_of(admin.get(page_path(site, row)).text)
        if form.posts and not form.action.endswith(("/sign-in", "/sign-out", "/sessions/end"))
    }
    return list(found.values())


def changes(site: Site) -> list[tuple[str, str]]:
    return [(one.action, one.subject) for one in site.registry.events(limit=1000) if one.action != "refused"]


@pytest.mark.slow_on("reader", "scoped writer", "None")
@pytest.mark.parametrize("who", [None, "reader", "scoped reader", "scoped writer", "writer"])
def test_a_form_of_somebody_else_is_refused(visitors: Visitors, site: Site, who: str | None) -> None:
    """Every form that an admin is offered, sent by somebody with less rights from a page of ours."""
    admin, somebody = visitors["admin"], visitors[who]
    before = changes(site)
    tried = 0
    for form in forms(site, admin):
        subject = re.sub(r"^/[^/]+/", "", form.action)
        if who == "writer" and "/admin" not in form.action:
            continue
        if who == "scoped writer" and re.match(rf"{re.escape(IN)}(/|@|$)", subject):
            continue
        for fields in form.sent():
            answer = somebody.send(form.action, fields)
            wanted = (401,) if who is None else (403, 404)
            assert answer.status_code in wanted, (form.action, fields, answer.status_code, answer.text[:300])
            tried += 1
    assert changes(site) == before
    assert tried >= 5 or who == "writer"
