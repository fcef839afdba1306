"""What holds for every page: its policy and headers, its size, and nothing inline that the policy forbids.

The gallery has what the pages are tried on.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from fastapi.routing import APIRoute

from registry.web.frame.visit import POLICY
from registry.web.routes import PAGES as FACE
from tests.kit.gallery_hostile import ADAPTER
from tests.kit.gallery_story import LLAMA
from tests.kit.gallery_texts import ATTACKS
from tests.web.conftest import Visitors
from tests.web.kit import Site
from tests.web.page_table import OTHERS, PAGES, PageRow, page_path
from tests.web.parsed import SVG
from tests.web.rules import assert_harmless


@pytest.mark.parametrize("row", PAGES, ids=lambda row: row.name)
def test_a_page_keeps_the_rules(visitors: Visitors, site: Site, row: PageRow) -> None:
    path, client = page_path(site, row), visitors[row.who].client
    answer, head = client.get(path), client.head(path)
    assert answer.status_code == row.status
    assert (head.status_code, head.content) == (row.status, b"")
    assert {*answer.headers} - {*head.headers} <= {"set-cookie"}  # of somebody who is new
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "private, no-cache" if path == "/sign-in" else "no-store"
    drawings = SVG.findall(answer.text)
    assert all(len(one.encode()) <= 300_000 for one in drawings)
    assert len(answer.content) - sum(len(one.encode()) for one in drawings) <= 100_000
    page = assert_harmless(answer.text)
    assert len(page.named("h1")) == 1
    assert len(page.named("main")) == 1


METHODS = ("TRACE", "TRACK", "OPTIONS", "PROPFIND", "CONNECT", "X" * 300)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method[:9])
def test_other_methods_are_refused_with_those_that_are_allowed(visitors: Visitors, method: str) -> None:
    """And nothing of the request comes back, cookies least of all."""
    admin = visitors["admin"]
    for path, allowed in (("/", "GET, HEAD"), ("/sign-in", "GET, HEAD, POST"), ("/sign-out", "POST"),
                          ("/card/any", "GET, HEAD, POST"), ("/static/0/style.css", "GET, HEAD")):  # fmt: skip
        answer = admin.client.request(method, path, headers={"X-Mine": "echoed", "Origin": admin.address})
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert "echoed" not in answer.text
        assert not any(cookie in answer.text for cookie in admin.client.cookies.values())
        assert "X" * 33 not in answer.text


def test_every_page_is_in_the_table() -> None:
    routes = [route for router in FACE.routers for route in router.routes if isinstance(route, APIRoute)]
    read = {route.path for route in routes if "GET" in (route.methods or ())}
    assert read == {row.route for row in PAGES} | OTHERS.keys()


def test_it_has_of_everything(site: Site) -> None:
    registry = site.registry
    revisions = registry.search(base=LLAMA, all_revisions=True).revisions
    assert len({one.path for one in revisions}) >= 30
    assert max(one.path.count("/") for one in revisions) == 4
    assert sum(one.behind for one in revisions) >= 5
    assert {one.reference for one in revisions if one.retracted} >= {f"{LLAMA}/medical/radiology/chest@1"}
    noticed = {one.code for path in {one.path for one in revisions} for one in registry.show(path).notices}
    assert noticed >= {"duplicate", "zero_delta", "like_sibling", "undoes_parent"}
    shown = registry.show(f"{LLAMA}/support/french@3")
    assert {one.engine for one in shown.engines} == {"vllm", "sglang", "peft", "transformers"}
    assert shown.use is not None
    assert shown.use.uses > 0
    assert [one.kind for one in registry.materialisations(f"{LLAMA}/support/french")] == ["merged"]
    assert [one.pattern for one in registry.protect_tag(LLAMA, "release-*")] == ["prod", "release-*"]
    assert registry.show(f"{ADAPTER}@1").revision.message == "\n".join(ATTACKS)  # type: ignore[union-attr]


def test_it_happened_over_three_months(site: Site) -> None:
    now = datetime.now(UTC)
    events = site.registry.events(limit=1000)
    assert [one.at for one in events] == sorted((one.at for one in events), reverse=True)
    published = [one for one in events if one.action == "publish"]
    assert published[0].at < now - timedelta(days=6)
    assert published[-1].at > now - timedelta(days=101)
    for one in site.registry.log(f"{LLAMA}/support").revisions:
        same = next(event for event in published if event.subject == one.reference)
        assert abs(same.at - one.created_at) < timedelta(seconds=5)
