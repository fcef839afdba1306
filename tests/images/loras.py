"""LoRA files in kohya's names for a tiny model, with metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file


def lora_file(
    file: Path,
    weights: Mapping[str, torch.Tensor],
    modules: tuple[str, ...],
    *,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A file with a pair of rank 2 on each module; equal seeds give equal tensors."""
    drawn = torch.Generator().manual_seed(seed)
    tensors: dict[str, Any] = {}
    for module in modules:
        shape, name = weights[module].shape, "lora_unet_" + module.replace(".", "_")
        down = torch.randint(-8, 9, (2, *shape[1:]), generator=drawn)
        up = torch.randint(-8, 9, (shape[0], 2, *(1 for _ in shape[2:])), generator=drawn)
        tensors |= {f"{name}.lora_down.weight": down.half() / 64, f"{name}.lora_up.weight": up.half() / 64}
        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, metadata=dict(metadata or {}))
    return file
