"""The feed of a path: what happened there, as programs read it, whatever people wrote and as far as a token sees."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from xml.etree import ElementTree

import httpx
import pytest

from registry.figures import clean
from registry.reference import Path
from registry.schemas import Event
from registry.web import feed
from tests.kit.gallery import SCOPE
from tests.kit.gallery_story import EMPTY, HOSTILE, LLAMA
from tests.kit.gallery_texts import ATTACKS, LINKS
from tests.web.conftest import Visitors
from tests.web.kit import Site

ATOM = "{http://www.w3.org/2005/Atom}"
SUPPORT = f"{LLAMA}/support"
FORBIDDEN = "".join(map(chr, [*range(1, 9), 11, 12, *range(14, 32), 0x7F, 0x202E, 0xFFFE, 0xFFFF]))
"""What XML 1.0 does not allow, and a mark that turns text around."""


def entries(answer: httpx.Response) -> list[ElementTree.Element]:
    """The entries of a feed that has all that RFC 4287 asks for."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/atom+xml")
    top = ElementTree.fromstring(answer.content)
    assert top.tag == f"{ATOM}feed"
    found = top.findall(f"{ATOM}entry")
    for one in (top, *found):
        for name in ("id", "title", "updated"):
            [element] = one.findall(f"{ATOM}{name}")
            assert element.text
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one.findtext(f"{ATOM}updated") or "")
    assert all(one.findtext(f"{ATOM}author/{ATOM}name") for one in found)
    assert len({one.findtext(f"{ATOM}id") for one in found}) == len(found)
    return found


def told(answer: httpx.Response) -> list[tuple[str, str]]:
    return [(_kind(one), one.findtext(f"{ATOM}title") or "") for one in entries(answer)]


def _kind(entry: ElementTree.Element) -> str:
    category = entry.find(f"{ATOM}category")
    assert category is not None
    return category.attrib["term"]


def href(entry: ElementTree.Element) -> str:
    link = entry.find(f"{ATOM}link")
    assert link is not None
    return link.attrib["href"]


def test_a_feed_has_what_was_published_tagged_and_retracted(visitors: Visitors, site: Site) -> None:
    answer = visitors["reader"].get(f"/feed/{SUPPORT}")
    found = entries(answer)
    events = [one for one in site.registry.events(SUPPORT, limit=1000) if one.action in feed.KINDS]
    assert [_kind(one) for one in found] == [one.action for one in events][: feed.LISTED]
    assert [one.findtext(f"{ATOM}author/{ATOM}name") for one in found] == [one.actor for one in events][: feed.LISTED]
    titles = [one.findtext(f"{ATOM}title") for one in found]
    assert f"ana moved {SUPPORT}@prod: @3 → @4" in titles
    at = titles.index(f"ci published {SUPPORT}@5")
    assert found[at].findtext(f"{ATOM}summary") == "Nightly: tickets up to October\n\nTrained by the pipeline."
    assert href(found[at]) == f"{site.address}/tree/{SUPPORT}@5"
    assert visitors["reader"].get(href(found[at]).removeprefix(site.address)).status_code == 200
    retracted = told(visitors["reader"].get(f"/feed/{LLAMA}/medical"))
    assert ("retract", f"ben retracted {LLAMA}/medical@1") in retracted


def test_a_feed_is_as_the_token_sees(visitors: Visitors) -> None:
    everything, scoped = visitors["reader"].get("/feed"), visitors["scoped reader"].get("/feed")
    assert set(told(scoped)) == set(told(visitors["reader"].get(f"/feed/{SCOPE}")))
    assert f"{LLAMA}/legal" not in scoped.text
    assert HOSTILE in everything.text
    assert visitors["scoped reader"].get(f"/feed/{LLAMA}/legal").status_code == 404
    assert visitors["reader"].get(f"/feed/{LLAMA}/nothing").status_code == 404
    assert visitors[None].get("/feed").status_code == 401
    assert entries(visitors["reader"].get(f"/feed/{EMPTY}")) == []


