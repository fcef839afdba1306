"""Weights that other programs wrote are told from those of PEFT and of models by what their tensors are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.folders.foreign import dialect_of
from tests.kit import plain_base, read_tensors, write_adapter

KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DIFFUSERS = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
NATIVE = "diffusion_model.double_blocks.0.img_attn.qkv"


def pair(lead: str, down: str = "lora_down.weight", up: str = "lora_up.weight") -> tuple[str, str]:
    return f"{lead}.{down}", f"{lead}.{up}"


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (pair(KOHYA), "a LoRA as kohya's scripts write them"),
        ((*pair(KOHYA), f"{KOHYA}.alpha", f"{KOHYA}.dora_scale", f"{KOHYA}.lora_mid.weight"), "a LoRA as kohya's"),
        (pair("lora_te1_text_model_encoder_layers_0_mlp_fc1"), "a LoRA as kohya's scripts"),
        (pair("lora_transformer_single_transformer_blocks_0_proj_mlp"), "a LoRA as kohya's scripts"),
        ((f"{KOHYA}.hada_w1_a", f"{KOHYA}.hada_w1_b", f"{KOHYA}.alpha"), "an adapter of LyCORIS"),
        (
            (*pair(KOHYA), f"{KOHYA}.diff_b", "lora_unet_conv_in.lokr_w1", "lora_unet_conv_in.lokr_w2_a"),
            "an adapter of L",
        ),
        (pair(f"{DIFFUSERS}.to_q", "lora_A.weight", "lora_B.weight"), "a LoRA as diffusers writes them"),
        (pair(f"{DIFFUSERS}.processor.to_q_lora", "down.weight", "up.weight"), "a LoRA as diffusers writes them"),
        (pair("transformer.blocks.0.attn.to_q", "lora_A.weight", "lora_B.weight"), "a LoRA as diffusers writes them"),
        ((*pair(NATIVE, "lora_A.weight", "lora_B.weight"), f"{NATIVE}.alpha"), "a LoRA as ComfyUI and ai-toolkit"),
        (pair(NATIVE), "a LoRA as ComfyUI and ai-toolkit"),
        (pair("double_blocks.0.processor.qkv_lora1", "down.weight", "up.weight"), "a LoRA as diffusers"),
        (("model.layers.0.self_attn.q_proj.lora_a", "model.layers.0.self_attn.q_proj.lora_b"), "an adapter of mlx-lm"),
        (pair("blocks.0.attn.to_q"), "a LoRA with factors called down and up"),
        (
            ("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.bias"),
            "a checkpoint of",
        ),
    ],
)
def test_a_dialect_is_known_by_its_names(names: tuple[str, ...], what: str) -> None:
    found = dialect_of(names)
    assert found is not None
    assert found.what.startswith(what)


def test_peft_and_models_are_no_dialect(tmp_path: Path) -> None:
    base = plain_base(tmp_path / "base")
    assert dialect_of(base.modules.keys()) is None
    for number, config in enumerate(({}, {"use_dora": True})):
        folder = write_adapter(tmp_path / f"{number}", base, list(base.modules)[:2], r=2, config=config)
        names = read_tensors(folder / "adapter_model.safetensors").keys()
        assert names
        assert dialect_of(names) is None


@pytest.mark.parametrize(
    "names",
    [
        ("down_blocks.0.resnets.0.conv1.weight", "mid_block.attentions.0.proj_in.weight"),  # a UNet
        ("layers.0.lora_gate.weight", "layers.0.weight"),
        ("scale", "alpha"),
        (),
    ],
)
def test_what_may_be_a_model_is_none(names: tuple[str, ...]) -> None:
    assert dialect_of(names) is None
