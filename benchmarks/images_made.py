"""A UNet of Stable Diffusion XL with random weights, and LoRA files of it in kohya's names, written once and kept.

Shapes are those of the real ``config.json``, from diffusers' class on the meta device, so the full size has 2.6 B
parameters; the half has half as many channels, and the tiny one is for tests. Weights are fp16, as they are passed
around, and drawn one by one. A LoRA's singular values fall as 1 / (1 + k / 8), as those of trained ones do.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from benchmarks.synthetic import RELATIVE_DELTA, WEIGHT_STD
from registry.images.native_names import UNET
from tests.images.real_configs import SDXL

WEIGHTS: Final = "diffusion_pytorch_model.safetensors"
CONFIGS: Final[Mapping[str, dict[str, Any]]] = {
    "full": SDXL,
    "half": SDXL | {"block_out_channels": [160, 320, 640]},
    "tiny": SDXL
    | {
        "block_out_channels": [32, 64, 64],
        "attention_head_dim": [2, 4, 4],
        "cross_attention_dim": 64,
        "transformer_layers_per_block": [1, 1, 2],
    },
}
BLOCK: Final = "mid_block.attentions.0.transformer_blocks.0."
"""The modules whose LoRA is truncated beside a full SVD of each, which takes too long for all of them."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Unet:
    """A UNet of one size.

    Args:
        size: its name in `CONFIGS`.
        shapes: of all tensors.
    """

    size: str
    shapes: Mapping[str, Shape]

    @classmethod
    def of(cls, size: str) -> Unet:
        """What diffusers' class makes of the configuration, without weights."""
        from diffusers import UNet2DConditionModel

        with torch.device("meta"):
            model = UNet2DConditionModel.from_config(CONFIGS[size])
        return cls(size, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})

    @property
    def parameters(self) -> int:
        """How many there are."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def targets(self) -> dict[str, Shape]:
        """The linear modules of all transformers, which kohya's scripts train by default, with their shapes."""
        named = {name.removesuffix(".weight"): shape for name, shape in self.shapes.items() if name.endswith(".weight")}
        return {name: shape for name, shape in named.items() if ".attentions." in name and len(shape) == 2}

    def kohya_names(self) -> dict[str, str]:
        """What kohya's scripts call these modules -> what diffusers calls them."""
        modules = {name.rpartition(".")[0] for name in self.shapes}
        targets = self.targets()
        native = {module: name for name, (module,) in UNET.names(modules)}
        return {f"lora_unet_{native[module].replace('.', '_')}": module for module in targets}


def folder_of(cache: Path, unet: Unet) -> Path:
    """The folder of the UNet, as diffusers saves it."""
    return _once(cache / f"sdxl-{unet.size}", lambda folder: _write_unet(folder, unet))


def lora_of(cache: Path, unet: Unet, *, seed: int, rank: int, below: str = "") -> Path:
    """A LoRA file on the targets whose names begin with ``below``, in fp16, with an alpha of half the rank."""
    name = f"sdxl-{unet.size}-lora-r{rank}-{seed:02d}{'-part' if below else ''}"
    folder = _once(cache / name, lambda folder: _write_lora(folder / "lora.safetensors", unet, seed, rank, below))
    return folder / "lora.safetensors"


def _once(folder: Path, write: Callable[[Path], None]) -> Path:
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(folder)
    return folder


def _write_unet(folder: Path, unet: Unet) -> None:
    """One file, as that of the real one is, written tensor by tensor."""
    drawn = torch.Generator().manual_seed(0)
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in unet.shapes.items():
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": (at, at := at + 2 * math.prod(shape))}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with (folder / WEIGHTS).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, shape in unet.shapes.items():
            file.write(_drawn(name, shape, drawn).numpy().data)
    (folder / "config.json").write_text(json.dumps(CONFIGS[unet.size], indent=2))


def _drawn(name: str, shape: Shape, drawn: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return (torch.ones if name.endswith(".weight") else torch.zeros)(shape, dtype=torch.float16)
    return (torch.randn(shape, generator=drawn) * WEIGHT_STD).half()


def _write_lora(file: Path, unet: Unet, seed: int, rank: int, below: str) -> None:
    drawn = torch.Generator().manual_seed(1000 + seed)
    falling = 1 / (1 + torch.arange(rank) / 8)
    size = 2 * WEIGHT_STD * RELATIVE_DELTA / float(falling.norm())  # the alpha is half the rank
    tensors: dict[str, torch.Tensor] = {}
    targets = unet.targets()
    for name, module in unet.kohya_names().items():
        if not module.startswith(below):
            continue
        rows, columns = targets[module]
        down = torch.randn(rank, columns, generator=drawn) * falling[:, None].sqrt() * math.sqrt(size)
        up = torch.randn(rows, rank, generator=drawn) * falling.sqrt() * math.sqrt(size)
        tensors |= {f"{name}.lora_down.weight": down.half(), f"{name}.lora_up.weight": up.half()}
        tensors[f"{name}.alpha"] = torch.tensor(rank / 2).half()
    told = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(rank / 2)}
    save_file(tensors, file, metadata=told)
