"""LoRAs as diffusers, ComfyUI, Forge and vLLM-Omni read them: by the registry again, by diffusers, by ComfyUI's rules.

The rules of ComfyUI are written by hand here from its ``comfy/lora.py`` and ``weight_adapter/lora.py``: it was read,
and not run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from registry.engines.snippets import snippets
from registry.errors import ConflictError, InvalidAdapterError, UsageError
from registry.images.native_names import UNET, family_of
from registry.images.outgoing import comfy_names, components_of_base
from registry.schemas.form import EngineName
from registry.services.local import LocalRegistry
from tests.images.denoisers import made, weights_of
from tests.images.test_lora_files import Oracle, Written, check, diffusers_new, kohya
from tests.kit.serving import open_http

Denoiser = Callable[[str], tuple[Any, Path]]

FAMILIES = ("sd", "sdxl", "sd-3", "flux", "flux-2", "wan", "z-image")
_WHEN = {"flux": [], "sdxl": [pytest.mark.slow]}
ON_ALL = [pytest.param(family, marks=_WHEN.get(family, [pytest.mark.long])) for family in FAMILIES]


class Path2:
    """A path of two links: kohya's names with three alphas, and another adapter on some modules below it."""

    def __init__(self, denoiser: Denoiser, local: LocalRegistry, tmp_path: Path, family: str) -> None:
        self.family, self.model = family, denoiser(family)[0]
        first, second = Written(self.model), Written(self.model)
        kohya(first)
        lead = "unet." if family in ("sd", "sdxl") else "transformer."
        for module in list(second.weights)[::3]:
            second.add(f"{lead}{module}", (module,), rank=2, ends=("lora_A.weight", "lora_B.weight"))
        local.add_base("model", denoiser(family)[1])
        local.publish(first.save(tmp_path / "first.safetensors"), "model/one")
        local.publish(second.save(tmp_path / "second.safetensors"), "model/one/two")
        self.first, self.sum = first, Written(self.model)
        self.sum.deltas = {name: delta + second.deltas.get(name, 0.0) for name, delta in first.deltas.items()}


def comfy_reads(file: Path, model: torch.nn.Module) -> Oracle:
    """What ComfyUI adds to each module of its own model, in float64; every tensor has to be one that it finds."""
    weights = weights_of(model)
    family = family_of(weights)
    assert family is not None
    native = {name: found for name, found in family.names(weights) if ".processor." not in name}
    covered = {module for found in native.values() for module in found}
    native |= {module: (module,) for module in weights.keys() - covered}
    keys = {f"lora_unet_{name.replace('.', '_')}": name for name in native}
    keys |= {f"diffusion_model.{name}": name for name in native}
    if family is UNET:  # unet_to_diffusers
        keys |= {f"lora_unet_{found[0].replace('.', '_')}": name for name, found in native.items()}
    tensors, used, deltas = load_file(file), set[str](), {}
    for key, name in keys.items():
        for down, up in (("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight")):
            if f"{key}.{up}" not in tensors:
                continue
            a, b = tensors[f"{key}.{down}"].double(), tensors[f"{key}.{up}"].double()
            alpha = tensors.get(f"{key}.alpha")
            scale = 1.0 if alpha is None else alpha.item() / a.shape[0]
            deltas[name] = scale * (b.flatten(1) @ a.flatten(1)).numpy()
            used |= {f"{key}.{down}", f"{key}.{up}", *([] if alpha is None else [f"{key}.alpha"])}
        if f"{key}.diff" in tensors:
            rows = sum(weights[module].shape[0] for module in native[name])
            assert tensors[f"{key}.diff"].shape == (rows, *weights[native[name][0]].shape[1:])
            deltas[name] = tensors[f"{key}.diff"].double().flatten(1).numpy()
            used.add(f"{key}.diff")
    assert used == set(tensors)
    return deltas


