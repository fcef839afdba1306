"""The adapter of a model in memory becomes a revision, whatever loop trained it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry.errors import UsageError
from registry.reference import Path as TreePath
from registry.training import publish_model
from registry.training.publishing import loaded_commit, note_commit, save_adapter
from tests.kit.tensor_files import read_tensors
from tests.training.conftest import Desk

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")]


def test_what_is_published_is_what_peft_saves(desk: Desk) -> None:
    model = desk.trained()
    published = publish_model(
        model, "llama/support", message="by hand", metrics={"acc": 0.5}, tags=["prod"], annotations={"data": "tickets"}
    )
    one = published.revision
    assert (one.reference, one.message, one.metrics, one.tags) == (
        "llama/support@1",
        "by hand",
        {"acc": 0.5},
        ("prod",),
    )
    assert one.annotations["data"] == "tickets"
    model.save_pretrained(desk.folder / "saved")
    fetched = desk.team.fetch("llama/support", desk.folder / "fetched", kind="published")
    for name in ("adapter_model.safetensors", "README.md"):
        assert (desk.folder / "fetched" / name).read_bytes() == (desk.folder / "saved" / name).read_bytes()
    assert fetched.reference == "llama/support@1"
    assert not publish_model(model, "llama/support").created


@pytest.mark.parametrize("by_callback", [False, True])
def test_how_the_loaded_model_was_quantised_is_in_the_revision(desk: Desk, by_callback: bool) -> None:
    """Newer versions of PEFT write it nowhere."""
    model = desk.trained()
    block = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    model.get_base_model().config.quantization_config = block | {"bnb_4bit_use_double_quant": True}
    if by_callback:
        from registry.training.publishing import note_quantised

        folder = save_adapter(model, "default", desk.folder / "saved")
        for _ in range(2):  # once, however often it is saved
            note_quantised(folder, model)
        assert (folder / "README.md").read_text().count("quantization config was used") == 1
        published = desk.team.publish(folder, "llama/support")
    else:
        published = publish_model(model, "llama/support")
    assert str(desk.team.show("llama/support").trained_quantised) == "nf4:64:double"
    assert any("README.md says 4 bits" in notice for notice in published.revision.notices)
    model.get_base_model().config.quantization_config = {"quant_method": "gptq", "bits": 4}
    publish_model(model, "llama/other")
    assert desk.team.show("llama/other").trained_quantised is None


def test_a_child_is_pinned_to_the_folder_that_was_loaded(desk: Desk) -> None:
    publish_model(desk.trained(), "llama/support")
    publish_model(desk.trained(lora_alpha=2), "llama/support")
    desk.team.fetch("llama/support@1", desk.folder / "merged", kind="merged")
    published = publish_model(desk.trained(desk.folder / "merged"), "llama/support/french")
    assert (published.revision.parent, published.revision.parent_known_by) == ("llama/support@1", "receipt")


def test_one_of_several_adapters_is_named_or_active(desk: Desk) -> None:
    from peft import LoraConfig

    model = desk.trained()
    model.add_adapter("other", LoraConfig(r=4, target_modules=["k_proj"]))
    assert publish_model(model, "llama/one").revision.rank == 2
    assert publish_model(model, "llama/other", adapter="other").revision.rank == 4
    names = {file.path for file in desk.team.show("llama/other").files}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    with pytest.raises(UsageError, match="no adapter 'third'; it has default, other"):
        publish_model(model, "llama/third", adapter="third")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # what torch.compile loads
def test_what_wraps_a_model_is_seen_through(desk: Desk) -> None:
    import torch

    class Wrapped(torch.nn.Module):
        def __init__(self, module: Any) -> None:
            super().__init__()
            self.module = module

    model = desk.trained()
    first = publish_model(model, "llama/support")
    assert publish_model(Wrapped(torch.compile(model)), "llama/support").revision == first.revision
    with pytest.raises(UsageError, match="is a LlamaForCausalLM, and a PeftModel is expected"):
        publish_model(model.get_base_model(), "llama/support")
    with pytest.raises(UsageError, match="llama is a base model"):
        publish_model(model, "llama")


@pytest.mark.filterwarnings("ignore:Could not find a config file")
def test_the_commit_of_a_view_that_was_loaded_is_in_the_configuration(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers keeps it; of another Hub's repository it stays out."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = desk.trained()
    model.get_base_model().config._commit_hash = "a" * 40
    for name, kept in (("llama/_", "a" * 40), ("meta/llama", None)):
        model.peft_config["default"].base_model_name_or_path = name
        config = _config_of(desk, model)
        assert (config["base_model_name_or_path"], config["revision"]) == (name, kept)


def _config_of(desk: Desk, model: Any) -> Any:
    with tempfile.TemporaryDirectory() as made:
        folder = save_adapter(model, "default", Path(made))
        before = read_tensors(folder / "adapter_model.safetensors")
        note_commit(folder, TreePath.parse("llama/support"), loaded_commit(model))
        assert read_tensors(folder / "adapter_model.safetensors").keys() == before.keys()
        return json.loads((folder / "adapter_config.json").read_bytes())


def test_open_runs_are_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(entity="acme", project="support", id="a1b2c3d4", summary={})
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run))
    found = publish_model(desk.trained(), "llama/support", annotations={"wandb": "another"}).revision.annotations
    assert found == {"wandb": "another"}
    assert run.summary == {"registry_revision": "llama/support@1"}


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, registry.training; registry.training.publish_model; "
        "print({'torch', 'transformers', 'peft'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
