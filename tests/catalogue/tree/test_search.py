"""Search: every condition alone and together, against a filter written in plain Python."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from registry.catalogue.changes import tagging
from registry.catalogue.changes.details import set_card
from registry.catalogue.database.database import Database
from registry.catalogue.database.statistics_tables import StatisticValueRecord
from registry.catalogue.tree import browse, revisions
from registry.catalogue.tree.search import search
from registry.catalogue.tree.search_query import SearchPosition
from registry.errors import NotFoundError, UsageError
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import RevisionSummary, TargetGroup
from registry.schemas.parents import level_of
from registry.schemas.requests import SearchRequest
from tests.catalogue.database.test_query_plans import SENT
from tests.catalogue.rows import TESTER, Writer
from tests.catalogue.tree.word_model import typed, with_words
from tests.kit.statements import statements


def found(database: Database, text: str | None = None, **given: Any) -> list[str]:
    page = {name: given.pop(name) for name in ("after", "limit") if name in given}
    with database.read() as session:
        return [one.reference for one in search(session, SearchRequest(text=text, **given), **page)]


CASES: list[tuple[str | None, dict[str, Any], list[str]]] = [
    (
        None,
        {},
        ["llama/code@1", "llama/support@2", "llama/support/french@1", "llama/support/french/legal@1"],
    ),
    ("FRENCH", {}, ["llama/support/french@1", "llama/support/french/legal@1"]),
    ('"100% of"', {}, ["llama/code@1"]),
    ('"100_ of"', {}, []),
    ("of", {}, []),
    ("french LEGAL message", {}, ["llama/support/french/legal@1"]),
    ("message legal/ french", {}, ["llama/support/french/legal@1"]),
    ("support@prod", {}, ["llama/support@1"]),
    ("@prod", {}, ["llama/support@1"]),
    ("support@2", {}, ["llama/support@2"]),
    ("ann acc", {}, ["llama/support@2"]),
    ("acc loss", {}, ["llama/support@2"]),
    ("acc>0.4 acc<0.6 support", {}, ["llama/support@1"]),
    ("tag:prod support rank<=8", {}, ["llama/support@1"]),
    ("tag:prod tag:dev", {}, []),
    ("team target:q_proj base:llama", {}, ["llama/support/french@1"]),
    ("path:llama/support/french depth:0", {}, ["llama/support/french@1"]),
    ("suport", {}, ["llama/support@2", "llama/support/french@1", "llama/support/french/legal@1"]),
    ("pord", {}, ["llama/support@1"]),
    ("legal pord", {}, []),
    ("behind", {}, ["llama/support/french@1", "llama/support/french/legal@1"]),
    ("french", {"behind": True}, ["llama/support/french@1", "llama/support/french/legal@1"]),
    ("code behind", {}, []),
    ("assumed", {"tag": "prod"}, ["llama/support@1"]),
    ("since:1h french", {}, ["llama/support/french@1", "llama/support/french/legal@1"]),
    ("french", {"since": "2100-01-01"}, []),
    ("code_l", {}, ["llama/code@1"]),
    ("über", {}, ["llama/code@1"]),
    ("STRAßE", {}, ["llama/support/french@1"]),
    ("team", {}, ["llama/support/french@1"]),
    (None, {"tag": "prod"}, ["llama/support@1"]),
    (None, {"rank": "<=8"}, ["llama/support@2", "llama/support/french/legal@1"]),
    (None, {"rank": "16"}, ["llama/support/french@1"]),
    (None, {"rank": " > 16 "}, ["llama/code@1"]),
    (None, {"metric": "acc>0.6"}, ["llama/support@2"]),
    (None, {"metric": "acc<0.6"}, ["llama/support@1"]),
    (None, {"metric": "acc < .6"}, ["llama/support@1"]),
    (None, {"metric": "loss<=-1.5"}, ["llama/support@2"]),
    (None, {"metric": "loss"}, ["llama/support@2"]),
    (None, {"metric": "acc=5e-1", "tag": "prod"}, ["llama/support@1"]),
    (None, {"metric": "acc>0.6", "tag": "prod"}, []),
    (None, {"target": "q_proj", "base": "llama", "rank": ">=64"}, ["llama/code@1"]),
    (None, {"target": "v_proj"}, []),
    (
        None,
        {"path": "llama/support"},
        ["llama/support@2", "llama/support/french@1", "llama/support/french/legal@1"],
    ),
    (None, {"path": "llama/support", "depth": 1}, ["llama/support@2", "llama/support/french@1"]),
    (None, {"path": "llama/support", "depth": 0}, ["llama/support@2"]),
    (None, {"path": "llama/support", "depth": 0, "all_revisions": True}, ["llama/support@2", "llama/support@1"]),
    (None, {"path": "llama/support/french", "sort": "max:acc"}, []),
    (None, {"path": "llama", "depth": 1, "rank": ">8"}, ["llama/code@1"]),
    (None, {"depth": 1}, ["llama/code@1", "llama/support@2"]),
    (None, {"author": "ann", "path": "llama/code"}, ["llama/code@1"]),
    (None, {"author": "an"}, []),
]


def test_conditions(filled: Database) -> None:
    assert [(text, more, found(filled, text, **more)) for text, more, _ in CASES] == CASES


MALFORMED: list[tuple[dict[str, str], str]] = [
    ({"rank": "<=x"}, "16, '<=16' or '>8' is expected"),
    ({"rank": "-1"}, "is expected"),
    ({"rank": "!=4"}, "is expected"),
    ({"metric": "acc>"}, "'acc>0.8', 'loss<=0.2' or 'acc' is expected"),
    ({"metric": "acc>nan"}, "is expected"),
    ({"metric": "acc=>1"}, "is expected"),
    ({"metric": ">0.8"}, "is expected"),
    ({"metric": ""}, "is expected"),
    ({"stat": "rank95>"}, "'rank95<8', 'stable_rank>=2.5' or 'rank95' is expected"),
    ({"stat": "rank95=>1"}, "'rank95>=1' is expected"),
    ({"stat": "rank95<2,rank=8"}, "'rank' is no statistic; there are energy, frobenius, spectral, "),
    ({"stat": "rank95<2,"}, "'rank95<8', 'stable_rank>=2.5' or 'rank95' is expected"),
    ({"sort": "min:stat:acc"}, "'acc' is no statistic; there are energy, frobenius, spectral, "),
    ({"sort": "min:stat:"}, "'max:acc', 'min:eval_loss' or 'min:stat:rank95' is expected"),
    ({"text": "x" * 10_001}, "at most 10000"),
    ({"target": "\ud800"}, "plain text is expected"),
    ({"text": 'a "b'}, "a quotation mark without another"),
    ({"text": "tag:"}, "The filter 'tag:' has no value"),
    ({"text": "tags:prod"}, "write tag:prod, or quote 'tags:prod'"),
    ({"text": "behind:yes"}, "write behind alone"),
    ({"text": "acc>high"}, "'acc>0.8', 'loss<=0.2' or 'acc' is expected"),
    ({"text": "acc > 1"}, "write a filter without spaces, acc>0.8"),
    ({"text": "acc=>1"}, "'acc>=1' is expected"),
    ({"text": "rank<=x"}, "16, '<=16' or '>8' is expected"),
    ({"text": "depth:x"}, "0 or more is expected"),
    ({"text": "since:soon"}, "30d, 12h, or a day such as 2026-11-01 is expected"),
    ({"text": " ".join(f"word{n}" for n in range(17))}, "at most 16"),
    ({"since": "-3d"}, "30d, 12h, or a day such as 2026-11-01 is expected"),
    (
        {"parent_known_by": "guessed"},
        "'guessed' is no word for how a parent is known: expected is a level (proven, ",
    ),
]


@pytest.mark.long_on("postgresql")
def test_a_malformed_condition_says_the_form(filled: Database) -> None:
    for conditions, form in MALFORMED:
        with pytest.raises(UsageError, match=re.escape(form)):
            found(filled, **conditions)


def test_parents_by_word_and_by_level_and_words_of_later_versions_are_assumed(filled: Database) -> None:
    words = ("receipt", "given", "loaded", "of_a_later_version")
    with filled.write() as session:
        for word in words:
            Writer().publish(session, f"llama/by_{word}", word, parent_known_by=word)

    def by(text: str) -> list[str]:
        return [one.partition("by_")[2] for one in found(filled, parent_known_by=text) if "by_" in one]

    assert by("assumed") == ["loaded@1", "of_a_later_version@1"]
    assert (by("proven"), by("stated"), by("loaded")) == (["receipt@1"], ["given@1"], ["loaded@1"])


def test_an_unknown_base_or_path_offers_the_nearest(filled: Database) -> None:
    with pytest.raises(NotFoundError, match="Did you mean llama"):
        found(filled, base="lama")
    with pytest.raises(NotFoundError, match="Did you mean llama/support"):
        found(filled, path="llama/suport")
    with pytest.raises(UsageError, match="0 or more is expected"):
        found(filled, depth=-1)


MESSAGES = st.text(alphabet="aBé%_\\/ß ", max_size=4)
WORDS = MESSAGES.map(lambda text: text.strip()) | st.sampled_from(
    [
        "a",
        "x1",
        "llama",
        "lama",
        "lamma/",
        "/tone",
        "toen",
        "ann",
        "anna",
        "annb",
        "anba",
        "prod",
        "prodd",
        "pd",
        "dev",
        "one@prod",
        "acc",
        "los",
        "b-card",
        "aBa",
        "%_\\",
    ]
)
CARDS = {"llama/b-tone": "The b-card of aBa", "bert/a": "Another CARD %_\\ acc"}
REVISION = st.fixed_dictionaries(
    {
        "path": st.sampled_from(["llama/a", "llama/b-tone", "bert/a", "bert/x1"]),
        "message": MESSAGES,
        "rank": st.integers(1, 4),
        "author": st.sampled_from(["ann", "bob", "Anna B"]),
        "parent_known_by": st.sampled_from(["receipt", "given", "loaded", "assumed", "of_a_later_version"]),
        "metrics": st.dictionaries(st.sampled_from(["acc", "loss"]), st.sampled_from([-1.0, 0.0, 0.5]), max_size=2),
        "statistics": st.dictionaries(
            st.sampled_from(["rank95", "stable_rank"]), st.sampled_from([1.0, 2.0, 2.5]), max_size=2
        ),
        "notes": st.dictionaries(st.sampled_from(["ae", "B"]), MESSAGES, max_size=1),
        "tag": st.none() | st.sampled_from(["prod", "dev"]),
        "targets": st.sampled_from([("q_proj",), ("q_proj", "v_proj"), ()]),
    }
)
CONDITIONS = st.fixed_dictionaries(
    {
        "text": st.none() | st.lists(WORDS.filter(bool), min_size=1, max_size=3),
        "base": st.none() | st.sampled_from(["llama", "bert"]),
        "tag": st.none() | st.sampled_from(["prod", "dev"]),
        "path": st.none() | st.sampled_from(["llama", "bert"]),
        "depth": st.none() | st.integers(0, 1),
        "author": st.none() | st.sampled_from(["ann", "bob", "an"]),
        "parent_known_by": st.none() | st.sampled_from(["receipt", "loaded", "proven", "stated", "assumed"]),
        "rank": st.none() | st.tuples(st.sampled_from(["<=", ">=", "<", ">", "=", ""]), st.integers(1, 4)),
        "metric": st.none()
        | st.tuples(
            st.sampled_from(["acc", "loss"]),
            st.none() | st.tuples(st.sampled_from(["<=", ">=", "<", ">", "="]), st.sampled_from([-1.0, 0.0, 0.5])),
        ),
        "stat": st.lists(
            st.tuples(
                st.sampled_from(["rank95", "stable_rank"]),
                st.none() | st.tuples(st.sampled_from(["<=", ">", "="]), st.sampled_from([1.0, 2.0, 2.5])),
            ),
            max_size=2,
        ),
        "target": st.none() | st.sampled_from(["q_proj", "v_proj"]),
        "sort": st.none()
        | st.tuples(st.sampled_from(["max:", "min:"]), st.sampled_from(["acc", "loss", "stat:rank95"])),
        "all_revisions": st.booleans(),
    }
)


def holds(value: float, sign: str, bound: float) -> bool:
    return {"<=": value <= bound, ">=": value >= bound, "<": value < bound, ">": value > bound}.get(
        sign, value == bound
    )


def has(values: Mapping[str, float], condition: tuple[str, tuple[str, float] | None] | None) -> bool:
    if condition is None:
        return True
    name, compared = condition
    return name in values and (compared is None or holds(values[name], *compared))


def has_number(one: RevisionSummary, statistics: dict[str, float], name: str) -> bool:
    return name.removeprefix("stat:") in statistics if name.startswith("stat:") else name in one.metrics


def meets(one: RevisionSummary, targets: set[str], statistics: dict[str, float], wanted: dict[str, Any]) -> bool:
    return (
        wanted["base"] in (None, one.path.split("/")[0])
        and wanted["path"] in (None, one.path.split("/")[0])
        and wanted["depth"] != 0
        and wanted["author"] in (None, one.author)
        and wanted["parent_known_by"] in (None, one.parent_known_by, level_of(one.parent_known_by))
        and (wanted["tag"] is None or wanted["tag"] in one.tags)
        and (wanted["rank"] is None or holds(one.rank, *wanted["rank"]))
        and has(one.metrics, wanted["metric"])
        and all(has(statistics, condition) for condition in wanted["stat"])
        and (not wanted["sort"] or has_number(one, statistics, wanted["sort"][1]))
        and (wanted["target"] is None or wanted["target"] in targets)
    )


@pytest.fixture(params=["collected", "walked"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every search gives the same both ways; so few revisions are always collected otherwise."""
    name: str = request.param
    if name == "walked":
        monkeypatch.setattr("registry.catalogue.tree.search_query.FEW", -1)
        for most in ("AT_ONCE", "ADAPTERS", "SOON_FULL", "MANY", "NEWEST"):
            monkeypatch.setattr(f"registry.catalogue.tree.search_query.{most}", 1)
    return name


