"""Pipelines over HTTP: added by a client, copied, and loaded by diffusers from a service as from the Hub."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from safetensors.torch import load_file

from registry.services.local import LocalRegistry
from tests.images.test_pipelines import LEADS, Saved, kohya, saved, weights_in
from tests.kit.serving import open_http

__all__ = ["saved"]

_LOADED: Final = """
import sys, torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
found = {}
for name, part in pipe.components.items():
    if isinstance(part, torch.nn.Module):
        found |= {f"{name}.{key}": value.contiguous() for key, value in part.state_dict().items()}
save_file(found, sys.argv[2])
"""


def run(program: str, endpoint: str, token: str, place: Path, *more: str) -> None:
    """Run a program with diffusers and nothing of ours, whose Hub is a view of the service."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(place / "hub"), "HF_TOKEN": token}
    environment.pop("HF_HUB_OFFLINE", None)
    script = [sys.executable, "-W", "ignore", "-c", program, "sdxl/char", str(place / "loaded.safetensors"), *more]
    ran = subprocess.run(script, env=environment, cwd=place, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.slow
def test_diffusers_loads_a_merged_pipeline_from_the_service(saved: Saved, tmp_path: Path) -> None:
    merged = kohya(weights_in(saved("SDXL")), tmp_path / "char.safetensors", LEADS)
    with closing(open_http(tmp_path)) as registry:
        registry.add_base("sdxl", saved("SDXL"))
        registry.publish(tmp_path / "char.safetensors", "sdxl/char")
        token = registry.local.create_token("reader", name="diffusers").secret
        run(_LOADED, f"{registry.url}/hf", token, tmp_path)
    loaded = load_file(tmp_path / "loaded.safetensors")
    for name, values in merged.items():
        component, _, rest = name.partition(".")
        tensor = loaded.get(name, loaded.get(f"{component}.text_model.{rest}"))
        assert tensor is not None, name
        assert np.array_equal(tensor.double().numpy(), values), name


_ADAPTED: Final = """
import sys, torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
pipe = DiffusionPipeline.from_pretrained(sys.argv[3], dtype=torch.float32)
pipe.load_lora_weights(sys.argv[1])
found = {}
for name in ("unet", "text_encoder", "text_encoder_2"):
    for key, module in getattr(pipe, name).named_modules():
        if hasattr(module, "lora_A"):
            found[f"{name}.{key}"] = module.get_delta_weight("default_0").detach().contiguous()
save_file(found, sys.argv[2])
"""


@pytest.mark.slow
def test_diffusers_loads_a_path_as_one_lora_from_the_service(saved: Saved, tmp_path: Path) -> None:
    """By the name of its repo alone: the view lists one file, the one that it looks for."""
    weights = weights_in(saved("SDXL"))
    merged = kohya(weights, tmp_path / "char.safetensors", LEADS)
    with closing(open_http(tmp_path)) as registry:
        registry.add_base("sdxl", saved("SDXL"))
        registry.publish(tmp_path / "char.safetensors", "sdxl/char")
        token = registry.local.create_token("reader", name="diffusers").secret
        environment = os.environ | {
            "HF_ENDPOINT": f"{registry.url}/hf-lora",
            "HF_HOME": str(tmp_path / "hub"),
            "HF_TOKEN": token,
        }
        environment.pop("HF_HUB_OFFLINE", None)
        script = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            _ADAPTED,
            "sdxl/char",
            str(tmp_path / "loaded.safetensors"),
            str(saved("SDXL")),
        ]
        ran = subprocess.run(script, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
    deltas = load_file(tmp_path / "loaded.safetensors")
    assert len(deltas) == len(merged)
    for name, values in merged.items():
        module = name.removesuffix(".weight")
        component, _, rest = module.partition(".")
        delta = deltas.get(module, deltas.get(f"{component}.text_model.{rest}"))
        assert delta is not None, name
        sum_ = weights[name].double() + delta.double().reshape(weights[name].shape)
        assert np.allclose(sum_.numpy(), values, rtol=2**-8, atol=1e-3), name


@pytest.mark.slow
def test_a_pipeline_is_copied_whole(saved: Saved, tmp_path: Path) -> None:
    kohya(weights_in(saved("SDXL")), tmp_path / "char.safetensors", LEADS)
    with closing(LocalRegistry.open(tmp_path / "from", cache_folder=tmp_path / "cache")) as source:
        source.add_base("sdxl", saved("SDXL"))
        source.publish(tmp_path / "char.safetensors", "sdxl/char")
        source.fetch("sdxl/char", tmp_path / "one", kind="merged")
        with closing(open_http(tmp_path / "served")) as target:
            source.copy("sdxl/char", target)
            target.fetch("sdxl/char", tmp_path / "two", kind="merged")
    for file in (tmp_path / "one").rglob("*"):
        if file.is_file() and file.suffix in (".safetensors", ".json") and "receipt" not in file.name:
            assert (tmp_path / "two" / file.relative_to(tmp_path / "one")).read_bytes() == file.read_bytes()
