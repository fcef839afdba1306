"""One side of `benchmarks.images` in a process of its own, until its bytes are on the medium.

    python -m benchmarks.images_sides SIDE WORD ...

The last line is JSON: ``peak``, the most memory that the whole process had at once, in bytes (VmHWM: what it imported
and what it mapped of files count). kohya's scripts are not run: they need a checkout and a checkpoint of their own.
What they compute is written down here from their published description, the leanest way that it allows: without models
around the tensors, without text encoders, without hashes of what was saved.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

DOWN, UP = ".lora_down.weight", ".lora_up.weight"


def command(*words: str) -> None:
    """The command ``registry``."""
    from registry.cli.main import main

    sys.argv = ["registry", *words]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise


def diffusers(base: str, out: str, *files: str) -> None:
    """`load_lora_weights` of each file, one `fuse_lora` of all, and `save_pretrained`."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(base, torch_dtype=torch.float16)
    others = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    pipe = StableDiffusionXLPipeline(
        **dict.fromkeys(others), unet=unet, scheduler=EulerDiscreteScheduler(), add_watermarker=False
    )
    names = [f"lora{number}" for number in range(len(files))]
    for name, file in zip(names, files, strict=True):
        pipe.load_lora_weights(file, adapter_name=name)
    pipe.set_adapters(names)
    pipe.fuse_lora(components=["unet"], adapter_names=names)
    pipe.unload_lora_weights()
    pipe.unet.save_pretrained(out)


def merge_lora(base: str, out: str, names: str, *files: str) -> None:
    """The formula of ``sdxl_merge_lora.py --precision float --save_precision fp16``: W + up @ down * alpha / rank.

    Args:
        base: the folder of the UNet; all of it is held in fp32, since that is the script's precision.
        out: the folder to write to.
        names: a JSON file with the modules by kohya's names.
        files: LoRA files, applied one after another.
    """
    import torch
    from safetensors.torch import load_file, save_file

    modules: dict[str, str] = json.loads(Path(names).read_text())
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(Path(base).glob("*.safetensors")):
        weights |= {name: tensor.float() for name, tensor in load_file(file).items()}
    for file in map(Path, files):
        lora = {name: tensor.float() for name, tensor in load_file(file).items()}
        for key in [key for key in lora if key.endswith(DOWN)]:
            name = key.removesuffix(DOWN)
            down, up, alpha = lora[key], lora[name + UP], lora[f"{name}.alpha"]
            weight = f"{modules[name]}.weight"
            weights[weight] = weights[weight] + (up @ down) * (alpha / down.shape[0])
    for name in list(weights):
        weights[name] = weights[name].half()
    Path(out).mkdir()
    save_file(weights, Path(out) / "model.safetensors")


def resize_lora(file: str, out: str, rank: str) -> None:
    """The formula of ``resize_lora.py --new_rank``: a full SVD of up @ down for each module, singular values into up.

    Of matrices with more than 2,048 rows and columns the script takes a random projection first; SDXL has none.
    """
    import torch
    from safetensors.torch import load_file, save_file

    lora = {name: tensor.float() for name, tensor in load_file(file).items()}
    kept = int(rank)
    made: dict[str, torch.Tensor] = {}
    for key in [key for key in lora if key.endswith(DOWN)]:
        name = key.removesuffix(DOWN)
        left, sizes, right = torch.linalg.svd(lora[name + UP] @ lora[key])
        made[name + UP] = (left[:, :kept] @ torch.diag(sizes[:kept])).contiguous()
        made[key] = right[:kept].contiguous()
        made[f"{name}.alpha"] = lora[f"{name}.alpha"] / lora[key].shape[0] * kept
    save_file(made, out)


SIDES: dict[str, Callable[..., None]] = {
    "command": command,
    "diffusers": diffusers,
    "merge_lora": merge_lora,
    "resize_lora": resize_lora,
}


def peak() -> int:
    """The most memory that this process had, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    SIDES[sys.argv[1]](*sys.argv[2:])
    os.sync()
    print(json.dumps({"peak": peak()}))
