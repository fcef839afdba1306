"""Names of tensors: what they say, and how other dialects are turned away."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.tensors.key_grammar import ParsedKey, Part, parse_key

Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tail", "part"),
    [
        ("lora_A.weight", Part.A),
        ("lora_B.weight", Part.B),
        ("lora_B.bias", Part.BIAS),
        ("lora_embedding_A", Part.EMBEDDING_A),
        ("lora_embedding_B", Part.EMBEDDING_B),
        ("lora_magnitude_vector", Part.MAGNITUDE),
        ("lora_magnitude_vector.weight", Part.MAGNITUDE),
        ("base_layer.weight", Part.COPY),
        ("base_layer.bias", Part.COPY_BIAS),
        ("token_adapter.trainable_tokens_delta", Part.TOKENS),
        ("lora_velora_embed", Part.VELORA),
        ("lora_monteclora_sampler.std_prior", Part.MONTECLORA),
        ("lora_diag", Part.DIAGONAL),
    ],
)
def test_parts(tail: str, part: Part) -> None:
    assert parse_key(f"base_model.model.{Q}.{tail}") == ParsedKey(Q, part)
    assert parse_key(f"base_model.model.fc.{tail}") == ParsedKey("fc", part)


def test_whole_parameters() -> None:
    assert parse_key("base_model.model.lm_head.weight") == ParsedKey("lm_head", Part.PARAMETER, "weight")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (f"base_model.model.{Q}.lora_A.default.weight", f"rename the tensor to 'base_model.model.{Q}.lora_A.weight'"),
        ("base_model.model.e.lora_embedding_A.mine", "rename the tensor to 'base_model.model.e.lora_embedding_A'"),
        (f"{Q}.lora_A.weight", "lacks the prefix 'base_model.model.'"),
        ("base_model.transformer.h.0.lora_A.weight", "lacks the prefix"),
        ("lora_unet_down_blocks_0_attn.lora_down.weight", "kohya or diffusers"),
        ("lora_te1_text_model.alpha", "kohya or diffusers"),
        ("unet.down_blocks.0.attn1.to_q.lora_A.weight", "kohya or diffusers"),
        ("text_encoder.layers.0.q_proj.lora_linear_layer.up.weight", "kohya or diffusers"),
        ("base_model.model.score.original_module.weight", "raw state dict"),
        ("base_model.model.score.modules_to_save.default.weight", "raw state dict"),
        ("base_model.model.lora_A.weight", "not a part of a PEFT LoRA"),
        (f"base_model.model.{Q}.lora_A", "not a part of a PEFT LoRA"),
        (f"base_model.model.{Q}.lora_C.weight", "not a part of a PEFT LoRA"),
        ("base_model.model..lora_A.weight", "not a part of a PEFT LoRA"),
        ("base_model.model.a\nb.lora_A.weight", "not a part of a PEFT LoRA"),
        ("base_model.model.weight", "not a part of a PEFT LoRA"),
        ("", "lacks the prefix"),
    ],
)
def test_other_names_are_refused_with_the_way_out(name: str, part: str) -> None:
    with pytest.raises(InvalidAdapterError) as caught:
        parse_key(name)
    assert caught.value.code == "unexpected_tensor"
    assert part in str(caught.value)


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("abelormd_AB.wight0", max_size=60).map("base_model.model.".__add__))
def test_any_name_is_read_or_refused(name: str) -> None:
    code = "read"
    try:
        key = parse_key(name)
        assert name.startswith(f"base_model.model.{key.module}.")
    except InvalidAdapterError as problem:
        code = problem.code
    assert code in ("read", "unexpected_tensor")
