"""The demo from end to end, on a tiny model."""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path

import pytest

from registry.app import connect
from registry.cli.program import run as run_command
from registry.demo.main import next_commands, run
from registry.demo.tasks import BASE, DEEPEST, LINKS
from registry.demo.training import Recipe, lora_snapshot, merge_step_by_step, snapshot
from tests.demo.conftest import Listener, Run
from tests.root import ROOT

CLOSE = 1e-5
TEXTS = ("Where is my parcel?", "The lamp is smoking while I write this.")


def test_every_link_is_published_on_top_of_the_one_it_was_trained_on(finished: Run) -> None:
    assert finished.outcome.trained == tuple(link.path for link in LINKS)
    pinned = {revision.reference: revision.parent for revision in finished.outcome.revisions}
    assert pinned == {
        "minilm/support@1": "minilm",
        "minilm/support/shop@1": "minilm/support@1",
        "minilm/support/hotel@1": "minilm/support@1",
        "minilm/support/shop/urgency@1": "minilm/support/shop@1",
    }
    assert [revision.rank for revision in finished.outcome.revisions] == [link.rank for link in LINKS]
    # The parent was not given, but found by the receipt in the folder that was trained on.
    assert sum("the receipt in" in text for text in finished.heard.told) == len(LINKS)


def test_plain_and_rslora_links_are_both_there(finished: Run) -> None:
    scalings = {link.path: {group.scalings for group in finished.registry.show(link.path).targets} for link in LINKS}
    assert scalings["minilm/support"] == {(2.0,)}
    assert scalings["minilm/support/shop"] == {(8 / 8**0.5,)}
    assert scalings["minilm/support/shop/urgency"] == {(4.0,)}


def test_metrics_say_what_the_link_gained(finished: Run) -> None:
    for revision in finished.outcome.revisions:
        assert set(revision.metrics) == {"accuracy", "accuracy_parent"}
        assert all(0 <= share <= 1 for share in revision.metrics.values())


def test_composed_and_merged_equal_what_peft_makes_step_by_step(finished: Run) -> None:
    check = finished.outcome.check
    assert (check.reference, check.links) == ("minilm/support/shop/urgency@1", 3)
    for difference in (check.lora, check.merged):
        assert difference.weights < CLOSE
        assert difference.embeddings < CLOSE


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_the_comparison_would_show_a_dropped_link(finished: Run, dropped: int, tmp_path: Path) -> None:
    links = [entry.reference for entry in finished.heard.lineages[0].lineage if entry.number]
    published = [
        Path(finished.registry.fetch(link, tmp_path / str(place), kind="published").folder)
        for place, link in enumerate(links)
        if place != dropped
    ]
    wrong = snapshot(merge_step_by_step(finished.base, published, tmp_path / "peft"), TEXTS)
    lora = finished.registry.fetch(DEEPEST.path, tmp_path / "lora", kind="lora")
    difference = lora_snapshot(finished.base, Path(lora.folder), TEXTS).difference(wrong)
    assert difference.weights > 100 * CLOSE
    assert difference.embeddings > 100 * CLOSE


def test_tree_lineage_and_steps_are_told(finished: Run) -> None:
    (root,) = finished.heard.trees[0].roots
    assert root.path == BASE
    assert [child.name for child in root.children[0].children] == ["hotel", "shop"]
    assert [entry.reference for entry in finished.heard.lineages[0].lineage] == [
        "minilm",
        "minilm/support@1",
        "minilm/support/shop@1",
        "minilm/support/shop/urgency@1",
    ]
    assert finished.heard.steps.done == finished.heard.steps.totals
    assert set(finished.heard.steps.totals.values()) == {3}


def test_the_commands_to_try_next_work_as_written(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = next_commands(finished.registry.url)
    assert len(commands) == len(finished.outcome.commands) == 5
    for command in commands:
        _, *arguments = shlex.split(command)
        assert run_command(arguments) == 0, capsys.readouterr().err
    assert (tmp_path / "urgency-merged" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_second_run_trains_nothing_and_checks_again(finished: Run, listener: Listener, recipe: Recipe) -> None:
    before = finished.registry.events()
    again = run(finished.registry, listener, base=finished.base, recipe=recipe)
    assert again.trained == ()
    assert again.revisions == finished.outcome.revisions
    assert finished.registry.events() == before
    assert listener.steps.totals == {}
    assert again.check.merged.weights < CLOSE
    assert sum("Published by an earlier run" in text for text in listener.told) == len(LINKS)


@pytest.mark.slow
@pytest.mark.usefixtures("no_network")
def test_an_interrupted_run_is_continued_and_leaves_no_litter(
    tiny_bert: Path, tmp_path: Path, listener: Listener, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    litter = tmp_path / "temporary"
    litter.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(litter))
    registry = connect(tmp_path / "registry")
    listener.steps.stop_at = "hotel"
    with pytest.raises(KeyboardInterrupt):
        run(registry, listener, base=tiny_bert, recipe=recipe)
    assert list(litter.iterdir()) == []
    kept = [registry.show(link.path).revision for link in LINKS[:2]]

    listener.steps.stop_at = ""
    outcome = run(registry, listener, base=tiny_bert, recipe=recipe)
    assert outcome.trained == tuple(link.path for link in LINKS[2:])
    assert list(outcome.revisions[:2]) == kept
    assert outcome.check.lora.embeddings < CLOSE
    registry.close()


@pytest.mark.long
@pytest.mark.usefixtures("no_network")
def test_on_the_bundled_model_every_link_helps_its_own_task_and_the_readme_shows_it(
    tmp_path: Path, listener: Listener
) -> None:
    registry = connect(tmp_path / "registry")
    outcome = run(registry, listener)
    gains = {r.path: (r.metrics["accuracy_parent"], r.metrics["accuracy"]) for r in outcome.revisions}
    assert all(after > before for before, after in gains.values()), gains
    assert gains["minilm/support"][1] > gains["minilm/support"][0] + 0.2
    for difference in (outcome.check.lora, outcome.check.merged):
        assert difference.weights < CLOSE
        assert difference.embeddings < CLOSE
    registry.close()
    (shown,) = re.findall(r"^```text\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    told = {_shape(line) for text in listener.told for line in text.splitlines()}
    assert [line for line in shown.splitlines() if line and _shape(line) not in told] == []


def _shape(line: str) -> str:
    """A line without its figures and spaces: accuracies and seconds are the machine's own."""
    return "".join(re.sub(r"[\d.]+(e-\d+)?", "#", line).split())
