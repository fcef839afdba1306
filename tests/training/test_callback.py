"""A Trainer of transformers with the callback: what is published of a run, and that nothing ends the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from registry.errors import UsageError
from registry.training import RegistryCallback
from registry.training.outbox import FOLDER, Outbox
from tests.training.conftest import Desk

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")]


def train(desk: Desk, callback: Any, model: Any = None, *, resume: bool = False, **options: Any) -> Any:
    """Train six steps by transformers' Trainer; the trainer."""
    import torch
    from transformers import Trainer, TrainingArguments

    ids = torch.randint(3, 40, (8, 12), generator=torch.Generator().manual_seed(0))
    rows = [{"input_ids": one, "labels": one} for one in ids]
    usual = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": [],
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }
    how = TrainingArguments(str(desk.folder / "run"), **{**usual, **options})
    trainer = Trainer(
        model=model if model is not None else desk.model(),
        args=how,
        train_dataset=rows,
        eval_dataset=rows[:4],
        callbacks=[callback],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights_of(desk: Desk, reference: str) -> bytes:
    folder = Path(desk.team.fetch(reference, kind="published").folder)
    return (folder / "adapter_model.safetensors").read_bytes()


def steps(desk: Desk, path: str) -> list[str]:
    """By revision, oldest first: the steps."""
    return [one.annotations["step"] for one in reversed(desk.team.log(path).revisions)]


def nothing_waits(desk: Desk) -> bool:
    return Outbox(desk.folder / "run").waiting() == []


def test_at_the_end_the_last_is_published(desk: Desk) -> None:
    callback = RegistryCallback("llama/support", tags=["candidate"], annotations={"data": "tickets"})
    train(desk, callback)
    (one,) = desk.team.log("llama/support").revisions
    assert callback.published == (one.reference,) == ("llama/support@1",)
    assert (one.message, one.tags) == ("Step 6, epoch 3", ("candidate",))
    assert {"step": "6", "epoch": "3", "trainer": "transformers Trainer", "data": "tickets"}.items() <= (
        one.annotations.items()
    )
    assert set(one.metrics) == {"train_loss"}
    saved = desk.folder / "run/checkpoint-6/adapter_model.safetensors"
    assert weights_of(desk, "llama/support") == saved.read_bytes()
    names = {file.path for file in desk.team.show("llama/support").files}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert nothing_waits(desk)


def test_the_best_is_published_where_it_is_known(desk: Desk) -> None:
    """More loss counts as better here, so an earlier step is the best one."""
    trainer = train(
        desk,
        RegistryCallback("llama/support"),
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        save_total_limit=1,
        greater_is_better=True,
    )
    best = trainer.state.best_model_checkpoint
    assert best.endswith("-2")
    (one,) = desk.team.log("llama/support").revisions
    assert one.annotations["step"] == best.rpartition("-")[2]
    assert one.metrics["eval_loss"] == trainer.state.best_metric
    assert weights_of(desk, "llama/support") == (Path(best) / "adapter_model.safetensors").read_bytes()


def test_every_save_is_published_before_the_trainer_removes_it(desk: Desk) -> None:
    train(desk, RegistryCallback("llama/support", every="save", tags=["done"]), save_total_limit=1)
    assert steps(desk, "llama/support") == ["2", "4", "6"]
    assert len({weights_of(desk, f"llama/support@{number}") for number in (1, 2, 3)}) == 3
    assert desk.team.resolve("llama/support@done").reference == "llama/support@3"
    assert [one.name for one in (desk.folder / "run").glob("checkpoint-*")] == ["checkpoint-6"]


def test_each_third_step_is_published_with_what_is_measured_there(desk: Desk) -> None:
    callback = RegistryCallback("llama/support", every=3)
    trainer = train(desk, callback, save_strategy="no", eval_strategy="steps", eval_steps=3)
    assert steps(desk, "llama/support") == ["3", "6"]
    measured = {str(one["step"]): one["eval_loss"] for one in trainer.state.log_history if "eval_loss" in one}
    for one in desk.team.log("llama/support").revisions:
        assert one.metrics["eval_loss"] == measured[one.annotations["step"]]
    trainer.save_model(str(desk.folder / "saved"))
    assert weights_of(desk, "llama/support@2") == (desk.folder / "saved/adapter_model.safetensors").read_bytes()


def test_each_second_step_is_published_with_what_is_logged_of_it(desk: Desk) -> None:
    trainer = train(desk, RegistryCallback("llama/support", every=2), save_strategy="no", logging_steps=1)
    logged = {str(one["step"]): one["loss"] for one in trainer.state.log_history if "loss" in one}
    assert len(set(logged.values())) == 6
    last, *before = desk.team.log("llama/support").revisions
    assert last.metrics["train_loss"] == trainer.state.log_history[-1]["train_loss"]  # what the trainer says at its end
    assert [one.annotations["step"] for one in before] == ["4", "2"]
    for one in before:
        assert one.metrics["train_loss"] == logged[one.annotations["step"]]


def test_a_registry_that_is_away_ends_nothing_and_is_caught_up_with(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("REGISTRY_URL", "http://127.0.0.1:9")
    trainer = train(desk, RegistryCallback("llama/support", every="save"))
    assert trainer.state.global_step == 6
    assert "are not published. They wait in" in caplog.text
    assert len(Outbox(desk.folder / "run").waiting()) == 4
    monkeypatch.setenv("REGISTRY_URL", str(desk.folder / "registry"))
    train(desk, RegistryCallback("llama/support", every="save"), resume=True, max_steps=8)
    assert steps(desk, "llama/support") == ["2", "4", "6", "8"]
    assert len({one.annotations["run"] for one in desk.team.log("llama/support").revisions}) == 1
    assert nothing_waits(desk)


def test_a_run_that_goes_on_publishes_nothing_twice(desk: Desk) -> None:
    train(desk, RegistryCallback("llama/support", every="save"), max_steps=4)
    train(desk, RegistryCallback("llama/support", every="save"), resume=True)
    assert steps(desk, "llama/support") == ["2", "4", "6"]
    train(desk, RegistryCallback("llama/support", every="save"), resume=True)
    assert steps(desk, "llama/support") == ["2", "4", "6"]


def test_only_what_is_asked_for_is_removed(desk: Desk) -> None:
    """Of the run: what somebody tagged, and revisions of others, stay."""
    train(desk, RegistryCallback("llama/support"))
    before = desk.team.log("llama/support").revisions[0]

    class Tagging(RegistryCallback):  # type: ignore[misc, unused-ignore]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_step_end(args, state, control, **kwargs)
            while state.global_step == 3 and not self.published:
                pass
            if state.global_step == 3:
                desk.team.tag(self.published[0], "mine")

    callback = Tagging("llama/support", every="save", keep_last=1)
    train(desk, callback, desk.trained(), save_steps=1, save_only_model=True, max_steps=6, learning_rate=1e-3)
    left = desk.team.log("llama/support").revisions
    assert before.reference in {one.reference for one in left}
    mine = [one for one in left if "mine" in one.tags]
    assert len(mine) == 1
    assert [one.annotations["step"] for one in left if one not in (before, *mine)] == ["6"]


def test_the_child_of_a_fetched_folder_is_pinned(desk: Desk) -> None:
    train(desk, RegistryCallback("llama/support"))
    train(desk, RegistryCallback("llama/support"), max_steps=2)
    desk.team.fetch("llama/support@1", desk.folder / "merged", kind="merged")
    train(desk, RegistryCallback("llama/support/french"), desk.model(Path("merged")))
    (one,) = desk.team.log("llama/support/french").revisions
    assert (one.parent, one.parent_known_by) == ("llama/support@1", "receipt")


@pytest.mark.usefixtures("real_times")
def test_what_a_training_started_from_is_recorded(desk: Desk) -> None:
    """So it is proven, although all of it takes a moment."""
    train(desk, RegistryCallback("llama/support"))
    train(desk, RegistryCallback("llama/support"), max_steps=2)
    desk.team.fetch("llama/support@1", desk.folder / "merged", kind="merged")
    (desk.folder / "merged" / "registry-receipt.json").unlink()
    train(desk, RegistryCallback("llama/support/french"), desk.model(Path("merged")))
    (one,) = desk.team.log("llama/support/french").revisions
    assert (one.parent, one.parent_known_by) == ("llama/support@1", "compared")


def test_settings_stand_for_arguments_and_mistakes_are_told_before_the_training(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UsageError, match="or set REGISTRY_PUBLISH_PATH"):
        RegistryCallback()
    with pytest.raises(UsageError, match="every is 'sometimes', but end, save, or a number of steps is expected"):
        RegistryCallback("llama/support", every="sometimes")
    with pytest.raises(UsageError, match="path is 'llama', but a path BASE/NAME is expected"):
        RegistryCallback("llama")
    monkeypatch.setenv("REGISTRY_PUBLISH_PATH", "llama/support")
    monkeypatch.setenv("REGISTRY_PUBLISH_EVERY", "save")
    train(desk, RegistryCallback, max_steps=4)
    assert steps(desk, "llama/support") == ["2", "4"]
    with caplog.at_level(logging.WARNING):
        trainer = train(desk, RegistryCallback("other/one"), max_steps=2)
    assert trainer.state.global_step == 2
    assert "The parent of what is trained is not there" in caplog.text
    assert "is not published: " in caplog.text


def test_what_fails_in_the_callback_ends_no_training(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (desk.folder / "run").mkdir()
    (desk.folder / "run" / FOLDER).write_text("a file in the place of the folder")
    trainer = train(desk, RegistryCallback("llama/support", every="save"), max_steps=2)
    assert trainer.state.global_step == 2
    assert "The registry's callback goes on without this" in caplog.text
    caplog.clear()
    from transformers import AutoModelForCausalLM

    train(desk, RegistryCallback("llama/support"), AutoModelForCausalLM.from_pretrained(desk.base), max_steps=1)
    assert "a PeftModel is expected" in caplog.text
