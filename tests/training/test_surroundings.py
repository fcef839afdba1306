"""Where a run happens becomes annotations, and open runs are told what is published; nothing is imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from registry.training.options import look_around, trainer_of

_GIT = ["git", "-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


def git(*words: str) -> str:
    return subprocess.run([*_GIT, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_says_whether_files_differ_from_it() -> None:
    assert look_around().annotations == {}
    Path("train.py").write_text("1")
    git("init", "-q")
    git("add", "train.py")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    git("tag", "v1")
    assert look_around().annotations == {"git": commit}
    assert look_around(again=True).annotations == {}
    Path("train.py").write_text("2")
    assert look_around().annotations == {"git": f"{commit}-dirty"}


def wandb_run(**attributes: Any) -> Any:
    return SimpleNamespace(**{"entity": "acme", "project": "support", "id": "a1b2c3d4", "summary": {}, **attributes})


def test_open_runs_are_known_and_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    run, told = wandb_run(), []
    client = SimpleNamespace(set_tag=lambda *words: told.append(words))
    active: list[Any] = [SimpleNamespace(info=SimpleNamespace(run_id="5f"))]
    mlflow = SimpleNamespace(active_run=lambda: active[0], MlflowClient=lambda: client)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    before = look_around()
    assert before.annotations == {"wandb": "acme/support/runs/a1b2c3d4", "mlflow": "5f"}
    active[0] = None  # MLflow's callback ends the run before ours is asked at the end
    run.entity = ""  # offline
    later = before.with_later(look_around())
    assert later.annotations == {"wandb": "support/runs/a1b2c3d4", "mlflow": "5f"}
    later.tell("llama/support@1")
    assert run.summary == {"registry_revision": "llama/support@1"}
    assert told == [("5f", "registry.revision", "llama/support@1")]

    run.summary = None
    later.tell("llama/support@2")
    assert "could not be told that llama/support@2 is published" in caplog.text
    assert len(told) == 2, "one that fails keeps no other from being told"


def test_a_run_of_a_version_that_nobody_knows_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=object()))
    assert look_around().annotations == {}


def test_the_newest_events_of_tensorboard_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = SimpleNamespace(report_to=["tensorboard"], output_dir=str(tmp_path / "out"))
    assert look_around(args).annotations == {}
    for name in ("a", "b"):
        (tmp_path / "out/runs" / name).mkdir(parents=True)
        (tmp_path / "out/runs" / name / "events.out.tfevents.1").write_bytes(b"")
    (tmp_path / "out/runs/a/events.out.tfevents.2").write_bytes(b"")
    os.utime(tmp_path / "out/runs/b/events.out.tfevents.1", (1, 1))
    assert look_around(args).annotations == {"tensorboard": "runs/a"}
    args.report_to = []
    assert look_around(args).annotations == {}


def test_a_trainer_is_told_by_its_arguments() -> None:
    class SFTConfig: ...

    assert trainer_of(SFTConfig()) == "transformers Trainer"
    SFTConfig.__module__ = "trl.trainer.sft_config"

    class Own(SFTConfig): ...

    assert trainer_of(SFTConfig()) == trainer_of(Own()) == "TRL"


@pytest.mark.slow
def test_the_plugin_of_axolotl_gives_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the two methods that axolotl 0.19 calls; axolotl itself pins other versions than are here."""
    interface = ModuleType("axolotl.integrations.base")
    interface.BasePlugin = object  # type: ignore[attr-defined] # stands for axolotl's
    for name in ("axolotl", "axolotl.integrations"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "axolotl.integrations.base", interface)
    monkeypatch.delitem(sys.modules, "registry.training.axolotl", raising=False)
    from registry.training.axolotl import RegistryArgs, RegistryPlugin

    plugin = RegistryPlugin()
    assert plugin.get_input_args() == "registry.training.axolotl.RegistryArgs"
    cfg = RegistryArgs(registry_path="llama/support", registry_every=3, registry_tags=["prod"])
    (callback,) = plugin.add_callbacks_post_trainer(cfg, None)
    assert (callback.options.path, callback.options.every) == ("llama/support", 3)
    assert callback.options.labels.tags == ("prod",)
