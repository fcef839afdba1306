"""Indices, masks and counts beside trained weights: PEFT saves them with their module, and no training changes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DonutSwinConfig, DonutSwinModel

from registry.errors import InvalidAdapterError
from registry.services.local import LocalRegistry
from registry.services.publishing import lineage_check
from tests.kit.peers import between_themselves

WEIGHTS = "adapter_model.safetensors"
SAVED = "encoder.layers.0.blocks.0.attention.self"
INDEX = f"base_model.model.{SAVED}.relative_position_index"
TABLE = f"base_model.model.{SAVED}.relative_position_bias_table"
SECOND = INDEX.replace("blocks.0", "blocks.1")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window of 12 has indices up to 528: more than bfloat16 counts one by one."""
    torch.manual_seed(0)
    config = DonutSwinConfig(embed_dim=8, depths=[2], num_heads=[2], window_size=12, image_size=24, patch_size=2)
    folder = tmp_path_factory.mktemp("base")
    DonutSwinModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def registry(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    opened = LocalRegistry.open(tmp_path_factory.mktemp("numbers") / "registry", create=True)
    opened.add_base("base", base)
    yield opened
    opened.close()


def _trained(model: Any, folder: Path) -> Path:
    """A pair, and an attention with its table of positions trained whole, by PEFT."""
    options = {"target_modules": ["intermediate.dense"], "modules_to_save": ["attention.self"]}
    with between_themselves():
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, **options))
    with torch.no_grad():
        for one in wrapped.parameters():
            if one.requires_grad:
                one.add_(torch.randn_like(one) * 0.1)
    with between_themselves():
        wrapped.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    return _trained(DonutSwinModel.from_pretrained(base), tmp_path / "adapter")


def _changed(adapter: Path, name: str, values: torch.Tensor | None) -> Path:
    tensors = load_file(adapter / WEIGHTS)
    tensors.pop(name, None)
    save_file(tensors | ({} if values is None else {name: values}), adapter / WEIGHTS, {"format": "pt"})
    return adapter


def test_they_are_kept_exactly(base: Path, registry: LocalRegistry, adapter: Path, tmp_path: Path) -> None:
    one = registry.publish(adapter, "base/one").revision.reference
    registry.fetch(one, tmp_path / "merged", kind="merged")
    second = _trained(DonutSwinModel.from_pretrained(tmp_path / "merged"), tmp_path / "second")
    two = registry.publish(second, "base/one/two", parent=one).revision.reference
    registry.fetch(two, tmp_path / "composed", kind="lora", dtype="bf16")
    index = load_file(base / "model.safetensors")[f"{SAVED}.relative_position_index"]
    assert int(index.max()) == 528
    found = load_file(tmp_path / "composed" / WEIGHTS)
    assert found[INDEX].dtype == torch.int64
    assert torch.equal(found[INDEX], index)
    assert torch.equal(found[TABLE], load_file(second / WEIGHTS)[TABLE].bfloat16())
    with between_themselves():
        model = peft.PeftModel.from_pretrained(DonutSwinModel.from_pretrained(base), str(tmp_path / "composed"))
    assert torch.equal(model.merge_and_unload().state_dict()[f"{SAVED}.relative_position_index"], index)
    assert registry.publish(tmp_path / "composed", "base/again").created


@pytest.mark.parametrize(
    ("name", "values", "code"),
    [
        (INDEX, torch.arange(144 * 144).view(144, 144), "lineage_mismatch"),
        (SECOND, torch.arange(144 * 144).view(144, 144), "lineage_mismatch"),
        (INDEX, torch.zeros(144, 144, dtype=torch.int32), "bad_dtype"),
        (SECOND, torch.zeros(144, 144), "bad_dtype"),
        (INDEX, torch.zeros(144, 144).to(torch.float8_e4m3fn), "bad_dtype"),
        (INDEX, torch.zeros(144, 143, dtype=torch.int64), "shape_mismatch"),
        (INDEX, torch.zeros(144, 144), "bad_dtype"),
        (INDEX, torch.zeros(144, 144).half(), "bad_dtype"),
        (INDEX, None, "incomplete_adapter"),
        (TABLE, torch.zeros(529, 2, dtype=torch.int64), "bad_dtype"),
        (INDEX.replace("index", "other"), torch.arange(3), "unknown_target"),
    ],
)
def test_others_are_refused(
    registry: LocalRegistry, adapter: Path, name: str, values: torch.Tensor | None, code: str
) -> None:
    before = registry.search().revisions
    with pytest.raises(InvalidAdapterError) as refused:
        registry.publish(_changed(adapter, name, values), "base/other")
    assert refused.value.code == code, refused.value
    assert name.rpartition(".")[2] in str(refused.value)
    assert registry.search().revisions == before


@pytest.mark.parametrize("at", [0, 8191, -1])
def test_each_number_counts(registry: LocalRegistry, adapter: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """In whichever step of the comparison it lies."""
    monkeypatch.setattr(lineage_check, "_AT_ONCE", 1 << 16)
    index = load_file(adapter / WEIGHTS)[SECOND].clone()
    index.view(-1)[at] += 1
    with pytest.raises(InvalidAdapterError, match="holds integers") as refused:
        registry.publish(_changed(adapter, SECOND, index), "base/other")
    assert refused.value.code == "lineage_mismatch"