def native_oracle(deltas: Mapping[str, Any], model: torch.nn.Module) -> Oracle:
    """The same from diffusers' modules: rows one below the other, halves as the native model keeps them."""
    weights = weights_of(model)
    family = family_of(weights)
    assert family is not None
    native = {name: found for name, found in family.names(weights) if ".processor." not in name}
    covered = {module for found in native.values() for module in found}
    found = {}
    for name, modules in (native | {module: (module,) for module in weights.keys() - covered}).items():
        if not any(module in deltas for module in modules):
            continue
        parts = [deltas.get(module, np.zeros((len(weights[module]), weights[module][0].numel()))) for module in modules]
        joined = np.concatenate(parts)
        found[name] = np.concatenate(np.split(joined, 2)[::-1]) if name in family.swapped else joined
    return found


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return dict(opened.metadata())


@pytest.mark.parametrize("family", ON_ALL)
def test_comfyui_adds_what_the_path_adds(family: str, denoiser: Denoiser, local: LocalRegistry, tmp_path: Path) -> None:
    path = Path2(denoiser, local, tmp_path, family)
    for reference, deltas in (("model/one", path.first.deltas), ("model/one/two", path.sum.deltas)):
        file = Path(local.fetch(reference, tmp_path / "loras", engine="comfyui").folder)
        assert file == tmp_path / "loras" / f"{reference.replace('/', '-')}.safetensors"
        expected, found = native_oracle(deltas, path.model), comfy_reads(file, path.model)
        assert expected.keys() == found.keys()
        for name, delta in expected.items():
            assert np.array_equal(found[name], delta), name
        metadata = metadata_of(file)
        assert metadata["ss_network_module"] == "networks.lora"
        ranks = [len(tensor) for name, tensor in load_file(file).items() if name.endswith(("_down.weight", "A.weight"))]
        assert metadata["ss_network_dim"] == str(max(ranks))
        assert metadata["modelspec.architecture"].endswith("/lora")
        assert local.verify(file).equal
    judged = local.check("model/one", engine="vllm-omni")
    assert [reason.code for reason in judged.reasons] == (["convolutions"] if family.startswith(("sd", "wan")) else [])
    assert all(reason.source for reason in judged.reasons)
    # published again it is the same path: the model's own names say so once more
    again = local.publish(tmp_path / "loras" / "model-one-two.safetensors", "model/again").revision
    check(local, again.reference, path.sum, tmp_path / "merged")


