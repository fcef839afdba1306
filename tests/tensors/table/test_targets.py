"""What a target table answers: names, ties, attention, and the document that it is kept as."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from registry.errors import IntegrityError
from registry.tensors.table.declaration import table_from_names
from registry.tensors.table.parameters import FileParameter
from registry.tensors.table.targets import FileModule, Target, TargetKind, TargetTable
from tests.tensors.table.test_targets_fused import table_of

pytestmark = pytest.mark.usefixtures("quiet_transformers")
T5 = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4, "vocab_size": 40}
LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 40,
    "num_key_value_heads": 2,
}  # fmt: skip


def made(name: str, sizes: dict[str, Any], folder: Path) -> TargetTable:
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    cls(cls.config_class(**sizes)).save_pretrained(folder)
    return table_of(folder)


def test_a_tie_group_names_its_holder_first(tmp_path: Path) -> None:
    table = made("LlamaForCausalLM", LLAMA | {"tie_word_embeddings": True}, tmp_path / "llama")
    for module in ("lm_head", "model.embed_tokens"):
        assert table.tie_group(module) == ("model.embed_tokens", "lm_head")
    assert table.tie_group("model.layers.0.mlp.up_proj") == ("model.layers.0.mlp.up_proj",)
    assert "lm_head.weight" not in table.parameters
    table = made("T5ForConditionalGeneration", T5, tmp_path / "t5")
    group = table.tie_group("lm_head")
    assert group[0] == "shared"
    assert set(group) == {"shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head"}
    assert {table.tie_group(module) for module in group} == {group}


def test_a_tie_group_of_copies(tmp_path: Path) -> None:
    made("LlamaForCausalLM", LLAMA | {"tie_word_embeddings": True}, tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    files["lm_head.weight"] = files["model.embed_tokens.weight"].clone()
    save_file(files, tmp_path / "model.safetensors", {"format": "pt"})
    table = table_of(tmp_path)
    assert table.tie_group("lm_head") == ("model.embed_tokens", "lm_head")
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(table.parameters)


def test_vectors_and_buffers_are_parameters(tmp_path: Path) -> None:
    sizes = {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic", "num_labels": 3}
    table = made("ResNetForImageClassification", sizes, tmp_path)
    lead = "resnet.embedder.embedder."
    assert table.targets[lead + "convolution"].kind is TargetKind.CONV
    assert table.parameters[lead + "normalization.weight"] == FileParameter(lead + "normalization.weight", (8,))
    assert table.parameters[lead + "normalization.running_var"].shape == (8,)
    found = table.find_parameter("embedder.embedder.normalization.bias")
    assert found == (lead + "normalization.bias", FileParameter(lead + "normalization.bias", (8,)))
    assert table.find_parameter("classifier.2.bias") is None


def test_attention_of_transformers_models(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 16,
        "patch_size": 8,
    }  # fmt: skip
    table = made("SiglipVisionModel", sizes, tmp_path)
    name = next(module for module in table.targets if module.endswith("head.attention"))
    attention, out = table.targets[name], table.targets[name + ".out_proj"]
    assert (attention.kind, attention.shape) == (TargetKind.ATTENTION, (48, 16))
    assert attention.tensor is not None
    assert attention.tensor.endswith("head.attention.in_proj_weight")
    assert (out.kind, out.shape) == (TargetKind.LINEAR, (16, 16))
    assert table.parameters[name + ".in_proj_bias"].shape == (48,)
    assert table.parameters[name + ".out_proj.bias"].shape == (16,)


def test_attention_by_its_names() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.MultiheadAttention(8, 2)
            self.plain = torch.nn.MultiheadAttention(8, 2, bias=False)
            self.other = torch.nn.MultiheadAttention(8, 2, kdim=4, vdim=4)

    table = table_from_names({name: ("F32", tuple(value.shape)) for name, value in Net().state_dict().items()})
    for name in ("first", "plain"):
        assert table.targets[name] == Target(name, TargetKind.ATTENTION, f"{name}.in_proj_weight", (24, 8))
        assert table.targets[f"{name}.out_proj"] == Target(
            f"{name}.out_proj", TargetKind.LINEAR, f"{name}.out_proj.weight", (8, 8)
        )
    assert "other" not in table.targets
    assert table.parameters["first.in_proj_bias"] == FileParameter("first.in_proj_bias", (24,))


@pytest.mark.parametrize(
    "change", [{"a.in_proj_weight": (24, 9)}, {"a.out_proj.weight": (8, 9)}, {"a.in_proj_bias": (23,)}]
)
def test_names_like_attention_whose_shapes_do_not_fit(change: dict[str, tuple[int, ...]]) -> None:
    shapes = {"a.in_proj_weight": (24, 8), "a.out_proj.weight": (8, 8), "a.in_proj_bias": (24,)} | change
    assert "a" not in table_from_names({name: ("F32", shape) for name, shape in shapes.items()}).targets


def test_parameters_of_names_are_the_float_tensors() -> None:
    tensors = {"n.weight": ("BF16", (4,)), "n.steps": ("I64", ()), "c.weight": ("F16", (4, 2, 3)), "scale": ("F32", ())}
    table = table_from_names(tensors)
    assert dict(table.parameters) == {
        "c.weight": FileParameter("c.weight", (4, 2, 3)),
        "n.weight": FileParameter("n.weight", (4,)),
        "scale": FileParameter("scale", ()),
    }
    assert table.find_file_module("c") == FileModule(table.targets["c"])
    assert table.find_file_module("n") is None


def test_names_of_a_vision_model_from_before_its_parts_were_renamed(tmp_path: Path) -> None:
    text = LLAMA | {"model_type": "llama"}
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 16, "patch_size": 8,
    }  # fmt: skip
    sizes = {"text_config": text, "vision_config": vision, "image_token_index": 39}
    table = made("LlavaForConditionalGeneration", sizes, tmp_path)
    old = "language_model.model.layers.0.self_attn.q_proj"
    assert table.find(old) is None
    found = table.find_file_module(old)
    assert found is not None
    assert found.target is table.targets["model.language_model.layers.0.self_attn.q_proj"]
    assert table.find_parameter("language_model.model.norm.weight") == (
        "model.language_model.norm.weight", table.parameters["model.language_model.norm.weight"],
    )  # fmt: skip


@pytest.mark.parametrize("change", [{"format": 1}, {"format": 3}, {"format": None}])
def test_a_document_of_another_version(change: dict[str, Any]) -> None:
    document = table_from_names({"a.weight": ("F32", (2, 3))}).to_document() | change
    with pytest.raises(IntegrityError, match="add the base model again") as caught:
        TargetTable.from_document(document)
    assert caught.value.code == "table_format"


def test_the_digest_follows_every_part_of_the_table() -> None:
    tensors = {"a.weight": ("F32", (2, 3)), "b.bias": ("F32", (3,))}
    first = table_from_names(tensors)
    assert TargetTable.from_document(json.loads(json.dumps(first.to_document()))) == first
    assert first.digest == table_from_names(dict(reversed(tensors.items()))).digest
    assert first.digest != table_from_names(tensors | {"b.bias": ("F32", (4,))}).digest
