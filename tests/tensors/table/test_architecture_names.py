"""Which file tensor each module is, against the judge: what `from_pretrained` puts where.

Every file tensor is random, so a loaded parameter says by its bytes which tensor it came from, and in which
orientation. The child's code runs in this process here; the process itself is the matter of test_architecture.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from registry.tensors.table.targets import Target, TargetKind, TargetTable
from tests.tensors.table.test_targets_fused import table_of

SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40,
    "max_position_embeddings": 32,
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 2}
EXPERTS = GROUPED | {
    "moe_intermediate_size": 12, "num_experts": 3, "num_local_experts": 3, "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 12, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "head_dim": 4,
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4,
    "first_k_dense_replace": 1,
}  # fmt: skip
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 40, "n_positions": 32}
T5 = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "vocab_size": 40}
BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "pad_token_id": 1,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 40,
    "max_position_embeddings": 32,
}  # fmt: skip
OPT = {
    "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40,
    "max_position_embeddings": 32, "word_embed_proj_dim": 8,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
LLAVA = {
    "text_config": GROUPED | {"model_type": "llama"},
    "vision_config": VISION | {"model_type": "clip_vision_model"},
    "image_token_index": 39,
}
AUDIO = SIZES | {
    "conv_dim": [8, 8], "conv_stride": [2, 2], "conv_kernel": [3, 3], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", GROUPED),
    ("LlamaForCausalLM", GROUPED | {"tie_word_embeddings": True}),
    ("Qwen3ForCausalLM", GROUPED | {"head_dim": 4}),
    ("Gemma3ForCausalLM", GROUPED | {"head_dim": 4}),
    ("Phi3ForCausalLM", GROUPED | {"pad_token_id": 0}),
    ("GPT2LMHeadModel", GPT),
    ("GPT2Model", GPT),
    ("OpenAIGPTLMHeadModel", GPT),
    ("GPTNeoXForCausalLM", SIZES),
    ("BloomForCausalLM", {"hidden_size": 16, "n_layer": 2, "n_head": 4, "vocab_size": 40}),
    ("FalconForCausalLM", SIZES),
    ("OPTForCausalLM", OPT),
    ("T5ForConditionalGeneration", T5),
    ("BartForConditionalGeneration", BART),
    ("MarianMTModel", BART | {"decoder_start_token_id": 1}),
    ("BertModel", SIZES),
    ("BertForSequenceClassification", SIZES),
    ("BertForMaskedLM", SIZES),
    ("RobertaForMaskedLM", SIZES | {"pad_token_id": 1}),
    ("AlbertForMaskedLM", SIZES | {"embedding_size": 8}),
    ("DebertaV2ForMaskedLM", SIZES),
    ("ModernBertForMaskedLM", SIZES | {"pad_token_id": 0}),
    ("MixtralForCausalLM", EXPERTS),
    ("Qwen2MoeForCausalLM", EXPERTS),
    ("DeepseekV3ForCausalLM", EXPERTS),
    ("GptOssForCausalLM", EXPERTS),
    ("ViTForImageClassification", VISION),
    ("LlavaForConditionalGeneration", LLAVA),
    ("Wav2Vec2ForCTC", AUDIO),
    ("MambaForCausalLM", {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 40, "state_size": 4}),
]
IDS = [f"{name}-tied" if sizes.get("tie_word_embeddings") else name for name, sizes in MODELS]
Files = dict[str, torch.Tensor]
pytestmark = pytest.mark.usefixtures("quiet_transformers")


def make(name: str, sizes: dict[str, Any], folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A random model of that class, saved to ``folder`` by transformers."""
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**sizes)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(folder)
    return model


def loaded_from(model: Any, files: Files) -> dict[str, str | None]:
    """Runtime parameter -> the file tensor that it equals, byte for byte."""
    known = {(tuple(tensor.shape), tensor.numpy().tobytes()): name for name, tensor in files.items()}
    return {
        name: known.get((tuple(value.shape), value.detach().numpy().tobytes()))
        for name, value in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    }


