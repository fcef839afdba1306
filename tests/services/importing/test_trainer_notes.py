"""What trainers leave beside an adapter becomes metrics and annotations; names of places become names of adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.errors import UsageError
from registry.reference import MAX_BELOW_BASE
from registry.reference import Path as TreePath
from registry.services.importing.names import free_base, free_path, wanted_name
from registry.services.importing.reading import Moved
from registry.services.importing.trainer_notes import notes_of

CARD = """---
library_name: peft
tags: [sft, trl]
model-index:
- name: x
  results:
  - task: {type: text-generation}
    metrics:
    - {type: accuracy, value: 0.75}
    - {type: "not a name", value: 1}
    - {type: bleu, value: "12"}
---
[<img src="badge.svg"/>](https://wandb.ai/acme/support/runs/a1b2c3d4)
"""


def test_states_results_and_cards_are_read(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoint-20").mkdir(parents=True)
    (run / "README.md").write_text(CARD)
    (run / "training_args.bin").write_bytes(b"a pickle, which nobody opens")
    (run / "all_results.json").write_text(json.dumps({"eval_loss": 1.25, "eval_runtime": 3.0, "epoch": 2.0}))
    history = [{"step": 10, "loss": 3.0}, {"step": 10, "eval_loss": 2.0}, {"step": 20, "loss": 1.5}]
    last = {"step": 20, "eval_loss": 1.0, "eval_acc": 0.5, "eval_samples_per_second": 9.0}
    (run / "trainer_state.json").write_text('{"global_step": true, "log_history": [{"step": true, "loss": true}]}')
    assert "step" not in notes_of(run, None).annotations
    (run / "trainer_state.json").unlink()
    state = {"best_metric": 1.0, "global_step": 20, "log_history": [*history, last]}
    (run / "checkpoint-20/trainer_state.json").write_text(json.dumps(state))
    found = notes_of(run, None)
    assert found.metrics == {"accuracy": 0.75, "eval_loss": 1.0, "eval_acc": 0.5, "train_loss": 1.5, "best_metric": 1.0}
    assert found.annotations == {"trainer": "TRL", "wandb": "acme/support/runs/a1b2c3d4", "step": "20"}

    (run / "checkpoint-10").mkdir()
    found = notes_of(run / "checkpoint-10", run)
    assert found.annotations["step"] == "10"


def test_what_is_no_state_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").write_text("{")
    (tmp_path / "all_results.json").write_text('{"eval_loss": NaN, "eval_acc": 1e400, "rouge": true}')
    (tmp_path / "wandb/run-20260101_101010-a1b2c3d4").mkdir(parents=True)
    found = notes_of(tmp_path, None)
    assert (found.metrics, found.annotations["wandb"]) == ({}, "a1b2c3d4")


@pytest.mark.parametrize(
    ("place", "repo", "dots", "name"),
    [
        ("./Runs 2026/French_v2.1 (final)", None, False, "french_v2-1-final"),
        ("./french/checkpoint-500", None, False, "french"),
        ("./french/output/adapter", None, False, "french"),
        ("./models/Llama-3.2-1B", None, True, "llama-3.2-1b"),
        ("./hub/models--acme--Net/snapshots/" + "a" * 40, None, True, "net"),
        ("./x", "acme/Support.LoRA", False, "support-lora"),
        ("./output", None, False, "output"),
        ("./\u4f60\u597d", None, False, "adapter"),
        ("./Gr\u00f6\u00dfe \u00c9t\u00e9", None, False, "grosse-ete"),
        ("./support/lora-out/checkpoint-9", None, False, "support"),
    ],
)
def test_names_are_made_of_places(place: str, repo: str | None, dots: bool, name: str) -> None:
    assert wanted_name(place, repo, dots=dots) == name


def test_names_that_are_taken_get_a_number_and_long_ones_are_cut() -> None:
    net = TreePath("net")
    taken = {TreePath.parse("net/french"), TreePath.parse("net/french-2")}
    assert str(free_path(net, "french", taken)) == "net/french-3"
    assert str(free_path(net, "api", ())) == "net/api-2"  # reserved
    assert free_base("api", {"api-2"}) == "api-3"
    deep = TreePath("net", ("a" * 40, "b" * 40))
    path = free_path(deep, "c" * 40, {TreePath("net", (*deep.names, "c" * 14))})
    assert len("/".join(path.names)) <= MAX_BELOW_BASE
    assert path.name == "c" * 12 + "-2"
    with pytest.raises(UsageError, match="would be too long"):
        free_path(TreePath("net", ("a" * 60, "b" * 35)), "c", ())


def test_an_old_root_needs_two_folders_that_show_it() -> None:
    places = ["./out/merged", "./models/net"]
    assert Moved.of(["/mnt/a/out/merged"], places).place("/mnt/a/out/merged") is None
    both = Moved.of(["/mnt/a/out/merged", "/mnt/a/models/net", "/mnt/b/out/merged"], places)
    assert both.place("/mnt/a/out/merged") == "./out/merged"
    assert both.place("/mnt/b/out/merged") is None
    assert Moved.of(["out/merged", "models/net"], places).place("out/merged") is None
