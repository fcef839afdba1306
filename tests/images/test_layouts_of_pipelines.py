"""LoRAs of several components out: loaded by a pipeline of diffusers, and named as ComfyUI finds text encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from registry.errors import InvalidAdapterError
from registry.services.local import LocalRegistry
from tests.images.denoisers import made
from tests.images.pipelines import save
from tests.images.test_lora_files import grid

pytestmark = pytest.mark.slow

Deltas = dict[str, np.ndarray[Any, Any]]
LEADS = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
LAYER = "encoder.layers.1.self_attn.q_proj"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("SDXL", tmp_path_factory.mktemp("layouts"))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{file.parent.name}.{name}": tensor
        for file in sorted(folder.glob("*/*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def _published(local: LocalRegistry, folder: Path, tmp_path: Path) -> Deltas:
    """A kohya file that changes the attentions of three components; its change of each weight, by component."""
    local.add_base("sdxl", folder)
    drawn = torch.Generator().manual_seed(5)
    tensors: dict[str, torch.Tensor] = {}
    deltas: Deltas = {}
    for name, weight in _weights(folder).items():
        component, _, rest = name.removesuffix(".weight").partition(".")
        if component not in LEADS or not name.endswith(("q_proj.weight", "to_k.weight", "conv1.weight")):
            continue
        rank = 2 if component == "text_encoder" or "conv1" in name else 4
        module = rest if component == "unet" else f"text_model.{rest.removeprefix('text_model.')}"
        spelled = LEADS[component] + module.replace(".", "_")
        down = grid((rank, *weight.shape[1:]), drawn)
        up = grid((len(weight), rank, *(1 for _ in weight.shape[2:])), drawn)
        tensors |= {f"{spelled}.lora_down.weight": down, f"{spelled}.lora_up.weight": up}
        tensors[f"{spelled}.alpha"] = torch.tensor(1.0)
        deltas[f"{component}.{module}"] = ((up.double().flatten(1) @ down.double().flatten(1)) / rank).numpy()
    save_file(tensors, tmp_path / "char.safetensors")
    local.publish(tmp_path / "char.safetensors", "sdxl/char")
    return deltas


def test_a_pipeline_of_diffusers_loads_all_components(folder: Path, local: LocalRegistry, tmp_path: Path) -> None:
    from diffusers import StableDiffusionXLPipeline
    from peft.tuners.lora import LoraLayer

    deltas = _published(local, folder, tmp_path)
    local.fetch("sdxl/char", tmp_path / "out", engine="diffusers")
    file = tmp_path / "out" / "pytorch_lora_weights.safetensors"
    with safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert {key.partition(".")[0] for key in told} == set(LEADS)
    bare = tmp_path / "bare" / file.name
    bare.parent.mkdir()
    save_file(load_file(file), bare)
    for place in (file, bare):
        pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
        parts = {name: getattr(pipeline, name) for name in LEADS}
        pipeline.load_lora_weights(place.parent)
        found = set()
        for component, model in parts.items():
            for name, layer in model.named_modules():
                if not isinstance(layer, LoraLayer):
                    continue
                before = layer.get_base_layer().weight.double().clone()
                layer.merge()
                added = (layer.get_base_layer().weight.double() - before).flatten(1).detach().numpy()
                text = "" if component == "unet" else "text_model."
                module = f"{component}.{text}{name.removeprefix('text_model.')}"
                assert np.allclose(added, deltas[module], rtol=0, atol=2e-6), module
                found.add(module)
        assert found == deltas.keys()


def test_comfyui_finds_both_text_encoders(folder: Path, local: LocalRegistry, tmp_path: Path) -> None:
    deltas = _published(local, folder, tmp_path)
    answer = local.fetch("sdxl/char", tmp_path / "loras", engine="comfyui")
    tensors = load_file(answer.folder)
    spelled = {name.partition(".")[0] for name in tensors}
    assert len(spelled) == len(deltas)
    for component, lead in LEADS.items():
        for module in (name.partition(".")[2] for name in deltas if name.startswith(f"{component}.")):
            if component == "unet":
                continue
            a, b = (tensors[f"{lead}{module.replace('.', '_')}.lora_{end}.weight"].double() for end in ("down", "up"))
            assert np.array_equal((b @ a).numpy(), deltas[f"{component}.{module}"])
    assert {name for name in spelled if name.startswith("lora_unet_")} == {
        name for name in spelled if name.startswith(("lora_unet_input", "lora_unet_middle", "lora_unet_output"))
    }
    again = local.publish(Path(answer.folder), "sdxl/again").revision
    for reference in (again.reference, "sdxl/char"):
        local.fetch(reference, tmp_path / reference.replace("/", "-"), kind="merged")
    one, other = (_weights(tmp_path / name) for name in (again.reference.replace("/", "-"), "sdxl-char"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], weight) for name, weight in other.items())


def test_vllm_omni_takes_the_denoiser_alone(folder: Path, local: LocalRegistry, tmp_path: Path) -> None:
    local.add_base("sdxl", folder)
    tensors: dict[str, torch.Tensor] = {}
    for number, lead in enumerate(
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", f"text_encoder.{LAYER}")
    ):
        width = 32 if number == 0 else 8
        tensors |= {f"{lead}.lora_A.weight": torch.ones(2, width), f"{lead}.lora_B.weight": torch.ones(width, 2)}
        save_file(tensors, tmp_path / "some.safetensors")
        local.publish(tmp_path / "some.safetensors", f"sdxl/v{number}")
    local.fetch("sdxl/v0", tmp_path / "out", engine="vllm-omni")
    names = set(load_file(tmp_path / "out" / "adapter_model.safetensors"))
    assert {name.rpartition(".lora")[0] for name in names} == {
        "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    }
    assert [one.code for one in local.check("sdxl/v1", engine="vllm-omni").reasons] == ["clip"]
    with pytest.raises(InvalidAdapterError, match="denoiser alone") as caught:
        local.artifact("sdxl/v1", layout="vllm-omni")
    assert caught.value.code == "engine_limits"


def test_t5_is_not_for_diffusers(local: LocalRegistry, tmp_path: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    folder = tmp_path / "flux"
    made("flux").to(torch.bfloat16).save_pretrained(folder / "transformer")
    config = T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    T5EncoderModel(config).to(torch.bfloat16).save_pretrained(folder / "text_encoder_2")
    index = {
        "_class_name": "FluxPipeline",
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    local.add_base("flux", folder)
    t5 = "lora_te3_encoder_block_0_layer_0_SelfAttention_q"
    names = (t5, "lora_unet_double_blocks_0_img_attn_proj")
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 16) for name in names}
    tensors |= {f"{name}.lora_up.weight": torch.ones(16, 2) for name in names}
    save_file(tensors, tmp_path / "t5.safetensors")
    local.publish(tmp_path / "t5.safetensors", "flux/char")
    assert [one.code for one in local.check("flux/char", engine="diffusers").reasons] == ["t5"]
    with pytest.raises(InvalidAdapterError, match="a module of T5") as caught:
        local.artifact("flux/char", layout="diffusers")
    assert caught.value.code == "t5_not_loadable"
    answer = local.fetch("flux/char", tmp_path / "loras", engine="comfyui")
    assert {name.partition(".")[0] for name in load_file(answer.folder)} == {t5, "diffusion_model"}
