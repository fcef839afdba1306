"""Checkpoints in one file as base models: by component as the pipeline, and merged into the same file again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.engines.snippets import snippets
from registry.errors import InvalidBaseError, RegistryError
from registry.images.native_names import family_of
from registry.services.local import LocalRegistry
from registry.tensors.table.single_file import single_file_table
from registry.tensors.table.targets import TargetTable
from tests.images.denoisers import made, weights_of
from tests.images.pipelines import clip
from tests.images.test_lora_files import grid
from tests.images.test_native_names import converted, norms_of
from tests.images.test_pipelines import Saved, saved, weights_in
from tests.kit.floats import round_once
from tests.kit.serving import open_http

__all__ = ["saved"]

Tensors = dict[str, torch.Tensor]
Array = np.ndarray[Any, Any]
BESIDE = {
    "first_stage_model.encoder.conv_in.weight": torch.arange(36, dtype=torch.float32).reshape(4, 1, 3, 3),
    "alphas_cumprod": torch.linspace(1, 0, 7),
}


def native_of(model: torch.nn.Module, own: Tensors) -> Tensors:
    """A denoiser as its native names have it, made by the test: rows below one another, halves swapped."""
    modules = weights_of(model) | {
        name.removesuffix(".weight"): one for name, one in own.items() if name.endswith(".weight")
    }
    table = family_of(modules)
    assert table is not None
    found: Tensors = {}
    for name, parts in table.names(modules):
        for leaf in ("weight", "bias"):
            rows = [own[f"{part}.{leaf}"] for part in parts if f"{part}.{leaf}" in own]
            if rows and ".processor." not in name:
                joined = torch.cat(rows)
                found[f"{name}.{leaf}"] = (
                    torch.cat(joined.chunk(2)[::-1]) if name in table.swapped else joined
                ).contiguous()
    return found | (norms_of(own) if table.name.startswith("FLUX") else {})


def open_clip_of(own: Tensors) -> Tensors:
    """An OpenCLIP text encoder of transformers' CLIP."""
    found: Tensors = {"logit_scale": torch.tensor(1.0), "text_projection": own["text_projection.weight"].T.contiguous()}
    layers = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for name, tensor in own.items():
        place = name.removeprefix("text_model.")
        if place.startswith("encoder.layers."):
            number, _, rest = place.removeprefix("encoder.layers.").partition(".")
            module, _, leaf = rest.rpartition(".")
            block = f"transformer.resblocks.{number}"
            if module == "self_attn.q_proj":
                parts = [own[name.replace("q_proj", f"{one}_proj")] for one in "qkv"]
                found[f"{block}.attn.in_proj_{leaf}"] = torch.cat(parts)
            elif module == "self_attn.out_proj":
                found[f"{block}.attn.out_proj.{leaf}"] = tensor
            elif module in layers:
                found[f"{block}.{layers[module]}.{leaf}"] = tensor
        elif place.startswith("final_layer_norm"):
            found[place.replace("final_layer_norm", "ln_final")] = tensor
        elif place.endswith("token_embedding.weight"):
            found["token_embedding.weight"] = tensor
        elif place.endswith("position_embedding.weight"):
            found["positional_embedding"] = tensor
    return found


def renamed(family: str, own: Tensors, files: Tensors) -> Tensors:
    """What the rows of names leave out, as the files of Wan and Z-Image call it."""
    if family == "wan":
        return {
            "head.modulation" if name == "scale_shift_table" else name.replace("scale_shift_table", "modulation"): one
            for name, one in own.items()
            if name.endswith("scale_shift_table")
        }
    moved = {"to_q", "to_k", "to_v", "to_out", "all_x_embedder", "all_final_layer"}
    same = {name: one for name, one in own.items() if not moved & set(name.split("."))}
    return {re.sub(r"\.norm_([qk])\.", r".\1_norm.", name): one for name, one in same.items()} | {
        "norm_final.weight": torch.ones(8)  # the published file has it, and the model does not
    }