def said(table: TargetTable) -> dict[str, str | None]:
    """Runtime parameter -> file tensor, as the table says; None where it says that it is not one tensor."""
    out: dict[str, str | None] = {}
    for target in table.targets.values():
        for module in table.tie_group(target.module)[:1]:
            holder = table.targets[module]
            if holder.tensor and holder.kind not in (TargetKind.ATTENTION, TargetKind.UNKNOWN):
                out[f"{target.module}.weight"] = holder.tensor
    return out | {name: held.tensor for name, held in table.parameters.items()}


def agree(folder: Path, name: str) -> TargetTable:
    files = load_file(folder / "model.safetensors")
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32)
    truth, table = loaded_from(model, files), table_of(folder)
    claims = said(table)
    assert {key: truth.get(key) for key in claims if claims[key]} == {key: claims[key] for key in claims if claims[key]}
    # Nothing is left out that the files hold: each parameter and buffer is claimed that is one tensor.
    # Of tied vectors (a bias of BERT's head) only the one that the files hold has a name.
    claimed = set(claims.values())
    assert {key: tensor for key, tensor in truth.items() if tensor and tensor not in claimed} == {}
    return table


@pytest.mark.long_but(
    "LlavaForConditionalGeneration",
    "BertForMaskedLM",
    "GPT2Model",
    "T5ForConditionalGeneration",
    "Wav2Vec2ForCTC",
    "GPTNeoXForCausalLM",
    "MixtralForCausalLM",
    "DeepseekV3ForCausalLM",
    "LlamaForCausalLM",
    "GptOssForCausalLM",
    "MambaForCausalLM",
    "Gemma3ForCausalLM",
    "AlbertForMaskedLM",
    "Phi3ForCausalLM",
)
@pytest.mark.parametrize(("name", "sizes"), MODELS, ids=IDS)
def test_each_module_is_the_tensor_that_transformers_loads(name: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    prefix = make(name, sizes, tmp_path).base_model_prefix + "."
    before = agree(tmp_path, name)
    files = load_file(tmp_path / "model.safetensors")
    if name == "LlavaForConditionalGeneration":
        return  # its files have several roots, none of which is the prefix
    with_prefix = any(key.startswith(prefix) for key in files)
    other = {key.removeprefix(prefix) if with_prefix else prefix + key: tensor for key, tensor in files.items()}
    save_file(other, tmp_path / "model.safetensors", {"format": "pt"})
    assert set(agree(tmp_path, name).targets) == set(before.targets)


def test_kinds_come_from_the_classes_and_not_from_shapes(tmp_path: Path) -> None:
    make("GPT2LMHeadModel", GPT, tmp_path)
    table = table_of(tmp_path)
    square = table.targets["transformer.h.0.attn.c_proj"]
    assert (square.kind, square.shape, square.transposed) == (TargetKind.CONV1D, (16, 16), True)
    assert table.targets["transformer.wpe"].kind is TargetKind.EMBEDDING
    assert table.targets["lm_head"].kind is TargetKind.LINEAR
    assert table.output_module == "lm_head"
    assert table.find("h.0.attn.c_proj") is square


def test_a_tie_is_seen_from_both_sides(tmp_path: Path) -> None:
    make("LlamaForCausalLM", GROUPED | {"tie_word_embeddings": True}, tmp_path)
    table = table_of(tmp_path)
    head, embedding = table.targets["lm_head"], table.targets["model.embed_tokens"]
    assert (head.tensor, head.tie, head.kind) == (None, "model.embed_tokens", TargetKind.LINEAR)
    assert (embedding.tensor, embedding.tie) == ("model.embed_tokens.weight", "lm_head")
    assert embedding.kind is TargetKind.EMBEDDING


def test_a_tie_holds_on_the_side_that_the_files_hold(tmp_path: Path) -> None:
    make("T5ForConditionalGeneration", T5, tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    files["encoder.embed_tokens.weight"] = files.pop("shared.weight")
    save_file(files, tmp_path / "model.safetensors", {"format": "pt"})
    table = agree(tmp_path, "T5ForConditionalGeneration")
    assert table.targets["encoder.embed_tokens"].tie == "lm_head"
    absent = [table.targets[name] for name in ("shared", "decoder.embed_tokens", "lm_head")]
    assert [(target.tensor, target.tie) for target in absent] == [(None, "encoder.embed_tokens")] * 3


def test_a_copy_for_each_side_is_still_a_tie(tmp_path: Path) -> None:
    make("LlamaForCausalLM", GROUPED | {"tie_word_embeddings": True}, tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    files["lm_head.weight"] = files["model.embed_tokens.weight"].clone()
    save_file(files, tmp_path / "model.safetensors", {"format": "pt"})
    table = table_of(tmp_path)
    head, embedding = table.targets["lm_head"], table.targets["model.embed_tokens"]
    assert (head.tensor, head.tie) == ("lm_head.weight", "model.embed_tokens")
    assert (embedding.tensor, embedding.tie) == ("model.embed_tokens.weight", "lm_head")


@pytest.mark.parametrize(
    ("name", "sizes", "module"),
    [
        ("OPTForCausalLM", OPT, "model.decoder.embed_positions"),  # shifts its indices
        ("Wav2Vec2ForCTC", AUDIO, "wav2vec2.encoder.pos_conv_embed.conv"),  # weight_norm: g and v in the files
        ("MixtralForCausalLM", EXPERTS, "model.layers.0.mlp.gate"),  # a router: more than a product
    ],
)
def test_a_module_with_its_own_arithmetic_is_unknown(
    name: str, sizes: dict[str, Any], module: str, tmp_path: Path
) -> None:
    make(name, sizes, tmp_path)
    assert table_of(tmp_path).targets[module].kind is TargetKind.UNKNOWN


def test_scaled_embeddings_and_convolutions(tmp_path: Path) -> None:
    make("Gemma3ForCausalLM", GROUPED | {"head_dim": 4}, tmp_path / "gemma")
    assert table_of(tmp_path / "gemma").targets["model.embed_tokens"].kind is TargetKind.EMBEDDING
    make("MambaForCausalLM", {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 40}, tmp_path / "mamba")
    conv = table_of(tmp_path / "mamba").targets["backbone.layers.0.mixer.conv1d"]
    assert conv.kind is TargetKind.CONV
    assert conv.geometry == {"kernel": [4], "groups": 32, "dilation": [1], "padding_mode": "zeros"}


def test_weights_that_the_files_lack_are_left_out_and_named(tmp_path: Path) -> None:
    make("BertModel", SIZES, tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    del files["pooler.dense.weight"]
    save_file(files | {"extra.weight": torch.zeros(3, 2)}, tmp_path / "model.safetensors", {"format": "pt"})
    table = table_of(tmp_path)
    assert "pooler.dense" not in table.targets
    assert table.notices == (
        "1 module of BertModel with no weights in the files (for example pooler.dense): no adapter can change it.",
        "1 tensor in the files not explained by BertModel (for example extra.weight; 6 numbers in all): copied as is.",
    )


def test_old_names_of_norms_are_explained(tmp_path: Path) -> None:
    make("BertForMaskedLM", SIZES, tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    old: Callable[[str], str] = lambda key: (  # noqa: E731 (one expression, used once)
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    )
    save_file({old(key): tensor for key, tensor in files.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    assert agree(tmp_path, "BertForMaskedLM").notices == ()


def test_same_input_same_document(tmp_path: Path) -> None:
    make("MixtralForCausalLM", EXPERTS, tmp_path)
    first, second = table_of(tmp_path), table_of(tmp_path)
    assert first.digest == second.digest
    assert list(first.targets) == sorted(first.targets)
    assert TargetTable.from_document(json.loads(json.dumps(first.to_document()))) == first


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"architectures": ["SomebodysNet"]}, "LlamaForCausalLM"),  # its head is in the files
        ({"architectures": None}, "LlamaForCausalLM"),
        ({"architectures": ["MistralForCausalLM"]}, "LlamaForCausalLM"),  # loaders go by the model type
    ],
)
def test_the_model_type_decides_where_the_class_is_not_known(
    change: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    make("LlamaForCausalLM", GROUPED, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    table = table_of(tmp_path)
    assert table.architecture == expected
    assert table.notices[0] == f"The structure is that of {expected}, chosen by the model type llama."


def test_a_module_path_names_the_target() -> None:
    target = Target("a.b", TargetKind.LINEAR, "a.b.weight", (3, 5))
    assert (target.out_features, target.in_features) == (3, 5)
    embedding = target.as_embedding()
    assert (embedding.out_features, embedding.in_features, embedding.tensor) == (5, 3, "a.b.weight")
