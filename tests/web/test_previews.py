"""Previews of a revision: pictures by their first bytes alone, sent as such, and texts in them shown as texts."""

from __future__ import annotations

import pytest

from registry.images.prompts import Made
from registry.web.revision.previews import Preview, paired
from tests.kit.gallery_hostile import ADAPTER
from tests.kit.gallery_texts import ATTACKS
from tests.web.conftest import OpenReader, Visitors
from tests.web.rules import assert_harmless


def test_what_is_only_called_a_picture_is_none(visitors: Visitors) -> None:
    admin = visitors["admin"]
    for name, kind in (("1.png", "image/png"), ("2.jpg", "image/png")):
        answer = admin.get(f"/previews/{name}/{ADAPTER}@1")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert answer.headers["content-disposition"] == f'inline; filename="{name}"'
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src")
        part = admin.get(f"/previews/{name}/{ADAPTER}@1", headers={"Range": "bytes=1-3"})
        assert (part.status_code, part.content, part.headers["content-type"]) == (206, b"PNG", kind)
    for name in ("3.png", "4.webp", "5.svg", "6.png", "../README.md", "..%2FREADME.md", "%2E%2E%2Fevil.html"):
        answer = admin.get(f"/previews/{name}/{ADAPTER}@1")
        assert answer.status_code in (400, 404), name
        assert_harmless(answer.text)
    assert admin.get(f"/previews/1.png/{ADAPTER}@2").status_code in (404, 409, 410)  # retracted
    assert visitors["scoped reader"].get(f"/previews/1.png/{ADAPTER}@1").status_code == 404
    assert visitors[None].get(f"/previews/1.png/{ADAPTER}@1").status_code == 401


def test_a_page_loads_pictures_late_and_shows_their_texts_as_texts(visitors: Visitors) -> None:
    page = assert_harmless(visitors["admin"].get(f"/tree/{ADAPTER}@1").text)
    shown = [one for one in page.named("img") if (one["src"] or "").startswith("/previews/")]
    assert [(one["src"] or "").split("/")[2] for one in shown] == ["1.png", "2.jpg"]
    for one in shown:
        assert (one["loading"], one["width"], one["height"]) == ("lazy", "320", "320")
        assert one["src"] in page.addresses("a")
    assert (shown[0]["alt"] or "").startswith(f"Preview 1 of {ADAPTER}@1: ")
    assert (shown[0]["alt"] or "").endswith("seed 7")
    assert visitors["admin"].get(f"/compare?a={ADAPTER}@1&b={ADAPTER}@2").text.count("no such picture") == 2


def test_a_browser_shows_the_pictures(reader: OpenReader) -> None:
    somebody = reader("admin")
    somebody.open(f"/tree/{ADAPTER}@1")
    somebody.page.locator("#previews img").first.scroll_into_view_if_needed()
    somebody.page.wait_for_function("[...document.querySelectorAll('#previews img')].every((one) => one.naturalWidth)")
    assert ATTACKS[0] in somebody.page.inner_text("#trigger-words")


def one(number: int, prompt: str = "", seed: str = "") -> Preview:
    return Preview(number, f"/{number}", "", Made(prompt, seed))


@pytest.mark.parametrize(
    ("a", "b", "found"),
    [
        ([one(1, "x", "5"), one(2, "y", "5")], [one(1, "y", "5"), one(2, "x", "5")], [(1, 2), (2, 1)]),
        ([one(1, "x", "5")], [one(1, "x", "6")], [(1, None), (None, 1)]),
        ([one(1, "x", "5"), one(2)], [one(1, "x"), one(3)], [(1, 1), (2, None), (None, 3)]),
        ([one(1, "x", "5"), one(2, "x", "5")], [one(2, "x", "5")], [(1, 2), (2, None)]),
    ],
    ids=["crossed", "another seed", "by number", "each once"],
)  # fmt: skip
def test_pictures_are_paired_by_prompt_and_seed_else_by_number(
    a: list[Preview], b: list[Preview], found: list[tuple[int | None, int | None]]
) -> None:
    pairs = [(left and left.number, right and right.number) for _, left, right in paired(a, b)]
    assert pairs == found
