"""The field at the head of every page: references open, words and typed filters find, filters are added by links."""

from __future__ import annotations

import re
from html import unescape

from registry.web.tree import FOUND
from tests.kit.gallery import SCOPE
from tests.kit.gallery_story import LLAMA
from tests.web.conftest import Visitors
from tests.web.kit import Site

ROW = re.compile(r'<th scope="row"><a class="ref" href="/tree/([^"]+)"')
ADDED = re.compile(r'<a class="pill" href="([^"]+)">([^<]+)</a>')


def test_what_is_a_reference_opens_and_what_is_not_is_searched(visitors: Visitors, site: Site) -> None:
    (one,) = site.registry.search(f"{LLAMA}/support@prod").revisions
    digits = one.digest.removeprefix("sha256:")
    for text, opened in (
        (f" {LLAMA}/support ", f"{LLAMA}/support"),
        (f"{LLAMA}/support@1", f"{LLAMA}/support@1"),
        (f"{LLAMA}/support@prod", f"{LLAMA}/support@prod"),
        (f"sha256:{digits[:12]}", one.reference),
        (digits, one.reference),
    ):
        answer = visitors["reader"].get("/search", params={"text": text}, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/tree/{opened}"), text
    for text in (LLAMA, "support@prod", f"{LLAMA}/suport", f"{LLAMA}/support@99", f"{LLAMA}/support legal", "zzz/zzz"):
        assert visitors["reader"].get("/search", params={"text": text}, follow_redirects=False).status_code == 200, text
    chosen = {"text": f"{LLAMA}/support", "tag": "prod"}
    assert visitors["reader"].get("/search", params=chosen, follow_redirects=False).status_code == 200


def test_what_is_out_of_scope_does_not_open(visitors: Visitors, site: Site) -> None:
    hidden = next(one for one in site.registry.search(all_revisions=True).revisions if not one.path.startswith(SCOPE))
    pages = [
        visitors["scoped reader"].get("/search", params={"text": text}, follow_redirects=False)
        for text in (hidden.path, f"{hidden.path}-absent", hidden.digest, f"sha256:{'0' * 64}")
    ]
    assert [page.status_code for page in pages] == [200] * 4
    assert not any(ROW.findall(page.text) for page in pages)


def test_the_page_finds_what_the_library_finds(visitors: Visitors, site: Site) -> None:
    for text in ("support french", "french support", "tag:prod", "acc>0.8 support", "behind", "retracted", "suport"):
        wanted = [one.reference for one in site.registry.search(text, limit=FOUND).revisions]
        shown = visitors["reader"].get("/search", params={"text": text}).text
        assert sorted(ROW.findall(shown)) == sorted(wanted[:50]), text
        assert wanted, text


def test_typos_and_filters_that_cannot_be_read_are_said(visitors: Visitors) -> None:
    shown = unescape(visitors["reader"].get("/search", params={"text": "suport"}).text)
    assert "Nothing has all of these words as they are" in shown
    refused = visitors["reader"].get("/search", params={"text": "tags:<prod>"})
    assert refused.status_code == 400
    assert "write tag:<prod>, or quote 'tags:<prod>'" in unescape(refused.text)
    assert "<prod>" not in refused.text


def test_filters_are_added_by_links_that_find_fewer(visitors: Visitors) -> None:
    asked = {"text": "support"}
    shown = visitors["reader"].get("/search", params=asked).text
    before, added = set(ROW.findall(shown)), ADDED.findall(shown)
    assert {"tag:prod", "behind"} <= {unescape(text) for _, text in added}
    for href, text in added:
        page = visitors["reader"].get(unescape(href)).text
        assert set(ROW.findall(page)), text
        assert {one.split("@")[0] for one in ROW.findall(page)} <= {one.split("@")[0] for one in before}, text
        assert unescape(text) not in [unescape(other) for _, other in ADDED.findall(page)], text
