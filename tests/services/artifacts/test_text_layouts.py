"""LoRAs as llama.cpp and mlx-lm read them: against the change that the adapters make, in float64.

The file of llama.cpp is read by the package ``gguf``; rows of queries and keys are put back as its Llama computes them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from registry.errors import InvalidAdapterError, UsageError
from registry.schemas.form import EngineName, Layout
from registry.services.local import LocalRegistry
from registry.tensors.composed.gguf_file import by_turns
from registry.tensors.composed.spelling import AdapterTensor
from tests.kit.adapters import write_adapter
from tests.kit.bases import Base, gpt2_base, llama_base
from tests.kit.tensor_files import RawTensor, read_model, write_model

Array = np.ndarray[Any, Any]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
HEADS = {"attn_q": 4, "attn_k": 2}
LAYOUTS: list[tuple[EngineName, Layout]] = [("llama.cpp", "gguf"), ("mlx", "mlx")]


def of_type(folder: Path, model_type: str) -> Base:
    """A model of another type with the shapes of a Llama: Qwen2 has biases beside, Qwen3 norms of heads."""
    base = llama_base(folder)
    config = json.loads((folder / "config.json").read_text())
    title = {"mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}[model_type]
    config |= {"model_type": model_type, "architectures": [f"{title}ForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = dict(read_model(folder))
    for name, value in tuple(tensors.items()):
        module = name.removesuffix(".weight")
        if model_type == "qwen2" and module.endswith(("q_proj", "k_proj", "v_proj")):
            tensors[f"{module}.bias"] = RawTensor.of(value.values[:, 0], "F32")
        if model_type == "qwen3" and module.endswith(("q_proj", "k_proj")):
            tensors[f"{module.removesuffix('_proj')}_norm.weight"] = RawTensor.of(np.ones(4), "F32")
    write_model(folder, tensors, 1)
    return base


@pytest.fixture
def path(local: LocalRegistry, tmp_path: Path) -> Mapping[str, Array]:
    """A path of two links with other ranks and alphas, as ``tiny/one/two``; the change of each module."""
    base = llama_base(tmp_path / "of-path")
    one = write_adapter(tmp_path / "one", base, alpha=6, rank_pattern={"q_proj": 3}, seed=1)
    two = write_adapter(tmp_path / "two", base, ["q_proj", "k_proj", "down_proj"], r=2, alpha=2, seed=2)
    local.add_base("tiny", base.folder)
    local.publish(one, "tiny/one")
    local.publish(two, "tiny/one/two")
    return changes(base, [one, two])


def changes(base: Base, adapters: list[Path]) -> Mapping[str, Array]:
    """What adapters add to each module, by the tests' own reading of them."""
    found = {}
    for module in base.modules.values():
        total: Array = np.zeros(module.oriented)
        for folder in adapters:
            config, tensors = json.loads((folder / "adapter_config.json").read_text()), load_file_of(folder)
            lead = f"base_model.model.{module.name}"
            if f"{lead}.lora_A.weight" in tensors:
                a, b = (tensors[f"{lead}.lora_{side}.weight"].astype(np.float64) for side in "AB")
                total += b @ a * config["lora_alpha"] / a.shape[0]
        if total.any():
            found[module.name] = total
    return found


def load_file_of(folder: Path) -> dict[str, Array]:
    return load_file(folder / "adapter_model.safetensors")


def as_llama_cpp_adds(file: Path, heads: Mapping[str, int]) -> dict[str, Array]:
    """The change of each tensor, by llama.cpp's scale and with the rows of heads as transformers has them."""
    reader = gguf.GGUFReader(file)
    alpha = reader.fields["adapter.lora.alpha"].contents()
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["adapter.type"].contents() == "lora"
    tensors = {one.name: one.data.astype(np.float64) for one in reader.tensors}
    found = {}
    for name in {one.removesuffix(".weight.lora_a").removesuffix(".weight.lora_b") for one in tensors}:
        a, b = tensors[f"{name}.weight.lora_a"], tensors[f"{name}.weight.lora_b"]
        delta = b @ a * (alpha / a.shape[0])
        count = heads.get(name.rpartition(".")[2])
        if count:  # row 2 j + i of a head is row i * half + j of transformers
            half = delta.shape[0] // count // 2
            back = [head * 2 * half + 2 * j + i for head in range(count) for i in range(2) for j in range(half)]
            delta = delta[back]
        found[name] = delta
    return found


