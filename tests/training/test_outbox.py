"""What waits on the disk is published once, in order, whatever ends in between."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InvalidAdapterError, NotAllowedError, NotFoundError, UnavailableError
from registry.services.local import LocalRegistry
from registry.training.outbox import MOST_WAITING, Keep, Outbox, Sent, ToPublish, too_many
from registry.training.sending import Sender, send
from tests.kit import Base, plain_base, write_adapter


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return plain_base(tmp_path / "base", {"a.weight": (8, 6)})


@pytest.fixture
def team(tmp_path: Path, base: Base) -> Iterator[LocalRegistry]:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as opened:
        opened.add_base("net", base.folder)
        yield opened


class Runs:
    """A run of a trainer, as far as its outbox goes."""

    def __init__(self, folder: Path, base: Base) -> None:
        self.outbox = Outbox(folder)
        self.base = base
        self.run = self.outbox.begin(resumed=False).run

    def take(self, step: int, seed: int | None = None, **words: Any) -> bool:
        """Keep a step's adapter, by default one with other weights than all others."""

        def save(place: Path) -> None:
            write_adapter(place, self.base, ["a"], r=1, seed=step if seed is None else seed)

        return self.outbox.add(ToPublish(**{"run": self.run, "path": "net/one", "step": step, **words}), save)

    def send(self, team: LocalRegistry) -> list[str]:
        return [send(team, self.outbox, self.outbox.read(place)).reference for place in self.outbox.waiting()]

    def sender(self, team: LocalRegistry, **keep: Any) -> Sender:
        class Kept:
            def __enter__(self) -> LocalRegistry:
                return team

            def __exit__(self, *_: object) -> None: ...

        self.told: list[str] = []
        return Sender(self.outbox, Kept, Keep(**keep), self.told.append)  # type: ignore[arg-type] # stays open


@pytest.fixture
def runs(tmp_path: Path, base: Base) -> Runs:
    return Runs(tmp_path / "run", base)


def test_what_waits_is_published_in_the_order_of_steps(runs: Runs, team: LocalRegistry) -> None:
    for step in (1000, 20, 3):
        runs.take(step, message=f"step {step}", metrics={"eval_loss": step}, annotations={"step": str(step)})
    assert runs.send(team) == ["net/one@1", "net/one@2", "net/one@3"]
    assert [one.message for one in team.log("net/one").revisions] == ["step 1000", "step 20", "step 3"]
    assert runs.outbox.waiting() == []
    assert sorted(path.name for path in runs.outbox.root.iterdir()) == [".run.json", ".waiting"]


def test_the_same_weights_of_a_run_are_one_revision_that_gets_the_labels(runs: Runs, team: LocalRegistry) -> None:
    """Also where the configuration is another, since PEFT writes sets in any order."""
    runs.take(1, seed=1, score=0.5)
    runs.send(team)
    runs.take(2, seed=1, final=True, tags=("prod",), annotations={"step": "2"})
    config = runs.outbox.waiting()[0] / "adapter/adapter_config.json"
    config.write_text(config.read_text().replace('"lora_dropout": 0.0', '"lora_dropout": 0.1'))
    assert runs.send(team) == ["net/one@1"]
    (one,) = team.log("net/one").revisions
    assert (one.tags, one.annotations) == (("prod",), {"step": "2"})
    (sent,) = runs.outbox.run().sent
    assert (sent.step, sent.final, sent.created) == (2, True, True)


def test_ended_before_it_was_noted_it_is_published_again_as_the_same(runs: Runs, team: LocalRegistry) -> None:
    runs.take(1)
    again = runs.outbox.root.parent / "again"
    shutil.copytree(runs.outbox.root, again / runs.outbox.root.name)
    runs.send(team)
    assert Outbox(again).run().sent == ()
    other = Outbox(again)
    assert send(team, other, other.read(other.waiting()[0])).reference == "net/one@1"
    assert len(team.log("net/one").revisions) == 1


def test_words_for_what_was_published_need_no_files(runs: Runs, team: LocalRegistry) -> None:
    runs.take(1)
    runs.take(2)
    runs.send(team)
    best = ToPublish(run=runs.run, path="net/one", step=1, tags=("best",), final=True, labels_of="net/one@2")
    for words in (best.model_copy(update={"labels_of": "net/one@1"}), best):
        runs.outbox.add(words, lambda _: None)
    assert runs.send(team) == ["net/one@1", "net/one@2"]
    assert team.resolve("net/one@best").reference == "net/one@2"
    runs.outbox.add(best, lambda _: None)
    team.delete("net/one@2", with_tags=True)
    with pytest.raises(NotFoundError, match="net/one@2 was deleted, and its files are gone"):
        runs.send(team)


def test_another_run_in_the_folder_sends_what_was_left_and_does_not_own_it(
    runs: Runs, team: LocalRegistry, base: Base
) -> None:
    runs.take(1)
    (runs.outbox.root / ".making-x").mkdir()
    other = Runs(runs.outbox.root.parent, base)
    assert other.run != runs.run
    assert Outbox(runs.outbox.root.parent).begin(resumed=True).run == other.run
    other.take(2)
    assert other.send(team) == ["net/one@1", "net/one@2"]
    assert [one.reference for one in other.outbox.run().sent] == ["net/one@2"]
    assert not (runs.outbox.root / ".making-x").exists()