@pytest.mark.long_on("collected")
@pytest.mark.slow_on("collected")
@pytest.mark.usefixtures("way")
@given(st.lists(REVISION, max_size=8), st.lists(CONDITIONS, min_size=1, max_size=5))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_search_is_what_a_plain_filter_finds(
    database: Database, published: list[dict[str, Any]], asked: list[dict[str, Any]]
) -> None:
    targets: dict[str, set[str]] = {}
    statistics: dict[str, dict[str, float]] = {}
    with database.write() as session:
        for base in ("llama", "bert"):
            Writer().base(session, base)
        keys = []
        for count, one in enumerate(published):
            groups = tuple(TargetGroup(name=name, modules=1, ranks=(1,), scalings=(1.0,)) for name in one["targets"])
            figures = one["statistics"]
            given = {name: value for name, value in one.items() if name != "statistics"}
            row = Writer().publish(session, content=f"{count}", **(given | {"targets": groups}))
            session.add_all(
                StatisticValueRecord(revision_id=row.id, name=name, value=value) for name, value in figures.items()
            )
            statistics[row.reference] = figures
            targets[row.reference] = set(one["targets"])
            keys.append(row.id)
        for path in {one["path"] for one in published} & CARDS.keys():
            set_card(session, TreePath.parse(path), CARDS[path], {}, TESTER)
        summaries = [browse.summary(session, key) for key in keys]
        for wanted in asked:
            held = [
                with_figures(one, statistics[one.reference], wanted)
                for one in summaries
                if meets(one, targets[one.reference], statistics[one.reference], wanted)
            ]
            matching = with_words(held, wanted["text"] or (), CARDS)
            shown = matching if wanted["all_revisions"] else {summary.path: summary for summary in matching}.values()
            ordered = in_order(list(shown), wanted["sort"])
            conditions = wanted | {name: spelt(wanted[name]) for name in ("rank", "metric", "sort")}
            conditions["text"] = wanted["text"] and typed(wanted["text"])
            conditions["stat"] = ",".join(str(spelt(one)) for one in wanted["stat"]) or None
            assert list(search(session, SearchRequest(**conditions))) == ordered
            assert paged(session, conditions, 2) == ordered
        session.rollback()


