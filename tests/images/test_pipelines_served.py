"""Pipelines over HTTP: added by a client, copied, and loaded by diffusers from a service as from the Hub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import pytest
from safetensors.torch import load_file

from registry.services.local import LocalRegistry
from tests.clients.test_snippets import Steps, script, steps_of
from tests.images.test_pipelines import LEADS, Saved, kohya, saved, weights_in
from tests.kit.pages import PEOPLE
from tests.kit.serving import ServedRegistry, open_http

__all__ = ["saved"]

_KEEP: Final = """
import torch
from safetensors.torch import save_file
found = {}
for name, part in PIPE.components.items():
    if isinstance(part, torch.nn.Module):
        found |= {f"{name}.{key}": value.contiguous() for key, value in part.state_dict().items()}
        for key, module in part.named_modules():
            if hasattr(module, "lora_A"):
                found[f"delta of {name}.{key}"] = module.get_delta_weight("default_0").detach().contiguous()
save_file(found, "loaded.safetensors")
"""


def lines(registry: ServedRegistry, path: str, token: str) -> Mapping[str, Steps]:
    """What the page Use it gives each tool."""
    page = httpx.get(f"{registry.url}/use/{path}", headers=PEOPLE | {"Authorization": f"Bearer {token}"}, timeout=60)
    assert page.status_code == 200, page.text
    return steps_of(page.text)


def run(program: str, token: str, place: Path) -> None:
    """Run lines of the page with diffusers and nothing set."""
    environment = os.environ | {"HF_HOME": str(place / "hub"), "REGISTRY_TOKEN": token, "PYTHONWARNINGS": "ignore"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_TOKEN"):
        environment.pop(name, None)
    ran = subprocess.run(
        ["sh", "-euc", program], env=environment, cwd=place, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.slow
def test_diffusers_loads_a_merged_pipeline_from_the_service(saved: Saved, tmp_path: Path) -> None:
    merged = kohya(weights_in(saved("SDXL")), tmp_path / "char.safetensors", LEADS)
    with closing(open_http(tmp_path)) as registry:
        registry.add_base("sdxl", saved("SDXL"))
        registry.publish(tmp_path / "char.safetensors", "sdxl/char")
        token = registry.local.create_token("reader", name="diffusers").secret
        typed = lines(registry, "sdxl/char", token)["merged"]
        run(script(typed, _KEEP.replace("PIPE", "model")), token, tmp_path)
    loaded = load_file(tmp_path / "loaded.safetensors")
    for name, values in merged.items():
        component, _, rest = name.partition(".")
        tensor = loaded.get(name, loaded.get(f"{component}.text_model.{rest}"))
        assert tensor is not None, name
        assert np.array_equal(tensor.double().numpy(), values), name


@pytest.mark.slow
def test_diffusers_loads_a_path_as_one_lora_from_the_service(saved: Saved, tmp_path: Path) -> None:
    """By the name of its repo alone: the view lists one file, the one that it looks for."""
    weights = weights_in(saved("SDXL"))
    merged = kohya(weights, tmp_path / "char.safetensors", LEADS)
    with closing(open_http(tmp_path)) as registry:
        registry.add_base("sdxl", saved("SDXL"))
        registry.publish(tmp_path / "char.safetensors", "sdxl/char")
        token = registry.local.create_token("reader", name="diffusers").secret
        found = lines(registry, "sdxl/char", token)
        run(script(found["diffusers"], _KEEP.replace("PIPE", "pipe")), token, tmp_path)
        run(script(found["curl"]), token, tmp_path)
    assert list(found) == ["cli", "python", "diffusers", "merged", "comfyui", "forge", "vllm-omni", "curl"]
    assert (tmp_path / "pytorch_lora_weights.safetensors").stat().st_size > 0
    deltas = load_file(tmp_path / "loaded.safetensors")
    assert sum(name.startswith("delta of ") for name in deltas) == len(merged)
    for name, values in merged.items():
        module = name.removesuffix(".weight")
        component, _, rest = module.partition(".")
        delta = deltas.get(f"delta of {module}", deltas.get(f"delta of {component}.text_model.{rest}"))
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