@pytest.mark.parametrize(
    "family", ["flux", *(pytest.param(one, marks=pytest.mark.long) for one in FAMILIES if one != "flux")]
)
def test_diffusers_loads_what_the_path_is_with_its_metadata_and_without(
    family: str, denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    path = Path2(denoiser, local, tmp_path, family)
    local.fetch("model/one/two", tmp_path / "out", engine="diffusers")
    file = tmp_path / "out" / "pytorch_lora_weights.safetensors"
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {file.name, "README.md", "registry-receipt.json"}
    assert local.verify(tmp_path / "out").equal
    assert 'library_name: "diffusers"' in (tmp_path / "out" / "README.md").read_text()
    told = json.loads(metadata_of(file)["lora_adapter_metadata"])
    (component,) = {key.partition(".")[0] for key in told}
    assert component == ("unet" if family in ("sd", "sdxl") else "transformer")
    assert told[f"{component}.lora_alpha"] == told[f"{component}.r"]
    assert told[f"{component}.alpha_pattern"] == told[f"{component}.rank_pattern"] != {}
    bare = tmp_path / "bare" / file.name
    bare.parent.mkdir()
    save_file(load_file(file), bare)
    for one in (file, bare):
        assert_loaded(one, family, path.sum.deltas)
    again = local.publish(tmp_path / "bare", "model/again").revision
    check(local, again.reference, path.sum, tmp_path / "merged")


def assert_loaded(file: Path, family: str, deltas: Mapping[str, Any]) -> None:
    """diffusers' own loader makes the weights that are meant, of every module."""
    from peft.tuners.lora import LoraLayer

    model = made(family).to(torch.bfloat16).float()  # the weights of the base model, where sums are not rounded to bf16
    before = {name: weight.clone() for name, weight in weights_of(model).items()}
    prefix = "unet" if family in ("sd", "sdxl") else "transformer"
    model.load_lora_adapter(file.parent, weight_name=file.name, prefix=prefix, use_safetensors=True)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    assert layers.keys() == deltas.keys()
    for name, layer in layers.items():
        layer.merge()
        found = (layer.get_base_layer().weight.double() - before[name].double()).flatten(1).detach().numpy()
        assert np.allclose(found, deltas[name], rtol=0, atol=2e-6), name


@pytest.mark.slow
def test_the_forward_pass_is_that_of_the_merged_model(denoiser: Denoiser, local: LocalRegistry, tmp_path: Path) -> None:
    Path2(denoiser, local, tmp_path, "sdxl")
    local.fetch("model/one/two", tmp_path / "out", engine="diffusers")
    local.fetch("model/one/two", tmp_path / "merged", kind="merged", dtype="fp32")
    drawn = torch.Generator().manual_seed(1)
    inputs = [torch.randn(shape, generator=drawn) for shape in ((1, 4, 16, 16), (1, 3, 16), (1, 16), (1, 6))]
    model = made("sdxl").to(torch.bfloat16).float().eval()

    def output() -> torch.Tensor:
        added = {"text_embeds": inputs[2], "time_ids": inputs[3]}
        with torch.no_grad():
            found: torch.Tensor = model(inputs[0], 3, inputs[1], added_cond_kwargs=added).sample
        return found

    plain = output()
    model.load_lora_adapter(tmp_path / "out", weight_name="pytorch_lora_weights.safetensors", prefix="unet")
    adapted = output()
    model.unload_lora()
    model.load_state_dict(load_file(tmp_path / "merged" / "diffusion_pytorch_model.safetensors"))
    assert not torch.allclose(adapted, plain, rtol=1e-2, atol=1e-2)
    assert torch.allclose(adapted, output(), rtol=1e-4, atol=1e-4 * adapted.abs().max().item())


def test_a_joined_module_that_was_trained_as_one_keeps_its_rank(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    path = Path2(denoiser, local, tmp_path, "flux")
    name = "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight"
    ranks = []
    for reference in ("model/one", "model/one/two"):
        file = Path(local.fetch(reference, tmp_path / "loras", engine="comfyui").folder)
        ranks.append(len(load_file(file)[name]))
    assert ranks[0] == 4
    assert ranks[1] >= 3 * 4  # another A on some of its modules: side by side
    assert path.sum.deltas


def test_factors_at_one_place_of_two_files_are_not_the_same(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("flux")
    local.add_base("model", folder)
    path, deltas = "model", {}
    for number, leaf in enumerate(("to_q", "to_k")):
        written = Written(model)
        module = f"transformer_blocks.0.attn.{leaf}"
        written.add(f"transformer.{module}", (module,), ends=("lora_A.weight", "lora_B.weight"))
        down = f"transformer.{module}.lora_A.weight"
        written.tensors[down] = written.tensors[down] * (number + 1)
        deltas[module] = written.deltas[module] * (number + 1)
        path += f"/{leaf.replace('_', '-')}"
        local.publish(written.save(tmp_path / f"{leaf}.safetensors"), path)
    file = Path(local.fetch(path, tmp_path / "loras", engine="comfyui").folder)
    found, expected = comfy_reads(file, model), native_oracle(deltas, model)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], delta) for name, delta in expected.items())


def dora(written: Written, rows: tuple[str, ...]) -> dict[str, Any]:
    """A DoRA on joined rows, and the weights that it means."""
    spelled = "lora_unet_double_blocks_0_img_attn_qkv"
    written.add(spelled, rows, alpha=2.0)
    height = sum(len(written.weights[module]) for module in rows)
    magnitude = torch.rand((height, 1), generator=torch.Generator().manual_seed(2)) + 0.5
    written.tensors[f"{spelled}.dora_scale"] = magnitude
    found, at = {}, 0
    for module in rows:
        changed = written.weights[module].double().numpy() + written.deltas[module]
        norms = np.linalg.norm(changed, axis=1, keepdims=True)
        found[module] = changed / norms * magnitude[at : at + len(changed)].double().numpy()
        at += len(changed)
    return found