@pytest.mark.usefixtures("way")
def test_one_revision_has_to_have_all_words(database: Database) -> None:
    """Whichever way is taken, and where the index proposes its adapter for the words of several."""
    with database.write() as session:
        Writer().base(session, "llama")
        for count, message in enumerate(("sweep of a run", "sweep alone", "run alone", "neither")):
            Writer().publish(session, path="llama/one", content=f"{count}", message=message)
        for count, message in enumerate(("sweep here", "run there")):
            Writer().publish(session, path="llama/two", content=f"two {count}", message=message)
        for asked in ("sweep run", "run sweep", '"a run" swee'):
            for every in (True, False):
                conditions: dict[str, Any] = {"text": asked, "all_revisions": every}
                found = [one.reference for one in search(session, SearchRequest(**conditions))]
                assert found == ["llama/one@1"]
                assert [one.reference for one in paged(session, conditions, 1)] == ["llama/one@1"]
        session.rollback()


def in_order(found: list[RevisionSummary], sort: tuple[str, str] | None) -> list[RevisionSummary]:
    by_path = sorted(found, key=lambda one: (one.path.split("/"), -one.number))
    if sort is None:
        return by_path
    best, name = sort
    return sorted(by_path, key=lambda one: number_of(one, name) * (1 if best == "min:" else -1))


