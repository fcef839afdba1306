"""Journeys on the page of an adapter, with the clicks counted: at most two from home, or one search."""

from __future__ import annotations

import pytest

from tests.kit.gallery_story import LLAMA
from tests.web.conftest import OpenReader
from tests.web.kit import NARROW, Reader

FRENCH = f"{LLAMA}/support/french"
SCREEN = (1280, 800)
LOOKS = pytest.mark.parametrize(
    ("javascript", "size"),
    [(True, SCREEN), pytest.param(False, NARROW, marks=pytest.mark.slow)],
    ids=["js", "none, narrow"],
)


class Counted:
    """A reader whose clicks and keys are counted from home."""

    def __init__(self, somebody: Reader) -> None:
        self.somebody, self.clicks = somebody, 0
        somebody.open("/")

    def click(self, name: str, within: str = "main") -> None:
        self.clicks += 1
        self.somebody.click(name, within=within)


def in_first_screen(somebody: Reader, selector: str) -> bool:
    box = somebody.page.locator(selector).first.bounding_box()
    height = somebody.page.viewport_size
    assert box is not None
    assert height is not None
    return box["y"] >= 0 and box["y"] < height["height"]


@LOOKS
def test_what_did_this_link_change_takes_two_clicks(
    reader: OpenReader, javascript: bool, size: tuple[int, int]
) -> None:
    counted = Counted(reader("reader", javascript=javascript, size=size))
    somebody = counted.somebody
    counted.click(LLAMA)
    counted.click("french")
    assert counted.clicks == 2
    text = somebody.page.inner_text("main")
    assert "Published" in text
    assert "-0.035 from its parent" in text
    assert "of the weights it touches" in text
    assert in_first_screen(somebody, "h1")
    assert in_first_screen(somebody, "#load")
    if size == SCREEN:
        assert in_first_screen(somebody, "#metrics")
        assert in_first_screen(somebody, "#changed h2")
    # The configuration does not stand behind a long card.
    top = somebody.page.locator("#configuration").bounding_box()
    assert top is not None
    assert top["y"] < 4000


@LOOKS
def test_paste_for_vllm_takes_two_clicks_and_one_to_unfold(
    reader: OpenReader, javascript: bool, size: tuple[int, int]
) -> None:
    counted = Counted(reader("reader", javascript=javascript, size=size))
    somebody = counted.somebody
    counted.click(LLAMA)
    counted.click("french")
    assert counted.clicks == 2
    lines = somebody.page.locator("#load details code").all_text_contents()
    assert "vllm serve" in lines[0]
    somebody.page.locator("#load summary").focus()
    somebody.page.keyboard.press("Enter")  # by the keyboard
    assert somebody.page.locator("#load details code").first.is_visible()
    assert somebody.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.slow
def test_a_long_card_is_folded_and_opened_by_the_keyboard(reader: OpenReader) -> None:
    somebody = reader("admin", javascript=False)
    somebody.site.registry.set_card(FRENCH, "# Long\n\n" + "A sentence about it. " * 40 + "\n\n- line\n" * 400)
    somebody.open(f"/tree/{FRENCH}")
    folded = somebody.page.locator("#card").bounding_box()
    assert folded is not None
    assert folded["height"] < 400
    assert "A sentence about it." in somebody.page.inner_text("#card")
    somebody.page.locator("#card summary").focus()
    somebody.page.keyboard.press("Enter")
    opened = somebody.page.locator("#card").bounding_box()
    assert opened is not None
    assert opened["height"] > 3000


@pytest.mark.slow
@pytest.mark.parametrize("part", ["log", "card-changes", "history"])
def test_the_pages_of_what_happened_fit_and_can_be_used_by_everybody(reader: OpenReader, part: str) -> None:
    somebody = reader("admin", size=(320, 700), scheme="dark")
    somebody.open(f"/{part}/{LLAMA}/support")
    assert somebody.axe() == []
    assert somebody.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