def same(found: Mapping[str, Array], wanted: Mapping[str, Array], error: float = 2e-7) -> None:
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        assert np.abs(found[name] - delta).max() <= error * np.abs(delta).max(), name


def by_gguf(wanted: Mapping[str, Array]) -> dict[str, Array]:
    """The changes by llama.cpp's names, written by hand."""
    parts = [(name.split(".", 3), delta) for name, delta in wanted.items()]
    return {f"blk.{layer}.{NAMES[module]}": delta for (_, _, layer, module), delta in parts}


def test_llama_cpp_adds_what_the_path_adds(local: LocalRegistry, path: Mapping[str, Array], tmp_path: Path) -> None:
    fetched = local.fetch("tiny/one/two", tmp_path / "out", engine="llama.cpp")
    assert {file.path for file in fetched.files} == {"adapter.gguf", "README.md"}
    file = tmp_path / "out" / "adapter.gguf"
    assert gguf.GGUFReader(file).fields["general.architecture"].contents() == "llama"
    same(as_llama_cpp_adds(file, HEADS), by_gguf(path))
    assert local.verify(tmp_path / "out").equal
    assert local.check("tiny/one/two", engine="llama.cpp").loads


def test_llama_cpp_gets_other_dtypes_and_lower_ranks(
    local: LocalRegistry, path: Mapping[str, Array], tmp_path: Path
) -> None:
    local.fetch("tiny/one/two", tmp_path / "half", engine="llama.cpp", dtype="fp16")
    same(as_llama_cpp_adds(tmp_path / "half" / "adapter.gguf", HEADS), by_gguf(path), 2e-3)
    local.fetch("tiny/one/two", tmp_path / "low", engine="llama.cpp", rank=1, dtype="bf16")
    tensors = gguf.GGUFReader(tmp_path / "low" / "adapter.gguf").tensors
    assert {one.tensor_type for one in tensors} == {gguf.GGMLQuantizationType.BF16}
    assert {int(one.shape[1]) for one in tensors if one.name.endswith("lora_a")} == {1}


@pytest.mark.parametrize(("model_type", "heads"), [("mistral", HEADS), ("qwen2", {}), ("qwen3", {})])
def test_only_llama_has_its_rows_by_turns(
    local: LocalRegistry, tmp_path: Path, model_type: str, heads: Mapping[str, int]
) -> None:
    base = of_type(tmp_path / "of-type", model_type)
    adapter = write_adapter(tmp_path / "one", base, seed=1)
    local.add_base(model_type, base.folder)
    local.publish(adapter, f"{model_type}/one")
    local.fetch(f"{model_type}/one", tmp_path / "out", engine="llama.cpp")
    file = tmp_path / "out" / "adapter.gguf"
    wanted = {"mistral": "llama"}.get(model_type, model_type)
    assert gguf.GGUFReader(file).fields["general.architecture"].contents() == wanted
    same(as_llama_cpp_adds(file, heads), by_gguf(changes(base, [adapter])))


def test_mlx_adds_what_the_path_adds(local: LocalRegistry, path: Mapping[str, Array], tmp_path: Path) -> None:
    fetched = local.fetch("tiny/one/two", tmp_path / "out", engine="mlx")
    assert {file.path for file in fetched.files} == {"adapter_config.json", "adapters.safetensors", "README.md"}
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    told, tensors = config["lora_parameters"], load_file(tmp_path / "out" / "adapters.safetensors")
    assert (config["fine_tune_type"], config["num_layers"]) == ("lora", 2)
    assert sorted(told["keys"]) == sorted(NAMES)
    found = {}
    for name in {one.rpartition(".")[0] for one in tensors}:
        a, b = (tensors[f"{name}.lora_{side}"].astype(np.float64) for side in "ab")
        assert a.shape[1] == b.shape[0] == told["rank"]
        found[name] = told["scale"] * (a @ b).T  # y + scale * (x @ a) @ b
    same(found, path)
    assert local.verify(tmp_path / "out").equal