def number_of(one: RevisionSummary, name: str) -> float:
    """What a search sorts by: a metric, or a statistic."""
    return one.statistics[name.removeprefix("stat:")] if name.startswith("stat:") else one.metrics[name]


def with_figures(one: RevisionSummary, statistics: dict[str, float], wanted: dict[str, Any]) -> RevisionSummary:
    """As a search shows it that is about these statistics."""
    sort = wanted["sort"]
    names = {name for name, _ in wanted["stat"]}
    names |= {sort[1].removeprefix("stat:")} if sort and sort[1].startswith("stat:") else set()
    return one.model_copy(update={"statistics": {name: statistics[name] for name in sorted(names & set(statistics))}})


def paged(session: Session, conditions: dict[str, Any], size: int) -> list[RevisionSummary]:
    found: list[RevisionSummary] = []
    sort, numbered = conditions.get("sort"), conditions.get("all_revisions") or conditions.get("sort")
    after = None
    while page := search(session, SearchRequest(**conditions), after=after, limit=size):
        assert len(page) <= size
        assert len(found) < 100  # else pages lead back
        found += page
        last = page[-1]
        value = number_of(last, sort[4:]) if sort else None
        after = SearchPosition(TreePath.parse(last.path), last.number if numbered else None, value)
    return found


