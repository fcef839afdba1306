"""A small registry and the folders that somebody has in the first week, good ones and others."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from registry.rights import Role
from registry.services.local import LocalRegistry
from tests.kit import Base, llama_base, write_adapter
from tests.kit.tensor_files import RawTensor, read_tensors, write_tensors

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class FirstWeek:
    """Where all of it is."""

    folder: Path
    secrets: dict[str, str]  # of a writer below tiny/support, and of others

    @property
    def registry(self) -> Path:
        """The registry, which has no tokens."""
        return self.folder / "registry"

    @property
    def guarded(self) -> Path:
        """A copy of it that has some."""
        return self.folder / "guarded"


def make_first_week(folder: Path) -> FirstWeek:
    """Make the registry and the folders in an empty folder."""
    base = llama_base(folder / "base", layers=1)
    with closing(LocalRegistry.open(folder / "registry", actor="anna", cache_folder=folder / "cache")) as registry:
        registry.add_base("tiny", base.folder)
        first = registry.publish(
            _adapter(folder / "april", base, 1), "tiny/support", metrics={"acc": 0.8}, tags=["prod"]
        )
        registry.publish(_adapter(folder / "may", base, 2, r=12), "tiny/support", parent="tiny")
        registry.publish(_adapter(folder / "french", base, 3), "tiny/support/french", parent=first.revision.reference)
        registry.publish(_adapter(folder / "help", base, 11), "tiny/help", tags=["live"])
        registry.publish(_adapter(folder / "bad", base, 4), "tiny/bad")
        registry.retract("tiny/bad@1", reason="trained on test data")
        registry.fetch("tiny/support", folder / "fetched")
        registry.fetch("tiny/support@1", folder / "changed")
        registry.protect_tag("tiny", "release-*")
    _spoil(folder / "changed" / WEIGHTS)
    shutil.copytree(folder / "registry", folder / "guarded")
    with closing(LocalRegistry.open(folder / "guarded", cache_folder=folder / "cache")) as guarded:
        scopes: dict[Role, tuple[str, ...]] = {"reader": (), "writer": ("tiny/support",), "admin": ()}
        secrets: dict[str, str] = {}
        for role, within in scopes.items():
            secrets[role] = guarded.create_token(role, scopes=within).secret
    _adapter(folder / "june", base, 5)
    _strange(folder, base)
    return FirstWeek(folder, secrets)


def _adapter(folder: Path, base: Base, seed: int, r: int = 4) -> Path:
    return write_adapter(folder, base, ["q_proj", "v_proj"], r=r, alpha=8, seed=seed)


def _strange(folder: Path, base: Base) -> None:
    """Folders that are not taken as they are."""
    for name in ("first", "second"):
        _adapter(folder / "two" / name, base, 6)
        _adapter(folder / "runs" / "checkpoint-90", base, 6)
    shutil.copytree(folder / "two", folder / "groups" / "april")
    _configured(folder / "pissa", base, init_lora_weights="pissa")
    _configured(folder / "ia3", base, peft_type="IA3")
    _configured(folder / "misspelt", base, target_modules=["q_proj", "v_proj", "k_proj"])
    _configured(folder / "newer", base, use_something_new=True)
    larger = llama_base(folder / "larger", layers=1, hidden=32)
    write_adapter(folder / "other", larger, ["q_proj"], config={"base_model_name_or_path": "meta-llama/Llama-3.2-1B"})
    resized = llama_base(folder / "resized-base", layers=1, vocab=48)
    write_adapter(folder / "resized", resized, ["q_proj", "embed_tokens"])
    _spoil(_adapter(folder / "nan", base, 7) / WEIGHTS, value=np.nan)
    (_adapter(folder / "no-config", base, 8) / "adapter_config.json").unlink()
    (_adapter(folder / "cut", base, 9) / WEIGHTS).write_bytes(b"\x10")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0f\nsize 1\n"
    (_adapter(folder / "cloned", base, 9) / WEIGHTS).write_text(pointer)
    (_adapter(folder / "pointed", base, 9) / "adapter_config.json").write_text(pointer)
    (_adapter(folder / "login-page", base, 9) / WEIGHTS).write_text("<!doctype html><title>Sign in</title>")
    (evil := _adapter(folder / "evil", base, 10) / WEIGHTS).unlink()
    torch.save({"a": torch.ones(2), "b": _Malicious()}, evil.with_name("adapter_model.bin"))
    _foreign(folder)
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "todo.txt").write_text("buy milk\n")
    (folder / "gguf").mkdir()
    (folder / "gguf" / "model-q4.gguf").write_bytes(b"GGUF")
    shutil.make_archive(str(folder / "april-lora"), "zip", folder, "april")
    shutil.make_archive(str(folder / "both"), "gztar", folder / "two")
    shutil.make_archive(str(folder / "notes"), "zip", folder, "notes")
    (folder / "cut.zip").write_bytes((folder / "both.tar.gz").read_bytes()[:100])
    (folder / "april.7z").write_bytes(b"7z")
    shutil.copy(folder / "june" / WEIGHTS, folder / "lonely.safetensors")
    with tarfile.open(folder / "linked.tar", "w") as linked:
        (info := tarfile.TarInfo("april/adapter_config.json")).type = tarfile.SYMTYPE
        info.linkname = "/etc/passwd"
        linked.addfile(info)
    only_pickles = folder / "old-base"
    shutil.copytree(base.folder, only_pickles)
    (only_pickles / "model.safetensors").rename(only_pickles / "pytorch_model.bin")
    quantised = folder / "quantised"
    shutil.copytree(base.folder, quantised)
    config = json.loads((quantised / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))


def _configured(folder: Path, base: Base, **fields: object) -> None:
    write_adapter(folder, base, ["q_proj", "v_proj"], config=fields)


def _foreign(folder: Path) -> None:
    ones = RawTensor.of(np.ones((8, 8)), "F32")
    lead = "model.layers.0.self_attn.q_proj"
    write_tensors(folder / "mlx" / "adapters.safetensors", {f"{lead}.lora_a": ones, f"{lead}.lora_b": ones})
    (folder / "mlx" / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora", "num_layers": 1}))
    lead = "lora_unet_down_blocks_0_attentions_0_proj_in"
    factors = {f"{lead}.lora_down.weight": ones, f"{lead}.lora_up.weight": ones}
    write_tensors(folder / "kohya" / "style.safetensors", factors | {f"{lead}.alpha": RawTensor.of(np.ones(()), "F32")})
    lead = "diffusion_model.double_blocks.0.img_attn.qkv"
    write_tensors(folder / "flux" / "flux.safetensors", {f"{lead}.lora_A.weight": ones, f"{lead}.lora_B.weight": ones})
    lead = "lora_unet_mid_block_attentions_0_proj_in"
    write_tensors(folder / "lokr" / "lokr.safetensors", {f"{lead}.lokr_w1": ones, f"{lead}.lokr_w2": ones})
    checkpoint = {
        "model.diffusion_model.input_blocks.0.0.weight": ones,
        "first_stage_model.encoder.conv_in.weight": ones,
    }
    write_tensors(folder / "one-file" / "dreams.safetensors", checkpoint)
    write_tensors(folder / "token" / "my-cat.safetensors", {"emb_params": ones})
    write_tensors(folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors", {"conv_in.weight": ones})
    index = {"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "pipeline" / "model_index.json").write_text(json.dumps(index))


class _Malicious:
    """Runs something where it is unpickled by a program that runs what is in pickles."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("exit 1",)


def _spoil(file: Path, value: float = 1.0) -> None:
    tensors = read_tensors(file)
    name = next(iter(tensors))
    write_tensors(file, tensors | {name: RawTensor.of(np.full(tensors[name].shape, value), tensors[name].dtype)})
