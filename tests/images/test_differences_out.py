"""What no pair of low rank says, out to ComfyUI as differences; and what a person is told of files on their way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad

from registry.errors import InvalidAdapterError
from registry.services.local import LocalRegistry
from tests.images.denoisers import made
from tests.images.forms import Drawn, flat, loha
from tests.images.test_diagonals import QKV, by_columns, changed, drawn_magnitude
from tests.images.test_layouts import comfy_reads, native_oracle
from tests.images.test_lora_files import Written, check

Denoiser = Callable[[str], tuple[Any, Path]]
BLOCK = "transformer_blocks.1"
JOINED = "lora_unet_double_blocks_0_img_attn_qkv"


def test_columns_and_ia3_go_to_comfyui_as_differences_and_to_nobody_else(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    """In a path: an IA3 on joined rows, and below it a DoRA on the columns of another module with a bias."""
    model, folder = denoiser("flux")
    weights = Written(model).weights
    local.add_base("model", folder)
    joined = torch.cat([weights[module] for module in QKV])
    factor = Drawn(2)(joined.shape[1])
    ia3 = {f"{JOINED}.weight": factor, f"{JOINED}.on_input": torch.tensor(1)}
    save_file(ia3, tmp_path / "ia3.safetensors")
    local.publish(tmp_path / "ia3.safetensors", "model/ia3")
    weight = weights["x_embedder"]
    own, delta = changed("pair", "lora_unet_img_in", weight, weight.shape[0])
    magnitude = drawn_magnitude(1, weight.shape[1])
    bias = Drawn(4)(weight.shape[0])
    save_file(
        {**own, "lora_unet_img_in.dora_scale": magnitude, "lora_unet_img_in.diff_b": bias},
        tmp_path / "columns.safetensors",
    )
    local.publish(tmp_path / "columns.safetensors", "model/ia3/columns")
    path = "model/ia3/columns"

    for engine in ("comfyui", "diffusers", "vllm-omni"):
        found = local.check(path, engine=engine)
        assert [one.code for one in found.reasons] == ["not_low_rank", "biases"]
        assert set(found.reasons[0].modules) == {*QKV, "x_embedder"}
        dense = engine == "comfyui"
        way = f"--for {engine} --dense-as-diff" if dense else "--as merged"
        assert found.would_do == f"registry fetch {path}@1 {way}"
        with pytest.raises(InvalidAdapterError, match=way) as caught:
            local.fetch(path, tmp_path / "no", engine=engine)
        assert caught.value.code == "not_low_rank"

    answer = local.fetch(path, tmp_path / "loras", engine="comfyui", dense_as_diff=True)
    assert local.verify(answer.folder).equal
    tensors = load_file(answer.folder)
    assert {name.rpartition(".")[2] for name in tensors} == {"diff", "diff_b"}
    assert torch.equal(tensors.pop("diffusion_model.img_in.diff_b"), bias.float())
    save_file(tensors, tmp_path / "weights.safetensors")
    read = comfy_reads(tmp_path / "weights.safetensors", model)
    scaled = flat(joined) * factor.double().numpy()[None, :]
    meant = dict(zip(QKV, np.split(scaled, 3), strict=True))
    meant["x_embedder"] = by_columns(flat(weight) + delta, magnitude) - flat(weight)
    expected = native_oracle(meant, model)
    assert read.keys() == expected.keys()
    for name, one in expected.items():
        exact = one.astype(np.float32).astype(np.float64)
        assert np.abs(read[name] - exact).max() <= (0 if "qkv" in name else 1e-7) * np.abs(exact).max(), name


def test_a_reader_that_has_no_such_models_gets_no_difference_either(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("wan")
    local.add_base("model", folder)
    width = Written(model).weights["blocks.0.attn1.to_q"].shape[1]
    spelled = "lora_unet_blocks_0_self_attn_q"
    save_file(
        {f"{spelled}.weight": Drawn()(width), f"{spelled}.on_input": torch.tensor(1)}, tmp_path / "ia3.safetensors"
    )
    local.publish(tmp_path / "ia3.safetensors", "model/ia3")
    with pytest.raises(InvalidAdapterError, match="it has no such models") as caught:
        local.fetch("model/ia3", tmp_path / "loras", engine="forge", dense_as_diff=True)
    assert caught.value.code == "engine_limits"


def test_a_loha_of_a_high_rank_is_a_difference_or_told_as_large(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("flux")
    local.add_base("model", folder)
    joined = torch.cat([Written(model).weights[module] for module in QKV])
    found, delta, _ = loha(Drawn(3), joined.shape[0], (joined.shape[1],), 4)
    tensors = {f"{JOINED}.{end}": value for end, value in found.items()}
    save_file(tensors, tmp_path / "loha.safetensors")
    local.publish(tmp_path / "loha.safetensors", "model/loha")
    expected = native_oracle(dict(zip(QKV, np.split(delta, 3), strict=True)), model)
    width = joined.shape[1]
    sizes = f"{3 * width * 2 * width * 4} bytes in all instead of {3 * width * width * 4} bytes"
    for dense, ends in ((False, {"lora_A.weight", "lora_B.weight"}), (True, {"diff"})):
        answer = local.fetch("model/loha", tmp_path / "loras", engine="comfyui", dense_as_diff=dense, force=True)
        assert any(sizes in notice for notice in answer.notices) is not dense
        names = load_file(answer.folder)
        assert {name.partition(".qkv.")[2] for name in names} == ends
        read = comfy_reads(Path(answer.folder), model)
        assert read.keys() == expected.keys()
        assert all(np.array_equal(read[name], one) for name, one in expected.items())


def test_a_block_diagonal_pair_means_what_its_alpha_says_everywhere(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    """Kohya's ``split_qkv``: three pairs of rank 4 in one of rank 12, with the alpha of one of them."""
    model, folder = denoiser("flux")
    written, whole = Written(model), Written(model)
    local.add_base("model", folder)
    downs, ups = [], []
    for module in QKV:
        written.add(module, (module,))
        downs.append(written.tensors.pop(f"{module}.lora_down.weight"))
        ups.append(written.tensors.pop(f"{module}.lora_up.weight"))
    whole.tensors = {
        f"{JOINED}.lora_down.weight": torch.cat(downs),
        f"{JOINED}.lora_up.weight": torch.cat([pad(up, (4 * at, 8 - 4 * at)) for at, up in enumerate(ups)]),
        f"{JOINED}.alpha": torch.tensor(6.0),
    }
    whole.deltas = {module: delta * 6 / 12 for module, delta in written.deltas.items()}
    metadata = {"ss_network_args": json.dumps({"split_qkv": "True"})}
    revision = local.publish(whole.save(tmp_path / "split.safetensors", metadata), "model/split").revision
    assert any("split_qkv" in notice for notice in revision.notices)
    check(local, "model/split", whole, tmp_path / "merged")
    answer = local.fetch("model/split", tmp_path / "loras", engine="comfyui")
    found, expected = comfy_reads(Path(answer.folder), model), native_oracle(whole.deltas, model)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], delta) for name, delta in expected.items())


