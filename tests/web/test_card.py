"""Cards as HTML: what Markdown says, and nothing that a page of ours must not have."""

from __future__ import annotations

import re

import pytest

from registry.web.revision.card import MOST, card_html
from tests.web.parsed import Parsed

ATTACKS = (
    "<script>globalThis.hacked=1</script>",
    "<img src=x onerror=globalThis.hacked=1>",
    "<style>body{display:none}</style>",
    "<a href='javascript:globalThis.hacked=1'>x</a>",
    "[x](javascript:globalThis.hacked=1)",
    "[x](JaVaScRiPt:globalThis.hacked=1)",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "[x](/sign-out)",
    "[x](//evil.example/)",
    "[x]: javascript:globalThis.hacked=1\n\n[x]",
    "<javascript:globalThis.hacked=1>",
    "![x](javascript:globalThis.hacked=1)",
    "![x](https://evil.example/x.png \"t' onerror='globalThis.hacked=1\")",
    '<form action="/sign-out"><button>x</button></form>',
    "| a |\n|--:|\n| <svg onload=globalThis.hacked=1> |",
    "```html onload=x\n<script>globalThis.hacked=1</script>\n```",
)


def elements(text: str) -> list[tuple[str, dict[str, str | None]]]:
    return Parsed(str(card_html(text)[0])).elements


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_but_text_and_links_to_elsewhere(attack: str) -> None:
    for tag, attributes in elements(attack):
        assert tag in {"a", "p", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"}
        assert set(attributes) <= {"href", "rel", "tabindex"}
        assert re.match(r"(https?://|mailto:)", attributes.get("href") or "https://"), attributes


def test_links_say_that_we_do_not_vouch_for_them() -> None:
    links = elements("[a](https://one.example/) <https://two.example/> <ben@three.example>")
    assert [one.get("href") for tag, one in links if tag == "a"] == [
        "https://one.example/",
        "https://two.example/",
        "mailto:ben@three.example",
    ]
    assert {one["rel"] for tag, one in links if tag == "a"} == {"nofollow noopener noreferrer"}


def test_images_are_links_with_a_text() -> None:
    found = str(
        card_html("![curve](https://one.example/c.png) [![badge](https://b.example/b.svg)](https://c.example)")[0]
    )
    assert "<img" not in found
    assert '<a href="https://one.example/c.png" rel="nofollow noopener noreferrer">Image: curve</a>' in found
    assert '<a href="https://c.example" rel="nofollow noopener noreferrer">Image: badge</a>' in found
    assert "https://d.example</p>" in str(card_html("[](https://d.example)")[0])


def test_headings_stand_below_those_of_the_page_without_gaps() -> None:
    text = "# a\n\n#### b\n\n## c\n\n### d\n\n###### e"
    assert [tag for tag, _ in elements(text)] == ["h3", "h4", "h4", "h5", "h6"]


def test_tables_code_and_lists() -> None:
    parts = ("---\nlicense: mit\n---", "| set | acc |\n|---|--:|\n| held out | 0.8 |", "```python\nprint(1 < 2)\n```")
    text = "\n\n".join((*parts, "3. c\n4. d", "~~old~~"))
    found = str(card_html(text)[0])
    assert "license" not in found
    for part in ("<th>acc</th>", "<td>0.8</td>", "print(1 &lt; 2)", '<ol start="3">', "<s>old</s>"):
        assert part in found


@pytest.mark.parametrize("text", ["word " * 50_000, "<" * 200_000, "| a |\n|---|\n" + "| b |\n" * 20_000])
def test_of_a_long_card_the_beginning(text: str) -> None:
    found, whole = card_html(text)
    assert not whole
    assert 0 < len(found) <= MOST
    assert card_html("short")[1]
