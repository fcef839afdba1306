"""Which names beside an artifact are those that programs load: held against the sources of what is installed here."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from registry.folders.receipts import Beside, advice, beside, is_loaded

_FILE: Final = re.compile(
    r"""["']([A-Za-z0-9_.-]+\.(?:json|safetensors|bin|pt|pth|h5|msgpack|gguf|jinja|txt|model|spm|pkl|onnx|xml|codes|dduf))["']"""
)
_OF_TOOLS: Final = re.compile(
    # what a Trainer leaves
    r"all_results|trainer_state|training_args|optimizer|scheduler|scaler|rng_state|user_content|checkpoint-is-incomplete"
    # reports of tests, exporters, debugging, and packaging
    r"|captured_info|deps_|module_graph|network_debug|report|_FULL_TENSORS|_SUMMARY|direct_url|export\.json|version\.|requirements"
    r"|test_corrections|top_level|plugin\.json|modelcard"
    # data that is read by name elsewhere
    r"|dataset\.pt|train-batch|stereo_chemical|my_configuration"
)
"""File names in the sources that nothing reads at the root of a model: what trainers and tools write, and tests."""


@pytest.mark.parametrize("package", ["transformers", "peft", "sentence_transformers"])
def test_what_installed_packages_read_is_loaded(package: str) -> None:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    found = set()
    for file in Path(spec.origin).parent.rglob("*.py"):
        if not file.name.startswith(("convert_", "test_")):
            found |= set(_FILE.findall(file.read_text(encoding="utf-8", errors="ignore")))
    assert len(found) > 5
    names = {name for name in found if not _OF_TOOLS.match(name) and not name.startswith(".")}
    missed = {name for name in names if not is_loaded(name)}
    assert missed == set()
    assert {name for name in found - names if is_loaded(name)} <= {"my_configuration.json", "module_graph.json"}


@pytest.mark.parametrize(
    "name",
    [
        "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "config.json",
        "generation_config.json",
        "model-00002-of-00002.safetensors", "model.fp16.safetensors", "model.safetensors.index.json", "tf_model.h5",
        "pytorch_model.bin", "flax_model.msgpack", "llama-Q4.GGUF", "consolidated.00.pth", "params.json", "tekken.json",
        "quantize_config.json", "quantization_config.json", "hf_quant_config.json", "tokenizer.json", "merges.txt",
        "chat_template.jinja", "modeling_evil.py", "modules.json", "model_index.json", "new_embeddings.safetensors",
        "pytorch_lora_weights.safetensors", "diffusion_pytorch_model.bin", "model_head.pkl", "processor_config.json",
    ],
)  # fmt: skip
def test_weights_configurations_tokenizers_and_code_are_loaded(name: str) -> None:
    assert is_loaded(name)


@pytest.mark.parametrize(
    "name",
    [
        "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "random_states_0.pkl", "notes.txt",
        "trainer_state.json", "all_results.json", "eval_results.json", "trainer_log.jsonl", "README.md",
        ".gitattributes",
        "training_loss.png", "events.out.tfevents.1", "args.json", "LICENSE",
    ],
)  # fmt: skip
def test_what_trainers_and_people_leave_is_not(name: str) -> None:
    assert not is_loaded(name)


def _write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_the_root_and_the_folders_of_parts_are_looked_at(tmp_path: Path) -> None:
    own = ["config.json", "model.safetensors", "1_Pooling/config.json", "unet/config.json"]
    _write(tmp_path, "registry-receipt.json", *own)
    assert beside(tmp_path, own) == Beside()
    _write(tmp_path, "1_Pooling/pytorch_model.bin", "2_Dense/model.safetensors", "additional_chat_templates/x.jinja")
    _write(tmp_path, "unet/diffusion_pytorch_model.bin")
    _write(tmp_path, "checkpoint-3/model.safetensors", "runs/a/config.json", ".git/config.json", "notes.txt")
    (tmp_path / "adapter_config.json").symlink_to(tmp_path / "nowhere")
    found = beside(tmp_path, own)
    assert found.loaded == (
        "1_Pooling/pytorch_model.bin", "2_Dense/model.safetensors", "adapter_config.json",
        "additional_chat_templates/x.jinja", "unet/diffusion_pytorch_model.bin",
    )  # fmt: skip
    assert found.others == (".git/", "checkpoint-3/", "notes.txt", "runs/")
    assert found.names == tuple(sorted(found.loaded + found.others))


def test_the_sentence_says_what_to_do() -> None:
    pair = ["adapter_model.safetensors", "adapter_config.json"]
    assert advice(pair, "net/one@1 as merged") == (
        "contains adapter_config.json and adapter_model.safetensors, which are not of net/one@1 as merged, and "
        "programs that load the folder read them, an adapter on top of the weights: move the adapter into a folder of "
        "its own"
    )
    assert advice(["tokenizer.json"], "net as merged").endswith("read it: move it into another folder")
    many = [f"{number}.bin" for number in range(6)]
    assert "contains 0.bin, 1.bin, 2.bin, 3.bin and 2 more, which are not" in advice(many, "net as merged")
