"""What holds for every page: its policy and headers, its size, and nothing inline that the policy forbids."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute

from registry.web.frame.visit import POLICY
from registry.web.routes import PAGES as FACE
from tests.web.conftest import Visitors
from tests.web.kit import Site
from tests.web.page_table import OTHERS, PAGES, PageRow, page_path
from tests.web.parsed import SVG
from tests.web.rules import assert_harmless


@pytest.mark.parametrize("row", PAGES, ids=lambda row: row.name)
def test_a_page_keeps_the_rules(visitors: Visitors, site: Site, row: PageRow) -> None:
    answer = visitors[row.who].get(page_path(site, row))
    assert answer.status_code == row.status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] in ("private, no-cache", "no-store")
    drawings = SVG.findall(answer.text)
    assert all(len(one.encode()) <= 300_000 for one in drawings)
    assert len(answer.content) - sum(len(one.encode()) for one in drawings) <= 100_000
    page = assert_harmless(answer.text)
    assert len(page.named("h1")) == 1
    assert len(page.named("main")) == 1


def test_every_page_is_in_the_table() -> None:
    routes = [route for router in FACE.routers for route in router.routes if isinstance(route, APIRoute)]
    read = {route.path for route in routes if "GET" in (route.methods or ())}
    assert read == {row.route for row in PAGES} | OTHERS.keys()
