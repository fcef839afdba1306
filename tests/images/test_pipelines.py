"""Pipelines as base models: every component is stored, LoRA files change several at once, and a merged one loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.errors import ConflictError, InvalidAdapterError, InvalidBaseError, UsageError
from registry.services.local import LocalRegistry
from tests.images.pipelines import save
from tests.images.test_lora_files import grid
from tests.kit.floats import round_once

Saved = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]

UNET = "unet/diffusion_pytorch_model.safetensors"
LEADS = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
CHANGED = ("_proj.weight", "to_q.weight", "ff.net.2.weight", "proj_in.weight")
RANK = 4


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The folder of a pipeline in bf16, made once."""
    kept: dict[str, Path] = {}

    def give(family: str) -> Path:
        if family not in kept:
            kept[family] = save(family, tmp_path_factory.mktemp("pipelines"))
        return kept[family]

    return give


def weights_in(folder: Path) -> Tensors:
    """All tensors of a pipeline, named with their component."""
    return {
        f"{file.parent.name}.{name}": tensor
        for file in sorted(folder.glob("*/*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def kohya(weights: Tensors, file: Path, leads: dict[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """Write a file that changes all attentions of some components; what each weight is then, rounded once."""
    drawn = torch.Generator().manual_seed(5)
    tensors: Tensors = {}
    merged: dict[str, np.ndarray[Any, Any]] = {}
    for name, weight in weights.items():
        component, _, rest = name.removesuffix(".weight").partition(".")
        if component not in leads or not name.endswith(CHANGED):
            continue
        if weight.ndim < 2 or rest == "text_projection":
            continue
        spelled = leads[component] + rest.replace(".", "_")
        down = grid((RANK, *weight.shape[1:]), drawn)
        up = grid((weight.shape[0], RANK, *(1 for _ in weight.shape[2:])), drawn)
        tensors |= {f"{spelled}.lora_down.weight": down, f"{spelled}.lora_up.weight": up}
        tensors[f"{spelled}.alpha"] = torch.tensor(2.0)
        delta = 0.5 * (up.double().reshape(-1, RANK) @ down.double().reshape(RANK, -1)).reshape(weight.shape)
        merged[name] = round_once((weight.double() + delta).numpy(), "BF16")
    save_file(tensors, file)
    return merged


def check(out: Path, base: Path, merged: dict[str, np.ndarray[Any, Any]]) -> None:
    """Hold a merged pipeline to the float64 sum, bit for bit, and all else to the base."""
    before, after = weights_in(base), weights_in(out)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        if name in merged:
            assert np.array_equal(tensor.double().numpy(), merged[name]), name
        else:
            assert torch.equal(tensor, before[name]), name
    for file in base.rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            assert (out / file.relative_to(base)).read_bytes() == file.read_bytes()


def test_a_file_changes_three_components_of_a_pipeline(local: LocalRegistry, saved: Saved, tmp_path: Path) -> None:
    base = saved("SDXL")
    added = local.add_base("sdxl", base)
    assert added.base.architecture == "StableDiffusionXLPipeline"
    merged = kohya(weights_in(base), tmp_path / "char.safetensors", LEADS)
    assert {name.partition(".")[0] for name in merged} == set(LEADS)
    local.publish(tmp_path / "char.safetensors", "sdxl/char")
    local.fetch("sdxl/char", tmp_path / "out", kind="merged")
    check(tmp_path / "out", base, merged)
    assert (tmp_path / "out" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == (
        base / "vae" / "diffusion_pytorch_model.safetensors"
    ).read_bytes()
    assert local.verify(tmp_path / "out").mismatches == ()


def test_the_second_of_two_links_and_the_composed_one(local: LocalRegistry, saved: Saved, tmp_path: Path) -> None:
    base = saved("SDXL")
    local.add_base("sdxl", base)
    kohya(weights_in(base), tmp_path / "one.safetensors", LEADS)
    kohya(weights_in(base), tmp_path / "two.safetensors", {"unet": "lora_unet_"})
    local.publish(tmp_path / "one.safetensors", "sdxl/one")
    local.publish(tmp_path / "two.safetensors", "sdxl/one/two")
    local.fetch("sdxl/one/two", tmp_path / "lora")
    composed = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert {name.split(".")[2] for name in composed} == set(LEADS)
    local.publish(tmp_path / "lora", "sdxl/again", parent="sdxl")
    local.fetch("sdxl/one/two", tmp_path / "a", kind="merged", dtype="fp32")
    local.fetch("sdxl/again", tmp_path / "b", kind="merged", dtype="fp32")
    one, other = weights_in(tmp_path / "a"), weights_in(tmp_path / "b")
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=0, atol=1e-6), name


def test_dtype_reaches_the_configurations_that_say_one(local: LocalRegistry, saved: Saved, tmp_path: Path) -> None:
    base = saved("SDXL")
    local.add_base("sdxl", base)
    local.fetch("sdxl", tmp_path / "out", kind="merged", dtype="fp32")
    cast = weights_in(tmp_path / "out")
    assert {tensor.dtype for tensor in cast.values()} == {torch.float32}
    before = weights_in(base)
    assert cast.keys() == before.keys()  # each file names its tensors without the component
    assert all(torch.equal(cast[name], tensor.float()) for name, tensor in before.items())
    assert json.loads((tmp_path / "out/text_encoder/config.json").read_text())["dtype"] == "float32"
    unet = (tmp_path / "out/unet/config.json").read_bytes()
    assert unet == (base / "unet/config.json").read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_pipeline_loads_and_draws_the_same(local: LocalRegistry, saved: Saved, tmp_path: Path) -> None:
    """The merged pipeline equals what diffusers makes of our weights by hand, to the last bit of the picture."""
    from diffusers import StableDiffusionXLPipeline

    base = saved("SDXL")
    local.add_base("sdxl", base)
    merged = kohya(weights_in(base), tmp_path / "char.safetensors", {"unet": "lora_unet_"})
    local.publish(tmp_path / "char.safetensors", "sdxl/char")
    local.fetch("sdxl/char", tmp_path / "out", kind="merged")
    found = StableDiffusionXLPipeline.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    by_hand = StableDiffusionXLPipeline.from_pretrained(base, dtype=torch.bfloat16)
    own = dict(by_hand.unet.named_parameters())
    with torch.no_grad():
        for name, values in merged.items():
            own[name.removeprefix("unet.")].copy_(torch.from_numpy(values))
    pictures = []
    for pipe in (found, by_hand):
        pipe.set_progress_bar_config(disable=True)
        drawn = pipe("a b", num_inference_steps=2, height=16, width=16, output_type="np",
                     generator=torch.Generator().manual_seed(1))  # fmt: skip
        pictures.append(drawn.images)
    assert np.array_equal(*pictures)


def split(base: Path, out: Path) -> Path:
    """The pipeline with its unet in two files and an index, all called fp16, and a second, plain unet."""
    shutil.copytree(base, out)
    tensors = load_file(out / UNET)
    names = sorted(tensors)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    weight_map: dict[str, str] = {}
    for number, half in enumerate(halves, 1):
        file = f"diffusion_pytorch_model.fp16-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in half}, out / "unet" / file)
        weight_map |= dict.fromkeys(half, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (out / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    return out


def test_one_variant_is_taken(local: LocalRegistry, saved: Saved, tmp_path: Path) -> None:
    folder = split(saved("SDXL"), tmp_path / "two")
    plain = local.add_base("plain", folder)
    half = local.add_base("half", folder, variant="fp16")
    assert [one.path for one in plain.left_out if "fp16" in one.path] == [
        f"unet/{name}"
        for name in (
            "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
            "diffusion_pytorch_model.safetensors.index.fp16.json",
        )
    ]
    assert UNET in [one.path for one in half.left_out]
    merged = kohya(weights_in(saved("SDXL")), tmp_path / "char.safetensors", LEADS)
    local.publish(tmp_path / "char.safetensors", "half/char")
    local.fetch("half/char", tmp_path / "out", kind="merged")
    after = weights_in(tmp_path / "out")
    for name, values in merged.items():
        assert np.array_equal(after[name].double().numpy(), values), name
    local.fetch("half/char", tmp_path / "wide", kind="merged", dtype="fp32")
    index = json.loads((tmp_path / "wide/unet/diffusion_pytorch_model.safetensors.index.fp16.json").read_text())
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for name, tensor in weights_in(tmp_path / "wide").items() if name.startswith("unet.")
    )
    assert set(index["weight_map"]) == set(load_file(saved("SDXL") / UNET))
    assert {tensor.dtype for tensor in weights_in(tmp_path / "wide").values()} == {torch.float32}
    with pytest.raises(InvalidBaseError, match=r"[Nn]o component .* variant 'bf16'; it has fp16") as problem:
        local.add_base("other", folder, variant="bf16")
    assert problem.value.code == "variant_unclear"


def test_one_component_in_several_files_and_beside_variants(local: LocalRegistry, saved: Saved, tmp_path: Path) -> None:
    """As real transformers are saved, and as a unet lies on the Hub."""
    folder = split(saved("SDXL"), tmp_path / "two")
    local.add_base("plain", folder / "unet")
    for file in list((folder / "unet").glob("*fp16*")):
        file.rename(file.with_name(file.name.replace("index.fp16", "index").replace("model.fp16", "model")))
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(index.read_text().replace("model.fp16", "model"))
    with pytest.raises(InvalidBaseError, match=r"both diffusion_pytorch_model\.safetensors and"):
        local.add_base("both", folder / "unet")
    (folder / UNET).unlink()
    assert local.add_base("sharded", folder / "unet").base.digest == local.bases()[0].digest
    local.fetch("sharded", tmp_path / "wide", kind="merged", dtype="fp32")
    assert json.loads((tmp_path / "wide" / index.name).read_text())["metadata"]["total_size"] == sum(
        tensor.nbytes for file in (tmp_path / "wide").glob("*.safetensors") for tensor in load_file(file).values()
    )


def _without_index(folder: Path) -> None:
    (folder / UNET).unlink()
    next((folder / "unet").glob("*index*")).unlink()


def _pickle(folder: Path) -> None:
    (folder / "vae/diffusion_pytorch_model.safetensors").rename(folder / "vae/diffusion_pytorch_model.bin")


def _changed(name: str, **fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**document, **fields}))

    return change


def _code(folder: Path) -> None:
    (folder / "mine.py").write_text("raise SystemExit")
    _changed("model_index.json", unet=["mine", "MyUNet"])(folder)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (_without_index, "bad_index", "2 files of weights and no index"),
        (_pickle, "missing_file", "component vae .AutoencoderKL. has no safetensors"),
        (lambda folder: shutil.rmtree(folder / "text_encoder"), "missing_file", "no folder text_encoder"),
        (_code, "remote_code", "mine.py"),
        (_changed("model_index.json", _class_name=["pipe", "Mine"]), "remote_code", "class"),
        (_changed("unet/config.json", quantization_config={"quant_method": "x"}), "quantised_base", "unet"),
        (_changed("unet/config.json", auto_map={"AutoModel": "x.Y"}), "remote_code", "unet"),
    ],
)
def test_pipelines_that_are_refused(
    local: LocalRegistry, saved: Saved, tmp_path: Path, change: Callable[[Path], None], code: str, says: str
) -> None:
    folder = split(saved("SDXL"), tmp_path / "folder")
    change(folder)
    with pytest.raises(InvalidBaseError, match=says) as problem:
        local.add_base("sdxl", folder)
    assert problem.value.code == code
    assert local.bases() == ()


def test_another_scheduler_is_another_base(local: LocalRegistry, saved: Saved, tmp_path: Path) -> None:
    local.add_base("sdxl", saved("SDXL"))
    assert not local.add_base("sdxl", saved("SDXL")).created
    other = tmp_path / "other"
    shutil.copytree(saved("SDXL"), other)
    _changed("scheduler/scheduler_config.json", num_train_timesteps=7)(other)
    with pytest.raises(ConflictError) as problem:
        local.add_base("sdxl", other)
    assert problem.value.code == "other_weights"


def test_names_that_fit_two_components_are_asked_about(local: LocalRegistry, saved: Saved, tmp_path: Path) -> None:
    local.add_base("sdxl", saved("SDXL"))
    weights = weights_in(saved("SDXL"))
    kohya(weights, tmp_path / "bare.safetensors", {"text_encoder": "lora_unet_"})
    with pytest.raises(InvalidAdapterError, match="--component text_encoder") as problem:
        local.publish(tmp_path / "bare.safetensors", "sdxl/bare")
    assert problem.value.code == "component_unclear"
    answer = local.publish(tmp_path / "bare.safetensors", "sdxl/bare", component="text_encoder_2")
    local.fetch(answer.revision.reference, tmp_path / "lora")
    composed = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert {name.split(".")[2] for name in composed} == {"text_encoder_2"}
    with pytest.raises(UsageError, match=r"--component unet .* adapter_config.json"):
        local.publish(tmp_path / "lora", "sdxl/other", component="unet")
    with pytest.raises(InvalidAdapterError, match="no component 'vae'"):
        local.publish(tmp_path / "bare.safetensors", "sdxl/other", component="vae")