def assert_converted(family: str, files: Tensors, own: Tensors) -> None:
    """diffusers' converter makes the model of these files."""
    out = converted(family, dict(files), own, {})
    assert out.keys() == own.keys()
    assert [name for name, one in own.items() if not torch.equal(out[name], one)] == []


def led(lead: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {lead + name: tensor for name, tensor in tensors.items()}


def drawn(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(11)
    return {name: torch.randn(one.shape, generator=generator).to(dtype) for name, one in model.state_dict().items()}


def parameter_of(table: TargetTable, name: str, files: Tensors) -> torch.Tensor:
    held = table.parameters[name]
    if not held.runs:
        return files[held.tensor]
    return torch.cat([files[run.tensor][run.first : run.first + run.rows] for run in held.runs])


def table_of(tensors: Tensors) -> TargetTable:
    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64", torch.float8_e4m3fn: "F8_E4M3"}
    return single_file_table("x.safetensors", {
        name: (names[one.dtype], tuple(one.shape)) for name, one in tensors.items()
    })  # fmt: skip


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd-3", "flux", "flux-2", "wan", "z-image", "qwen-image"])
def test_every_parameter_is_the_rows_that_it_was_made_of(family: str) -> None:
    model = made(family)
    own = drawn(model)
    files = native_of(model, own)
    if family == "sd-3":
        files["pos_embed"] = own["pos_embed.pos_embed"]
        for name, one in own.items():
            block, _, leaf = name.partition(".attn")
            if ".norm_" in leaf and block.startswith("transformer_blocks."):
                stream = "context_block.attn" if "added" in leaf else f"x_block.attn{'2' if leaf[0] == '2' else ''}"
                number = block.rpartition(".")[2]
                files[f"joint_blocks.{number}.{stream}.ln_{leaf.split('.')[1][-1]}.weight"] = one
    if family in ("wan", "z-image"):
        files |= renamed(family, own, files)
        assert_converted(family, files, own)
    table = table_of(led("model.diffusion_model.", files) | BESIDE)
    component = "unet" if family in ("sd", "sdxl") else "transformer"
    assert table.components == (component,)
    assert set(table.parameters) == {f"{component}.{name}" for name in own}
    for name, one in own.items():
        found = parameter_of(table, f"{component}.{name}", led("model.diffusion_model.", files))
        assert torch.equal(found, one), name
    assert {name.partition(".")[2] for name in table.targets} == set(weights_of(model))
    modules = dict(model.named_modules())
    for name, target in table.targets.items():
        module = modules[name.partition(".")[2]]
        convolution = isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d)
        assert target.kind == ("conv" if convolution else "linear"), name
        if convolution:
            assert target.geometry == {
                "kernel": list(module.kernel_size), "groups": module.groups,
                "dilation": list(module.dilation), "padding_mode": module.padding_mode,
            }, name  # fmt: skip
    assert TargetTable.from_document(table.to_document()) == table


def kohya(weights: Mapping[str, torch.Tensor], file: Path, leads: Mapping[str, str]) -> dict[str, Array]:
    """Write a LoRA for some parameters; what each is then, rounded once."""
    generator = torch.Generator().manual_seed(5)
    tensors: Tensors = {}
    merged: dict[str, Array] = {}
    for name, weight in weights.items():
        component, _, rest = name.removesuffix(".weight").partition(".")
        down, up = grid((4, *weight.shape[1:]), generator), grid((weight.shape[0], 4), generator)
        key = f"{leads[component]}{rest}" if leads[component][-1] == "." else leads[component] + rest.replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(2.0)}
        tensors[f"{key}.lora_up.weight"] = up.reshape(*up.shape, *[1] * (weight.ndim - 2))
        delta = 0.5 * (up.double() @ down.double().flatten(1)).reshape(weight.shape)
        merged[name] = round_once((weight.double() + delta).numpy(), "BF16")
    save_file(tensors, file)
    return merged


