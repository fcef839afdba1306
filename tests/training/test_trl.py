"""The code of docs/training.md for TRL runs as it stands, and does what the page says."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from registry.folders.scan import ADAPTER_WEIGHTS
from tests.kit.peers import load_model
from tests.kit.tokenizer_files import add_working_tokenizer
from tests.training.conftest import Desk
from tests.training.page import blocks, run

POLICY = "llama/support/policy"

pytest.importorskip("trl", reason="TRL is not installed: `make test-long ONLY=recipes` has it")


@pytest.mark.filterwarnings("ignore")  # TRL's and transformers' about each other
def test_the_code_for_trl_publishes(on_support: Desk) -> None:
    rows = importlib.import_module("datasets").Dataset.from_list([{"text": "where is my order"}] * 8)
    run("TRL", {"train_rows": rows}, ("num_train_epochs=3", "num_train_epochs=3, bf16=False"))  # without a GPU
    revisions = on_support.team.log("llama/support/french").revisions
    assert {one.parent for one in revisions} == {"llama/support@1"}
    assert {one.annotations["trainer"] for one in revisions} == {"TRL"}
    assert revisions[0].annotations["epoch"] == "3"


@pytest.mark.filterwarnings("ignore")
def test_another_process_reads_each_policy_back_and_has_exactly_its_weights(on_support: Desk) -> None:
    on_support.team.fetch("llama", on_support.folder / "llama", kind="merged")
    add_working_tokenizer(on_support.folder / "llama")
    heading = "GRPO, and the policy read back"
    (on_support.folder / "worker.py").write_text(blocks(heading)[1].replace("sleep(1)", "sleep(0.1)"))
    with subprocess.Popen([sys.executable, "worker.py"], stdout=subprocess.PIPE, text=True) as worker:
        names: dict[str, Any] = {"reading": _until_read(on_support, worker)}
        few = "max_steps=3, learning_rate=1e-2, per_device_train_batch_size=8, bf16=False, logging_steps=1"
        run(heading, names, ("max_steps=100", few), ("[published]", "[published, reading]"))
        said, _ = worker.communicate(timeout=300)
    assert worker.returncode == 0
    _check_what_is_published(on_support, names)
    for one, line in zip(reversed(on_support.team.log(POLICY).revisions), said.splitlines(), strict=True):
        words = _words(on_support, one.reference)
        assert one.metrics["eval_words"] == sum(words) / len(words)
        assert one.metrics["train_reward"] > 0
        assert line == f"{one.reference} of step {one.annotations['step']} {words}"


def _until_read(desk: Desk, worker: subprocess.Popen[str]) -> Any:
    """A callback that lets the trainer go on when the other process has read the policy, so that it reads each."""
    transformers: Any = importlib.import_module("transformers")

    class Reading(transformers.TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            while not _is_read(desk, state.global_step):
                assert worker.poll() is None
                time.sleep(0.1)

    return Reading()


def _is_read(desk: Desk, step: int) -> bool:
    found = desk.team.search("policy").revisions  # none before the first
    return [(one.annotations["step"], "eval_words" in one.metrics) for one in found] == [(str(step), True)]


def _check_what_is_published(desk: Desk, names: dict[str, Any]) -> None:
    revisions = desk.team.log(POLICY).revisions
    assert names["published"].published == tuple(one.reference for one in reversed(revisions))
    assert {one.parent for one in revisions} == {"llama/support@1"}
    assert {one.annotations["trainer"] for one in revisions} == {"TRL"}
    assert [one.annotations["step"] for one in revisions] == ["3", "2", "1"]
    assert [one.tags for one in revisions] == [("trained",), (), ()]
    names["trainer"].save_model("saved")
    fetched = Path(desk.team.fetch(POLICY, kind="published").folder)
    assert (fetched / ADAPTER_WEIGHTS).read_bytes() == (Path("saved") / ADAPTER_WEIGHTS).read_bytes()


def _words(desk: Desk, reference: str) -> list[int]:
    """Of each prompt: how many words a merged folder generates, one prompt at a time."""
    transformers: Any = importlib.import_module("transformers")
    folder = Path(desk.team.fetch(reference, kind="merged").folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained("llama")
    model = load_model(folder)
    found = []
    for prompt in ["where is my order", "cancel my booking"]:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        tokens = model.generate(ids, do_sample=False, max_new_tokens=8)[0, ids.shape[1] :]
        found.append(len(set(tokenizer.decode(tokens, skip_special_tokens=True).split())))
    return found
