"""The pages of an adapter: what they say is what the registry answers, to whom it answers, and they start no work."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote

import pytest

from tests.kit.gallery_hostile import ADAPTER
from tests.kit.gallery_story import LLAMA, MIXTRAL
from tests.kit.gallery_texts import ATTACKS
from tests.kit.pages import Visitor
from tests.web.conftest import Visitors
from tests.web.kit import Site
from tests.web.parsed import SVG

Ask = Callable[..., str]
FRENCH = f"{LLAMA}/support/french"


@pytest.fixture
def page(visitors: Visitors) -> Ask:
    """The text of a page, as somebody sees it, without its tags."""

    def ask(path: str, who: str = "admin", *, raw: bool = False, status: int = 200) -> str:
        answer = visitors[who].get(path)
        assert answer.status_code == status, answer.text[:500]
        text = answer.text
        return text if raw else " ".join(re.sub(r"<[^>]*>", " ", SVG.sub("", text)).replace("&nbsp;", " ").split())

    return ask


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_figures_are_those_of_the_statistics(site: Site, page: Ask) -> None:
    found = site.registry.stats(f"{FRENCH}@3")
    link = next(one.delta for one in found.links if one.reference == f"{FRENCH}@3")
    whole = {str(row["module"]): row for row in found.rows() if row["delta"] == f"{LLAMA}..{FRENCH}@3"}
    change = table(page(f"/figures/change.csv/{FRENCH}@3", raw=True))
    assert {row["module"]: float(row["relative_frobenius"]) for row in change} == {
        one.module: one.relative_frobenius for one in link.modules
    }
    for row in table(page(f"/figures/path-change.csv/{FRENCH}@prod", raw=True)):
        assert float(row["energy"]) == whole[row["module"]]["energy"]
    energy = table(page(f"/figures/energy.csv/{FRENCH}@3", raw=True))
    assert [(int(row["rank"]), float(row["energy"])) for row in energy] == [*enumerate(link.energy_by_rank, 1)]
    text = page(f"/tree/{FRENCH}")
    assert f"{100 * (link.relative_frobenius or 0):.3g} % of the weights it touches" in text
    assert f"{link.effective_rank:.3g} effective, of {link.rank}" in text
    assert f"{link.rank95} for 95 % of the change; {link.rank99} for 99 %" in text
    drawn = page(f"/tree/{FRENCH}", raw=True)
    strongest = max(link.modules, key=lambda one: one.relative_frobenius or 0)
    told = f"{strongest.kind}, layer {strongest.depth}: {100 * (strongest.relative_frobenius or 0):.3g} %"
    assert f"<title>{told}</title>" in drawn


def test_experts_are_folded_by_layer(site: Site, page: Ask) -> None:
    link = site.registry.stats(f"{MIXTRAL}/chat").links[-1].delta
    experts = next(one for one in link.modules if one.experts and one.depth == 1)
    told = f"{experts.kind}, layer 1: {100 * (experts.relative_frobenius or 0):.3g} %"
    assert f"<title>{told}</title>" in page(f"/tree/{MIXTRAL}/chat", raw=True)


def test_a_figure_by_digest_has_a_policy_that_allows_its_style(site: Site, visitors: Visitors) -> None:
    pinned = f"{FRENCH}@{site.registry.show(f'{FRENCH}@3').lineage[-1].digest}"
    assert f"/figures/change.svg/{pinned}" in visitors["admin"].get(f"/tree/{FRENCH}").text
    answer = visitors["admin"].get(f"/figures/change.svg/{pinned}")
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert answer.headers["content-type"] == "image/svg+xml"
    assert f"default-src 'none'; style-src 'sha256-{digest}';" in answer.headers["content-security-policy"]
    for wrong in ("change.png", "change", "none.svg", "../style.css", "energy.csv"):
        found = visitors["admin"].get(f"/figures/{wrong}/{FRENCH if wrong != 'energy.csv' else f'{LLAMA}/support@1'}")
        assert found.status_code == 404


def test_what_is_not_measured_says_so_and_is_not_measured_by_looking(site: Site, page: Ask) -> None:
    old = f"{LLAMA}/support@1"
    text = page(f"/tree/{old}")
    assert f"registry stats {old}" in text
    assert f"registry check {old} --engine vllm" in text
    assert text.count("not asked") == 4
    page(f"/figures/change.svg/{old}", status=404)
    shown = site.registry.show(old)
    assert shown.revision is not None
    assert (shown.revision.statistics, shown.engines) == ({}, ())


def test_the_story_of_a_revision(site: Site, page: Ask) -> None:
    text = page(f"/tree/{FRENCH}")
    parent, own = (site.registry.show(ref).revision for ref in (f"{LLAMA}/support@4", f"{FRENCH}@3"))
    assert parent is not None
    assert own is not None
    assert f"{own.metrics['acc']:.6g} {own.metrics['acc'] - parent.metrics['acc']:+.4g} from its parent" in text
    assert f"Trained on {LLAMA}/support@4 ( stated )" in text
    raw = page(f"/tree/{FRENCH}", raw=True)
    assert '(<span title="given: known by the word of its publisher">stated</span>)' in raw
    assert "Behind: on support@4, and @5 is newer" in text.replace(" ,", ",")
    assert re.search(r"prod names this revision since \d+ days ago by chloe; was @2", text)
    assert "vLLM 0." in text
    assert text.count("loads") == 4
    assert "Hub clients 3" in text
    assert "formal @2" in text
    assert "quebec @1" in text
    assert "of the change survives rounding" in text
    assert f"{FRENCH}@{own.digest}" in text
    assert 'href="https://wandb.ai/acme/adapters/runs/' in page(f"/tree/{FRENCH}", raw=True)


def test_why_an_engine_does_not_load_it(page: Ask) -> None:
    text = page(f"/tree/{MIXTRAL}/chat")
    assert re.search(r"does not load vLLM [\d.]+ it adapts experts that share one tensor", text)
    deep = page(f"/tree/{LLAMA}/code/python/unlearn")
    assert "its rank is 48, above 16, unless the engine is started with more" in deep
    assert f"The delta undoes 80% of that of its parent {LLAMA}/code/python@1." in deep


def test_a_retraction_is_told_with_its_cause(page: Ask) -> None:
    text = page(f"/tree/{LLAMA}/medical/radiology/chest@1")
    assert f"with {LLAMA}/medical/radiology@1" in text
    assert "Trained on withdrawn scans. Its weights are not handed out." in text


def test_a_scope_hides_what_is_above_and_beside(page: Ask) -> None:
    raw = page(f"/tree/{FRENCH}", "scoped reader", raw=True)
    assert f'href="/tree/{LLAMA}/support@4"' in raw
    assert "/edit/" not in raw
    page(f"/tree/{LLAMA}/legal", "scoped reader", status=404)
    page(f"/history/{LLAMA}/legal", "scoped reader", status=404)
    for name in ("change.svg", "path-change.csv", "energy.svg", "metric.csv"):
        page(f"/figures/{name}/{LLAMA}/legal@2?metric=acc".removesuffix("" if "metric" in name else "?metric=acc"),
             "scoped reader", status=404)  # fmt: skip


def test_ancestors_outside_of_a_scope_are_names_alone(site: Site) -> None:
    secret = site.registry.create_token("reader", name="below", scopes=[f"{FRENCH}/formal"]).secret
    with Visitor(site.address) as visitor:
        visitor.sign_in(secret)
        text = visitor.get(f"/tree/{FRENCH}/formal").text
        assert visitor.get(f"/tree/{FRENCH}").status_code == 404
    assert f'href="/tree/{FRENCH}@' not in text
    assert text.count("Outside of what your token sees") == 2
    assert "vouvoiement" not in text
    assert "newest is" not in text
    assert f"{FRENCH}@3</span>" in text


def test_the_time_line_has_what_the_log_has(site: Site, page: Ask) -> None:
    text = page(f"/history/{LLAMA}/support")
    log = site.registry.log(f"{LLAMA}/support").revisions
    assert [int(one) for one in re.findall(r"@(\d+) [A-Z]", text)] == [one.number for one in log]
    for one, older in pairwise(log):
        assert one.message.partition("\n")[0] in text
        assert f"Compare with @{older.number}" in text
        assert f"{one.metrics['acc']:.6g} {one.metrics['acc'] - older.metrics['acc']:+.3g}" in text
    values = table(page(f"/figures/metric.csv/{LLAMA}/support?metric=acc", raw=True))
    assert {int(row["revision"]): float(row["acc"]) for row in values} == {
        one.number: one.metrics["acc"] for one in log
    }
    page(f"/figures/metric.svg/{LLAMA}/support?metric=none", status=404)
    page(f"/figures/metric.svg/{LLAMA}/support", status=422)


def test_pages_of_a_time_line_with_deleted_numbers(site: Site, page: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from registry.web.revision import history

    path = f"{LLAMA}/support"
    monkeypatch.setattr(history, "LISTED", 2)
    site.registry.delete(f"{path}@1")
    try:
        found = pages(page, f"/history/{path}")
    finally:
        site.registry.delete(f"{path}@1", undo=True)
    gone = r"@1 was deleted just now by ops.* can be restored until .*registry delete " + f"{path}@1 --undo"
    assert [numbers for numbers, _ in found] == [[5, 4], [3, 2]]
    assert ["was deleted" in text for _, text in found] == [False, True]
    assert re.search(gone, found[1][1])
    assert [numbers for numbers, _ in pages(page, f"/history/{path}")] == [[5, 4], [3, 2], [1]]


def pages(page: Ask, address: str) -> list[tuple[list[int], str]]:
    """The numbers and the text of each page of a time line."""
    found = []
    while address:
        raw = page(address, raw=True)
        found.append(([int(one) for one in re.findall(r'<h3><a class="ref"[^>]*>@(\d+)<', raw)], page(address)))
        older = re.search(r'rel="next" href="([^"]*)"', raw)
        address = older[1] if older else ""
    return found


def test_a_page_stays_small_whatever_is_said_about_a_revision(site: Site, page: Ask) -> None:
    path = f"{LLAMA}/code/rust"
    registry = site.registry
    registry.annotate(
        f"{path}@1",
        metrics={f"metric-{n}": n / 7 for n in range(200)},
        annotations={f"note-{n}": "https://example.com/" + "<&>" * 300 for n in range(60)},
        message="<&>" * 1000,
    )
    registry.set_card(path, "<&>" * 60_000)
    for place in ("tree", "history"):
        raw = page(f"/{place}/{path}", raw=True)
        assert len(SVG.sub("", raw).encode()) <= 100_000
    assert "The card goes on" in page(f"/tree/{path}")
    registry.set_card(path, "<script>globalThis.hacked=1</script>")
    assert "<script>globalThis" not in page(f"/tree/{path}", raw=True)


def test_nothing_that_people_wrote_is_markup(page: Ask) -> None:
    drawn = f"/figures/metric.svg/{ADAPTER}@1?metric={quote(ATTACKS[0])}"
    for path in (f"/tree/{ADAPTER}@1", f"/tree/{ADAPTER}@2", f"/history/{ADAPTER}", drawn):
        raw = page(path, raw=True)
        assert "<script>globalThis" not in raw
        assert not re.search(r"<[^>]*\son\w+=", raw)