def check(out: Tensors, before: Tensors, merged: Mapping[str, Array], table: TargetTable | None = None) -> None:
    """Hold a merged file to the float64 sum, and every other row to the bytes before.

    ``merged`` is by native tensor, or with a table by parameter.
    """
    assert out.keys() == before.keys()
    expected = {name: tensor.clone() for name, tensor in before.items()}
    for name, values in merged.items():
        held, at = None if table is None else table.parameters[name], 0
        value = torch.from_numpy(values).to(torch.bfloat16)
        if held is None or not held.runs:
            expected[name if held is None else held.tensor] = value
        for run in () if held is None else held.runs:
            expected[run.tensor][run.first : run.first + run.rows] = value[at : at + run.rows]
            at += run.rows
    assert [name for name, tensor in expected.items() if not torch.equal(tensor, out[name])] == []


def test_flux_from_the_file_to_the_file(local: LocalRegistry, tmp_path: Path) -> None:
    """q, k and v, linear1 and the final modulation, whose halves are swapped; the LoRA has diffusers' names."""
    model = made("flux")
    own = drawn(model, torch.bfloat16)
    files = native_of(model, own)
    save_file(files, tmp_path / "flux1-tiny.safetensors", metadata={"format": "pt"})
    added = local.add_base("flux", tmp_path / "flux1-tiny.safetensors")
    assert (added.base.architecture, [one.path for one in added.base.files]) == (
        "FluxPipeline", ["flux1-tiny.safetensors"])  # fmt: skip
    chosen = ("attn.to_q.weight", "attn.to_v.weight", "add_k_proj.weight", "proj_mlp.weight", "norm_out.linear.weight")
    weights = {f"transformer.{name}": one for name, one in own.items() if name.endswith(chosen)}
    merged = kohya(weights, tmp_path / "char.safetensors", {"transformer": "lora_transformer_"})
    local.publish(tmp_path / "char.safetensors", "flux/char")
    local.fetch("flux/char", tmp_path / "out", kind="merged")
    check(load_file(tmp_path / "out/flux1-tiny.safetensors"), files, merged, table_of(files))
    assert local.verify(tmp_path / "out").mismatches == ()


@pytest.mark.parametrize(
    ("family", "pipeline"),
    [("wan", "WanImageToVideoPipeline"), ("z-image", "ZImagePipeline"), ("qwen-image", "QwenImagePipeline")],
)
def test_a_denoiser_alone_in_its_file(family: str, pipeline: str, local: LocalRegistry, tmp_path: Path) -> None:
    """As ComfyUI keeps them, without anything before the names; the LoRA has native names, as trainers write them."""
    model = made(family)
    own = drawn(model, torch.bfloat16)
    files = native_of(model, own)
    files |= {} if family == "qwen-image" else renamed(family, own, files)
    save_file(files, tmp_path / "tiny.safetensors")
    added = local.add_base("tiny", tmp_path / "tiny.safetensors")
    assert added.base.architecture == pipeline
    chosen = (
        "self_attn.q.weight",
        "ffn.0.weight",
        "attn.k_img.weight",
        "attention.qkv.weight",
        "feed_forward.w1.weight",
        "attn.add_k_proj.weight",
        "img_mod.1.weight",
        "txt_mlp.net.0.proj.weight",
    )
    native = {f"x.{name}": one for name, one in files.items() if name.endswith(chosen)}
    assert len(native) >= 3
    merged = kohya(native, tmp_path / "style.safetensors", {"x": "diffusion_model."})
    local.publish(tmp_path / "style.safetensors", "tiny/style")
    local.fetch("tiny/style", tmp_path / "out", kind="merged")
    direct = {name.removeprefix("x."): one for name, one in merged.items()}
    check(load_file(tmp_path / "out/tiny.safetensors"), files, direct)


