"""What a training starts from is recorded when it starts, and read whole; a run that goes on keeps its record."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from registry.training.session import Recording
from registry.transfer.trained_on import RECORD, Beside, TrainedFolder


def _model(name: str | None) -> SimpleNamespace:
    return SimpleNamespace(peft_config={"default": SimpleNamespace(base_model_name_or_path=name)})


def _adapter(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{name}"}}')
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    return folder


@pytest.fixture
def merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainedFolder:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "merged").mkdir()
    for number in (1, 2):
        (tmp_path / "merged" / f"model-{number}.safetensors").write_bytes(bytes([number]) * 100)
    return TrainedFolder(tmp_path / "merged", "merged")


def test_a_folder_that_is_overwritten_during_the_training(merged: TrainedFolder, tmp_path: Path) -> None:
    recording = Recording(tmp_path, _model("merged"), "default")
    recording.start(resumed=False)
    one = _adapter(tmp_path / "one", "merged")
    recording.lay_beside(one)
    weights = one / "adapter_model.safetensors"
    assert Beside.of(merged, weights).recorded is True
    (merged.place / "model-2.safetensors").write_bytes(bytes(100))
    assert Beside.of(merged, weights).recorded is False
    assert Beside.of(merged, weights).is_later
    # a run that goes on was begun on the other one
    later = Recording(tmp_path, _model("merged"), "default")
    later.start(resumed=True)
    other = _adapter(tmp_path / "other", "merged")
    later.lay_beside(other)
    assert (other / RECORD).read_bytes() == (one / RECORD).read_bytes()
    anew = Recording(tmp_path, _model("merged"), "default")
    anew.start(resumed=False)
    anew.lay_beside(other)
    assert Beside.of(merged, other / weights.name).recorded is True


@pytest.mark.parametrize("name", [None, "acme/net", "empty"])
def test_where_there_is_nothing_to_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    recording = Recording(tmp_path, _model(name), "default")
    recording.start(resumed=False)
    adapter = _adapter(tmp_path / "adapter", name or "")
    recording.lay_beside(adapter)
    assert not (adapter / RECORD).exists()
    assert Beside.of(TrainedFolder(tmp_path / "empty", "empty"), adapter / "adapter_model.safetensors").recorded is None
