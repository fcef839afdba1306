"""Where each expert's numbers lie in the files, against the judge: what `from_pretrained` puts where.

Every file tensor is random. The pieces of a fused parameter are put together from the files as the table says, and have
to be the loaded parameter exactly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from registry.tensors.table.architecture_child import answer
from registry.tensors.table.built import table_from_facts
from registry.tensors.table.parameters import FusedParameter
from registry.tensors.table.slots import slot_of_piece
from registry.tensors.table.targets import Target, TargetKind, TargetTable

SIZES: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40,
    "max_position_embeddings": 32, "num_key_value_heads": 2, "head_dim": 4, "num_experts_per_tok": 2, "pad_token_id": 0,
}  # fmt: skip
# More than ten, so that the order of numbers is not the order of texts.
MOE: dict[str, Any] = SIZES | {"moe_intermediate_size": 12, "num_experts": 11, "num_local_experts": 11}
DEEPSEEK: dict[str, Any] = MOE | {
    "n_routed_experts": 12, "n_group": 1, "topk_group": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4, "v_head_dim": 4, "first_k_dense_replace": 1,
}  # fmt: skip
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("MixtralForCausalLM", MOE),
    ("MixtralForCausalLM", MOE | {"intermediate_size": 16}),  # square: no shape tells one projection from another
    ("PhimoeForCausalLM", MOE),
    ("Qwen2MoeForCausalLM", MOE | {"shared_expert_intermediate_size": 12}),
    ("Qwen3MoeForCausalLM", MOE),
    ("OlmoeForCausalLM", MOE),
    ("DeepseekV3ForCausalLM", DEEPSEEK),
    ("Glm4MoeForCausalLM", DEEPSEEK),
    ("Lfm2MoeForCausalLM", MOE | {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"]}),
    ("GptOssForCausalLM", MOE),
    ("GraniteMoeForCausalLM", MOE),
]
IDS = ["mixtral-square" if sizes["intermediate_size"] == 16 else name for name, sizes in FAMILIES]
Files = dict[str, torch.Tensor]
pytestmark = pytest.mark.usefixtures("quiet_transformers")


def save_random(name: str, config: Any, folder: Path) -> None:
    torch.manual_seed(0)
    model = getattr(transformers, name)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(folder)


def made(name: str, sizes: dict[str, Any], folder: Path) -> TargetTable:
    save_random(name, getattr(transformers, name).config_class(**sizes), folder)
    return table_of(folder)


def table_of(folder: Path) -> TargetTable:
    files, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    facts = answer({"config": config, "tensors": {name: list(tensor.shape) for name, tensor in files.items()}})
    assert facts["status"] == "built", facts
    return table_from_facts(
        json.loads(json.dumps(facts)), {name: ("F32", tuple(tensor.shape)) for name, tensor in files.items()}
    )


def expert_matrices(parameter: FusedParameter, files: Files) -> torch.Tensor:
    """(experts, out, in), read from the files by the slots of the pieces; every element is set once."""
    whole = torch.full((parameter.experts, parameter.out_features, parameter.in_features), torch.nan)
    for piece in parameter.pieces:
        slot = slot_of_piece(piece, parameter)
        tensor = files[slot.tensor]
        rows = tensor.reshape(-1, tensor.shape[-1])[slot.first : slot.first + slot.rows]
        place = whole[piece.expert, piece.out[0] : piece.out[1]]
        assert rows.shape == (slot.rows, slot.columns)
        assert (slot.out_features, slot.in_features) == place.shape
        assert torch.isnan(place).all()
        place.copy_(rows.T if slot.transposed else rows)
    return whole


def experts_of(table: TargetTable) -> list[Target]:
    return [target for target in table.targets.values() if target.kind is TargetKind.EXPERTS]


def check(name: str, folder: Path, table: TargetTable) -> None:
    model, files = getattr(transformers, name).from_pretrained(folder), load_file(folder / "model.safetensors")
    assert experts_of(table)
    for target in experts_of(table):
        module = model.get_submodule(target.module)
        deep = [key for key, value in module.named_parameters(recurse=False) if value.dim() == 3]
        assert [parameter.name for parameter in target.fused] == deep
        for parameter in target.fused:
            value = getattr(module, parameter.name).detach()
            assert parameter.transposed == getattr(module, "is_transposed", False)
            oriented = value.transpose(1, 2) if parameter.transposed else value
            assert torch.equal(expert_matrices(parameter, files), oriented)


@pytest.mark.long_but(
    "DeepseekV3ForCausalLM",
    "GptOssForCausalLM",
    "MixtralForCausalLM",
    "mixtral-square",
    "GraniteMoeForCausalLM",
    "Qwen3MoeForCausalLM",
)
@pytest.mark.parametrize(("name", "sizes"), FAMILIES, ids=IDS)
def test_the_pieces_are_the_loaded_parameter(name: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    check(name, tmp_path, made(name, sizes, tmp_path))


def test_an_operation_that_takes_experts_apart(tmp_path: Path) -> None:
    """Ernie's files have one list of experts, the first half of which reads text and the second images."""
    rope = {"rope_type": "default", "mrope_section": [2, 2, 4], "rope_theta": 10000.0}
    text = SIZES | {
        "moe_num_experts": 11, "moe_k": 2, "moe_intermediate_size": [12, 6], "mlp_layer_types": ["dense", "sparse"],
        "head_dim": 16, "rope_parameters": rope,
    }  # fmt: skip
    vision = {"hidden_size": 16, "depth": 1, "intermediate_size": 24, "num_heads": 4, "patch_size": 4}
    name = "Ernie4_5_VLMoeForConditionalGeneration"
    table = made(name, {"text_config": text, "vision_config": vision}, tmp_path)
    assert {target.module.split(".")[-2] for target in experts_of(table)} == {"text_moe", "vision_moe"}
    check(name, tmp_path, table)