def test_a_feed_that_did_not_change_is_not_sent_again(visitors: Visitors, site: Site) -> None:
    reader = visitors["reader"]
    first = reader.get(f"/feed/{LLAMA}/code")
    same = reader.get(f"/feed/{LLAMA}/code", headers={"If-None-Match": first.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    site.registry.tag(f"{LLAMA}/code/sql@1", "fed")
    again = reader.get(f"/feed/{LLAMA}/code", headers={"If-None-Match": first.headers["etag"]})
    assert told(again)[0] == ("tag", f"ops moved {LLAMA}/code/sql@fed: none → @1")
    site.registry.untag(f"{LLAMA}/code/sql", "fed")
    gone = told(reader.get(f"/feed/{LLAMA}/code"))
    assert gone[0] == ("untag", f"ops took away {LLAMA}/code/sql@fed, which named @1")
    assert set(told(again)) < set(gone)
    ids = [one.findtext(f"{ATOM}id") for one in entries(again)]
    assert [one.findtext(f"{ATOM}id") for one in entries(reader.get(f"/feed/{LLAMA}/code"))][1:] == ids


def test_pages_name_their_feed(visitors: Visitors) -> None:
    for page, path in (
        ("/", ""),
        (f"/tree/{LLAMA}", f"/{LLAMA}"),
        (f"/tree/{SUPPORT}@4", f"/{SUPPORT}"),
        (f"/history/{SUPPORT}", f"/{SUPPORT}"),
        (f"/tags/{SUPPORT}", f"/{SUPPORT}"),
        (f"/activity?path={SUPPORT}", f"/{SUPPORT}"),
    ):
        text = visitors["reader"].get(page).text
        named = re.findall(r'<link rel="alternate" type="application/atom\+xml" title="[^"]+" href="([^"]+)">', text)
        assert named == [f"/feed{path}"], page
        assert visitors["reader"].get(unescape(named[0])).status_code == 200


TEXTS = (*ATTACKS, *LINKS, "]]>&amp;<!--", f"a{FORBIDDEN}b\r\nc")


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_what_people_write_is_text_in_a_feed(text: str) -> None:
    """Every field that people write, parsed back: characters that are printed arrive as they were written."""
    at = datetime(2026, 3, 4, tzinfo=UTC)
    found = [
        Event(at=at, action="publish", subject="llama/a@1", actor=text, detail={}),
        Event(at=at, action="retract", subject="llama/a@1", actor=text, detail={"reason": text}),
        Event(
            at=at, action="tag", subject="llama/a", actor=text, detail={"tag": text, "old": None, "new": "llama/a@1"}
        ),
        Event(at=at, action="delete", subject="llama/a@2", actor=text, detail={"tags": [text]}),
    ]
    written = feed.atom("https://team.example/r", Path.parse("llama/a"), found, {"llama/a@1": text})
    read = entries(httpx.Response(200, content=written, headers={"content-type": "application/atom+xml"}))
    assert [one.findtext(f"{ATOM}author/{ATOM}name") for one in read] == [clean(text)] * len(found)
    lines = "\n".join(map(clean, text.strip()[:2000].splitlines()))
    assert read[0].findtext(f"{ATOM}summary") == read[1].findtext(f"{ATOM}summary") == lines
    shown = "".join(element.text or "" for element in ElementTree.fromstring(written).iter())
    assert not set(FORBIDDEN) & set(shown)
    assert {element.tag.removeprefix(ATOM) for element in ElementTree.fromstring(written).iter()} == {
        "feed", "id", "title", "updated", "link", "entry", "author", "name", "category", "summary",
    }  # fmt: skip


def test_hostile_things_that_are_stored_are_read_back(visitors: Visitors) -> None:
    found = entries(visitors["admin"].get(f"/feed/{HOSTILE}"))
    assert {_kind(one) for one in found} >= {"publish", "tag", "retract"}
    assert any("<script>" in (one.findtext(f"{ATOM}summary") or "") for one in found)