def spelt(condition: Any) -> str | None:
    """A condition as a person writes it: ("acc", ("<", 0.5)) is acc<0.5."""
    if condition is None:
        return None
    return "".join(
        spelt(part) or "" if isinstance(part, tuple) else str(part) for part in condition if part is not None
    )


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "conditions",
    [{}, {"text": "message"}, {"tag": "prod", "sort": "max:acc"}, {"stat": "rank95<3", "sort": "min:stat:rank95"}],
)
@pytest.mark.usefixtures("whole_batches")
def test_a_page_is_a_few_statements(filled: Database, conditions: dict[str, Any]) -> None:
    with filled.write() as session:
        session.add(StatisticValueRecord(revision_id=1, name="rank95", value=2))
    with filled.read() as session, statements(*SENT) as sent:
        assert search(session, SearchRequest(**conditions), limit=100)
    # What the database has for texts, whether the text is common, how many meet each condition; the page (by a metric:
    # of each part its bound and how many it has, too); then the revisions with their tags, metrics, annotations and
    # ancestors.
    assert len(sent) <= 12


def test_a_moved_tag_is_found_at_its_new_place(filled: Database) -> None:
    with filled.write() as session:
        tagging.set_tag(session, revisions.get(session, 4).id, "prod", TESTER)
    assert found(filled, tag="prod") == ["llama/support@2"]


