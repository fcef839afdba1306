"""Folders of quantised weights are refused, those of nets whose modules are only called alike are added."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from registry.errors import InvalidBaseError
from registry.transfer.model_files import read_model_files

UNET = {
    "down_blocks.0.attentions.0.to_q.weight": torch.zeros(4, 4),
    "up_blocks.0.resnets.0.conv1.weight": torch.zeros(4, 4, 3, 3),
    "layer_scales": torch.ones(4),
}


def folder_of(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path / "model.safetensors")
    return path


def test_blocks_of_a_unet_are_no_mark(tmp_path: Path) -> None:
    assert set(read_model_files(folder_of(tmp_path, UNET)).model.shapes) == set(UNET)


@pytest.mark.parametrize("name", ["experts.gate_up_proj_blocks", "experts.gate_up_proj_scales"])
def test_blocks_of_mxfp4_are_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, {**UNET, name: torch.zeros(2, 4, dtype=torch.uint8)})
    with pytest.raises(InvalidBaseError, match=name) as told:
        read_model_files(folder)
    assert told.value.code == "quantised_base"