QWEN_VL: dict[str, Any] = {
    "text_config": MOE | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 0]}},
    "vision_config": {
        "hidden_size": 16, "depth": 1, "intermediate_size": 24, "num_heads": 4, "out_hidden_size": 16, "patch_size": 4,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    },
    "image_token_id": 1, "video_token_id": 2, "vision_start_token_id": 3, "vision_end_token_id": 4,
}  # fmt: skip


@pytest.mark.parametrize("size", [12, 16], ids=["oblong", "square"])
def test_files_that_hold_the_matrices_the_other_way_round(size: int, tmp_path: Path) -> None:
    """Qwen3-VL's first files: the loader transposes them, unless their shape is the parameter's, as a square one is."""
    name = "Qwen3VLMoeForConditionalGeneration"
    made(name, QWEN_VL | {"text_config": QWEN_VL["text_config"] | {"moe_intermediate_size": size}}, tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    turned = {key: value.transpose(1, 2).contiguous() if ".experts." in key else value for key, value in files.items()}
    save_file(turned, tmp_path / "model.safetensors", {"format": "pt"})
    table = table_of(tmp_path)
    down = {piece.transposed for target in experts_of(table) for piece in target.fused[1].pieces}
    assert down == {size == 12}
    check(name, tmp_path, table)


def test_a_layout_that_the_running_model_has_transposed(tmp_path: Path) -> None:
    table = made("GptOssForCausalLM", MOE, tmp_path)
    gate_up, down = table.targets["model.layers.0.mlp.experts"].fused
    assert (gate_up.name, gate_up.out_features, gate_up.in_features, gate_up.transposed) == (
        "gate_up_proj",
        48,
        16,
        True,
    )
    assert (down.name, down.out_features, down.in_features, down.transposed) == ("down_proj", 16, 24, True)
    assert [piece.matrix for piece in gate_up.pieces] == list(range(11))
    bias = table.parameters["model.layers.0.mlp.experts.gate_up_proj_bias"]
    assert (bias.tensor, bias.shape) == ("model.layers.0.mlp.experts.gate_up_proj_bias", (11, 48))


def test_a_config_with_infinity_in_it(tmp_path: Path) -> None:
    """Nemotron-H has a limit that is infinite, which transformers spells as an object."""
    sizes = MOE | {
        "layers_block_type": ["mamba", "moe"], "n_routed_experts": 11, "n_groups": 1, "n_group": 1, "topk_group": 1,
        "mamba_num_heads": 4, "mamba_head_dim": 4, "ssm_state_size": 4, "moe_shared_expert_intermediate_size": 12,
    }  # fmt: skip
    table = made("NemotronHForCausalLM", sizes, tmp_path)
    assert '"Infinity"' in (tmp_path / "config.json").read_text()
    check("NemotronHForCausalLM", tmp_path, table)


def test_modules_of_older_versions_by_the_names_of_the_files(tmp_path: Path) -> None:
    table, files = made("MixtralForCausalLM", MOE, tmp_path), load_file(tmp_path / "model.safetensors")
    model = transformers.MixtralForCausalLM.from_pretrained(tmp_path)
    seen = set()
    for tensor in files:
        found = table.find_file_module(tensor.removesuffix(".weight"))
        if ".experts." not in tensor:
            continue
        assert found is not None
        assert found.parameter is not None
        assert found.piece is not None
        runtime = getattr(model.get_submodule(found.target.module), found.parameter.name)
        first, stop = found.piece.out
        assert torch.equal(runtime[found.piece.expert, first:stop], files[tensor])
        seen.add((found.target.module, found.parameter.name, found.piece.expert, first))
    assert len(seen) == 2 * 11 * 3
    gate = table.find_file_module("model.layers.1.block_sparse_moe.gate")
    assert gate is not None
    assert (gate.target.module, gate.piece) == ("model.layers.1.mlp.gate", None)
    headless = table.find_file_module("layers.1.block_sparse_moe.experts.10.w2")
    assert headless == table.find_file_module("model.layers.1.block_sparse_moe.experts.10.w2")
    assert headless is not None
    assert table.find_file_module("model.layers.1.block_sparse_moe.experts.11.w2") is None
    assert table.find("model.layers.1.block_sparse_moe.gate") is None
    named = table.find_parameter("model.layers.1.block_sparse_moe.gate.weight")
    assert named is not None
    assert named[0] == "model.layers.1.mlp.gate.weight"


def test_pieces_survive_the_document(tmp_path: Path) -> None:
    table = made("MixtralForCausalLM", MOE, tmp_path)
    assert TargetTable.from_document(json.loads(json.dumps(table.to_document()))) == table