@pytest.mark.usefixtures("way")
def test_pages_together_are_the_whole(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        for name in ("support-2", "support0", "support_x", "support/french-2", "sup"):
            parent = revisions.find(session, Reference.parse("llama/support@1")) if "/" in name else None
            writer.publish(session, f"llama/{name}", name, parent)
    with filled.read() as session:
        whole = search(session, SearchRequest())
        assert [one.path for one in whole] == sorted((one.path for one in whole), key=lambda path: path.split("/"))
        assert len(whole) == 9
        for size in (1, 2, 4):
            assert tuple(paged(session, {}, size)) == whole


@pytest.mark.parametrize(
    ("options", "references"),
    [
        ({"sort": "max:acc"}, ["llama/support@2"]),
        ({"sort": "min:acc", "all_revisions": True}, ["llama/support@1", "llama/support@2"]),
        ({"sort": " max:acc ", "all_revisions": True}, ["llama/support@2", "llama/support@1"]),
        ({"sort": "max:acc", "metric": "acc<0.6"}, ["llama/support@1"]),
        ({"sort": "max:unknown"}, []),
        ({"sort": "max:acc", "all_revisions": True, "limit": 1}, ["llama/support@2"]),
    ],
)
def test_the_order_and_an_older_one_that_is_better(
    filled: Database, options: dict[str, Any], references: list[str]
) -> None:
    assert found(filled, **options) == references


@pytest.mark.long_on("postgresql")
@pytest.mark.parametrize("sort", ["acc", "max", "max:", "best:acc", "max:a b", "max:acc>0.5", ""])
def test_a_malformed_order_says_the_form(filled: Database, sort: str) -> None:
    with pytest.raises(UsageError, match="'max:acc', 'min:eval_loss' or 'min:stat:rank95' is expected"):
        found(filled, sort=sort)


def test_a_position_of_another_order_is_refused(filled: Database) -> None:
    place = TreePath.parse("llama/support")
    with pytest.raises(UsageError, match="another order"):
        found(filled, after=SearchPosition(place, 1))
    with pytest.raises(UsageError, match="another order"):
        found(filled, sort="max:acc", after=SearchPosition(place))
    with pytest.raises(UsageError, match="another order"):
        found(filled, all_revisions=True, after=SearchPosition(place, 1, 0.5))


@pytest.mark.usefixtures("way")
def test_pages_by_a_metric_together_are_the_whole(filled: Database, writer: Writer) -> None:
    scores = (0.5, -1.0, 0.5, 2.0, -1.0, 0.0, 3.0)
    with filled.write() as session:
        for count, score in enumerate(scores):
            writer.publish(session, f"llama/{'abc'[count % 3]}", f"score {count}", None, metrics={"score": score})
    for sort, all_revisions in itertools.product(("max:score", "min:score"), (False, True)):
        conditions: dict[str, Any] = {"sort": sort, "all_revisions": all_revisions}
        with filled.read() as session:
            whole = search(session, SearchRequest(**conditions))
            values = [one.metrics["score"] for one in whole]
            assert values == sorted(scores if all_revisions else scores[4:], reverse=sort == "max:score")
            for size in (1, 2, 4):
                assert tuple(paged(session, conditions, size)) == whole
