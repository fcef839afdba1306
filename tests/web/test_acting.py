"""What writers have done from a page: the same as by the command, with the same refusals, and the form kept."""

from __future__ import annotations

import re

import pytest

from tests.kit.gallery_story import LLAMA
from tests.web.conftest import Visitors
from tests.web.kit import Site
from tests.web.parsed import forms_of
from tests.web.pressing import form_with, press, said

FRENCH = f"{LLAMA}/support/french"
ACTS = ("rename", "rebase", "measure", "materialise")


def test_a_behind_revision_is_rebased_onto_what_the_page_offers(site: Site, visitors: Visitors) -> None:
    writer = visitors["scoped writer"]
    overview = writer.get(f"/tree/{FRENCH}@3")
    assert f'href="/edit/{FRENCH}@3#rebase"' in overview.text
    page = writer.get(f"/edit/{FRENCH}@3")
    assert f"registry rebase {FRENCH}@3 --onto {LLAMA}/support@5 --dry-run" in page.text
    form = form_with(page, "Rebase")
    assert form.fields["onto"] == f"{LLAMA}/support@5"
    wrong = press(writer, form, "Rebase", onto=f"{LLAMA}/legal@1", message="On the <new> one")
    assert wrong.status_code in (404, 409)
    kept = form_with(wrong, "Rebase")
    assert (kept.fields["onto"], kept.fields["message"]) == (f"{LLAMA}/legal@1", "On the <new> one")
    made = press(writer, kept, "Rebase", onto=f"{LLAMA}/support@5")
    assert made.status_code == 303
    new = site.registry.show(made.headers["location"].removeprefix("/tree/")).revision
    assert new is not None
    assert (new.parent, new.message) == (f"{LLAMA}/support@5", "On the <new> one")
    assert new.derived_from is not None
    assert new.derived_from.reference == f"{FRENCH}@3"
    assert "Rebase it" not in said(writer.get(f"/tree/{new.reference}"))


def test_rename_keeps_what_was_written_if_it_is_refused(site: Site, visitors: Visitors) -> None:
    writer, old = visitors["writer"], f"{LLAMA}/code/rust"
    form = form_with(writer.get(f"/edit/{old}"), "Rename")
    refused = press(writer, form, "Rename", name="No Name")
    assert refused.status_code == 400
    assert form_with(refused, "Rename").fields["name"] == "No Name"
    assert 'role="alert"' in refused.text
    done = press(writer, form_with(refused, "Rename"), "Rename", name="ferris")
    assert (done.status_code, done.headers["location"]) == (303, f"/tree/{LLAMA}/code/ferris")
    assert site.registry.resolve(old).renamed_to == f"{LLAMA}/code/ferris"


def test_what_is_not_measured_is_measured_by_a_button(site: Site, visitors: Visitors) -> None:
    old = f"{LLAMA}/support@1"
    assert "Measure it now" not in visitors["reader"].get(f"/tree/{old}").text
    page = visitors["writer"].get(f"/tree/{old}")
    answer = press(visitors["writer"], form_with(page, "Measure it now"), "Measure it now")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/tree/{old}#changed")
    kept = site.registry.show(old).revision
    assert kept is not None
    told = f"{100 * kept.statistics['relative_frobenius']:.3g} %"
    assert f"Size of the change {told}" in said(visitors["reader"].get(f"/tree/{old}"))


def test_materialising_is_a_job_with_a_page(site: Site, visitors: Visitors) -> None:
    writer = visitors["writer"]
    form = form_with(writer.get(f"/edit/{FRENCH}@2"), "Materialise")
    assert press(writer, form, "Materialise", days="0").status_code == 422
    answer = press(writer, form, "Materialise", kind="lora", days="2")
    assert (answer.status_code, answer.headers["location"].startswith("/jobs/")) == (303, True)
    page = writer.get(answer.headers["location"])
    while "data-refresh" in page.text:
        page = writer.get(answer.headers["location"])
    assert "failed" not in said(page)
    assert [one.kind for one in site.registry.materialisations(f"{FRENCH}@2")] == ["lora"]


@pytest.mark.parametrize("act", ACTS)
def test_readers_and_writers_elsewhere_do_nothing(site: Site, visitors: Visitors, act: str) -> None:
    before = len([one for one in site.registry.events(limit=10_000) if one.action != "refused"])
    given = {"rename": {"name": "forged"}, "rebase": {"onto": f"{LLAMA}/support@5"}, "materialise": {"kind": "lora"}}
    sent = given.get(act, {})
    assert visitors["reader"].send(f"/{act}/{FRENCH}@3", sent).status_code == 403
    hidden = visitors["scoped writer"].send(f"/{act}/{LLAMA}/legal@1", sent)
    absent = visitors["scoped writer"].send(f"/{act}/{LLAMA}/lagel@1", sent)
    assert hidden.status_code == absent.status_code == 404
    texts = [re.sub(r"[0-9a-f]{32,64}| Did you mean [^<]*", "", one.text) for one in (hidden, absent)]
    assert texts[0].replace("legal", "NAME") == texts[1].replace("lagel", "NAME")
    assert len([one for one in site.registry.events(limit=10_000) if one.action != "refused"]) == before
    assert not [one for one in forms_of(visitors["reader"].get(f"/tree/{FRENCH}@3").text) if act in one.action]


def test_admin_keeps_the_form_of_a_token_with_a_wrong_scope(visitors: Visitors) -> None:
    admin = visitors["admin"]
    form = form_with(admin.get("/admin"), "Make it")
    refused = press(admin, form, "Make it", name="ci of <support>", role="writer", scopes="No/Such Path/", days="30")
    assert refused.status_code in (400, 404)
    kept = form_with(refused, "Make it")
    assert (kept.fields["name"], kept.fields["scopes"]) == ("ci of <support>", "No/Such Path/")
    assert (kept.fields["role"], kept.fields["days"]) == ("writer", "30")
    assert refused.text.index('role="alert"') < refused.text.index("Make it")
    made = press(admin, kept, "Make it", scopes=f"{LLAMA}/support")
    assert (made.status_code, "ci of" in said(made)) == (200, True)


def test_edit_keeps_a_metric_that_is_no_number(visitors: Visitors) -> None:
    writer = visitors["writer"]
    form = form_with(writer.get(f"/edit/{FRENCH}@3"), "Save", name="acc")
    refused = press(writer, form, "Save", metric="nine")
    assert (refused.status_code, "The field metric" in said(refused)) == (422, True)
    assert form_with(refused, "Save", name="acc").fields["metric"] == "nine"
    new = form_with(writer.get(f"/edit/{FRENCH}@3"), "Add metric")
    refused = press(writer, new, "Add metric", name="not a name!", metric="1")
    assert (refused.status_code, form_with(refused, "Add metric").fields["name"]) == (400, "not a name!")