def test_qwen_image_goes_to_comfyui_by_the_names_that_both_have(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    """Every linear module, and norms that have vectors alone, as differences."""
    model, folder = denoiser("qwen-image")
    written = Written(model)
    for module in written.weights:
        written.add(f"transformer.{module}", (module,), ends=("lora_A.weight", "lora_B.weight"), rank=1)
    norms = {f"diffusion_model.{name}.diff": torch.ones(16) / 4 for name in ("txt_norm", f"{BLOCK}.attn.norm_added_q")}
    local.add_base("model", folder)
    local.publish(written.save(tmp_path / "char.safetensors"), "model/char")
    assert local.check("model/char", engine="comfyui").loads
    assert [one.code for one in local.check("model/char", engine="forge").reasons] == ["family"]
    answer = local.fetch("model/char", tmp_path / "loras", engine="comfyui")
    tensors = load_file(answer.folder)
    assert {name.rpartition(".lora_")[0] for name in tensors} == {f"diffusion_model.{one}" for one in written.weights}
    for module, delta in written.deltas.items():
        a, b = (tensors[f"diffusion_model.{module}.lora_{one}.weight"].double().numpy() for one in "AB")
        assert np.array_equal(b @ a, delta), module
    save_file(norms, tmp_path / "norms.safetensors")
    local.publish(tmp_path / "norms.safetensors", "model/norms")
    answer = local.fetch("model/norms", tmp_path / "loras", engine="comfyui", dense_as_diff=True)
    found = load_file(answer.folder)
    assert found.keys() == norms.keys()
    assert all(torch.equal(found[name], value) for name, value in norms.items())


def test_the_second_transformer_is_loaded_by_an_option_that_is_told(local: LocalRegistry, tmp_path: Path) -> None:
    folder = tmp_path / "wan"
    index: dict[str, object] = {"_class_name": "WanPipeline"}
    for component in ("transformer", "transformer_2"):
        made("wan").to(torch.bfloat16).save_pretrained(folder / component)
        index[component] = ["diffusers", "WanTransformer3DModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    local.add_base("wan", folder)
    module = "blocks.0.attn1.to_q"
    for component in ("transformer", "transformer_2"):
        lead = f"{component}.{module}"
        width = 24
        save_file(
            {f"{lead}.lora_A.weight": torch.ones(2, width), f"{lead}.lora_B.weight": torch.ones(width, 2)},
            tmp_path / f"{component}.safetensors",
        )
        name = component.replace("_", "-")
        second = component == "transformer_2"
        local.publish(tmp_path / f"{component}.safetensors", f"wan/{name}", component=component)
        answer = local.fetch(f"wan/{name}", tmp_path / name, engine="diffusers")
        assert any("load_into_transformer_2=True" in notice for notice in answer.notices) is second
        names = load_file(tmp_path / name / "pytorch_lora_weights.safetensors")
        assert set(names) == {f"transformer.{module}.lora_{one}.weight" for one in "AB"}
