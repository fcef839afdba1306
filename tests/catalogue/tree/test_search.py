"""Search: every condition alone and together, against a filter written in plain Python."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.catalogue.changes import tags
from registry.catalogue.database.database import Database
from registry.catalogue.tree import browse, revisions
from registry.catalogue.tree.search import search
from registry.errors import NotFoundError, UsageError
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import RevisionSummary, TargetGroup
from tests.catalogue.rows import TESTER, Writer


def found(database: Database, text: str | None = None, **conditions: Any) -> list[str]:
    with database.read() as session:
        return [one.reference for one in search(session, text, **conditions)]


@pytest.mark.parametrize(
    ("text", "conditions", "references"),
    [
        (
            None,
            {},
            ["llama/code@1", "llama/support@2", "llama/support/french@1", "llama/support/french/legal@1"],
        ),
        ("FRENCH", {}, ["llama/support/french@1", "llama/support/french/legal@1"]),
        ("100% of", {}, ["llama/code@1"]),
        ("100_ of", {}, []),
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
    ],
)
def test_conditions(filled: Database, text: str | None, conditions: dict[str, str], references: list[str]) -> None:
    assert found(filled, text, **conditions) == references


@pytest.mark.parametrize(
    ("conditions", "form"),
    [
        ({"rank": "<=x"}, "16, '<=16' or '>8' is expected"),
        ({"rank": "-1"}, "is expected"),
        ({"rank": "!=4"}, "is expected"),
        ({"metric": "acc>"}, "'acc>0.8', 'loss<=0.2' or 'acc' is expected"),
        ({"metric": "acc>nan"}, "is expected"),
        ({"metric": "acc=>1"}, "is expected"),
        ({"metric": ">0.8"}, "is expected"),
        ({"metric": ""}, "is expected"),
        ({"text": "x" * 10_001}, "at most 10000"),
        ({"target": "\ud800"}, "plain text is expected"),
    ],
)
def test_a_malformed_condition_says_the_form(filled: Database, conditions: dict[str, str], form: str) -> None:
    with pytest.raises(UsageError) as caught:
        found(filled, **conditions)
    assert form in str(caught.value)


def test_an_unknown_base_offers_the_nearest(filled: Database) -> None:
    with pytest.raises(NotFoundError, match="Did you mean llama"):
        found(filled, base="lama")


MESSAGES = st.text(alphabet="aBé%_\\/ß ", max_size=4)
REVISION = st.fixed_dictionaries(
    {
        "path": st.sampled_from(["llama/a", "llama/b", "bert/a"]),
        "message": MESSAGES,
        "rank": st.integers(1, 4),
        "metrics": st.dictionaries(st.sampled_from(["acc", "loss"]), st.sampled_from([-1.0, 0.0, 0.5]), max_size=2),
        "notes": st.dictionaries(st.sampled_from(["ae", "B"]), MESSAGES, max_size=1),
        "tag": st.none() | st.sampled_from(["prod", "dev"]),
        "targets": st.sampled_from([("q_proj",), ("q_proj", "v_proj"), ()]),
    }
)
CONDITIONS = st.fixed_dictionaries(
    {
        "text": st.none() | MESSAGES,
        "base": st.none() | st.sampled_from(["llama", "bert"]),
        "tag": st.none() | st.sampled_from(["prod", "dev"]),
        "rank": st.none() | st.tuples(st.sampled_from(["<=", ">=", "<", ">", "=", ""]), st.integers(1, 4)),
        "metric": st.none()
        | st.tuples(
            st.sampled_from(["acc", "loss"]),
            st.none() | st.tuples(st.sampled_from(["<=", ">=", "<", ">", "="]), st.sampled_from([-1.0, 0.0, 0.5])),
        ),
        "target": st.none() | st.sampled_from(["q_proj", "v_proj"]),
    }
)


def holds(value: float, sign: str, bound: float) -> bool:
    return {"<=": value <= bound, ">=": value >= bound, "<": value < bound, ">": value > bound}.get(
        sign, value == bound
    )


def meets(one: RevisionSummary, targets: set[str], wanted: dict[str, Any]) -> bool:
    texts = [one.path, one.message, *one.annotations, *one.annotations.values()]
    metric = wanted["metric"]
    return (
        (not wanted["text"] or any(wanted["text"].lower() in text.lower() for text in texts))
        and wanted["base"] in (None, one.path.split("/")[0])
        and (wanted["tag"] is None or wanted["tag"] in one.tags)
        and (wanted["rank"] is None or holds(one.rank, *wanted["rank"]))
        and (metric is None or metric[0] in one.metrics)
        and (metric is None or metric[1] is None or holds(one.metrics[metric[0]], *metric[1]))
        and (wanted["target"] is None or wanted["target"] in targets)
    )


@given(st.lists(REVISION, max_size=8), st.lists(CONDITIONS, min_size=1, max_size=5))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_search_is_what_a_plain_filter_finds(
    database: Database, published: list[dict[str, Any]], asked: list[dict[str, Any]]
) -> None:
    targets: dict[str, set[str]] = {}
    with database.write() as session:
        for base in ("llama", "bert"):
            Writer().base(session, base)
        keys = []
        for count, one in enumerate(published):
            groups = tuple(TargetGroup(name=name, modules=1, ranks=(1,), scalings=(1.0,)) for name in one["targets"])
            row = Writer().publish(session, content=f"{count}", **(one | {"targets": groups}))
            targets[row.reference] = set(one["targets"])
            keys.append(row.id)
        summaries = [browse.summary(session, key) for key in keys]
        for wanted in asked:
            matching = [summary for summary in summaries if meets(summary, targets[summary.reference], wanted)]
            newest = {summary.path: summary for summary in matching}
            conditions = wanted | {"rank": spelt(wanted["rank"]), "metric": spelt(wanted["metric"])}
            assert list(search(session, **conditions)) == [newest[path] for path in sorted(newest)]
        session.rollback()


def spelt(condition: Any) -> str | None:
    """A condition as a person writes it: ("acc", ("<", 0.5)) is acc<0.5."""
    if condition is None:
        return None
    return "".join(
        spelt(part) or "" if isinstance(part, tuple) else str(part) for part in condition if part is not None
    )


def test_a_moved_tag_is_found_at_its_new_place(filled: Database) -> None:
    with filled.write() as session:
        tags.set_tag(session, revisions.get(session, 4).id, "prod", TESTER)
    assert found(filled, tag="prod") == ["llama/support@2"]


def test_pages_together_are_the_whole(filled: Database, writer: Writer) -> None:
    with filled.write() as session:
        for name in ("support-2", "support0", "support_x", "support/french-2", "sup"):
            parent = revisions.find(session, Reference.parse("llama/support@1")) if "/" in name else None
            writer.publish(session, f"llama/{name}", name, parent)
    with filled.read() as session:
        whole = search(session)
        assert [one.path for one in whole] == sorted((one.path for one in whole), key=lambda path: path.split("/"))
        assert len(whole) == 9
        for size in (1, 2, 4):
            found: list[RevisionSummary] = []
            while page := search(session, after=TreePath.parse(found[-1].path) if found else None, limit=size):
                assert len(page) <= size
                found += page
            assert tuple(found) == whole