def head(base: Base, folder: Path) -> Path:
    return write_adapter(folder, base, ["q_proj", "lm_head"], seed=1)


def embedding(base: Base, folder: Path) -> Path:
    return write_adapter(folder, base, ["embed_tokens"], seed=1)


def dora(base: Base, folder: Path) -> Path:
    write_adapter(folder, base, ["q_proj"], seed=1, config={"use_dora": True})
    tensors = load_file_of(folder)
    for name in [one for one in tensors if one.endswith("lora_A.weight")]:
        tensors[name.replace("lora_A.weight", "lora_magnitude_vector")] = np.ones(16, np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def bias(base: Base, folder: Path) -> Path:
    write_adapter(folder, base, ["q_proj"], seed=1, config={"modules_to_save": ["model.norm"]})
    tensors = {**load_file_of(folder), "base_model.model.model.norm.weight": np.ones(16, np.float32)}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


ODD: list[tuple[Callable[[Base, Path], Path], str, str]] = [
    (head, "adapts 'lm_head'", "lm_head"),
    (embedding, "adapts 'model.embed_tokens'", "model.embed_tokens"),
    (dora, "has DoRA links on", "magnitudes"),
    (bias, "changes 'model.norm.weight'", "model.norm"),
]


@pytest.mark.parametrize(("made", "written", "checked"), ODD)
def test_what_has_no_place_there_is_refused_by_name(
    local: LocalRegistry, tmp_path: Path, made: Callable[[Base, Path], Path], written: str, checked: str
) -> None:
    base = llama_base(tmp_path / "of-odd")
    local.add_base("odd", base.folder)
    local.publish(made(base, tmp_path / "one"), "odd/one")
    for engine, layout in LAYOUTS:
        assert not local.check("odd/one", engine=engine).loads
        with pytest.raises(InvalidAdapterError, match=checked):
            local.fetch("odd/one", tmp_path / "out", engine=engine)
        with pytest.raises(InvalidAdapterError, match=written):
            local.artifact("odd/one", layout=layout)
    assert not (tmp_path / "out").exists()


def test_other_models_are_refused_by_their_type(local: LocalRegistry, tmp_path: Path) -> None:
    base = gpt2_base(tmp_path / "of-other")
    local.add_base("other", base.folder)
    local.publish(write_adapter(tmp_path / "one", base, ["c_attn"], seed=1), "other/one")
    for engine, layout in LAYOUTS:
        with pytest.raises(InvalidAdapterError, match="type gpt2"):
            local.fetch("other/one", tmp_path / "out", engine=engine)
        with pytest.raises(InvalidAdapterError, match="type gpt2, and what is written for it are llama, mistral"):
            local.artifact("other/one", layout=layout)


def test_without_the_package_the_extra_is_named(
    local: LocalRegistry, path: Mapping[str, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert path
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UsageError, match=r"install adapter-registry\[gguf\] there"):
        local.fetch("tiny/one/two", tmp_path / "out", engine="llama.cpp")
    local.fetch("tiny/one/two", tmp_path / "mlx", engine="mlx")


def test_rows_of_heads_move_as_the_converter_moves_them() -> None:
    """``LlamaModel.permute`` of convert_hf_to_gguf.py, on heads of eight rows: of four it is its own inverse."""
    values = torch.arange(48.0).reshape(16, 3)
    turned = by_turns(AdapterTensor("q", (16, 3), lambda start, stop: values[start:stop]), 2)
    wanted = values.numpy().reshape(2, 2, 4, 3).swapaxes(1, 2).reshape(16, 3)
    assert wanted[:3, 0].tolist() == [0.0, 12.0, 3.0]
    for start, stop in ((0, 16), (3, 11), (15, 16)):
        assert np.array_equal(turned.rows(start, stop).numpy(), wanted[start:stop])


def test_heads_that_do_not_divide_the_rows_are_refused() -> None:
    tensor = AdapterTensor("q", (12, 2), lambda start, stop: torch.zeros(stop - start, 2))
    with pytest.raises(InvalidAdapterError, match="12 rows are not those of 4 heads"):
        by_turns(tensor, 4)