def test_native_names_change_native_rows(local: LocalRegistry, flux: Tensors, tmp_path: Path) -> None:
    """kohya's LoRA of FLUX is of the file's own modules: its product is added to them as they are stored."""
    files = flux
    folder = tmp_path / "alone"
    folder.mkdir()
    save_file(files, folder / "flux.safetensors")
    local.add_base("flux", folder)
    chosen = ("qkv.weight", "linear1.weight", "linear2.weight", "adaLN_modulation.1.weight", "mod.lin.weight")
    native = {f"x.{name}": one for name, one in files.items() if name.endswith(chosen)}
    merged = kohya(native, tmp_path / "style.safetensors", {"x": "lora_unet_"})
    local.publish(tmp_path / "style.safetensors", "flux/style")
    local.fetch("flux/style", tmp_path / "out", kind="merged")
    direct = {name.removeprefix("x."): one for name, one in merged.items()}
    check(load_file(tmp_path / "out/flux.safetensors"), files, direct)


@pytest.fixture
def whole(saved: Saved) -> Tensors:
    """SDXL in one file, with both text encoders, of the pipeline that diffusers saved."""
    own = weights_in(saved("SDXL"))

    def part(name: str) -> Tensors:
        lead = f"{name}."
        return {one.removeprefix(lead): tensor for one, tensor in own.items() if one.startswith(lead)}

    return (
        led("model.diffusion_model.", native_of(made("sdxl"), part("unet")))
        | led("conditioner.embedders.0.transformer.", part("text_encoder"))
        | led("conditioner.embedders.1.model.", open_clip_of(part("text_encoder_2")))
        | led("first_stage_model.", part("vae"))
        | {"conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(16)[None]}
    )


def test_sdxl_with_its_text_encoders(local: LocalRegistry, saved: Saved, whole: Tensors, tmp_path: Path) -> None:
    """The same LoRA file on the pipeline and on the single file gives the same weights."""
    save_file(whole, tmp_path / "Illustrious.safetensors")
    local.add_base("illustrious", tmp_path / "Illustrious.safetensors")
    own = weights_in(saved("SDXL"))
    chosen = ("_proj.weight", "to_q.weight", "ff.net.2.weight", "proj_in.weight", "conv1.weight")
    leads = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
    changed = {
        name: one for name, one in own.items() if name.endswith(chosen) and name.partition(".")[0] in leads
    }  # fmt: skip
    merged = kohya(changed, tmp_path / "char.safetensors", leads)
    local.publish(tmp_path / "char.safetensors", "illustrious/char")
    local.fetch("illustrious/char", tmp_path / "out", kind="merged")
    table = table_of(whole)
    placed = {
        name if name in table.parameters else name.replace(".", ".text_model.", 1): one for name, one in merged.items()
    }
    check(load_file(tmp_path / "out/Illustrious.safetensors"), whole, placed, table)
    used = snippets(local.show("illustrious/char"), "illustrious/char", "registry", "lora", [], is_open=True)
    assert [row.name for row in used] == ["cli", "python", "checkpoint", "comfyui", "forge", "vllm-omni", "curl"]


def _without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {one: tensor for one, tensor in tensors.items() if name not in one}


def _with(name: str, tensor: torch.Tensor) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: tensor}


MATRIX = torch.zeros(2, 2)


@pytest.fixture(scope="module")
def flux() -> Tensors:
    """FLUX' own file."""
    return native_of(made("flux"), drawn(made("flux"), torch.bfloat16))


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (_with("scaled_fp8", torch.zeros(2)), "quantised_base", "'scaled_fp8'"),
        (_with("double_blocks.0.img_attn.qkv.scale_weight", MATRIX[0]), "quantised_base", "scale_weight"),
        (lambda own: {name: one.to(torch.float8_e4m3fn) for name, one in own.items()}, "quantised_base", "F8_E4M3"),
        (_with("double_blocks.0.img_attn.extra.weight", MATRIX), "architecture", "'double_blocks.0.img_attn.extra"),
        (_with("joint_blocks.0.x_block.attn.qkv.weight", MATRIX), "architecture", "'joint_blocks.0.x_block"),
        (_with("something.weight", MATRIX), "architecture", "'something.weight'"),
        (_with("model.diffusion_model.img_in.weight", MATRIX), "architecture", "'model.diffusion_model.img_in"),
        (_with("double_blocks.0.img_attn.qkv.bias", torch.zeros(47)), "architecture", "3 parts .*img_attn.qkv.bias"),
        (_with("final_layer.adaLN_modulation.1.bias", torch.zeros(3)), "architecture", "halves .* 3 rows"),
        (_without("time_in.in_layer"), "architecture", "no denoiser that is known"),
        (_without("double_blocks.0.txt_mlp.0"), "architecture", "no denoiser that is known"),
    ],
)
def test_single_files_that_are_refused(
    flux: Tensors, change: Callable[[Tensors], Tensors], code: str, says: str
) -> None:
    with pytest.raises(InvalidBaseError, match=says) as problem:
        table_of(change(flux))
    assert problem.value.code == code


