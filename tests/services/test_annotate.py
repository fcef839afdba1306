"""What is said about a revision can be changed and removed, and a publish says what it did not take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import NotFoundError, UsageError
from registry.operations.registry import Registry
from tests.kit import plain_base, write_adapter
from tests.kit.registries import opened


@pytest.fixture(params=["embedded", "http"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    with opened(request, tmp_path) as kept:
        made = plain_base(tmp_path / "base", {"a.weight": (24, 16)})
        kept.add_base("net", made.folder)
        write_adapter(tmp_path / "one", made, ["a"], r=2)
        yield kept


def details(registry: Registry) -> list[dict[str, object]]:
    return [event.detail for event in registry.events() if event.action == "annotate"]


def test_a_message_is_replaced(registry: Registry, tmp_path: Path) -> None:
    digest = registry.publish(tmp_path / "one", "net/one", message="first").revision.digest
    changed = registry.annotate("net/one", message="second")
    assert (changed.message, changed.digest) == ("second", digest)
    assert registry.show("net/one@1").revision == changed
    assert details(registry) == [{"message": "second", "old": "first"}]
    registry.annotate("net/one", message="second")
    assert len(details(registry)) == 1  # the one that it has is no change
    assert registry.annotate("net/one", metrics={"acc": 1.0}).message == "second"
    assert registry.annotate("net/one", message="").message == ""
    with pytest.raises(UsageError, match="The message"):
        registry.annotate("net/one", message="x" * 20_000)


def test_metrics_and_annotations_are_unset_by_name(registry: Registry, tmp_path: Path) -> None:
    registry.publish(
        tmp_path / "one", "net/one", metrics={"acc": 0.5, "f1": 0.25}, annotations={"team": "nlp", "f1": "macro"}
    )
    left = registry.annotate("net/one", unset=["acc"], metrics={"loss": 2})
    assert (left.metrics, left.annotations) == ({"f1": 0.25, "loss": 2.0}, {"team": "nlp", "f1": "macro"})
    both = registry.annotate("net/one", unset=["f1", "team", "f1"])
    assert (both.metrics, both.annotations) == ({"loss": 2.0}, {})
    assert {"metric": "acc", "old": 0.5, "new": None} in details(registry)
    assert {"annotation": "f1", "old": "macro", "new": None} in details(registry)
    assert {"metric": "f1", "old": 0.25, "new": None} in details(registry)


def test_what_is_not_there_is_not_unset_and_nothing_else_is_changed(registry: Registry, tmp_path: Path) -> None:
    registry.publish(tmp_path / "one", "net/one", message="first", metrics={"acc": 0.5})
    before = registry.show("net/one")
    with pytest.raises(NotFoundError, match="net/one@1 has neither a metric nor an annotation 'acx'"):
        registry.annotate("net/one", message="second", metrics={"f1": 1}, unset=["acc", "acx"])
    for wrong in ({"unset": ["acc"], "metrics": {"acc": 1}}, {"unset": ["a b"]}):
        with pytest.raises(UsageError):
            registry.annotate("net/one", **wrong)
    assert registry.show("net/one") == before
    assert [detail["metric"] for detail in details(registry)] == ["acc"]  # of the publish


def test_a_second_publish_says_what_it_applied_and_what_not(registry: Registry, tmp_path: Path) -> None:
    first = registry.publish(tmp_path / "one", "net/one", message="first", metrics={"acc": 0.5}, tags=["a"])
    assert (first.applied, first.not_applied) == ((), ())
    same = registry.publish(tmp_path / "one", "net/one", message="first", metrics={"acc": 0.5}, tags=["a"])
    assert (same.created, same.applied, same.not_applied) == (False, (), ())
    again = registry.publish(
        tmp_path / "one",
        "net/one",
        message="second",
        metrics={"acc": 0.75},
        tags=["b"],
        annotations={"team": "nlp"},
    )
    assert again.applied == ("tag b", "metric acc", "annotation team")
    assert again.not_applied == ("message",)
    assert again.revision.message == "first"
