"""The pages of a base model and of searches: they show what the registry answers, as far as a visitor sees it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from html import unescape

import pytest

from registry.schemas import RevisionSummary
from registry.web import tree
from tests.kit.gallery import SCOPE
from tests.kit.gallery_story import EMPTY, LLAMA, MIXTRAL
from tests.kit.statements import READS, statements
from tests.web.conftest import Visitors
from tests.web.kit import Site

TREE = f"/tree/{LLAMA}"
ROW = re.compile(r'<th scope="row"><a class="ref" href="/tree/([^"]+)"')
LEAF = re.compile(r'<a class="ref( hit)?" href="/tree/([^"?]+)"')
PARENT = re.compile(r'<tbody class="parent">.*?</tbody>', re.DOTALL)
HEADER = re.compile(
    r'<th scope="col" class="number[^"]*"( aria-sort="(\w+)")?><a href="([^"]+)" title="[^"]*">([^<]+)</a>'
)

OTHER = {"max:acc": "min:acc", "min:loss": "max:loss"}


def rows(text: str) -> list[str]:
    """The references of a table, without the parent that stands apart."""
    return ROW.findall(PARENT.sub("", text))


def ranked(revisions: Iterable[RevisionSummary], *, without: str = "") -> list[str]:
    """References in the order of a table that is sorted: those that are retracted are not ranked."""
    shown = [one for one in revisions if one.path != without]
    return [one.reference for one in sorted(shown, key=lambda one: one.retracted is not None)]


def leaves(text: str) -> list[str]:
    """The adapters of a list."""
    return [path for _, path in LEAF.findall(text)]


def test_the_list_has_every_adapter_in_its_order(visitors: Visitors, site: Site) -> None:
    shown = visitors["reader"].get(TREE).text
    assert leaves(shown) == [node.path for node in site.registry.tree(LLAMA).adapters()]
    for told in ("LlamaForCausalLM", ">retracted</span>", ">behind</span>", f'href="/files/{LLAMA}"'):
        assert told in shown


def test_the_drawing_has_the_same_and_its_values(visitors: Visitors, site: Site) -> None:
    shown = visitors["reader"].get(f"{TREE}?view=drawing&colour=metric:acc&size=rank").text
    drawn = re.search(r'<svg [^>]*class="plot .*?</svg>', shown, re.DOTALL)
    assert drawn is not None
    links = set(re.findall(r'<a href="/tree/([^"?]+)"', drawn[0]))
    assert links == {LLAMA} | {node.path for node in site.registry.tree(LLAMA).adapters()}
    found = [one.metrics["acc"] for one in site.registry.search(base=LLAMA, metric="acc").revisions]
    assert f"acc: {min(found):.6g}" in drawn[0]
    assert f"{max(found):.6g}" in drawn[0]
    whole = visitors["reader"].get(f"{TREE}?view=drawing&form=svg")
    assert whole.headers["content-disposition"] == f'attachment; filename="{LLAMA}.svg"'
    assert whole.text.startswith("<svg")


def test_filters_keep_what_is_above_in_view(visitors: Visitors, site: Site) -> None:
    shown = visitors["reader"].get(f"{TREE}?metric=acc>0.8").text
    hits = [path for hit, path in LEAF.findall(shown) if hit]
    wanted = [one.reference for one in site.registry.search(base=LLAMA, metric="acc>0.8").revisions]
    assert hits == wanted
    above = {"/".join(one.split("/")[:count]) for one in wanted for count in range(2, one.count("/") + 1)}
    assert {path for hit, path in LEAF.findall(shown) if not hit} == above - {one.split("@")[0] for one in wanted}
    assert ">No adapter meets all of these.<" in visitors["reader"].get(f"{TREE}?tag=nobody").text


def test_behind_is_a_filter(visitors: Visitors, site: Site) -> None:
    behind = [node.path for node in site.registry.tree(LLAMA).adapters() if node.revision and node.revision.behind]
    shown = visitors["reader"].get(f"{TREE}?behind=1").text
    assert [path.split("@")[0] for hit, path in LEAF.findall(shown) if hit] == behind
    shown = visitors["reader"].get(f"{TREE}?view=table&behind=1").text
    assert [path.split("@")[0] for path in rows(shown)] == behind


def test_a_branch_is_opened_with_what_is_above_it(visitors: Visitors, site: Site) -> None:
    at = f"{LLAMA}/support/french"
    shown = visitors["reader"].get(f"{TREE}?at={at}").text
    below = [node.path for node in site.registry.tree(at).adapters()]
    assert [one for one in leaves(shown) if one != at] == [f"{LLAMA}/support", *(one for one in below if one != at)]
    assert visitors["reader"].get(f"{TREE}?at={LLAMA}/nothing").status_code == 404
    assert visitors["reader"].get(f"{TREE}?at={EMPTY}/a").status_code == 400
    assert visitors["reader"].get(f"{TREE}?colour=metric:unknown&at={at}").status_code == 200
    assert visitors["reader"].get(f"{TREE}?colour=unknown&at={at}").status_code == 400
    assert visitors["reader"].get(f"{TREE}?after=x&view=table").status_code == 422
    assert visitors["reader"].get(f"{TREE}?metric=acc~1").status_code == 400
    assert visitors["reader"].get(f"{TREE}?view=cube").status_code == 422


def test_which_of_many_runs_is_best_takes_two_clicks(visitors: Visitors, site: Site) -> None:
    runs = f"{LLAMA}/code/python"
    table = visitors["reader"].get(f"{TREE}?at={runs}&view=table").text
    headers = {name: (order, unescape(href)) for _, order, href, name in HEADER.findall(table)}
    assert {"acc", "loss"} <= headers.keys()
    assert all(order == "" for order, _ in headers.values())
    for name, sort in (("acc", "max:acc"), ("loss", "min:loss")):  # a loss is best where it is smallest
        shown = visitors["reader"].get(headers[name][1]).text
        best = site.registry.search(path=runs, depth=1, sort=sort).revisions
        assert rows(shown) == ranked(best, without=runs)
        now = {name: (order, unescape(href)) for _, order, href, name in HEADER.findall(shown)}
        assert now[name][0] == ("descending" if sort.startswith("max") else "ascending")
        worst = site.registry.search(path=runs, depth=1, sort=OTHER[sort]).revisions
        assert rows(visitors["reader"].get(now[name][1]).text) == ranked(worst, without=runs)


def test_rows_are_children_or_everything_or_revisions(visitors: Visitors, site: Site) -> None:
    at = f"{LLAMA}/support"
    search = site.registry.search
    for which, wanted in (
        ("children", search(path=at, depth=1)),
        ("below", search(path=at)),
        ("revisions", search(path=at, depth=0, all_revisions=True)),
    ):
        shown = visitors["reader"].get(f"{TREE}?view=table&at={at}&which={which}").text
        shown_ones = [one.reference for one in wanted.revisions if which != "children" or one.path != at]
        assert rows(shown) == shown_ones


def test_configuration_and_annotations_are_columns(visitors: Visitors, site: Site) -> None:
    shown = visitors["reader"].get(f"{TREE}?view=table&at={LLAMA}/code/python&text=sweep-1e-4").text
    one = site.registry.search("sweep-1e-4", base=LLAMA).revisions[0]
    targets = site.registry.show(one.reference).targets
    assert f'title="{", ".join(group.name for group in targets)}"' in shown
    run = one.annotations["run_id"]
    assert f'<a href="{run}" rel="noopener noreferrer nofollow"' in shown
    assert f"<td>{one.annotations['learning_rate']}</td>" in shown


def test_the_csv_has_the_rows_of_the_table_and_no_formula(visitors: Visitors, site: Site) -> None:
    answer = visitors["reader"].get(f"{TREE}?view=table&form=csv&sort=max:acc")
    assert answer.headers["content-type"].startswith("text/csv")
    found = list(csv.DictReader(io.StringIO(answer.text)))
    best = site.registry.search(base=LLAMA, sort="max:acc").revisions
    assert [row["reference"] for row in found] == ranked(best)
    assert {row["reference"]: float(row["metric.acc"]) for row in found} == {
        one.reference: one.metrics["acc"] for one in best
    }
    assert {row["targets"] for row in found} >= {"q_proj v_proj"}
    hostile = visitors["admin"].get("/search?form=csv&all=1").text
    cells = [cell for row in csv.reader(io.StringIO(hostile)) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@")) or re.match(r"-(?![\d.])", cell)]


def test_a_search_is_of_all_bases(visitors: Visitors, site: Site) -> None:
    shown = visitors["reader"].get("/search?target=q_proj&rank=<=8").text
    wanted = site.registry.search(target="q_proj", rank="<=8").revisions
    assert rows(shown) == [one.reference for one in wanted]
    assert "registry search" not in shown
    assert "/api/v1/search?rank=%3C%3D8" in shown or "/api/v1/search?" in shown
    assert "No revision meets all of these." in visitors["reader"].get("/search?text=zzzz").text


def test_pages_of_a_table_together_are_the_whole(
    visitors: Visitors, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.web.search.ROWS", 7)
    for query in ("", "&sort=max:acc", "&which=revisions", "&behind=1"):
        address: str | None = f"{TREE}?view=table{query}"
        found: list[str] = []
        while address is not None:
            shown = visitors["reader"].get(address).text
            found += rows(shown)
            following = re.search(r'rel="next" href="([^"]+)"', shown)
            address = unescape(following[1]) if following else None
        assert len(found) == len(set(found)) > 7
        wanted = site.registry.search(
            base=LLAMA, sort="max:acc" if "sort" in query else None, all_revisions="which" in query
        ).revisions
        expected = [one.reference for one in wanted if "behind" not in query or one.behind]
        if "sort" in query:  # of each page, those that are retracted stand last
            expected = [one for at in range(0, len(wanted), 7) for one in ranked(wanted[at : at + 7])]
        assert found == expected


def test_folded_families_lead_on(visitors: Visitors, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tree._MOST, "list", 9)
    whole = {node.path for node in site.registry.tree(LLAMA).adapters()}
    seen: set[str] = set()
    ahead, visited = [TREE], set()
    while ahead:
        address = ahead.pop()
        visited.add(address)
        shown = visitors["reader"].get(address).text
        assert len(leaves(shown)) <= 9 + 4
        seen |= set(leaves(shown))
        following = [unescape(one) for one in re.findall(r'class="more-here" href="([^"]+)"', shown)]
        ahead += [one for one in following if one not in visited]
        assert len(visited) < 60
    assert seen == whole


def test_a_scope_is_all_there_is(visitors: Visitors, site: Site) -> None:
    scoped = visitors["scoped reader"]
    seen = [node.path for node in site.registry.tree(SCOPE).adapters()]
    assert leaves(scoped.get(TREE).text) == seen
    assert f"<dd>{len(seen)}</dd>" in scoped.get(TREE).text
    assert [one.split("@")[0] for one in rows(scoped.get(f"{TREE}?view=table").text)] == seen
    hidden = f"{LLAMA}/code"
    for address in (
        TREE,
        f"{TREE}?view=drawing",
        f"{TREE}?view=table&which=revisions",
        f"{TREE}?view=plane",
        "/search",
    ):
        assert hidden not in scoped.get(address).text, address
    assert scoped.get(f"{TREE}?at={hidden}").status_code == 404
    told = csv.DictReader(io.StringIO(scoped.get(f"{TREE}?view=table&form=csv").text))
    assert [row["path"] for row in told] == seen
    assert scoped.get("/tree/gpt2").status_code == 404


def test_a_base_without_adapters_says_what_to_do(visitors: Visitors) -> None:
    shown = visitors["reader"].get(f"/tree/{EMPTY}").text
    assert f"registry publish ./outputs/support {EMPTY}/support" in unescape(shown)


def test_the_plane_has_what_is_measured_and_says_what_is_not(visitors: Visitors, site: Site) -> None:
    shown = visitors["reader"].get(f"{TREE}?view=plane").text
    measured = site.registry.search(base=LLAMA, stat="effective_rank").revisions
    missing = {node.path for node in site.registry.tree(LLAMA).adapters()} - {one.path for one in measured}
    assert "full fine-tuning" in shown
    assert ("registry stats" in shown) == bool(missing)


@pytest.mark.parametrize("query", ["", "?view=drawing", "?metric=acc>0.8", "?view=table", "?view=plane"])
def test_a_page_is_a_few_statements(visitors: Visitors, query: str) -> None:
    visitors["reader"].get(f"{TREE}{query}")
    with statements(*READS) as sent:
        assert visitors["reader"].get(f"{TREE}{query}").status_code == 200
    assert len(sent) <= 30


def test_old_names_are_left_out(visitors: Visitors, site: Site) -> None:
    site.registry.rename(f"{MIXTRAL}/chat", "talk")
    for query in ("", "?view=drawing", "?view=table&which=revisions", "?view=plane"):
        shown = visitors["reader"].get(f"/tree/{MIXTRAL}{query}").text
        assert f'href="/tree/{MIXTRAL}/talk' in shown
        assert f'href="/tree/{MIXTRAL}/chat' not in shown
