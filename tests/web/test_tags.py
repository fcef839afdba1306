"""Tags on pages: all of an adapter wherever they point, a page of all of them, and the way back from it."""

from __future__ import annotations

import csv
import io
import re
from html import unescape
from itertools import groupby
from urllib.parse import quote, unquote

import httpx
import pytest

from registry.catalogue.tree import adapter_tags
from registry.schemas.running import NameReport
from registry.web import tags
from tests.kit.gallery import SCOPE
from tests.kit.gallery_story import LLAMA, MIXTRAL
from tests.kit.pages import Visitor
from tests.web.conftest import Visitors
from tests.web.kit import Site
from tests.web.pressing import form_with, press, said

SUPPORT = f"{LLAMA}/support"
TREE = f"/tree/{LLAMA}"
ROW = re.compile(r'<li class="tagged">.*?</li>', re.DOTALL)
PILL = re.compile(r'<a class="pill tag" href="/tree/([^"]+)"[^>]*>([^<]+)</a>')


def pills(text: str) -> set[tuple[str, str]]:
    """The tags that a page shows, as the references that they lead to and what is written."""
    return {(unescape(href), unescape(told)) for href, told in PILL.findall(text)}


def rows(page: httpx.Response) -> dict[str, str]:
    """The texts of the tags of the page of tags, by reference, in their order."""
    found = {}
    for row in ROW.findall(page.text):
        [name, *_] = PILL.findall(row)
        found[unescape(name[0])] = " ".join(unescape(re.sub(r"<[^>]+>", " ", row)).split())
    return found


def told(site: Site, path: str | None = None, **asked: object) -> list[str]:
    return [f"{one.path}@{one.tag}" for one in site.registry.tags(path, **asked)]  # type: ignore[arg-type]


def test_the_page_says_what_registry_tags_prints(visitors: Visitors, site: Site) -> None:
    page = visitors["reader"].get("/tags")
    found = rows(page)
    assert list(found) == told(site)
    first = said(page).partition("Filter and order")[0]
    assert "aliases" in first
    assert "where things are deployed" in first
    for one in site.registry.tags():
        text = found[f"{one.path}@{one.tag}"]
        assert f"{one.tag} @{one.reference.rpartition('@')[2]}" in text
        assert ("newest is" in text) == one.is_outdated
        assert f"by {one.actor}" in text
        assert ("; was @" in text) == (one.previous is not None)
        for name in sorted(one.metrics)[:3]:
            change = one.changes.get(name)
            wanted = f"{one.metrics[name]:.6g}" + ("" if change is None else f" {change:+.4g}")
            assert wanted in text, (text, wanted)
    headings = re.findall(r'<h2 class="tagged-by"><a class="ref" href="/tree/([^"]+)"', page.text)
    assert headings == [path for path, _ in groupby(one.path for one in site.registry.tags())]
    assert "Go back" not in page.text  # a reader


