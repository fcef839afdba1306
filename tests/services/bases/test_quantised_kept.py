"""Mixed models (``--dtype keep``): what the path changes is dense, everything else is byte for byte as it is stored.

Folders of quantised weights are refused, those of nets whose modules are only called alike are added.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from registry.errors import InvalidBaseError, UsageError
from registry.services.local import LocalRegistry
from registry.transfer.model_files import read_model_files
from tests.kit.adapters import write_adapter
from tests.kit.bases import llama_base
from tests.kit.merged_tensor import used_bound
from tests.kit.quantised_models import FP8_CONFIG, NF4_CONFIG, Quantised, fp8, nf4, quantised
from tests.kit.tensor_files import read_model

FUSED = {f"model.layers.{n}.self_attn.{one}_proj" for n in (0, 1) for one in "qkv"}


def made_as(kind: str, root: Path, hidden: int = 32, mlp: int = 40) -> Quantised:
    plain = llama_base(root / "plain", dtype="BF16", hidden=hidden, mlp=mlp)
    if kind == "fp8":
        return quantised(plain, root / "q", fp8((16, 16)), FP8_CONFIG, shards=3)
    return quantised(plain, root / "q", nf4, NF4_CONFIG)


@pytest.mark.parametrize(("kind", "field"), [("fp8", "modules_to_not_convert"), ("nf4", "llm_int8_skip_modules")])
def test_one_projection(kind: str, field: str, local: LocalRegistry, tmp_path: Path) -> None:
    made = made_as(kind, tmp_path)
    local.add_base("llama", made.folder)
    adapter = write_adapter(tmp_path / "a", made.exact, ["q_proj", "embed_tokens"], r=2)
    local.publish(adapter, "llama/a")
    fetched = local.fetch("llama/a", tmp_path / "out", kind="merged", dtype="keep")
    found, stored = read_model(Path(fetched.folder)), read_model(made.folder)
    dense = {f"{module}.weight" for module in FUSED}
    merged = made.exact.reference([adapter])
    changed = {name for name, one in merged.items() if one.touched}
    assert used_bound({name: merged[name] for name in dense | changed}, found, "BF16") <= 1
    companions = {name for name in stored if any(name.startswith(one) for one in dense)}
    assert found.keys() == stored.keys() - companions | dense
    for name in found.keys() - dense - changed:
        assert found[name] == stored[name], name
    config = json.loads((Path(fetched.folder) / "config.json").read_text())["quantization_config"]
    assert set(config[field]) == {"lm_head"} | FUSED
    before = json.loads((made.folder / "config.json").read_text())["quantization_config"]
    assert {**config, field: None} == {**before, field: None}
    assert any(f"{len(dense)} of" in notice for notice in fetched.notices)
    assert local.verify(fetched.folder).exact


def test_a_path_that_changes_all_is_plain(local: LocalRegistry, tmp_path: Path) -> None:
    made = made_as("fp8", tmp_path)
    local.add_base("llama", made.folder)
    local.publish(
        write_adapter(tmp_path / "a", made.exact, ["q_proj", "o_proj", "up_proj", "down_proj"], r=2), "llama/a"
    )
    fetched = local.fetch("llama/a", tmp_path / "out", kind="merged", dtype="keep")
    assert "quantization_config" not in json.loads((Path(fetched.folder) / "config.json").read_text())
    assert any("nothing is kept" in notice for notice in fetched.notices)


def test_it_is_for_quantised_bases_and_merged_models(local: LocalRegistry, tmp_path: Path) -> None:
    plain = llama_base(tmp_path / "plain")
    local.add_base("llama", plain.folder)
    local.publish(write_adapter(tmp_path / "a", plain, ["q_proj"], r=2), "llama/a")
    with pytest.raises(UsageError, match="llama is not quantised"):
        local.fetch("llama/a", tmp_path / "out", kind="merged", dtype="keep")
    with pytest.raises(UsageError, match="needs --as merged"):
        local.fetch("llama/a", tmp_path / "out", dtype="keep")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp8", "nf4"])
def test_transformers_loads_it(kind: str, local: LocalRegistry, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    made = made_as(kind, tmp_path, 64, 128)  # the least that bitsandbytes' kernel takes
    local.add_base("llama", made.folder)
    local.publish(write_adapter(tmp_path / "a", made.exact, ["q_proj"], r=2, size=0.5), "llama/a")
    tokens = torch.arange(12).unsqueeze(0)

    def answer(ref: str, dtype: Literal["keep"] | None, **options: object) -> torch.Tensor:
        folder = local.fetch(ref, tmp_path / f"{ref.replace('/', '-')}-{dtype}", kind="merged", dtype=dtype).folder
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options)
        with torch.no_grad():
            logits: torch.Tensor = model(tokens).logits.to(torch.float64)
        return logits

    plain, before = answer("llama/a", None), answer("llama", None)
    options = {"quantization_config": FineGrainedFP8Config(weight_block_size=(16, 16), dequantize=True)}
    mixed = answer("llama/a", "keep", **(options if kind == "fp8" else {}))
    assert (mixed - plain).norm() < 0.05 * (plain - before).norm()


UNET = {
    "down_blocks.0.attentions.0.to_q.weight": torch.zeros(4, 4),
    "up_blocks.0.resnets.0.conv1.weight": torch.zeros(4, 4, 3, 3),
    "layer_scales": torch.ones(4),
}


def folder_of(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path / "model.safetensors")
    return path


def test_blocks_of_a_unet_are_no_mark(tmp_path: Path) -> None:
    assert set(read_model_files(folder_of(tmp_path, UNET)).model.shapes) == set(UNET)


@pytest.mark.parametrize("name", ["experts.gate_up_proj_blocks", "experts.gate_up_proj_scales"])
def test_blocks_of_mxfp4_are_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, {**UNET, name: torch.zeros(2, 4, dtype=torch.uint8)})
    with pytest.raises(InvalidBaseError, match=name) as told:
        read_model_files(folder)
    assert told.value.code == "quantised_base"
