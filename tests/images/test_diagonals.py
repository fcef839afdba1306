"""DoRA on columns and IA3: what a weight is multiplied by on its right side, alone and in paths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.errors import InvalidAdapterError
from registry.services.local import LocalRegistry
from tests.images.denoisers import weights_of
from tests.images.forms import FORMS, Drawn, Matrix, Tensors, flat
from tests.images.test_forms import WEIGHTS, of_file, of_lycoris, read, trained_weight
from tests.kit.floats import round_once

Denoiser = Callable[[str], tuple[Any, Path]]
QKV = tuple(f"transformer_blocks.0.attn.to_{leaf}" for leaf in "qkv")


def by_columns(weight: Matrix, magnitude: torch.Tensor) -> Matrix:
    """V diag(m / |V|), the norms of a channel over rows and taps."""
    channels = weight.reshape(weight.shape[0], magnitude.numel(), -1)
    norms = np.sqrt(np.square(channels).sum(axis=(0, 2)))
    scaled = channels * (magnitude.double().flatten().numpy() / norms)[None, :, None]
    return np.asarray(scaled.reshape(weight.shape))


def check_near(found: torch.Tensor, expected: Matrix) -> None:
    """As the rounded one but for a last place here and there, where float32 sums decide."""
    values, rounded = flat(found), round_once(expected, "BF16")
    assert np.abs(values - expected).max() <= np.abs(expected).max() * 2.0**-8
    assert (values == rounded).mean() > 0.998


def drawn_magnitude(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) + 0.5


def changed(form: str, spelled: str, weight: torch.Tensor, rows: int, rank: int = 2) -> tuple[Tensors, Matrix]:
    """Tensors of a form without an alpha, and the change."""
    found, delta, _ = FORMS[form](Drawn(7), rows, tuple(weight.shape[1:]), rank)
    return {f"{spelled}.{end}": value for end, value in found.items()}, delta


@pytest.mark.parametrize("form", ["pair", "loha", "lokr-full"])
def test_columns_are_rescaled_over_rows_and_taps(
    form: str, denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("sd")
    weights = weights_of(model)
    local.add_base("model", folder)
    tensors: Tensors = {}
    expected = {}
    for module in ("conv_in", "mid_block.attentions.0.proj_in", "time_embedding.linear_1"):
        weight = weights[module]
        spelled = f"lora_unet_{module.replace('.', '_')}"
        own, delta = changed(form, spelled, weight, weight.shape[0])
        magnitude = drawn_magnitude(1, weight.shape[1], *(1 for _ in weight.shape[2:]))
        tensors |= {**own, f"{spelled}.dora_scale": magnitude}
        expected[module] = by_columns(flat(weight) + delta, magnitude)
    save_file(tensors, tmp_path / "char.safetensors")
    local.publish(tmp_path / "char.safetensors", "model/char")
    local.fetch("model/char", tmp_path / "merged", kind="merged")
    out = load_file(tmp_path / "merged" / WEIGHTS)
    for module, weight in weights.items():
        if module in expected:
            check_near(out[f"{module}.weight"], expected[module])
        else:
            assert torch.equal(out[f"{module}.weight"], weight)
    with pytest.raises(InvalidAdapterError, match="tools disagree about what a weight does to that") as refused:
        local.fetch("model/char@1:0.5", tmp_path / "half", kind="merged")
    assert refused.value.code == "not_weighable"


def test_norms_of_columns_run_over_the_rows_of_all_joined_modules(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    """And a link above and one below it count each in their place."""
    model, folder = denoiser("flux")
    weights = weights_of(model)
    local.add_base("model", folder)
    joined = torch.cat([weights[module] for module in QKV])
    spelled = "lora_unet_double_blocks_0_img_attn_qkv"
    values = flat(joined)
    path = "model"
    for number in range(3):
        own, delta = changed("pair", spelled, joined, joined.shape[0], rank=1 + number)
        values = values + delta
        if number:
            magnitude = drawn_magnitude(1, joined.shape[1]) * number
            own[f"{spelled}.dora_scale"] = magnitude
            values = by_columns(values, magnitude)
        save_file(own, tmp_path / f"{number}.safetensors")
        path += f"/link{number}"
        local.publish(tmp_path / f"{number}.safetensors", path)
    local.fetch(path, tmp_path / "merged", kind="merged")
    out = load_file(tmp_path / "merged" / WEIGHTS)
    for number, module in enumerate(QKV):
        height = weights[module].shape[0]
        check_near(out[f"{module}.weight"], values[number * height : (number + 1) * height])
    assert [one.reference for one in local.identify(tmp_path / "merged").merged] == [f"{path}@1"]
    for error in (None, 0.1):
        with pytest.raises(InvalidAdapterError, match=r"DoRA on columns.*Fetch it --as merged") as caught:
            local.fetch(path, tmp_path / "lora", max_error=error)
        assert caught.value.code == "not_composable"
    for layout in ("diffusers", "comfyui"):
        with pytest.raises(InvalidAdapterError) as caught:
            local.artifact(path, layout=layout)
        assert caught.value.code == "not_low_rank"
    with pytest.raises(InvalidAdapterError, match=r"What would do.*--dense-as-diff"):
        local.fetch(path, tmp_path / "loras", engine="comfyui")
    dense = local.artifact(path, layout="comfyui", dense_as_diff=True).file("lora.safetensors").read()
    (tmp_path / "dense.safetensors").write_bytes(dense)
    difference = load_file(tmp_path / "dense.safetensors")
    whole = next(value for name, value in difference.items() if name.endswith(".diff"))
    assert np.abs(flat(whole) - (values - flat(joined))).max() <= 1e-6 * np.abs(values).max()
    with pytest.raises(InvalidAdapterError) as caught:
        local.combine({path: 0.5}, "model/half", over="model")
    assert caught.value.code == "not_combinable"
    statistics = local.stats(path)
    assert {one.module for one in statistics.links[-1].delta.modules if one.scaled} == set(QKV)
    assert {one.name for one in statistics.path.others} == set(QKV)  # pairs after a rescaling have no sum
    near = local.fetch(path, tmp_path / "near", engine="diffusers", max_error=0.3)
    file = load_file(tmp_path / "near" / "pytorch_lora_weights.safetensors")
    assert near.truncation is not None
    for number, module in enumerate(QKV):
        height = weights[module].shape[0]
        pair = [flat(file[f"transformer.{module}.lora_{side}.weight"]) for side in "BA"]
        change = (values - flat(joined))[number * height : (number + 1) * height]
        (said,) = [one for one in near.truncation.modules if one.module.endswith(module)]
        assert np.linalg.norm(change - pair[0] @ pair[1]) == pytest.approx(said.discarded**0.5, rel=1e-5)
        assert said.relative_frobenius > 0
    assert near.truncation.total.relative_frobenius <= 0.3


@pytest.mark.parametrize("on_input", [0, 1])
def test_ia3_multiplies_rows_or_columns(
    on_input: int, denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("flux")
    weights = weights_of(model)
    local.add_base("model", folder)
    drawn = Drawn(2)
    joined = torch.cat([weights[module] for module in QKV])
    factors = {"double_blocks_0_img_attn_qkv": (QKV, joined), "img_in": (("x_embedder",), weights["x_embedder"])}
    tensors: Tensors = {}
    expected: dict[str, Matrix] = {}
    for spelled, (modules, weight) in factors.items():
        factor = drawn(weight.shape[on_input])
        tensors |= {f"lora_unet_{spelled}.weight": factor, f"lora_unet_{spelled}.on_input": torch.tensor(on_input)}
        one = 1.0 + factor.double().numpy()
        scaled = flat(weight) * (one[None, :] if on_input else one[:, None])
        for module in modules:
            height = weights[module].shape[0]
            expected[module], scaled = scaled[:height], scaled[height:]
    save_file(tensors, tmp_path / "ia3.safetensors")
    revision = local.publish(tmp_path / "ia3.safetensors", "model/ia3").revision
    assert any("(IA3)" in notice for notice in revision.notices)
    local.fetch("model/ia3", tmp_path / "merged", kind="merged")
    out = load_file(tmp_path / "merged" / WEIGHTS)
    for module, weight in weights.items():
        found = flat(out[f"{module}.weight"])
        assert np.array_equal(found, round_once(expected[module], "BF16") if module in expected else flat(weight))
    local.fetch("model/ia3@1:-0.5", tmp_path / "weighted", kind="merged")  # 1 + w l
    out = load_file(tmp_path / "weighted" / WEIGHTS)
    for module, whole in expected.items():
        weighted = flat(weights[module]) - 0.5 * (whole - flat(weights[module]))
        assert np.array_equal(flat(out[f"{module}.weight"]), round_once(weighted, "BF16"))
    assert [one.reference for one in local.identify(tmp_path / "merged").merged] == ["model/ia3@1"]
    with pytest.raises(InvalidAdapterError, match=r"an IA3.*Fetch it --as merged"):
        local.fetch("model/ia3", tmp_path / "lora")
    with pytest.raises(InvalidAdapterError, match="IA3"):
        local.combine({"model/ia3": 0.5}, "model/half")


@pytest.mark.parametrize("shape", ["linear", "conv", "point"])
@pytest.mark.parametrize("kind", ["locon", "loha", "lokr"])
def test_columns_are_those_of_lycoris(kind: str, shape: str) -> None:
    made, around = of_lycoris(kind, shape, weight_decompose=True, wd_on_out=False)
    weight = around.get_parameter("weight").detach()
    tensors = of_file(made)
    magnitude = tensors["transformer.one.dora_scale"]
    assert magnitude.shape == (1, weight.shape[1], *(1 for _ in weight.shape[2:]))
    alpha = tensors.pop("transformer.one.alpha").item()
    change = read(tensors, {"one": tuple(weight.shape)}, alpha)["one"]
    trained = trained_weight(made, around)
    assert np.abs(by_columns(flat(weight) + change, magnitude) - trained).max() <= 1e-6 * np.abs(trained).max()


def test_which_side_an_ia3_multiplies_is_compared_with_the_tensor(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    _, folder = denoiser("flux")
    local.add_base("model", folder)
    place = tmp_path / "forged"
    place.mkdir()
    spelled = "lora_unet_double_blocks_0_img_attn_proj"
    tensors = {f"{spelled}.weight": Drawn()(16), f"{spelled}.on_input": torch.tensor(1)}
    save_file(tensors, place / "adapter_model.safetensors")
    document = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": None}
    for on_input, fits in (([], False), ([spelled], True)):
        own = {"format": "kohya", "file": "it.safetensors", "alphas": {}, "on_input": on_input}
        (place / "adapter_config.json").write_text(json.dumps({**document, "registry": own}))
        if fits:
            local.publish(place, "model/ia3")
        else:
            with pytest.raises(InvalidAdapterError) as caught:
                local.publish(place, "model/ia3")
            assert caught.value.code == "alpha_invalid"