@pytest.mark.parametrize(
    "name", ["conditioner.embedders.1.model.strange.weight", "another_model.weight", "conditioner.embedders.2.x.weight"]
)
def test_a_part_that_nobody_knows_is_refused(flux: Tensors, name: str) -> None:
    """Beside a denoiser that is understood: what is unknown is no part that may be copied unseen."""
    known = led("model.diffusion_model.", flux) | BESIDE
    table_of(known)
    with pytest.raises(InvalidBaseError, match=f"no part that is known here: '{name}'") as problem:
        table_of(known | {name: MATRIX})
    assert problem.value.code == "architecture"


def test_a_refused_file_is_not_stored(local: LocalRegistry, flux: Tensors, tmp_path: Path) -> None:
    save_file(flux | {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "flux.safetensors")
    with pytest.raises(InvalidBaseError) as problem:
        local.add_base("flux", tmp_path / "flux.safetensors")
    assert problem.value.code == "quantised_base"
    assert local.bases() == ()
    save_file(flux, tmp_path / "flux.safetensors")
    local.add_base("flux", tmp_path / "flux.safetensors")
    with pytest.raises(RegistryError, match=r"flux.safetensors is a checkpoint .*registry base add"):
        local.publish(tmp_path / "flux.safetensors", "flux/full", full=True)


def test_open_clip_is_what_diffusers_reads() -> None:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    model = clip(projected=True)
    own = {f"text_model.{name.removeprefix('text_model.')}": one for name, one in drawn(model).items()}
    own["text_projection.weight"] = own.pop("text_model.text_projection.weight")
    files = led("conditioner.embedders.1.model.", open_clip_of(own))
    peer = convert_open_clip_checkpoint(model, dict(files), prefix="conditioner.embedders.1.model.")
    table = table_of(files | led("model.diffusion_model.", native_of(made("sdxl"), drawn(made("sdxl")))))
    found = {name for name in table.parameters if name.startswith("text_encoder_2.")}
    assert {name.removeprefix("text_encoder_2.") for name in found} == set(own) - {"text_projection.weight"}
    embeddings = {name for name, one in table.targets.items() if one.kind == "embedding"}
    assert embeddings == {f"text_encoder_2.text_model.embeddings.{one}_embedding" for one in ("token", "position")}
    for name in found:
        bare = name.removeprefix("text_encoder_2.")
        assert torch.equal(parameter_of(table, name, files), own[bare]), name
        assert torch.equal(peer[bare], own[bare]), name


def test_over_http(flux: Tensors, tmp_path: Path) -> None:
    save_file(flux, tmp_path / "flux.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"another model beside it")
    merged = kohya({"x.img_in.weight": flux["img_in.weight"]}, tmp_path / "char.safetensors", {"x": "lora_unet_"})
    with closing(open_http(tmp_path)) as registry:
        registry.add_base("flux", tmp_path / "flux.safetensors")
        registry.publish(tmp_path / "char.safetensors", "flux/char")
        registry.fetch("flux/char", tmp_path / "out", kind="merged")
    out = load_file(tmp_path / "out" / "flux.safetensors")
    check(out, flux, {name.removeprefix("x."): one for name, one in merged.items()})
