"""Changing things by forms: only from what the page showed, once however often a form is sent, with the right role."""

from __future__ import annotations

import re
from html import unescape

import httpx
import pytest

from tests.kit.gallery_story import LLAMA
from tests.web.conftest import Visitors
from tests.web.kit import Site
from tests.web.parsed import Parsed
from tests.web.pressing import form_with, press, said

SUPPORT = f"{LLAMA}/support"
LEGAL = f"{LLAMA}/legal"


def named(site: Site, tag: str, path: str = SUPPORT) -> str | None:
    found = {one.tag: one.points_at for one in site.registry.show(f"{path}@1").tag_history}
    revisions = (one for one in site.registry.log(path).revisions if tag in one.tags)
    return next((one.reference for one in revisions), None) if tag not in found else found[tag]


def told(response: httpx.Response) -> str:
    """The sentence of an error page."""
    found = re.search(r'<p class="lead">(.*?)</p>', response.text, re.DOTALL)
    assert found
    return unescape(found[1]).partition(" Did you mean")[0]


def events(site: Site, path: str, kind: str) -> int:
    return len([one for one in site.registry.events(path.partition("@")[0], kind=kind) if one.subject == path])


def link_to(page: httpx.Response, address: str) -> str:
    """A link of a page."""
    assert address in Parsed(page.text).addresses("a")
    return address


def test_from_the_first_page_to_the_tag_that_went_back_in_four_clicks(site: Site, visitors: Visitors) -> None:
    admin = visitors["admin"]
    base = admin.get(link_to(admin.get("/"), f"/tree/{LLAMA}"))
    adapter = admin.get(link_to(base, f"/tree/{SUPPORT}"))
    edit = admin.get(next(one for one in Parsed(adapter.text).addresses("a") if one.startswith(f"/edit/{SUPPORT}")))
    answer = press(admin, form_with(edit, "Go back to @3", tag="prod"), "Go back to @3")
    assert answer.status_code == 303
    assert named(site, "prod") == f"{SUPPORT}@3"
    form_with(admin.get(answer.headers["location"]), "Go back to @4", tag="prod")
    site.registry.tag(SUPPORT, "prod", undo=True)


def test_a_tag_goes_back_and_a_second_click_changes_nothing(site: Site, visitors: Visitors) -> None:
    admin = visitors["admin"]
    assert named(site, "prod") == f"{SUPPORT}@4"
    before = events(site, SUPPORT, "tag")
    form = form_with(admin.get(f"/edit/{SUPPORT}"), "Go back to @3", tag="prod")
    for _ in range(2):
        answer = press(admin, form, "Go back to @3")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/edit/{SUPPORT}@5#tags")
        assert named(site, "prod") == f"{SUPPORT}@3"
    assert events(site, SUPPORT, "tag") == before + 1
    again = form_with(admin.get(f"/edit/{SUPPORT}"), "Go back to @4", tag="prod")
    press(admin, again, "Go back to @4")
    assert named(site, "prod") == f"{SUPPORT}@4"


@pytest.mark.parametrize("label", ["Take away", "Move to @5", "Go back to @3"])
def test_a_form_that_comes_too_late_shows_what_is(site: Site, visitors: Visitors, label: str) -> None:
    admin = visitors["admin"]
    form = form_with(admin.get(f"/edit/{SUPPORT}"), label, tag="staging")
    site.registry.tag(f"{SUPPORT}@2", "staging")  # somebody else
    answer = press(admin, form, label)
    assert answer.status_code == 409
    assert f"{SUPPORT}@staging points at {SUPPORT}@2 and not at {SUPPORT}@4: it was not changed." in said(answer)
    assert named(site, "staging") == f"{SUPPORT}@2"
    form_with(answer, "Move to @5", tag="staging", expected=f"{SUPPORT}@2")  # what can be done now
    site.registry.tag(f"{SUPPORT}@3", "staging")
    site.registry.tag(f"{SUPPORT}@4", "staging")


def test_a_new_tag_takes_none_from_another_revision(site: Site, visitors: Visitors) -> None:
    writer = visitors["writer"]
    page = writer.get(f"/edit/{SUPPORT}@2")
    form = form_with(page, "Tag it")
    assert press(writer, form, "Tag it", tag="candidate").status_code == 409
    assert named(site, "candidate") == f"{SUPPORT}@5"
    for _ in range(2):
        assert press(writer, form, "Tag it", tag="fresh").status_code == 303
    assert named(site, "fresh") == f"{SUPPORT}@2"
    gone = form_with(writer.get(f"/edit/{SUPPORT}@2"), "Take away", tag="fresh")
    for _ in range(2):
        assert press(writer, gone, "Take away").status_code == 303
    assert named(site, "fresh") is None
    back = form_with(writer.get(f"/edit/{SUPPORT}@2"), "Go back to @2", tag="fresh")
    assert press(writer, back, "Go back to @2").status_code == 303
    assert named(site, "fresh") == f"{SUPPORT}@2"
    answer = press(writer, form, "Tag it", tag="No Tag")
    assert (answer.status_code, "No Tag" in said(answer)) == (400, True)