def test_a_subtree_and_conditions_and_pages(visitors: Visitors, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = visitors["reader"]
    assert list(rows(reader.get(f"/tags/{SUPPORT}/french"))) == told(site, f"{SUPPORT}/french")
    assert list(rows(reader.get(f"/tags?path={SUPPORT}/french"))) == told(site, f"{SUPPORT}/french")
    assert list(rows(reader.get(f"/tags/{LLAMA}?outdated=1"))) == told(site, LLAMA, outdated=True)
    assert list(rows(reader.get("/tags?tag=sta*&sort=newest"))) == told(site, tag="sta*", sort="newest")
    assert list(rows(reader.get("/tags?sort=min:change:acc"))) == told(site, sort="min:change:acc")
    chips = re.search(r'aria-label="Names of tags".*?</nav>', reader.get(f"/tags/{SUPPORT}").text, re.DOTALL)
    assert chips is not None
    counts = {name: len(told(site, SUPPORT, tag=name)) for name in ("prod", "staging", "candidate")}
    shown = re.findall(r">(\w+)</a> <span class=\"hint\">(\d+)<", chips[0])
    assert {name: int(count) for name, count in shown} == counts
    assert "No tag meets these conditions." in said(reader.get("/tags?actor=nobody"))
    assert "There is no tag yet." in said(reader.get(f"/tags/{LLAMA}/code/sql"))
    for wrong, status in (
        (f"/tags/{LLAMA}/nothing", 404),
        (f"/tags/{LLAMA}?path={MIXTRAL}", 400),
        ("/tags/-", 400),
        ("/tags?sort=acc", 400),
        ("/tags?after=noon", 400),
        ("/tags?cursor=x", 422),
        ("/tags?colour=red", 422),
    ):
        assert reader.get(wrong).status_code == status, wrong
    monkeypatch.setattr(tags, "ROWS", 5)
    address: str | None = f"/tags/{LLAMA}?sort=newest"
    seen: list[str] = []
    while address is not None:
        page = reader.get(address)
        seen += rows(page)
        following = re.search(r'rel="next" href="([^"]+)"', page.text)
        address = following and unescape(following[1])
    assert seen == told(site, LLAMA, sort="newest")


def test_the_csv_has_what_the_table_of_operations_told(visitors: Visitors, site: Site) -> None:
    answer = visitors["reader"].get(f"/tags/{SUPPORT}?form=csv&tag=prod")
    assert answer.headers["content-type"].startswith("text/csv")
    found = list(csv.DictReader(io.StringIO(answer.text)))
    assert [f"{row['path']}@{row['tag']}" for row in found] == told(site, SUPPORT, tag="prod")
    assert found[0]["previous"] == f"{SUPPORT}@3"


def test_a_scope_is_all_that_there_is_of_tags(visitors: Visitors, site: Site) -> None:
    scoped = visitors["scoped reader"]
    for address in ("/tags", f"/tags/{LLAMA}", TREE, f"{TREE}?view=drawing", f"{TREE}?view=table", "/search"):
        text = scoped.get(address).text
        assert f"{LLAMA}/legal" not in text, address
        assert "javascript.x" not in text, address
    assert list(rows(scoped.get("/tags"))) == told(site, SCOPE)
    assert '<span class="hint">8</span>' in scoped.get("/tags").text  # of 14 that are called prod
    assert scoped.get(f"/tags/{LLAMA}/legal").status_code == 404
    with Visitor(site.address) as french:
        french.sign_in(site.registry.create_token("reader", name="q", scopes=[f"{SUPPORT}/french/quebec"]).secret)
        page = french.get(f"/tree/{SUPPORT}/french/quebec")
        assert page.status_code == 200
        assert "@prod" not in page.text  # of the adapters above, which it does not see
        assert "No tag names a revision of this adapter" in said(page)


def test_tags_on_older_revisions_are_in_list_drawing_and_table(visitors: Visitors) -> None:
    reader, wanted = visitors["reader"], {(f"{SUPPORT}@prod", "prod @4"), (f"{SUPPORT}@staging", "staging @4")}
    own = {(f"{SUPPORT}@candidate", "candidate"), (f"{SUPPORT}/french@prod", "prod")}
    for view in ("", "?view=table", f"?view=table&at={SUPPORT}"):
        assert pills(reader.get(TREE + view).text) >= wanted | own - ({*own} if "at=" in view else set()), view
    drawn = reader.get(f"{TREE}?view=drawing").text
    assert "tags prod @4, candidate, staging @4" in drawn
    assert ">prod @4</text>" in drawn
    assert pills(reader.get("/search?text=october").text) >= wanted
    every = pills(reader.get(f"{TREE}?view=table&at={SUPPORT}&which=revisions").text)
    assert every == {(f"{SUPPORT}@{tag}", tag) for tag in ("candidate", "prod", "staging")}  # each at its revision
    hits = re.findall(r'class="ref hit" href="/tree/([^"]+)"', reader.get(f"{TREE}?tag=staging").text)
    assert hits == [f"{SUPPORT}@4", f"{SUPPORT}/french@3"]


def test_of_many_tags_a_few_are_shown_and_the_rest_is_counted(
    visitors: Visitors, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"r{number}.x" for number in range(6)]
    for name in names:
        site.registry.tag(f"{LLAMA}/code/sql@1", name)
    monkeypatch.setattr(adapter_tags, "FIRST", 5)
    text = visitors["reader"].get(TREE).text
    assert {told for path, told in pills(text) if path.startswith(f"{LLAMA}/code/sql@")} == set(names[: tags.MARKS])
    assert f'href="/tags/{LLAMA}/code/sql" title="r4.x, r5.x">+2</a>' in text
    for name in names:
        site.registry.untag(f"{LLAMA}/code/sql", name)


def test_each_revision_is_a_click_from_a_comparison_with_a_tag(visitors: Visitors) -> None:
    reader = visitors["reader"]

    def compared(path: str) -> list[tuple[str, str]]:
        part = re.search(r'id="elsewhere".*?</p>', reader.get(f"/tree/{path}").text, re.DOTALL)
        links = re.findall(r'href="/compare\?a=([^&]+)&amp;b=([^"]+)"', part[0] if part else "")
        return [(unquote(a), unquote(b)) for a, b in links]

    others = [f"{SUPPORT}@prod", f"{SUPPORT}@candidate", f"{SUPPORT}@staging"]
    assert compared(f"{SUPPORT}@1") == [(tag, f"{SUPPORT}@1") for tag in others]
    assert compared(f"{SUPPORT}@4") == [(others[1], f"{SUPPORT}@4")]
    assert compared(f"{SUPPORT}/french@3") == []  # all of its tags name it
    quebec = f"{SUPPORT}/french/quebec@1"
    assert compared(quebec) == [(f"{SUPPORT}/french@prod", quebec), (f"{SUPPORT}/french@staging", quebec)]
    shown = said(reader.get(f"/tree/{SUPPORT}@1"))
    assert "prod is on @4 since 21 days ago by ana; was @3" in shown
    assert "candidate is on @5" in shown
    assert "prod names this revision" in said(reader.get(f"/tree/{SUPPORT}@4"))


def test_what_followers_report_stands_beside_a_tag(visitors: Visitors, site: Site) -> None:
    name, hidden = f"{SUPPORT}@candidate", f"{LLAMA}/code@prod"
    for number, serves in ((101, 5), (102, 5), (103, 3)):
        reported = [NameReport(name=name, serves=serves), NameReport(name=hidden, serves=2)]
        site.registry.report(f"{number:032x}", "vllm", f"engine {number}", reported, version="0.4.0")
    for who in ("reader", "scoped reader"):
        page = visitors[who].get("/tags")
        assert "2 followers have it, 1 lags" in rows(page)[name]
        assert f'href="/running?ref={quote(name, safe="")}"' in page.text
        assert "2 followers have it" in said(visitors[who].get(f"/tree/{SUPPORT}@2"))
    assert "3 followers have it" in rows(visitors["reader"].get("/tags"))[hidden]
    assert "follower" not in rows(visitors["reader"].get("/tags"))[f"{LLAMA}/medical@prod"]


def test_going_back_needs_the_state_that_the_page_showed(visitors: Visitors, site: Site) -> None:
    admin, tag = visitors["admin"], f"{SUPPORT}@staging"
    page = admin.get(f"/tags/{SUPPORT}")
    form = form_with(page, "Go back to @3", tag="staging", expected=f"{SUPPORT}@4")
    site.registry.tag(f"{SUPPORT}@5", "staging")  # a colleague was faster
    refused = press(admin, form, "Go back to @3")
    assert refused.status_code == 409
    assert "tag_moved" in said(refused)
    assert "staging @5" in rows(refused)[tag]
    assert site.registry.resolve(tag).reference == f"{SUPPORT}@5"
    now = form_with(refused, "Go back to @4", tag="staging")
    for _ in range(2):  # a form that is sent twice
        answer = press(admin, now, "Go back to @4")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/tags/{SUPPORT}")
    assert site.registry.resolve(tag).reference == f"{SUPPORT}@4"
    assert "by admin; was @5" in rows(admin.get(f"/tags/{SUPPORT}"))[tag]


def test_only_who_may_move_a_tag_is_offered_to_go_back(visitors: Visitors) -> None:
    def offered(who: str, address: str) -> set[str]:
        return set(re.findall(r'aria-label="Go back to @\d+ with ([^"]+)"', visitors[who].get(address).text))

    assert f"{SUPPORT}@prod" in offered("admin", "/tags")
    # Of tags that named something before; prod is protected.
    assert offered("writer", "/tags") == offered("scoped writer", "/tags") == {f"{SUPPORT}@staging"}
    assert offered("reader", "/tags") == set()
    assert offered("scoped writer", f"/tree/{SUPPORT}@1") == {f"{SUPPORT}@staging"}
    assert offered("reader", f"/tree/{SUPPORT}@1") == set()
