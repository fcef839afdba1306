"""Journeys of people who run a registry: moving a tag and going back, tokens, retracting, collecting."""

from __future__ import annotations

import pytest

from registry.errors import RetractedError
from tests.kit.gallery_story import LLAMA
from tests.web.conftest import OpenReader
from tests.web.kit import Site

SCRIPTS = pytest.mark.parametrize("javascript", [True, pytest.param(False, marks=pytest.mark.long)], ids=["js", "none"])
SLOW = pytest.mark.parametrize(
    "javascript", [pytest.param(True, marks=pytest.mark.slow), pytest.param(False, marks=pytest.mark.long)]
)
SUPPORT = f"{LLAMA}/support"


def named(site: Site, tag: str) -> str:
    return site.registry.resolve(f"{SUPPORT}@{tag}").reference


def tag_row(tag: str) -> str:
    """The selector of the row of a tag on the page that edits."""
    return f"tr:has(th :text-is('{tag}'))"


@pytest.mark.slow
@SCRIPTS
@pytest.mark.parametrize(
    ("who", "tag"), [pytest.param("scoped writer", "staging", marks=pytest.mark.long), ("admin", "prod")]
)
def test_move_a_tag_and_go_back(reader: OpenReader, site: Site, who: str, tag: str, javascript: bool) -> None:
    before, wanted = named(site, tag), "@5" if javascript else "@1"
    somebody = reader(who, javascript=javascript)
    somebody.open(f"/tree/{SUPPORT}{wanted}")
    somebody.click("Edit")
    somebody.press(f"Move to {wanted}", within=tag_row(tag))
    assert named(site, tag) == SUPPORT + wanted
    somebody.open("/")
    somebody.click(LLAMA, within="main")  # from here on as at night, without a terminal: four clicks
    somebody.click("support", within="main")
    somebody.click("Edit")
    somebody.press(f"Go back to {before.removeprefix(SUPPORT)}", within=tag_row(tag))
    assert named(site, tag) == before
    assert before.removeprefix(SUPPORT) in somebody.page.inner_text(tag_row(tag))


@SLOW
def test_a_tag_that_moved_meanwhile_stays(reader: OpenReader, site: Site, javascript: bool) -> None:
    somebody = reader("admin", javascript=javascript)
    somebody.open(f"/edit/{SUPPORT}@5")
    site.registry.tag(f"{SUPPORT}@1", "candidate")
    somebody.press("Take away", within=tag_row("candidate"), status=409)
    assert "tag_moved" in somebody.text
    assert "@1" in somebody.page.inner_text(tag_row("candidate"))
    assert named(site, "candidate") == f"{SUPPORT}@1"
    site.registry.tag(f"{SUPPORT}@5", "candidate")


@SLOW
def test_a_protected_tag_is_for_admins(reader: OpenReader, javascript: bool) -> None:
    somebody = reader("writer", javascript=javascript)
    somebody.open(f"/edit/{SUPPORT}@5")
    assert somebody.page.locator(tag_row("prod")).get_by_role("button").count() == 0
    assert somebody.page.locator(tag_row("staging")).get_by_role("button").count() > 0


@SLOW
def test_a_reader_is_offered_nothing_to_change(reader: OpenReader, javascript: bool) -> None:
    somebody = reader("reader", javascript=javascript)
    somebody.open(f"/tree/{SUPPORT}")
    assert somebody.page.get_by_role("link", name="Edit", exact=True).count() == 0
    assert somebody.page.get_by_role("link", name="Admin", exact=True).count() == 0
    somebody.open(f"/edit/{SUPPORT}", status=403)
    assert "not_allowed" in somebody.text


@pytest.mark.slow
@SCRIPTS
def test_make_a_token_use_it_and_revoke_it(reader: OpenReader, site: Site, javascript: bool) -> None:
    admin, name = reader("admin", javascript=javascript), f"ci {javascript}"
    admin.click("Admin")
    admin.fill("Name", name)
    admin.page.locator("select[name=role]").select_option("writer")
    admin.page.locator("input[name=scopes]").fill(SUPPORT)
    admin.press("Make it")
    secret = admin.page.locator("main code").filter(has_text="reg_").first.inner_text().strip()
    admin.open("/admin")
    assert secret not in admin.page.content()
    other = reader(javascript=javascript)
    other.sign_in_with(secret)
    other.open(f"/edit/{SUPPORT}")
    other.open(f"/tree/{LLAMA}/legal", status=404)
    mine = f"li:has(strong:text-is('{name}'))"
    admin.page.locator(mine).locator("summary").click()
    admin.press(admin.page.locator(f"{mine} button").get_attribute("aria-label") or "Revoke", within=mine)
    assert "revoked" in admin.page.inner_text(mine)
    other.open(f"/tree/{SUPPORT}", status=401)
    other.sign_in_with(secret, status=401)


@SLOW
def test_retract_after_seeing_what_it_takes_down_and_undo_it(reader: OpenReader, site: Site, javascript: bool) -> None:
    german = f"{LLAMA}/support/german"
    somebody = reader("scoped writer", javascript=javascript)
    somebody.open(f"/edit/{german}@2")
    somebody.click("What would go")
    assert f"{german}@prod" in somebody.text  # a tag that leads there
    somebody.page.locator("input[name=reason]").fill("Swears at customers.")
    somebody.press("Retract 1 revision")
    assert "Swears at customers." in somebody.text
    with pytest.raises(RetractedError, match="Swears at customers"):
        site.registry.artifact(f"{german}@2")
    stranger = reader("reader", javascript=javascript)
    stranger.open(f"/tree/{german}")
    assert "Swears at customers." in stranger.text
    somebody.open(f"/retract/{german}@2")
    somebody.press("Undo the retraction")
    site.registry.artifact(f"{german}@2").close()


@SLOW
def test_collect_after_seeing_what_would_go(reader: OpenReader, site: Site, javascript: bool) -> None:
    poems = "gpt2/poems/haiku@1"
    if javascript:
        site.registry.delete(poems)
    somebody = reader("admin", javascript=javascript)
    somebody.click("Admin")
    somebody.click("Storage")
    somebody.press("List what would go")
    for _ in range(60):
        if "done" in somebody.page.inner_text("main"):
            break
        somebody.page.wait_for_timeout(250)
        somebody.page.reload()
    assert "done" in somebody.page.inner_text("main")
    job = somebody.path
    assert job.startswith("/jobs/")
    somebody.open("/jobs")
    assert somebody.page.locator(f"main a[href='{job}']").count() >= 1


@SLOW
def test_what_was_done_is_in_the_activity(reader: OpenReader, site: Site, javascript: bool) -> None:
    somebody = reader("admin", javascript=javascript)
    site.registry.tag(f"{SUPPORT}@2", f"seen-{str(javascript).lower()}")
    somebody.click("Activity")
    assert f"seen-{str(javascript).lower()}" in somebody.page.locator("main li").first.inner_text()
    assert "@2" in somebody.page.locator("main li").first.inner_text()
