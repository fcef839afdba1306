"""Every screen holds: what people need stays in sight at 390 and 320 pixels, by the keyboard, without JavaScript."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator

from registry.web.frame.rendering import with_marks
from tests.kit.gallery_story import LLAMA
from tests.web.conftest import OpenReader, Visitors
from tests.web.kit import NARROW, Reader, Site
from tests.web.page_table import PAGES, PageRow, page_path
from tests.web.parsed import SVG
from tests.web.rules import assert_harmless

RUNS = f"{LLAMA}/code/python"
TABLE = f"/tree/{LLAMA}?view=table&at={RUNS}"
AT_400_PERCENT = (320, 256)  # what is left of 1280 by 1024
MAIN = ("adapter", "tree", "tree-table-columns", "compare-children", "health")


def wider(somebody: Reader, site: Site, row: PageRow) -> int:
    """By how many pixels a page is wider than the screen."""
    somebody.open(page_path(site, row), status=row.status)
    found = somebody.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return int(found)


@pytest.mark.slow
def test_no_main_page_is_wider_than_the_smallest_screen(reader: OpenReader, site: Site) -> None:
    somebody = reader("admin", size=AT_400_PERCENT)
    rows = {row.name: row for row in PAGES}
    assert {name: wider(somebody, site, rows[name]) for name in MAIN} == dict.fromkeys(MAIN, 0)


@pytest.mark.long
@pytest.mark.parametrize("row", PAGES, ids=lambda row: row.name)
def test_no_page_is_wider_than_the_smallest_screen(reader: OpenReader, site: Site, row: PageRow) -> None:
    assert wider(reader(row.who, size=AT_400_PERCENT), site, row) == 0


def box(one: Locator) -> dict[str, float]:
    found = one.bounding_box()
    assert found is not None
    return {"x": found["x"], "y": found["y"], "height": found["height"], "right": found["x"] + found["width"]}


@pytest.mark.parametrize("javascript", [pytest.param(True, marks=pytest.mark.slow), False])
def test_best_of_siblings_takes_two_clicks_on_a_telephone(reader: OpenReader, site: Site, javascript: bool) -> None:
    """Which of the runs is best, and whether the next is close: from the home page, by two clicks."""
    somebody = reader("reader", javascript=javascript, size=NARROW)
    somebody.click(LLAMA, within="main")
    family = somebody.page.locator("li", has=somebody.page.locator(f'> .leaf a[href="/tree/{RUNS}"]'))
    with somebody.page.expect_navigation():
        family.last.locator("> .leaf").get_by_role("link", name="table", exact=True).click()
    runs = [one for one in site.registry.search(path=RUNS, depth=1).revisions if one.path != RUNS]
    best, following = sorted(runs, key=lambda one: -one.metrics["acc"])[:2]
    told = " ".join(somebody.page.locator(".best > div").first.inner_text().split())
    lacks = f"{following.metrics['acc'] - best.metrics['acc']:+.3g}"
    names = [one.reference.removeprefix(f"{RUNS}/") for one in (best, following)]
    assert told == f"Best acc {best.metrics['acc']:.6g} {names[0]} next {names[1]}, {lacks}"
    # A third shows all in that order; ticking both and one more compare them.
    somebody.page.locator(".best dt a").first.click()
    somebody.page.wait_for_url("**sort=max**")
    for name in names:
        somebody.page.get_by_label(f"Compare {name}", exact=True).check()
    somebody.press("Compare what is ticked")
    assert somebody.path.startswith("/compare?a=")


def test_what_rows_are_sorted_by_stays_in_sight(reader: OpenReader) -> None:
    somebody = reader("reader", size=NARROW)
    columns = "author,message,rank,scaling,targets,loss,acc"
    somebody.open(f"{TABLE}&which=below&sort=max:acc&columns={columns}")
    region = somebody.page.get_by_role("region", name="Table of revisions")
    frame = box(region)
    assert frame["height"] <= 0.8 * NARROW[1] + 1  # the bar of its scroller is on the screen with it
    head = region.get_by_role("columnheader", name="acc")
    first, value = region.locator("tbody th").first, region.locator("tbody td.sorted").first
    for scrolled in (0, 200, 5000):
        region.evaluate("(one, left) => one.scrollTo(left, 0)", scrolled)
        for one in (first, value, head):
            assert frame["x"] - 1 <= box(one)["x"]
            assert box(one)["right"] <= frame["right"] + 1
        assert box(first)["right"] <= box(value)["x"] + 1  # neither covers the other
    region.evaluate("(one) => one.scrollTo(0, 100)")
    assert box(head)["y"] == pytest.approx(box(region)["y"], abs=2)

    # Pinned columns stay beside the revision, on a wider screen.
    somebody.page.set_viewport_size({"width": 800, "height": 900})
    somebody.open(f"{TABLE}&columns=rank,loss,author,published,targets,message,run,commit,acc,parent&pinned=2")
    region.evaluate("(one) => one.scrollTo(5000, 0)")
    row = region.locator("tbody:not(.parent) tr").first
    name, first, second = row.locator("th"), row.locator(".pin-1"), row.locator(".pin-2")
    assert region.evaluate("(one) => one.scrollLeft") > 0
    assert box(name)["right"] == pytest.approx(box(first)["x"], abs=1.5)
    assert box(first)["right"] == pytest.approx(box(second)["x"], abs=1.5)


@pytest.mark.slow
def test_the_list_drops_nothing_at_two_hundred_percent(reader: OpenReader) -> None:
    somebody = reader("reader", size=(640, 512))
    somebody.open(f"/tree/{LLAMA}")
    leaf = somebody.page.locator(".leaf", has=somebody.page.locator(f'a[href="/tree/{RUNS}"]')).first
    for part in (".say", ".open", ".figure", ".when"):
        assert leaf.locator(part).is_visible(), part
        assert box(leaf.locator(part))["right"] <= 640


def focused(somebody: Reader) -> Any:
    return somebody.page.evaluate(
        "document.activeElement.matches('svg a') ? document.activeElement.querySelector('title').textContent : ''"
    )


def test_a_drawing_is_one_stop_with_arrows(reader: OpenReader, visitors: Visitors) -> None:
    somebody = reader("reader")
    somebody.open(f"/tree/{LLAMA}?view=drawing")
    links = somebody.page.locator(".plot a")
    count = links.count()
    titles = links.locator("title").all_text_contents()
    assert count > 20
    somebody.page.locator("main form button", has_text="Show").focus()
    for _ in range(9):  # past the filters
        if not focused(somebody):
            somebody.page.keyboard.press("Tab")
    assert focused(somebody) in titles
    keys = {"Home": 0, "ArrowDown": 1, "ArrowRight": 2, "ArrowUp": 1, "ArrowLeft": 0, "End": count - 1}
    for key, at in keys.items():
        somebody.page.keyboard.press(key)
        assert focused(somebody) == titles[at]
    somebody.page.keyboard.press("Tab")
    assert focused(somebody) == ""  # the next stop is behind the drawing
    somebody.page.keyboard.press("Shift+Tab")
    assert focused(somebody) == titles[count - 1]  # and back is where one was
    bare = SVG.search(visitors["reader"].get(f"/tree/{LLAMA}?view=drawing").text)
    assert bare is not None
    assert "tabindex" not in bare[0]  # without JavaScript each link is a stop


@pytest.mark.slow
def test_copying_works_on_plain_http(reader: OpenReader) -> None:
    """Where browsers give no clipboard to a page, it copies as the keyboard does."""
    somebody = reader("reader")
    somebody.page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    somebody.open(f"/use/{LLAMA}/support/french@prod")
    panel = somebody.page.get_by_role("tabpanel")
    somebody.page.evaluate(
        "document.addEventListener('copy', () => { window.copied = String(getSelection()); }, {once: true})"
    )
    panel.get_by_role("button", name="Copy").first.click()
    somebody.page.wait_for_function("window.copied !== undefined")
    assert somebody.page.evaluate("window.copied") == panel.locator("code").first.inner_text()
    assert panel.get_by_role("button", name="Copied").count() == 1


@pytest.mark.slow
def test_a_screen_reader_hears_what_a_table_is(reader: OpenReader) -> None:
    somebody = reader("reader")
    somebody.open(f"{TABLE}&sort=max:acc&columns=acc,rank&pinned=1&panel=1")
    main = somebody.page.locator("main").aria_snapshot()
    for line in (
        '- region "Table of revisions":',
        '- columnheader "Revision"',
        '- columnheader "acc ↓":',
        '- rowheader "sweep-3e-4@1 Learning rate 3e-4":',
        '- checkbox "Compare sweep-3e-4@1"',
        '- button "Compare what is ticked"',
        '- button "Move acc to the right"',
        '- button "Unpin acc"',
        '- group "Shown, in this order; pinned ones stay in sight":',
    ):
        assert line in main, line
    somebody.open(f"/compare?children={RUNS}&sort=max:acc")
    main = somebody.page.locator("main").aria_snapshot()
    for line in ('- region "Revisions side by side":', '- combobox "Across":', '- heading "The same in all" [level=2]'):
        assert line in main, line
    somebody.page.locator(".in-words summary").click()
    words = somebody.page.get_by_role("group", name="loss over acc, in words").aria_snapshot()
    assert re.search(r'- row "sweep-3e-4@1 0\.581 1\.3"', words)
    somebody.open(f"/tree/{LLAMA}?view=drawing")
    drawn = somebody.page.locator("div.plot").aria_snapshot()
    assert f'- group "The tree of {LLAMA}. Adapters, each with its newest revision' in drawn
    assert f"- 'link \"{LLAMA}/code/python@1, rank 16: Python; tags prod\"'" in drawn


HIDDEN = "gnp.\u202eexe\u202c"


def test_what_nobody_sees_is_shown_and_copied_as_it_is(reader: OpenReader, site: Site) -> None:
    path = f"{LLAMA}/legal/gdpr"
    site.registry.annotate(path, annotations={"note": f"pro\u200bd {HIDDEN}"}, message=f"Photo {HIDDEN}")
    somebody = reader("admin")
    somebody.open("/search?text=gdpr&columns=annotation:note,message")
    cell = somebody.page.locator("tbody td", has_text="pro").first
    marks = cell.locator(".unseen").evaluate_all(
        "(all) => all.map((one) => getComputedStyle(one, '::before').content.slice(1, -1))"
    )
    assert marks == ["U+200B", "U+202E", "U+202C"]
    copied = cell.evaluate("(one) => { getSelection().selectAllChildren(one); return String(getSelection()); }")
    assert copied.strip() == f"pro\u200bd {HIDDEN}"
    somebody.open(f"/edit/{path}@1")  # a field has what it has
    assert somebody.page.get_by_label("Message", exact=True).input_value() == f"Photo {HIDDEN}"


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("<p>a\u200bb</p>", "<p>a<span class=unseen data-mark=U+200B>\u200b</span>b</p>"),
        ('<p title="a\u202eb" data-x="\u202e">c</p>', '<p title="aU+202Eb" data-x="\u202e">c</p>'),
        ('<input value="\u202e" placeholder="\u202e">', '<input value="\u202e" placeholder="U+202E">'),
        ("<title>\u2066x</title>", "<title>U+2066x</title>"),
        ("<textarea>\u200b</textarea>", "<textarea>\u200b</textarea>"),
        ('<a title="a > b">\ufeff</a>', '<a title="a > b"><span class=unseen data-mark=U+FEFF>\ufeff</span></a>'),
        ("acc\u200d", "acc<span class=unseen data-mark=U+200D>\u200d</span>"),
        ("\U0001f469\u200d\U0001f4bb \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 caf\u00e9", None),
    ],
)  # fmt: skip
def test_marks_stand_in_texts_and_numbers_in_names(page: str, shown: str | None) -> None:
    assert with_marks(page) == (page if shown is None else shown)


def test_a_mark_ends_no_attribute(visitors: Visitors, site: Site) -> None:
    attack = '\u202e"><script>globalThis.hacked=1</script>'
    site.registry.annotate(f"{LLAMA}/legal/terms", annotations={"note": attack}, message=attack)
    for address in (
        f"/tree/{LLAMA}/legal/terms",
        "/search?text=terms&columns=annotation:note,message",
        f"/edit/{LLAMA}/legal/terms@1",
    ):
        assert_harmless(visitors["admin"].get(address).text)