def test_who_may_not_write_gets_the_sentence_of_the_api(site: Site, visitors: Visitors) -> None:
    page = visitors["writer"].get(f"/edit/{SUPPORT}")
    assert "protected: only admins move it" in said(page)
    forged = {"do": "undo", "tag": "prod", "expected": f"{SUPPORT}@4", "wanted": f"{SUPPORT}@3"}
    answer = visitors["writer"].send(f"/tag/{SUPPORT}@5", forged)
    assert (answer.status_code, "protected_tag" in said(answer)) == (403, True)
    for path in (f"/edit/{SUPPORT}", f"/card/{SUPPORT}", f"/retract/{SUPPORT}@3"):
        answer = visitors["reader"].get(path)
        assert answer.status_code == 403
        assert "needs the role writer, and it has reader." in said(answer)
    assert visitors["reader"].send(f"/annotate/{SUPPORT}@5", {"message": "x"}).status_code == 403
    assert visitors["scoped writer"].get(f"/edit/{SUPPORT}").status_code == 200
    for path in (f"/edit/{LEGAL}", f"/card/{LEGAL}", f"/retract/{LEGAL}@1"):
        hidden, absent = (visitors["scoped writer"].get(one) for one in (path, path.replace("legal", "lagel")))
        assert (hidden.status_code, absent.status_code) == (404, 404)
        assert told(hidden).replace("legal", "lagel") == told(absent)
    assert named(site, "prod") == f"{SUPPORT}@4"


def test_values_and_the_message(site: Site, visitors: Visitors) -> None:
    writer, reference = visitors["writer"], f"{SUPPORT}@1"

    def page() -> httpx.Response:
        return writer.get(f"/edit/{reference}")

    assert press(writer, form_with(page(), "Save", name="acc"), "Save", metric="0.75").status_code == 303
    assert site.registry.show(reference).revision.metrics["acc"] == 0.75  # type: ignore[union-attr]
    refused = press(writer, form_with(page(), "Save", name="acc"), "Save", metric="good")
    assert (refused.status_code, "metric" in said(refused)) == (422, True)
    added = press(writer, form_with(page(), "Add annotation"), "Add annotation", name="note", annotation='<b>"&')
    assert added.status_code == 303
    assert site.registry.show(reference).revision.annotations["note"] == '<b>"&'  # type: ignore[union-attr]
    gone = form_with(page(), "Remove", name="note", annotation='<b>"&')
    for _ in range(2):
        assert press(writer, gone, "Remove").status_code == 303
    assert "note" not in site.registry.show(reference).revision.annotations  # type: ignore[union-attr]
    message = form_with(page(), "Save", message="Support tickets of 2025, first run")
    press(writer, message, "Save", message="\nTwo\r\nlines")
    assert site.registry.show(reference).revision.message == "\nTwo\nlines"  # type: ignore[union-attr]
    form_with(page(), "Save", message="\nTwo\nlines")
    press(writer, message, "Save", message="")
    assert site.registry.show(reference).revision.message == ""  # type: ignore[union-attr]


def test_a_card_is_replaced_only_where_it_is_the_one_that_was_read(site: Site, visitors: Visitors) -> None:
    writer, path = visitors["writer"], f"{LLAMA}/code"
    form = form_with(writer.get(f"/card/{path}"), "Save")
    for _ in range(2):
        assert press(writer, form, "Save", text="# Code\r\n\r\n<script>x</script>").status_code == 303
    assert site.registry.card(path).text == "# Code\n\n<script>x</script>"
    late = press(writer, form, "Save", text="mine")
    assert (late.status_code, "card_changed" in said(late)) == (409, True)
    assert "<script>x" not in late.text
    assert form_with(late, "Save").fields["text"] == "mine"
    assert "# Code" in said(late)
    assert site.registry.card(path).text.startswith("# Code")
    assert press(writer, form_with(late, "Save"), "Save").status_code == 303
    assert site.registry.card(path).text == "mine"
    back = form_with(writer.get(f"/card/{path}"), "Go back to the published README.md")
    for _ in range(2):
        assert press(writer, back, "Go back to the published README.md").status_code == 303
    state = site.registry.card(path).state
    assert state is None or state.source == "published"


def test_a_card_that_is_too_long_for_a_page_is_edited_as_a_file(site: Site, visitors: Visitors) -> None:
    site.registry.set_card(LEGAL, "<" * 20_001)
    page = visitors["admin"].get(f"/card/{LEGAL}")
    assert "registry card" in said(page)
    assert len(page.content) < 100_000
    site.registry.set_card(LEGAL, None)


def test_a_retraction_shows_first_what_it_takes_down(site: Site, visitors: Visitors) -> None:
    writer, reference = visitors["writer"], f"{SUPPORT}@2"
    expected = site.registry.retract(reference, dry_run=True)
    page = writer.get(f"/retract/{reference}")
    for one in (*expected.descendants, *expected.tags):
        assert one in said(page)
    assert len(expected.descendants) == 3
    assert site.registry.show(reference).revision.retracted is None  # type: ignore[union-attr]
    label = f"Retract {len(expected.descendants) + 1} revisions"
    assert press(writer, form_with(page, label), label).status_code == 400  # no reason
    for _ in range(2):
        answer = press(writer, form_with(page, label), label, reason="<i>leak</i>")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/tree/{reference}")
    held = site.registry.show(reference).revision.retracted  # type: ignore[union-attr]
    assert held is not None
    assert held.reason == "<i>leak</i>"
    assert events(site, reference, "retract") == 1
    undo = writer.get(f"/retract/{reference}")
    assert "<i>" not in undo.text
    for _ in range(2):
        assert press(writer, form_with(undo, "Undo the retraction"), "Undo the retraction").status_code == 303
    assert site.registry.show(reference).revision.retracted is None  # type: ignore[union-attr]
    scoped = visitors["scoped writer"].get(f"/retract/{LLAMA}/support@2")
    assert scoped.status_code == 200
