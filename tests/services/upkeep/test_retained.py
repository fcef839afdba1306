"""What a retention rule keeps, against a definition that says it revision by revision."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.catalogue.changes.retention import KeptRevision
from registry.errors import UsageError
from registry.schemas.requests import Best, check_rule
from registry.schemas.team import RetentionRule
from registry.services.upkeep.retention import kept_by_rule

NOW: Final = datetime(2026, 1, 2, tzinfo=UTC)


def rule(**said: Any) -> RetentionRule:
    given: dict[str, Any] = {"keep_last": None, "keep_every": None, "keep_best": (), "keep_tagged": True}
    return RetentionRule(path="net/one", set_at=NOW, set_by="ria", **(given | said))


def revision(number: int, **said: Any) -> KeptRevision:
    known: dict[str, Any] = {"tags": (), "metrics": {}, "is_protected": False, "has_children": False}
    known |= {"is_combined": False, "is_materialised": False, "is_retracted": False}
    return KeptRevision(id=1000 + number, number=number, size=1, **(known | said))


def stays(one: KeptRevision, by: RetentionRule, revisions: Sequence[KeptRevision]) -> bool:
    """The definition: a revision is compared with each other one."""
    others = [other for other in revisions if other is not one]
    if all(other.number < one.number for other in others) or one.is_retracted:
        return True
    if one.has_children or one.is_combined or one.is_materialised or one.is_protected:
        return True
    if one.tags and by.keep_tagged:
        return True
    if by.keep_every and one.number % by.keep_every == 0:
        return True
    rivals = [other for other in others if not other.is_retracted]
    if by.keep_last and sum(other.number > one.number for other in rivals) < by.keep_last:
        return True
    for text in by.keep_best:
        mode, name, count = text.split(":")
        if name not in one.metrics:
            continue
        own = one.metrics[name]
        better = 0
        for other in rivals:
            value = other.metrics.get(name)
            if value is None:
                continue
            wins = value > own if mode == "max" else value < own
            better += wins or (value == own and other.number > one.number)
        if better < int(count):
            return True
    return False


FLAG: Final = st.sampled_from([False, False, False, True])
METRIC: Final = st.sampled_from(["acc", "loss"])
METRICS: Final = st.dictionaries(METRIC, st.integers(0, 4).map(float))
REVISIONS: Final = st.lists(
    st.builds(
        revision,
        st.integers(1, 40),
        tags=st.sampled_from([(), (), ("prod",)]),
        metrics=METRICS,
        is_protected=FLAG,
        has_children=FLAG,
        is_combined=FLAG,
        is_materialised=FLAG,
        is_retracted=FLAG,
    ),
    unique_by=lambda one: one.number,
    max_size=14,
)
RULES: Final = st.builds(
    rule,
    keep_last=st.none() | st.integers(1, 5),
    keep_every=st.none() | st.integers(1, 7),
    keep_best=st.lists(st.builds("{}:{}:{}".format, st.sampled_from(["max", "min"]), METRIC, st.integers(1, 3))).map(
        tuple
    ),
    keep_tagged=st.booleans(),
)


@given(REVISIONS, RULES)
def test_it_keeps_what_the_definition_keeps(revisions: list[KeptRevision], by: RetentionRule) -> None:
    found = kept_by_rule(by, revisions)
    assert set(found) == {one.id for one in revisions if stays(one, by, revisions)}
    assert all(found.values())


def test_each_reason_is_named() -> None:
    revisions = [
        revision(1, has_children=True, metrics={"acc": 0.1}),
        revision(2, tags=("prod",)),
        revision(3, is_combined=True, is_materialised=True),
        revision(4, metrics={"acc": 0.9}),
        revision(5, metrics={"acc": 0.95}, is_retracted=True),
        revision(6, metrics={"acc": 0.9}),
        revision(7),
        revision(8),
    ]
    by = rule(keep_last=1, keep_every=4, keep_best=("max:acc:1",))
    assert {key - 1000: why for key, why in kept_by_rule(by, revisions).items()} == {
        1: ("children",),
        2: ("tagged",),
        3: ("combinations", "materialised"),
        4: ("every",),
        5: ("retracted",),
        6: ("best",),  # of equal ones the newer, and none that was retracted
        8: ("newest", "last", "every"),
    }


def test_tags_keep_nothing_where_the_rule_says_so_unless_they_are_protected() -> None:
    revisions = [revision(1, tags=("dev",)), revision(2, tags=("prod",), is_protected=True), revision(3)]
    assert set(kept_by_rule(rule(keep_last=1, keep_tagged=False), revisions)) == {1002, 1003}
    assert set(kept_by_rule(rule(keep_last=1), revisions)) == {1001, 1002, 1003}


@pytest.mark.parametrize("text", ["acc", "max:acc", "max::3", "best:acc:3", "max:acc:0", "max:acc:-1", "max:acc:3x"])
def test_what_does_not_say_what_is_best(text: str) -> None:
    with pytest.raises(UsageError, match="max:METRIC:N or min:METRIC:N is expected"):
        Best.parse(text)


def test_a_metric_may_have_colons() -> None:
    assert Best.parse("min:eval:loss:12") == Best("min", "eval:loss", 12)
    with pytest.raises(UsageError, match="Metric name"):
        Best.parse("max:a c:3")


def test_an_empty_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="would delete all revisions but the newest"):
        check_rule("net/one", None, None, ())
