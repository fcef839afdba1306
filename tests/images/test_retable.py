"""Denoisers that were added when tables came from tensor names: made anew, what is below them means the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from registry.services.bases import add
from registry.services.local import LocalRegistry
from registry.tensors.table.declaration import table_from_names
from registry.tensors.table.shipped.facts import SOURCE

MODULES = (
    "conv_in",
    "down_blocks.0.downsamplers.0.conv",
    "down_blocks.0.attentions.0.proj_in",
    "time_embedding.linear_1",
)


def lora(model: Any, file: Path) -> Path:
    drawn = torch.Generator().manual_seed(11)
    tensors = {}
    for name in MODULES:
        rows, *inner = model.get_submodule(name).weight.shape
        lead = "lora_unet_" + name.replace(".", "_")
        tensors[f"{lead}.lora_down.weight"] = torch.randn(2, *inner, generator=drawn)
        tensors[f"{lead}.lora_up.weight"] = torch.randn(rows, 2, *(1 for _ in inner[1:]), generator=drawn)
        tensors[f"{lead}.alpha"] = torch.tensor(1.0)
    save_file(tensors, file)
    return file


def test_a_table_from_names_becomes_that_of_the_class(
    denoiser: Callable[[str], tuple[Any, Path]], local: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = denoiser("sd")
    with monkeypatch.context() as patch:
        patch.setattr(add, "understood", lambda given: table_from_names(given.shapes))
        old = local.add_base("unet", folder).base
    assert (old.table_source, bool(old.notices)) == ("tensor names", True)
    local.publish(lora(model, tmp_path / "style.safetensors"), "unet/style")
    before = local.fetch("unet/style", tmp_path / "before", kind="merged")
    answer = local.retable("unet")
    assert (answer.changed, answer.revisions) == (True, 1)
    assert (answer.base.table_source, answer.base.architecture) == (SOURCE, "UNet2DConditionModel")
    assert answer.base.notices == ()
    assert answer.base.digest == old.digest
    after = local.fetch("unet/style", tmp_path / "after", kind="merged")
    assert [file.blake3 for file in after.files] == [file.blake3 for file in before.files]
    assert local.verify(tmp_path / "after").equal
    assert not local.retable("unet").changed
    fresh = local.add_base("again", folder).base
    assert (fresh.table_digest, fresh.notices) == (answer.base.table_digest, ())
    told = local.publish(tmp_path / "style.safetensors", "again/style")
    assert not [notice for notice in told.notices if "dilation" in str(notice)]
