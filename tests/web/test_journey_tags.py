"""Journeys of a serving team: what prod is and was, and who moved it; each at most two clicks from home."""

from __future__ import annotations

import pytest

from tests.kit.gallery_story import LLAMA
from tests.web.conftest import OpenReader
from tests.web.kit import NARROW, Reader, Site

SCRIPTS = pytest.mark.parametrize("javascript", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["none", "js"])
SUPPORT = f"{LLAMA}/support"


def of_tag(somebody: Reader, tag: str) -> str:
    """The selector of the row of a tag of support."""
    return f"li.tagged:has(a[href$='/tree/{SUPPORT}@{tag}'])"


@SCRIPTS
def test_what_is_prod_and_what_was_it_before(reader: OpenReader, javascript: bool) -> None:
    somebody = reader("reader", javascript=javascript, size=NARROW)
    somebody.open("/")
    somebody.click("Tags")  # one click
    row = somebody.page.locator(of_tag(somebody, "prod"))
    assert row.inner_text().split()[:2] == ["prod", "@4"]
    assert "by ana; was @3" in row.inner_text()
    somebody.click("@3", within=of_tag(somebody, "prod"))  # the second: what is different
    assert somebody.path.startswith("/compare")
    assert f"{SUPPORT}@3" in somebody.text
    assert f"{SUPPORT}@4" in somebody.text
    assert somebody.page.evaluate("document.documentElement.scrollWidth") <= NARROW[0]


@SCRIPTS
def test_who_moved_the_tag_take_it_back(reader: OpenReader, site: Site, javascript: bool) -> None:
    site.registry.tag(f"{SUPPORT}@4", "staging")
    site.registry.tag(f"{SUPPORT}@5", "staging")
    somebody = reader("scoped writer", javascript=javascript)
    somebody.open("/")
    somebody.click("Tags")  # one click
    assert "staging @5" in somebody.page.inner_text(of_tag(somebody, "staging"))
    assert "by ops; was @4" in somebody.page.inner_text(of_tag(somebody, "staging"))
    somebody.press(f"Go back to @4 with {SUPPORT}@staging")  # the second
    assert site.registry.resolve(f"{SUPPORT}@staging").reference == f"{SUPPORT}@4"
    assert somebody.path == f"/tags/{SUPPORT}"
    assert "by scoped writer; was @5" in somebody.page.inner_text(of_tag(somebody, "staging"))
