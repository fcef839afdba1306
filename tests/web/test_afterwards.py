"""What became of an adapter since it was published, as its pages tell it: values, the log, the card, deletions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from tests.kit.gallery_story import LLAMA
from tests.web.conftest import Visitors
from tests.web.kit import Site
from tests.web.parsed import forms_of
from tests.web.pressing import form_with, press, said

SUPPORT = f"{LLAMA}/support"
PYTHON = f"{LLAMA}/code/python@1"
NEXT = re.compile(r'rel="next" href="([^"]+)"')


def test_a_value_that_was_added_or_changed_later_says_by_whom(site: Site, visitors: Visitors) -> None:
    reader = visitors["reader"]
    before = said(reader.get(f"/tree/{PYTHON}"))
    assert "added" not in before  # what is published with it is no change, though it is recorded like one
    first = site.registry.show(PYTHON).revision
    assert first is not None
    metric, value = next(iter(first.metrics.items()))
    site.registry.annotate(
        PYTHON, metrics={metric: value + 1, "later": 0.5}, annotations={"note": "seen"}, message="New"
    )
    text = said(reader.get(f"/tree/{PYTHON}"))
    assert re.search(rf"changed just now by ops, was {re.escape(f'{value:.6g}')}", text)
    assert re.search(r"later 0.5 added just now by ops", text)
    assert re.search(r"note seen added just now by ops", text)
    assert "The message was written just now by ops" in text
    site.registry.annotate(PYTHON, unset=["later", "note"])
    site.registry.annotate(PYTHON, metrics={metric: value}, message=first.message)
    assert "later 0.5" not in said(reader.get(f"/tree/{PYTHON}"))


def test_a_value_keeps_who_wrote_it_under_a_new_name(site: Site, visitors: Visitors) -> None:
    site.registry.annotate(f"{SUPPORT}/german@1", annotations={"seen": "yes"})
    site.registry.rename(f"{SUPPORT}/german", "deutsch")
    text = said(visitors["reader"].get(f"/tree/{SUPPORT}/deutsch@1"))
    assert "seen yes added just now by ops" in text
    log = visitors["reader"].get(f"/log/{SUPPORT}/deutsch").text
    assert f'href="/log/{SUPPORT}/german"' in log


def log_pages(visitors: Visitors, path: str, who: str = "admin") -> Iterator[str]:
    address: str | None = f"/log/{path}"
    while address is not None:
        answer = visitors[who].get(address)
        assert (answer.status_code, len(answer.content) < 80_000) == (200, True)
        yield answer.text
        found = NEXT.search(answer.text)
        address = found and unescape(found[1])


def test_the_log_has_each_event_of_the_adapter_once_and_none_of_what_is_below(
    site: Site, visitors: Visitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry.web.revision import history

    monkeypatch.setattr(history, "EVENTS", 7)
    every = site.registry.events(SUPPORT, limit=10_000)
    own = [one for one in every if one.subject.partition("@")[0] == SUPPORT]
    assert 7 < len(own) < len(every)
    pages = [*log_pages(visitors, SUPPORT)]
    assert len(pages) == -(-len(own) // 7)
    told = [(unescape(actor), unescape(subject)) for actor, subject in re.findall(
        r'<a class="who-did"[^>]*>(.*?)</a>.*?<a class="ref"[^>]*>(.*?)</a>', "".join(pages), re.DOTALL)]  # fmt: skip
    together = [(one.actor, one.subject) for one in own]
    assert [*dict.fromkeys(told)] == [*dict.fromkeys(together)]
    assert {subject for _, subject in told} == {one.subject for one in own}


def test_how_a_card_changed_between_what_was_published_and_edited(
    site: Site, visitors: Visitors, tmp_path: Path
) -> None:
    registry, path = site.registry, "gpt2/poems/haiku"
    texts = ["# Haiku\n\nOf <b>frogs</b>.\n", "# Haiku\n\nOf ponds & frogs.\n", "# Haiku\n\nOf ponds.\n"]
    for at, text in enumerate((texts[0], texts[0], texts[1])):
        folder = Path(registry.fetch(path, tmp_path / str(at), kind="published").folder)
        (folder / "README.md").write_text(text)
        (folder / "notes.txt").write_text(str(at))
        registry.publish(folder, path, message=f"Card {at}")
    numbers = [one.number for one in registry.log(path).revisions]
    page = f"/card-changes/{path}"
    assert differences(visitors["reader"].get(page).text) == [
        ("removed", "Of <b>frogs</b>."),
        ("added", "Of ponds & frogs."),
    ]
    registry.set_card(path, texts[2])
    assert differences(visitors["reader"].get(page).text) == [("removed", "Of ponds & frogs."), ("added", "Of ponds.")]
    found = visitors["reader"].get(f"{page}?a={numbers[2]}&b=edited").text
    assert differences(found) == [("removed", "Of <b>frogs</b>."), ("added", "Of ponds.")]
    # @2 has the README.md of the one before it, which is no other text.
    assert re.findall(r'<option value="(\w+)"', found)[:3] == ["edited", str(numbers[0]), str(numbers[2])]
    assert visitors["reader"].get(f"{page}?a=nothing").status_code == 422
    assert visitors["reader"].get(f"{page}?a=99&b=98").status_code == 404
    registry.set_card(path, "line\n" * 700)
    assert f"diff &lt;(registry card {path}@{numbers[0]}" in visitors["reader"].get(page).text


def differences(page: str) -> list[tuple[str, str]]:
    """What was removed and added, line by line."""
    found = re.findall(r'<li class="(removed|added)"><span.*?</span> (.*?)</li>', page)
    return [(kind, unescape(text)) for kind, text in found]


@pytest.fixture
def deleted(site: Site) -> Iterator[str]:
    """A revision that was deleted, and is there again afterwards."""
    reference = f"{SUPPORT}@1"
    site.registry.delete(reference)
    yield reference
    site.registry.delete(reference, undo=True)


@pytest.mark.parametrize("part", ["tree", "files", "use", "history", "log"])
def test_a_deleted_revision_says_who_deleted_it_and_until_when(visitors: Visitors, deleted: str, part: str) -> None:
    answer = visitors["reader"].get(f"/{part}/{deleted}")
    text = said(answer)
    assert answer.status_code == 404
    assert re.search(rf"{deleted} was deleted on .* UTC by ops. It can be restored until .* UTC.", text)
    assert f"registry delete {deleted} --undo" in text
    assert "Restore it" not in text  # a reader can't


def test_a_deleted_revision_is_found_by_its_digest_and_restored_by_a_writer(site: Site, visitors: Visitors) -> None:
    reference = f"{SUPPORT}@1"
    shown = site.registry.show(reference).revision
    assert shown is not None
    site.registry.delete(reference)
    writer = visitors["scoped writer"]
    page = writer.get(f"/tree/{SUPPORT}@{shown.digest}")
    assert (page.status_code, "by ops" in said(page)) == (404, True)
    answer = press(writer, form_with(page, "Restore it"), "Restore it")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/tree/{reference}")
    assert site.registry.resolve(reference).digest == shown.digest
    log = said(writer.get(f"/log/{SUPPORT}"))
    assert log.index("restored") < log.index("deleted")  # newest first
    missing = writer.get(f"/tree/{SUPPORT}@77")
    assert (missing.status_code, "was deleted" in missing.text) == (404, False)


def test_what_is_deleted_out_of_a_scope_is_as_if_it_never_was(site: Site, visitors: Visitors) -> None:
    site.registry.delete("gpt2/poems/haiku@1")
    try:
        for who in ("scoped reader", "scoped writer"):
            answers = [visitors[who].get(f"/tree/{path}") for path in ("gpt2/poems/haiku@1", "gpt2/poems/hokku@1")]
            texts = [re.sub(r"[0-9a-f]{32,64}| Did you mean [^<]*", "", one.text) for one in answers]
            assert texts[0].replace("haiku", "NAME") == texts[1].replace("hokku", "NAME")
            assert [one.status_code for one in answers] == [404, 404]
            assert "deleted" not in texts[0]
            forged = visitors[who].send("/undelete/gpt2/poems/haiku@1", {})
            assert forged.status_code in (403, 404)
    finally:
        site.registry.delete("gpt2/poems/haiku@1", undo=True)


def test_a_deleted_number_is_restored_on_the_time_line(site: Site, visitors: Visitors, deleted: str) -> None:
    assert not [one for one in forms_of(visitors["reader"].get(f"/history/{SUPPORT}").text) if "undelete" in one.action]
    page = visitors["writer"].get(f"/history/{SUPPORT}")
    restore = next(one for one in forms_of(page.text) if one.action == f"/undelete/{deleted}")
    assert visitors["writer"].send(restore.action, restore.fields, token=None).status_code == 303
    assert site.registry.resolve(deleted).reference == deleted


@pytest.mark.parametrize("path", [f"/tree/{LLAMA}/suport", "/nothing/here", f"/tree/{LLAMA}/support?x=1", "/admin"])
def test_an_error_has_the_frame_of_who_is_signed_in(visitors: Visitors, path: str) -> None:
    answer = visitors["reader"].get(path)
    if answer.status_code == 200:  # a query that a page does not read
        return
    assert 'aria-label="Pages"' in answer.text
    assert ">Sign out</button>" in answer.text
    assert ">Admin</a>" not in answer.text
    assert answer.status_code in (403, 404, 405, 422)


def test_an_error_for_a_stranger_names_nobody(visitors: Visitors) -> None:
    answer = visitors[None].get("/nothing/here")
    assert (answer.status_code, "Sign out" in answer.text) == (404, False)