def test_a_dora_goes_to_diffusers_as_it_is_and_to_comfyui_as_a_difference(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("flux")
    written = Written(model)
    rows = written.native["double_blocks.0.img_attn.qkv"]
    meant, plain = dora(written, rows), Written(model)
    plain.add("lora_unet_img_in", ("x_embedder",), rank=2, alpha=2.0)
    local.add_base("model", folder)
    local.publish(written.save(tmp_path / "dora.safetensors"), "model/dora")
    local.publish(plain.save(tmp_path / "plain.safetensors"), "model/dora/char")
    found = local.check("model/dora/char", engine="comfyui")
    assert [reason.code for reason in found.reasons] == ["dora"]
    assert found.would_do == "registry fetch model/dora/char@1 --for comfyui --dense-as-diff"
    for ask in (
        lambda: local.fetch("model/dora/char", tmp_path / "no", engine="comfyui"),
        lambda: local.artifact("model/dora/char", layout="comfyui"),
    ):
        with pytest.raises(InvalidAdapterError, match="DoRA") as caught:
            ask()
        assert caught.value.code == "engine_limits"
    answer = local.fetch("model/dora/char", tmp_path / "loras", engine="comfyui", dense_as_diff=True)
    assert local.verify(answer.folder).equal
    deltas = {module: weight - written.weights[module].double().numpy() for module, weight in meant.items()}
    deltas["x_embedder"] = plain.deltas["x_embedder"]
    read = comfy_reads(Path(answer.folder), model)
    expected = native_oracle(deltas, model)
    assert read.keys() == expected.keys()
    assert {name.rpartition(".")[2] for name in load_file(answer.folder)} == {"diff", "weight"}
    for name, delta in expected.items():
        assert np.array_equal(read[name], delta.astype(np.float32).astype(np.float64)), name
    local.fetch("model/dora/char", tmp_path / "out", engine="diffusers")
    assert_loaded(tmp_path / "out" / "pytorch_lora_weights.safetensors", "flux", deltas)


def test_a_changed_bias_is_refused_or_a_difference(denoiser: Denoiser, local: LocalRegistry, tmp_path: Path) -> None:
    model, folder = denoiser("flux")
    written = Written(model)
    written.add("transformer.norm_out.linear", ("norm_out.linear",), ends=("lora_A.weight", "lora_B.weight"))
    rows = len(written.weights["norm_out.linear"])
    added = torch.arange(rows, dtype=torch.float32) / 64
    written.tensors["transformer.norm_out.linear.lora_B.bias"] = added
    local.add_base("model", folder)
    local.publish(written.save(tmp_path / "biased.safetensors"), "model/char")
    for engine in ("diffusers", "comfyui", "forge", "vllm-omni"):
        assert [one.code for one in local.check("model/char", engine=engine).reasons] == ["biases"]
    for layout in ("diffusers", "comfyui", "vllm-omni"):
        with pytest.raises(InvalidAdapterError) as caught:
            local.artifact("model/char", layout=layout)
        assert caught.value.code == "not_low_rank"
    answer = local.fetch("model/char", tmp_path / "loras", engine="forge", dense_as_diff=True)
    tensors = load_file(answer.folder)
    name = "diffusion_model.final_layer.adaLN_modulation.1"
    assert set(tensors) == {f"{name}.{end}" for end in ("lora_A.weight", "lora_B.weight", "diff_b")}
    half = rows // 2
    assert torch.equal(tensors[f"{name}.diff_b"], torch.cat([added[half:], added[:half]]))


def test_norms_biases_and_whole_weights_go_to_comfyui_as_differences(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("wan")
    state, drawn = model.state_dict(), torch.Generator().manual_seed(4)
    lead = "diffusion_model.blocks.0."
    shapes = {f"{lead}norm3.diff": (24,), f"{lead}norm3.diff_b": (24,), f"{lead}self_attn.norm_q.diff": (24,),
              f"{lead}ffn.0.diff_b": (32,)}  # fmt: skip
    tensors = {name: torch.randint(-32, 33, shape, generator=drawn) / 64 for name, shape in shapes.items()}
    whole = torch.randint(-32, 33, (24, 24), generator=drawn) / 64
    local.add_base("model", folder)
    save_file({**tensors, f"{lead}self_attn.q.set_weight": whole}, tmp_path / "char.safetensors")
    local.publish(tmp_path / "char.safetensors", "model/char")
    with pytest.raises(InvalidAdapterError, match="--dense-as-diff"):
        local.fetch("model/char", tmp_path / "loras", engine="comfyui")
    answer = local.fetch("model/char", tmp_path / "loras", engine="comfyui", dense_as_diff=True)
    found = load_file(answer.folder)
    assert found.keys() == {*tensors, f"{lead}self_attn.q.diff"}
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert torch.equal(found[f"{lead}self_attn.q.diff"], whole - state["blocks.0.attn1.to_q.weight"].float())
    assert local.verify(answer.folder).equal


@pytest.mark.slow
def test_vllm_omni_gets_pefts_folder_with_one_rank(denoiser: Denoiser, local: LocalRegistry, tmp_path: Path) -> None:
    path = Path2(denoiser, local, tmp_path, "z-image")
    local.fetch("model/one/two", tmp_path / "out", engine="vllm-omni")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["rank_pattern"]) == (config["r"], {})
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {len(tensor) for name, tensor in tensors.items() if ".lora_A." in name} == {config["r"]}
    for module, delta in path.sum.deltas.items():
        a, b = (tensors[f"base_model.model.{module}.lora_{one}.weight"].double().flatten(1) for one in "AB")
        assert np.array_equal((b @ a).numpy(), delta)


@pytest.mark.slow
def test_a_rank_can_be_asked_for_where_the_reader_takes_any(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    Path2(denoiser, local, tmp_path, "flux")
    answer = local.fetch("model/one", tmp_path / "small.safetensors", engine="comfyui", rank=1)
    assert answer.truncation is not None
    assert answer.folder == str(tmp_path / "small.safetensors")
    tensors = load_file(answer.folder)
    assert len(tensors["diffusion_model.img_in.lora_A.weight"]) == 1
    assert local.verify(tmp_path / "small.registry.json").equal
    with pytest.raises(UsageError, match="largest rank is --max-lora-rank"):
        local.fetch("model/one", tmp_path / "no", engine="vllm-omni", rank=1)
    with pytest.raises(UsageError, match="have no rank"):
        local.fetch("model/one", tmp_path / "no", engine="comfyui", rank=1, dense_as_diff=True)


def test_a_file_in_its_place_is_replaced_by_its_own_path_alone(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    Path2(denoiser, local, tmp_path, "flux")
    loras = tmp_path / "loras"
    first = local.fetch("model/one", loras, engine="comfyui")
    place = Path(first.folder)
    assert (first.fresh, local.fetch("model/one", loras, engine="comfyui").fresh) == (True, False)
    assert {entry.name for entry in loras.iterdir()} == {"model-one.safetensors", "model-one.registry.json"}
    # another revision of the path takes its place, unasked
    local.publish(tmp_path / "second.safetensors", "model/one")
    newer = local.fetch("model/one", loras, engine="comfyui")
    assert (newer.folder, newer.fresh, newer.reference) == (first.folder, True, "model/one@2")
    # the same with another weight does not: a file under a stable name would be half as strong, unasked
    with pytest.raises(ConflictError, match="was fetched of model/one@2: nothing was written"):
        local.fetch("model/one@2:0.5", loras, engine="comfyui")
    whole = load_file(place)
    local.fetch("model/one@2:0.5", loras, engine="comfyui", force=True)
    assert local.verify(place).equal
    half = load_file(place)
    assert all(torch.equal(half[name], value * (0.5 if "lora_B" in name else 1)) for name, value in whole.items())
    with pytest.raises(ConflictError, match=r"with the weights model/one=0\.5: nothing was written"):
        local.fetch("model/one", loras, engine="comfyui")
    local.fetch("model/one", loras, engine="comfyui", force=True)
    # another path does not, unless asked; nor does anything else, ever
    with pytest.raises(ConflictError, match="was fetched of model/one@2"):
        local.fetch("model/one/two", place, engine="comfyui")
    assert local.fetch("model/one/two", place, engine="comfyui", force=True).fresh
    assert local.verify(place).reference == "model/one/two@1"
    damaged = bytearray(place.read_bytes())
    damaged[-1] ^= 1
    place.write_bytes(damaged)
    assert not local.verify(place).equal
    with pytest.raises(ConflictError, match="not as a fetch wrote it") as caught:
        local.fetch("model/one/two", place, engine="comfyui", force=True)
    assert caught.value.code == "folder_taken"
    assert place.read_bytes() == bytes(damaged)


def test_engines_of_language_models_and_of_image_models_keep_apart(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    Path2(denoiser, local, tmp_path, "wan")
    for engine, codes in (("vllm", ["image"]), ("sglang", ["image"]), ("forge", ["family"]), ("comfyui", [])):
        name: EngineName = engine  # type: ignore[assignment]
        assert [one.code for one in local.check("model/one", engine=name).reasons] == codes


@pytest.mark.slow
def test_the_lines_of_the_page_of_a_component(denoiser: Denoiser, local: LocalRegistry, tmp_path: Path) -> None:
    """As a reader copies them; those of pipelines run in `test_pipelines_served`."""
    Path2(denoiser, local, tmp_path, "sd")
    rows = snippets(local.show("model/one/two"), "model/one/two", local.url, "lora", [], is_open=True)
    assert [row.name for row in rows] == ["cli", "python", "merged", "comfyui", "forge", "vllm-omni", "curl"]
    steps = {row.name: row.steps for row in rows}
    assert "UNet2DConditionModel.from_pretrained" in steps["merged"][1][1]
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-euc", steps["comfyui"][0][1]], cwd=tmp_path, env=environ, check=True)
    assert local.verify(tmp_path / "models/loras/model-one-two.safetensors").equal


def test_a_pipeline_has_its_components_in_the_names() -> None:
    """Of a base model with several components, whose modules begin with them."""
    of_unet = weights_of(made("sdxl"))
    layer = "encoder.layers.0.self_attn.q_proj"
    modules = [f"unet.{module}" for module in of_unet]
    modules += [f"text_encoder.{layer}", f"text_encoder_2.text_model.{layer}"]
    modules += ["text_encoder_3.encoder.block.0.layer.0.SelfAttention.q"]
    found = {one.name: one for one in components_of_base(modules)}
    assert found["unet"].modules == of_unet.keys()
    assert found["unet"].architecture == "stable-diffusion-xl-v1-base"
    spelled = {one.name for component in found.values() for one in comfy_names(component, numbered=True).values()}
    flat = layer.replace(".", "_")
    assert f"lora_te1_text_model_{flat}" in spelled
    assert f"lora_te2_text_model_{flat}" in spelled
    assert "lora_te3_encoder_block_0_layer_0_SelfAttention_q" in spelled
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q" in spelled
    (alone,) = components_of_base(of_unet)
    assert (alone.name, alone.lead) == ("unet", "")


@pytest.mark.slow
def test_a_service_gives_the_same_bytes(denoiser: Denoiser, tmp_path: Path) -> None:
    with open_http(tmp_path) as remote:
        model, folder = denoiser("flux")
        written = Written(model)
        diffusers_new(written, "transformer.")
        remote.add_base("model", folder)
        remote.publish(written.save(tmp_path / "a.safetensors"), "model/char")
        local = LocalRegistry.open(tmp_path / "own", cache_folder=tmp_path / "own-cache")
        local.add_base("model", folder)
        local.publish(tmp_path / "a.safetensors", "model/char")
        for layout in ("diffusers", "comfyui", "vllm-omni"):
            with (
                remote.artifact("model/char", layout=layout) as far,
                local.artifact("model/char", layout=layout) as near,
            ):
                assert {name: file.read() for name, file in far.files.items()} == {
                    name: file.read() for name, file in near.files.items()
                }
        placed = remote.fetch("model/char", tmp_path / "loras", engine="forge").folder
        assert remote.verify(placed).equal
        assert remote.verify(remote.fetch("model/char", tmp_path / "d", engine="diffusers").folder).equal
        local.close()
