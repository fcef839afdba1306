"""A table of revisions to work in: its columns are those of the address, and what is ticked is compared."""

from __future__ import annotations

import csv
import io
import re
from html import unescape
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from registry.rights import UNLIMITED, Principal
from registry.schemas import RevisionSummary
from registry.services import deltas
from registry.web.revision import side_by_side
from tests.kit.gallery_story import LLAMA
from tests.kit.pages import Visitor
from tests.kit.statements import READS, statements
from tests.web.conftest import Visitors
from tests.web.kit import Site
from tests.web.parsed import forms_of

RUNS = f"{LLAMA}/code/python"
TABLE = f"/tree/{LLAMA}?view=table&at={RUNS}"
_ROW = re.compile(
    r'<tr(?: class="(\w+)")?>\s*(?:<td class="tick">.*?</td>\s*)?<th scope="row">(.*?)</th>(.*?)</tr>', re.DOTALL
)
_BODY = re.compile(r"<tbody(?: class=\"(\w+)\")?>(.*?)</tbody>", re.DOTALL)


def plain(cell: str) -> str:
    """The words of a cell."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", cell)).split())


def heads(text: str) -> list[str]:
    """What stands above the columns, from the left."""
    found = re.search(r"<thead>.*?</thead>", text, re.DOTALL)
    assert found is not None
    return [plain(one) for one in re.findall(r'<th scope="col".*?>(.*?)</th>', found[0], re.DOTALL)][1:]


def body(text: str, name: str = "") -> dict[str, list[str]]:
    """The rows of a part of the table: their cells, by what the rows are called."""
    for kind, inside in _BODY.findall(text):
        if kind == name:
            return {
                plain(re.findall(r"<a.*?</a>", head, re.DOTALL)[0]): [
                    plain(one) for one in re.findall(r"<td.*?>(.*?)</td>", cells, re.DOTALL)
                ]
                for _, head, cells in _ROW.findall(inside)
            }
    return {}


def revision(site: Site, reference: str) -> RevisionSummary:
    found = site.registry.show(reference).revision
    assert found is not None
    return found


def test_columns_are_those_of_the_address_in_its_order(visitors: Visitors, site: Site) -> None:
    keys = "rank,annotation:learning_rate,loss,stat:effective_rank,message,acc,tags,author,parent"
    shown = visitors["reader"].get(f"{TABLE}&columns={keys}").text
    assert heads(shown) == [
        "Rank", "learning_rate", "loss", "eff. rank", "Message", "acc", "Tags", "Author", "Parent"
    ]  # fmt: skip
    found = {one.reference: one for one in site.registry.search(path=RUNS, depth=1).revisions}
    cells = body(shown)
    assert {f"{RUNS}/{name}" for name in cells} == found.keys() - {f"{RUNS}@1"}
    for name, row in cells.items():
        one = found[f"{RUNS}/{name}"]
        figure = revision(site, one.reference).statistics.get("effective_rank")
        assert row == [
            str(one.rank),
            one.annotations["learning_rate"],
            f"{one.metrics['loss']:.6g}",
            "–" if figure is None else f"{figure:.3g}",
            one.message,
            f"{one.metrics['acc']:.6g}",
            " ".join(one.tags) or "–",
            one.author,
            one.parent.rpartition("/")[2],
        ]


def test_the_csv_has_the_columns_of_the_address(visitors: Visitors, site: Site) -> None:
    answer = visitors["reader"].get(f"{TABLE}&columns=acc,annotation:sweep,rank&form=csv&sort=max:acc").text
    rows = list(csv.DictReader(io.StringIO(answer)))
    assert list(rows[0]) == ["reference", "acc", "annotation:sweep", "rank"]
    best = [one for one in site.registry.search(path=RUNS, depth=1, sort="max:acc").revisions if one.path != RUNS]
    assert [(row["reference"], float(row["acc"]), int(row["rank"])) for row in rows] == [
        (one.reference, one.metrics["acc"], one.rank) for one in best
    ]


@pytest.mark.parametrize(
    ("move", "order", "pinned"),
    [
        ("left acc", "acc,rank,loss", 0),
        ("right rank", "acc,rank,loss", 0),
        ("left rank", "rank,acc,loss", 0),
        ("pin loss", "loss,rank,acc", 1),
        ("left nothing", "rank,acc,loss", 0),
    ],
)
def test_a_button_of_the_form_leads_to_the_address_that_says_the_same(
    visitors: Visitors, move: str, order: str, pinned: int
) -> None:
    fields = [("view", "table"), ("at", RUNS), ("columns", "rank"), ("columns", "acc"), ("columns", "loss")]
    answer = visitors["reader"].get(f"/tree/{LLAMA}?{urlencode([*fields, ('move', move)])}")
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert (answer.status_code, asked["columns"], asked.get("pinned", ["0"])) == (303, [order], [str(pinned)])
    assert "move" not in asked
    shown = visitors["reader"].get(answer.headers["location"]).text
    assert [one.lower() for one in heads(shown)] == order.split(",")
    assert shown.count('class="number pin pin-1"') == (7 + 1 + 1) * (pinned == 1)
    assert '<details class="columns" open>' in shown  # the next one is moved there too


def test_what_is_ticked_in_the_form_is_shown(visitors: Visitors) -> None:
    shown = visitors["reader"].get(f"{TABLE}&columns=acc,rank&pinned=1").text
    form = next(one for one in forms_of(shown) if "Show these" in one.buttons)
    offered = re.findall(r'name="columns" value="([^"]+)"', shown)
    assert offered[:2] == ["acc", "rank"]
    assert {"loss", "author", "published", "stat:rank95", "annotation:run_id", "message", "tags"} <= set(offered)
    others = {name: value for name, value in form.fields.items() if name != "columns"}
    assert others == {"view": "table", "at": RUNS, "pinned": "1"}
    sent = urlencode([*others.items(), ("columns", "annotation:run_id"), ("columns", "acc")])
    answer = visitors["reader"].get(f"{form.action}?{sent}", follow_redirects=True)
    assert heads(answer.text) == ["run_id", "acc"]


def test_a_column_that_nobody_has_is_said_and_too_many_are_refused(visitors: Visitors) -> None:
    shown = visitors["reader"].get(f"{TABLE}&columns=acc,blue,annotation:none").text
    assert "No revision here has blue, annotation:none: 2 columns without a value." in shown
    assert all(row[1:] == ["–", "–"] for row in body(shown).values())
    many = visitors["reader"].get(f"{TABLE}&columns={','.join(map(str, range(41)))}")
    assert many.status_code == 400
    assert "A table has at most 40 columns, and 41 are chosen: leave some out." in many.text
    assert visitors["reader"].get(f"{TABLE}&columns=acc&move=up+acc").status_code == 400
    assert visitors["reader"].get(f"{TABLE}&columns=acc&pinned=4").status_code == 422


def test_the_column_that_rows_are_sorted_by_is_always_shown(visitors: Visitors) -> None:
    shown = visitors["reader"].get(f"{TABLE}&columns=rank,author&sort=min:stat:rank95").text
    assert heads(shown) == ["rank, 95 %", "Rank", "Author"]
    assert 'class="number sorted" aria-sort="ascending"' in shown


@pytest.fixture
def withdrawn(site: Site) -> str:
    """The run that would be the best, retracted."""
    best = f"{RUNS}/sweep-3e-4@1"
    if revision(site, best).retracted is None:
        site.registry.retract(best, reason="Its data leaked.")
    return best


def test_children_stand_alone_and_what_is_retracted_is_not_ranked(
    visitors: Visitors, site: Site, withdrawn: str
) -> None:
    for order in ("max:acc", "min:acc"):
        shown = visitors["reader"].get(f"{TABLE}&sort={order}").text
        assert list(body(shown, "parent")) == ["python@1"]
        assert list(body(shown, "retracted")) == [withdrawn.removeprefix(f"{RUNS}/")]
        ranked = [
            one
            for one in site.registry.search(path=RUNS, depth=1, sort=order).revisions
            if one.path != RUNS and one.reference != withdrawn
        ]
        assert [f"{RUNS}/{name}" for name in body(shown)] == [one.reference for one in ranked]
        first = ranked[0].metrics["acc"]
        for name, row in body(shown).items():  # each says what it lacks of the first
            own = revision(site, f"{RUNS}/{name}").metrics["acc"]
            assert row[0].split() == [f"{own:.6g}", *([f"{own - first:+.3g}"] if own != first else [])]
        assert '<tr class="dim">' in shown
    below = visitors["reader"].get(f"/tree/{LLAMA}?view=table&at={RUNS}&which=below").text
    assert body(below, "parent") == {}


def test_the_best_and_the_next_stand_above_the_table(
    visitors: Visitors, site: Site, withdrawn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        one
        for one in site.registry.search(path=RUNS, depth=1).revisions
        if one.path != RUNS and one.reference != withdrawn
    ]
    for rows, metrics in ((50, ("acc", "loss")), (4, ("acc",))):  # of more rows than a page has, of one metric
        monkeypatch.setattr("registry.web.search.ROWS", rows)
        shown = visitors["reader"].get(TABLE).text
        told = re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", shown.partition('<dl class="best">')[2])
        said = {plain(name): plain(text) for name, text in told}
        for name in metrics:
            first, second = sorted(runs, key=lambda one: one.metrics[name] * (1 if name == "loss" else -1))[:2]
            lacks = second.metrics[name] - first.metrics[name]
            names = [one.reference.removeprefix(f"{RUNS}/") for one in (first, second)]
            assert said[f"Best {name}"] == f"{first.metrics[name]:.6g} {names[0]} next {names[1]} , {lacks:+.3g}"


def test_a_metric_that_was_set_later_says_by_whom(visitors: Visitors, site: Site) -> None:
    zoe = site.registry.with_principal(Principal("zoe", UNLIMITED))
    zoe.annotate(f"{RUNS}/sweep-1e-3", metrics={"bleu": 0.31})
    shown = visitors["reader"].get(f"{TABLE}&columns=bleu,acc").text
    marked = re.findall(r'<span class="later" title="([^"]*)">0\.31</span>', shown)
    assert len(marked) == 1
    assert re.fullmatch(r"Set by zoe on \d{4}-\d\d-\d\d \d\d:\d\d UTC, after it was published", marked[0])
    assert shown.count('class="later"') == 1  # what its publisher measured at once has no mark


def revisions_of(site: Site) -> list[str]:
    return [one.reference for one in site.registry.search(base=LLAMA, all_revisions=True).revisions]


def configuration(visitor: Visitor, reference: str) -> dict[str, object]:
    """The file that its trainer wrote."""
    found: dict[str, object] = visitor.get(f"/download/published/{reference}/-/adapter_config.json").json()
    return found


def compared(visitor: Visitor, *references: str, **more: str) -> str:
    answer = visitor.get(f"/compare?{urlencode([*(('ref', one) for one in references), *more.items()])}")
    assert answer.status_code == 200, answer.text
    return answer.text


def test_several_are_compared_side_by_side(visitors: Visitors, site: Site) -> None:
    chosen = [
        f"{LLAMA}/support/french",
        f"{LLAMA}/support/german@1",
        f"{LLAMA}/legal/contracts/nda@prod",
        f"{LLAMA}/support/french@3",
    ]
    shown = compared(visitors["reader"], *chosen)
    known = [(revision(site, one), configuration(visitors["reader"], one)) for one in chosen[:3]]
    names = [one.reference.removeprefix(f"{LLAMA}/") for one, _ in known]
    assert list(body(shown)) == names  # each once, in the order given
    cells = {name: dict(zip(heads(shown), row, strict=True)) for name, row in body(shown).items()}
    for name, (one, config) in zip(names, known, strict=True):
        row = cells[name]
        assert row["acc"] == f"{one.metrics['acc']:.6g}"
        assert row["Parent"] == one.parent.rpartition("/")[2]
        assert row["Rank"] == str(one.rank)
        assert row["lora_alpha"] == str(config["lora_alpha"])
        assert row["learning_rate"] == one.annotations["learning_rate"]
    best = max(one.metrics["acc"] for one, _ in known)
    bold = [plain(one) for one in re.findall(r"<strong>(.*?)</strong>", shown, re.DOTALL)]
    assert f"{best:.6g}" in bold
    least = min(one.metrics["loss"] for one, _ in known)
    assert f"{least:.6g}" in bold
    same = shown.partition("<h2>The same in all</h2>")[2]
    assert "<dt>peft_type</dt><dd>LORA</dd>" in same
    assert "lora_alpha" not in same
    ordered = compared(visitors["reader"], *chosen, sort="max:loss")
    assert [float(row[0]) for row in body(ordered).values()] == sorted(
        (one.metrics["loss"] for one, _ in known), reverse=True
    )


def test_bars_are_as_long_as_their_values(visitors: Visitors, site: Site) -> None:
    shown = compared(visitors["reader"], *(chosen := revisions_of(site)[:5]))
    values = [revision(site, one).metrics.get("acc") for one in chosen]
    column = heads(shown).index("acc")
    bars = []
    for _, _, cells in _ROW.findall(shown.partition("</table>")[0]):
        found = re.search(r'<rect width="([\d.]+)"', re.findall(r"<td.*?</td>", cells, re.DOTALL)[column])
        bars.append(None if found is None else float(found[1]))
    most = max(value for value in values if value is not None)
    assert [bar is None for bar in bars] == [value is None for value in values]
    assert [bar for bar in bars if bar is not None] == pytest.approx(
        [60 * value / most for value in values if value is not None], abs=0.06
    )


def test_two_lead_to_the_pair_and_one_to_the_form(visitors: Visitors) -> None:
    answer = visitors["reader"].get(f"/compare?below={RUNS}&ref=sweep-1e-4@1&ref=@1")
    assert parse_qs(urlsplit(answer.headers["location"]).query) == {
        "a": [f"{RUNS}/sweep-1e-4@1"],
        "b": [f"{RUNS}@1"],
    }
    one = visitors["reader"].get(f"/compare?below={RUNS}&ref=sweep-1e-4@1").text
    assert f'name="a" value="{RUNS}/sweep-1e-4@1"' in one
    assert "Two or more rows of a table are compared" in one


def test_of_more_than_forty_the_first_are_compared_and_it_says_so(visitors: Visitors, site: Site) -> None:
    every = revisions_of(site)
    assert len(every) > 40
    with statements(*READS) as sent:
        shown = compared(visitors["reader"], *every)
    assert f"{len(every)} revisions are chosen, and 40 fit side by side: these are the first 40." in shown
    assert [f"{LLAMA}/{name}" for name in body(shown)] == every[:40]
    assert len(shown.encode()) <= 150_000
    assert len(sent) <= 40 + 30


def test_all_children_are_the_best_forty(visitors: Visitors, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "MOST", 3)
    monkeypatch.setattr(deltas, "MOST_CHILDREN", 3)
    children = [one for one in site.registry.search(path=RUNS, depth=1).revisions if one.path != RUNS]
    ranked = sorted((one for one in children if one.retracted is None), key=lambda one: -one.metrics["acc"])
    matrix = visitors["reader"].get(f"/matrix/{RUNS}")
    assert matrix.status_code == 200
    link = re.search(r'href="(/compare\?children=[^"]+)"', matrix.text)
    assert link is not None
    shown = visitors["reader"].get(unescape(link[1])).text
    assert f"{RUNS} has more than 3 children: these are the best 3 by acc." in shown
    assert [f"{RUNS}/{name}" for name in body(shown)] == [one.reference for one in ranked[:3]]
    worst = visitors["reader"].get(f"/compare?children={RUNS}&sort=max:loss").text
    ranked.sort(key=lambda one: -one.metrics["loss"])
    assert [f"{RUNS}/{name}" for name in body(worst)] == [one.reference for one in ranked[:3]]


def test_what_is_hidden_is_not_compared(visitors: Visitors) -> None:
    seen = [f"{LLAMA}/support@4", f"{LLAMA}/support/french"]
    for hidden in (f"{LLAMA}/code@1", f"{LLAMA}/none@1"):
        answers = [
            visitors[who].get(f"/compare?{urlencode([('ref', one) for one in (*seen, hidden)])}")
            for who in ("scoped reader",)
        ]
        assert [one.status_code for one in answers] == [404]
    assert visitors["scoped reader"].get(f"/compare?children={RUNS}").status_code == 404
    assert list(body(visitors["scoped reader"].get(f"/compare?children={LLAMA}").text)) == ["support@5"]


def test_two_numbers_make_a_plane(visitors: Visitors, site: Site) -> None:
    chosen = revisions_of(site)[:6]
    shown = compared(visitors["reader"], *chosen, x="rank", y="loss")
    drawn = re.search(r"<svg [^>]*plot-scatter.*?</svg>", shown, re.DOTALL)
    assert drawn is not None
    titles = re.findall(r"<title>(.*?)</title>", drawn[0])
    known = [revision(site, one) for one in chosen]
    told = " ".join(titles)
    for one in known:
        assert one.reference.removeprefix(f"{LLAMA}/") in told
    assert 'value="rank" selected' in shown
    assert 'value="loss" selected' in shown
