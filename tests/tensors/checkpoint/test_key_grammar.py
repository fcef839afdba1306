"""Names of tensors: what they say, and how other dialects are turned away with the name that would do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint.key_grammar import MAX_LENGTH, PARAMETER, ParsedKey, parse_key
from registry.tensors.checkpoint.variants.table import TAILS

LEAD = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(("tail", "part"), TAILS.items())
def test_parts(tail: str, part: str) -> None:
    assert parse_key(f"{LEAD}{Q}.{tail}") == ParsedKey(Q, part)
    assert parse_key(f"{LEAD}fc.{tail}") == ParsedKey("fc", part)


def test_both_spellings_of_a_magnitude_are_one_part() -> None:
    assert TAILS["lora_magnitude_vector"] == TAILS["lora_magnitude_vector.weight"] == "lora_magnitude_vector"


@pytest.mark.parametrize("parameter", ["weight", "bias", "running_mean", "gate_up_proj"])
def test_whole_parameters(parameter: str) -> None:
    assert parse_key(f"{LEAD}a.lm_head.{parameter}") == ParsedKey("a.lm_head", PARAMETER, parameter)


def test_wrappers_stay_in_the_path() -> None:
    assert parse_key(f"{LEAD}x.experts.base_layer.lora_A.weight") == ParsedKey("x.experts.base_layer", "lora_A.weight")
    assert parse_key(f"{LEAD}x.mha.base_layer.out_proj.lora_B.weight").module == "x.mha.base_layer.out_proj"


def test_a_bias_inside_a_module_that_was_saved_whole() -> None:
    assert parse_key(f"{LEAD}head.modules_to_save.dense.bias") == ParsedKey("head.dense", "modules_to_save.bias")
    assert parse_key(f"{LEAD}head.original_module.dense.bias") == ParsedKey("head.dense", "original_module.bias")


def said(name: str, modules: tuple[str, ...] = ()) -> str:
    with pytest.raises(InvalidAdapterError) as caught:
        parse_key(name, modules)
    assert caught.value.code == "unexpected_tensor"
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        (f"{LEAD}{Q}.lora_A.default.weight", f"{LEAD}{Q}.lora_A.weight"),
        (f"{Q}.lora_A.default.weight", f"{LEAD}{Q}.lora_A.weight"),
        (f"{LEAD}{Q}.lora_B.mine.bias", f"{LEAD}{Q}.lora_B.bias"),
        (f"{LEAD}e.lora_embedding_A.mine", f"{LEAD}e.lora_embedding_A"),
        (f"{LEAD}e.lora_magnitude_vector.default.weight", f"{LEAD}e.lora_magnitude_vector.weight"),
        (f"{Q}.lora_A.weight", f"{LEAD}{Q}.lora_A.weight"),
        ("base_model.h.0.fc.lora_B.weight", f"{LEAD}h.0.fc.lora_B.weight"),
        ("embed.lora_embedding_A", f"{LEAD}embed.lora_embedding_A"),
        ("lm_head.weight", f"{LEAD}lm_head.weight"),
        (f"{LEAD}score.modules_to_save.default.weight", f"{LEAD}score.weight"),
        ("unet.down_blocks.0.attn1.to_q.lora_A.weight", f"{LEAD}down_blocks.0.attn1.to_q.lora_A.weight"),
        ("unet.mid.attn1.processor.to_q_lora.down.weight", f"{LEAD}mid.attn1.to_q.lora_A.weight"),
        ("text_encoder.layers.0.q_proj.lora_linear_layer.up.weight", f"{LEAD}layers.0.q_proj.lora_B.weight"),
        ("transformer.blocks.0.to_k.lora.down.weight", f"{LEAD}blocks.0.to_k.lora_A.weight"),
    ],
)
def test_other_dialects_are_told_the_right_name(name: str, right: str) -> None:
    assert f"rename it to '{right}'" in said(name)
    parse_key(right)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("base_model.transformer.h.0", "lacks the prefix 'base_model.model.'"),
        ("prompt_embeddings", "lacks the prefix"),
        ("", "lacks the prefix"),
        (f"{LEAD}score.original_module.weight", "modules_to_save has replaced"),
        (f"{LEAD}lora_A.weight", "not a part of a PEFT LoRA"),
        (f"{LEAD}{Q}.lora_A", "AdaLoRA"),
        (f"{LEAD}{Q}.lora_E", "AdaLoRA"),
        (f"{LEAD}{Q}.oft_blocks", "LyCORIS"),
        (f"{LEAD}{Q}.lora_C.weight", "not a part of a PEFT LoRA"),
        (f"{LEAD}.lora_A.weight", "not a part of a PEFT LoRA"),
        (f"{LEAD}a\nb.lora_A.weight", "not a part of a PEFT LoRA"),
        (f"{LEAD}weight", "not a part of a PEFT LoRA"),
        (f"{LEAD}{'x' * MAX_LENGTH}.weight", "characters"),
        (f"{LEAD}{'x.' * 65}weight", "segments"),
    ],
)
def test_other_names_are_refused_with_the_way_out(name: str, part: str) -> None:
    assert part in said(name)


KOHYA = "lora_unet_down_blocks_0_to_q"


def test_a_flattened_name_is_looked_up_among_the_modules() -> None:
    modules = ("down_blocks.0.to_q", "down.blocks.1.to_q", "up.x")
    assert f"'{LEAD}down_blocks.0.to_q.lora_A.weight'" in said(f"{KOHYA}.lora_down.weight", modules)
    assert f"'{LEAD}down_blocks.0.to_q.lora_B.weight'" in said(f"{KOHYA}.lora_up.weight", modules)
    assert "alpha_pattern" in said(f"{KOHYA}.alpha", modules)
    assert "not a pair of two factors" in said(f"{KOHYA}.lora_mid.weight", modules)


def test_a_flattened_name_that_could_be_two_modules_is_not_guessed() -> None:
    assert "MODULE" in said(f"{KOHYA}.lora_down.weight", ("down_blocks.0.to_q", "down.blocks.0.to_q"))
    assert "MODULE" in said(f"{KOHYA}.lora_down.weight")


@settings(deadline=None)
@given(st.text(max_size=40) | st.text("abelormd_AB.wight0", max_size=60).map(LEAD.__add__))
def test_any_name_is_read_or_refused(name: str) -> None:
    code = "read"
    try:
        key = parse_key(name)
        assert name.startswith(f"{LEAD}{key.module}.")
    except InvalidAdapterError as problem:
        code = problem.code
    assert code in ("read", "unexpected_tensor")