def test_not_more_wait_than_fit(runs: Runs) -> None:
    assert [runs.take(step) for step in range(MOST_WAITING + 1)] == [True] * MOST_WAITING + [False]
    assert runs.take(99, final=True)


def test_what_can_not_be_saved_or_read_leaves_nothing_half(runs: Runs) -> None:
    def full(place: Path) -> None:
        (place / "adapter_config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with pytest.raises(UnavailableError, match="no space left"):
        runs.outbox.add(ToPublish(run=runs.run, path="net/one", step=1), full)
    assert [path.name for path in runs.outbox.root.iterdir() if path.name.startswith(".making")] == []
    assert runs.outbox.waiting() == []
    runs.take(1)
    (place,) = runs.outbox.waiting()
    (place / "publish.json").write_text('{"path": "net/one"}')
    with pytest.raises(InvalidAdapterError, match="by hand"):
        runs.outbox.read(place)
    (runs.outbox.root / ".run.json").write_text("{")
    with pytest.raises(UnavailableError, match="remove it, and the run begins anew"):
        runs.outbox.begin(resumed=True)


def test_a_thread_sends_and_what_is_refused_holds_up_nothing(
    runs: Runs, team: LocalRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    runs.take(1, path="other/one")
    sender = runs.sender(team)
    sender.start()
    runs.take(2)
    sender.wake()
    with caplog.at_level(logging.WARNING):
        assert not sender.finish()
    assert runs.told == ["net/one@1"]
    assert [runs.outbox.read(place).document.path for place in runs.outbox.waiting()] == ["other/one"]
    assert "There is no base model other" in caplog.text
    assert f"--resume {runs.outbox.root.parent}`" in caplog.text


def test_a_registry_that_is_away_is_tried_again_at_the_end(
    runs: Runs, team: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = runs.sender(team)
    tried: list[int] = []
    publish = team.publish

    def away(*args: Any, **options: Any) -> Any:
        tried.append(len(tried))
        if len(tried) == 1:
            raise UnavailableError("away")
        if len(tried) == 2:
            raise RuntimeError("a bug")
        return publish(*args, **options)

    monkeypatch.setattr(team, "publish", away)
    runs.take(1)
    for _ in range(2):
        sender._safely(sender._send_all)
    assert len(runs.outbox.waiting()) == 1
    sender.start()
    assert sender.finish()
    assert runs.told == ["net/one@1"]


def sent(step: int, score: float | None = None, **more: Any) -> Sent:
    return Sent(**{"step": step, "reference": f"net/one@{step}", "weights": str(step), "score": score, **more})


@pytest.mark.parametrize(
    ("keep", "gone"),
    [
        (Keep(), []),
        (Keep(last=2), [1, 2, 3]),
        (Keep(best=1), [1, 3, 5]),  # a lower one is better
        (Keep(best=1, greater_is_better=True), [2, 3, 5]),
        (Keep(best=2), [1, 3]),
        (Keep(best=1, last=1), [1, 3, 4]),
        (Keep(best=9), []),
    ],
)
def test_the_best_and_the_last_stay(keep: Keep, gone: list[int]) -> None:
    there = [sent(1, 0.9), sent(2, 0.2), sent(3, 0.7), sent(4), sent(5, 0.3)]
    assert [one.step for one in too_many(there, keep)] == gone


def test_what_the_run_ended_with_and_what_was_there_before_stay() -> None:
    there = [sent(1, final=True), sent(2, created=False), sent(3, removed=True), sent(4), sent(5)]
    assert [one.step for one in too_many(there, Keep(last=1))] == [4]


def test_what_somebody_tagged_trained_on_or_used_is_not_removed(
    runs: Runs, team: LocalRegistry, base: Base, tmp_path: Path
) -> None:
    for step in range(1, 6):
        runs.take(step)
    runs.send(team)
    team.tag("net/one@1", "mine")
    child = write_adapter(tmp_path / "child", base, ["a"], r=1, seed=9)
    team.publish(child, "net/one/child", parent="net/one@2", skip_parent_check=True)
    team.fetch("net/one@3", tmp_path / "fetched", kind="published")
    sender = runs.sender(team, last=1)
    runs.take(6)
    sender.start()
    assert sender.finish()
    assert [one.number for one in team.log("net/one").revisions] == [6, 3, 2, 1]
    assert [one.reference for one in runs.outbox.run().sent if one.removed] == ["net/one@4", "net/one@5"]


def test_a_token_that_may_not_delete_removes_nothing(
    runs: Runs, team: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise NotAllowedError("this token may not delete")

    monkeypatch.setattr(team, "delete", refused)
    runs.take(1)
    runs.take(2)
    sender = runs.sender(team, last=1)
    sender.start()
    assert sender.finish()
    assert not any(one.removed for one in runs.outbox.run().sent)
