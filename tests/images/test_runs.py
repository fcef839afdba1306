"""The output folder of one training becomes revisions of one adapter, in the order of its steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from registry.errors import RegistryError, UsageError
from registry.folders.lora_runs import checkpoints_of
from registry.reference import Path as TreePath
from registry.services.local import LocalRegistry
from tests.images.denoisers import weights_of
from tests.images.loras import lora_file
from tests.images.test_lora_files import Denoiser
from tests.kit.png import png

WEIGHTS = {"conv_in": torch.zeros(4, 3, 3, 3)}
PATH = TreePath("sd", ("mychar",))


def saved(folder: Path, names: Mapping[str, Mapping[str, str]], weights: Mapping[str, torch.Tensor] = WEIGHTS) -> None:
    """LoRA files with these metadata."""
    for seed, (name, metadata) in enumerate(names.items()):
        lora_file(folder / name, weights, ("conv_in",), seed=seed, metadata=metadata)


ORDERS: dict[str, tuple[tuple[str, ...], list[tuple[str, str]]]] = {
    "kohya, by epochs": (
        ("my.safetensors", "my-000010.safetensors", "my-000002.safetensors"),
        [("my-000002.safetensors", "epoch 2"), ("my-000010.safetensors", "epoch 10"), ("my.safetensors", "")],
    ),
    "kohya, by steps": (
        ("my-step00000900.safetensors", "my-step00001000.safetensors"),
        [("my-step00000900.safetensors", "step 900"), ("my-step00001000.safetensors", "step 1000")],
    ),
    "ai-toolkit": (
        ("my_000000500.safetensors", "my.safetensors", "my_000000250.safetensors"),
        [("my_000000250.safetensors", "step 250"), ("my_000000500.safetensors", "step 500"), ("my.safetensors", "")],
    ),
    "OneTrainer": (
        ("2026-03-01_10-00-00-save-1000-5-0.safetensors", "2026-03-01_09-00-00-save-200-1-0.safetensors"),
        [
            ("2026-03-01_09-00-00-save-200-1-0.safetensors", "epoch 1, step 200"),
            ("2026-03-01_10-00-00-save-1000-5-0.safetensors", "epoch 5, step 1000"),
        ],
    ),
    "diffusers": (
        tuple(f"{place}pytorch_lora_weights.safetensors" for place in ("checkpoint-1000/", "checkpoint-500/", "")),
        [("checkpoint-500", "step 500"), ("checkpoint-1000", "step 1000"), ("pytorch_lora_weights.safetensors", "")],
    ),
}


@pytest.mark.parametrize("trainer", list(ORDERS))
def test_checkpoints_come_in_the_order_of_their_steps(trainer: str, tmp_path: Path) -> None:
    names, expected = ORDERS[trainer]
    saved(tmp_path, {name: {} for name in names})
    found = checkpoints_of(tmp_path, PATH)
    assert [(one.place, one.message) for one in found.nodes] == expected
    assert {one.path for one in found.nodes} == {PATH}


def test_metadata_count_before_names_and_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    kohya = {"my-000001.safetensors": {"ss_steps": "300", "ss_epoch": "1"}, "my.safetensors": {"ss_steps": "900"}}
    toolkit = {"my-000002.safetensors": {"training_info": json.dumps({"step": 600, "epoch": 2})}}
    saved(tmp_path, kohya | toolkit)
    (tmp_path / "optimizer.pt").write_bytes(b"x")
    (tmp_path / "my-000001-state").mkdir()
    (tmp_path / "sample").mkdir()
    (tmp_path / "config.toml").write_text("x")
    found = checkpoints_of(tmp_path, PATH)
    assert [dict(one.annotations) for one in found.nodes] == [
        {"step": "300", "epoch": "1"},
        {"step": "600", "epoch": "2"},
        {"step": "900"},
    ]
    assert {one.path: one.reason for one in found.skipped} == {
        "optimizer.pt": "trainer state",
        "my-000001-state": "trainer state",
        "sample": "a folder that is no checkpoint",
        "config.toml": "no LoRA file",
    }


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ({"a-000001.safetensors": {}, "b-000002.safetensors": {}}, "LoRA files of 2 trainings, by their names: a, b"),
        ({"a-000001.safetensors": {}, "a-step00000100.safetensors": {}}, "Nothing tells the order of"),
        ({"a-000001.safetensors": {}, "a-000002.safetensors": {"ss_epoch": "1"}}, "Nothing tells the order of"),
        (
            {"a-000002.safetensors": {"ss_epoch": "2"}, "a.safetensors": {"ss_epoch": "1"}},
            "a.safetensors says epoch 1, and a-000002.safetensors epoch 2",
        ),
        ({}, "holds no LoRA files and no checkpoint folders"),
    ],
)
def test_what_has_no_certain_order_is_refused(names: dict[str, dict[str, str]], told: str, tmp_path: Path) -> None:
    saved(tmp_path, names)
    with pytest.raises(RegistryError, match=told):
        checkpoints_of(tmp_path, PATH)


def test_a_training_becomes_one_adapter_and_a_later_checkpoint_is_added(
    denoiser: Denoiser, shelf: LocalRegistry, tmp_path: Path
) -> None:
    weights = weights_of(denoiser("sd")[0])
    saved(tmp_path, {"my-000010.safetensors": {"ss_steps": "100"}, "my-000020.safetensors": {}}, weights)
    (tmp_path / "my-000020.preview.png").write_bytes(png())
    (tmp_path / "notes.txt").write_text("x")
    planned = shelf.publish_folders(tmp_path, "sd/mychar", dry_run=True)
    assert [one.state for one in planned] == ["planned", "planned", "skipped"]
    with pytest.raises(RegistryError):
        shelf.log("sd/mychar")
    first = shelf.publish_folders(tmp_path, "sd/mychar")
    assert [(one.folder, one.state) for one in first] == [
        ("my-000010.safetensors", "published"),
        ("my-000020.safetensors", "published"),
        ("notes.txt", "skipped"),
    ]
    saved(tmp_path, {"my-000010.safetensors": {"ss_steps": "100"}, "my-000020.safetensors": {}, "my.safetensors": {}},
          weights)  # fmt: skip
    again = shelf.publish_folders(tmp_path, "sd/mychar", parent="sd")
    assert [(one.folder, one.state) for one in again[:3]] == [
        ("my-000010.safetensors", "existing"),
        ("my-000020.safetensors", "existing"),
        ("my.safetensors", "published"),
    ]
    revisions = shelf.log("sd/mychar").revisions
    assert [(one.number, one.message, one.parent) for one in revisions] == [
        (3, "", "sd"),
        (2, "epoch 20", "sd"),
        (1, "epoch 10, step 100", "sd"),
    ]
    assert [one.annotations.get("epoch") for one in revisions] == [None, "20", "10"]
    with pytest.raises(UsageError, match="--rename gives nested folders"):
        shelf.publish_folders(tmp_path, "sd/mychar", rename={"my.safetensors": "x"})
    with pytest.raises(UsageError, match="--parent names one revision"):
        shelf.publish_folders(tmp_path, "sd", parent="sd")
    with pytest.raises(RegistryError, match=r"registry publish -r .* sd/NAME"):
        shelf.publish_folders(tmp_path, "sd")
