"""Journeys of people who look for an adapter, ask where it comes from, compare it, and take it with them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.kit.gallery_story import LLAMA
from tests.root import ROOT
from tests.web.conftest import OpenReader
from tests.web.kit import NARROW, Reader, Site

SCRIPTS = pytest.mark.parametrize("javascript", [True, pytest.param(False, marks=pytest.mark.long)], ids=["js", "none"])
SLOW = pytest.mark.parametrize(
    "javascript", [pytest.param(True, marks=pytest.mark.slow), pytest.param(False, marks=pytest.mark.long)]
)
REFUNDS = f"{LLAMA}/support/billing/refunds"


def heading(somebody: Reader) -> str:
    return somebody.page.inner_text("h1")


@pytest.mark.slow
@SCRIPTS
@pytest.mark.parametrize("who", [pytest.param("reader", marks=pytest.mark.long), "scoped reader"])
def test_find_an_adapter_by_metric_and_follow_its_lineage(reader: OpenReader, who: str, javascript: bool) -> None:
    somebody = reader(who, javascript=javascript)
    somebody.click(LLAMA, within="main")
    somebody.fill("Metric", "acc>0.848")
    somebody.press("Show", within="main")
    found = somebody.page.locator("main [aria-label=Adapters]")
    assert "refunds" in found.inner_text()
    assert "german" not in found.inner_text()  # below the bound
    assert "billing" in found.inner_text()  # what a hit is below stays in view
    somebody.click("refunds", within="main")
    assert heading(somebody).startswith(REFUNDS)
    somebody.click(f"{LLAMA}/support/billing@2", within="[aria-label=Lineage]")
    somebody.click(f"{LLAMA}/support@4", within="[aria-label=Lineage]")
    assert heading(somebody).startswith(f"{LLAMA}/support @4")
    somebody.click(LLAMA, within="[aria-label=Lineage]")
    assert heading(somebody) == LLAMA


@SCRIPTS
def test_which_of_many_runs_is_best_takes_two_clicks(reader: OpenReader, site: Site, javascript: bool) -> None:
    somebody = reader("reader", javascript=javascript)
    somebody.open(f"/tree/{LLAMA}?view=table&at={LLAMA}/code/python")
    somebody.click("acc", within="thead")
    runs = [one for one in site.registry.search(base=LLAMA).revisions if one.path.startswith(f"{LLAMA}/code/python/")]
    best = max(runs, key=lambda one: one.metrics["acc"])
    first = somebody.page.locator("tbody:not(.parent) th").first.inner_text()
    assert first.split()[0] == best.reference.removeprefix(f"{LLAMA}/code/python/")
    somebody.page.locator("tbody:not(.parent) th a").first.click()
    somebody.page.wait_for_url(f"**{best.reference}")
    assert heading(somebody).startswith(best.path)


@SLOW
def test_compare_an_adapter_with_its_sibling(reader: OpenReader, javascript: bool) -> None:
    somebody = reader("scoped reader", javascript=javascript)
    somebody.open(f"/tree/{LLAMA}/support/french")
    somebody.click("Compare with its parent")
    somebody.fill("A", f"{LLAMA}/support/german")
    somebody.fill("B", f"{LLAMA}/support/french")
    somebody.press("Compare", within="main")
    assert f"{LLAMA}/support@4" in somebody.text  # what they have in common
    row = somebody.page.get_by_role("row").filter(has=somebody.page.get_by_role("rowheader", name="acc", exact=True))
    assert row.first.inner_text().split() == ["acc", "0.798", "0.806", "+0.008"]
    somebody.click("Compare the deltas")
    assert somebody.page.locator("main svg").count() >= 1


@SLOW
def test_see_a_retraction_and_that_it_is_not_handed_out(reader: OpenReader, javascript: bool) -> None:
    somebody = reader("reader", javascript=javascript)
    somebody.open(f"/tree/{LLAMA}/medical/radiology/chest")
    assert "Trained on withdrawn scans." in somebody.text
    somebody.click("Use it")
    assert "retracted" in somebody.text
    somebody.open(f"/tree/{LLAMA}/support/french")
    assert "retracted" not in somebody.text


@pytest.mark.slow
def test_a_copied_snippet_runs_as_it_is(reader: OpenReader, site: Site, tmp_path: Path) -> None:
    somebody = reader("scoped reader")
    somebody.open(f"/use/{LLAMA}/support/french@prod")
    somebody.page.get_by_role("tabpanel").get_by_role("button", name="Copy").first.click()
    copied = somebody.page.evaluate("navigator.clipboard.readText()")
    assert copied == somebody.page.get_by_role("tabpanel").locator("code").nth(0).inner_text()
    assert site.secrets["scoped reader"] not in somebody.page.content()
    command = f'registry() {{ {os.sys.executable} -m registry "$@"; }}\n{copied}'  # type: ignore[attr-defined]
    environ = {**os.environ, "REGISTRY_TOKEN": site.secrets["scoped reader"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "french" / "adapter_model.safetensors").is_file()


@SLOW
def test_on_a_telephone(reader: OpenReader, javascript: bool) -> None:
    """The whole way from signing in to a snippet, on a narrow and dark screen."""
    somebody = reader("reader", javascript=javascript, size=NARROW, scheme="dark")
    somebody.click(LLAMA, within="main")
    somebody.click("support", within="main")
    somebody.click("Revisions")
    assert "Longer context, 3 epochs" in somebody.text
    somebody.click("Files")
    somebody.click("Use it")
    assert "registry fetch" in somebody.page.locator("main").text_content()  # type: ignore[operator]


@pytest.mark.slow
def test_by_the_keyboard_alone(reader: OpenReader) -> None:
    somebody = reader("reader")
    somebody.page.keyboard.press("Tab")
    assert somebody.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    somebody.page.keyboard.press("Enter")
    somebody.page.keyboard.press("Tab")
    assert somebody.page.evaluate("document.querySelector('main').contains(document.activeElement)")
    somebody.page.keyboard.press("/")
    assert somebody.page.evaluate("document.activeElement.getAttribute('role') || document.activeElement.type") == (
        "search"
    )
    somebody.page.keyboard.type("refunds")
    with somebody.page.expect_navigation():
        somebody.page.keyboard.press("Enter")
    assert f"Names are below {LLAMA}/support." in somebody.text
    assert "billing/refunds@1" in somebody.text
    somebody.open(f"/use/{LLAMA}/support/french")
    somebody.page.get_by_role("tab", name="Command", exact=True).focus()
    somebody.page.keyboard.press("ArrowRight")
    assert somebody.page.get_by_role("tab", name="Python", exact=True).get_attribute("aria-selected") == "true"
    assert "import registry" in somebody.page.get_by_role("tabpanel").inner_text()
