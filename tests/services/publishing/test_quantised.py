"""An adapter that was trained on quantised weights is taken, and what shows it is said; what shows nothing is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.services.local import LocalRegistry
from tests.kit import plain_base, write_adapter
from tests.kit.registries import ON_HTTP, opened

SHAPES = {"a.weight": (24, 16)}
CARD = """---
library_name: peft
---
## Training procedure

The following `bitsandbytes` quantization config was used during training:
- quant_method: bitsandbytes
- load_in_8bit: False
- load_in_4bit: True
### Framework versions
"""
AXOLOTL = "```yaml\nadapter: qlora\nbase_model: x/y\n```\n"


@pytest.fixture(params=["embedded", ON_HTTP])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with opened(request, tmp_path) as kept:
        kept.add_base("net", plain_base(tmp_path / "base", SHAPES).folder)
        yield kept


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", plain_base(tmp_path / "same", SHAPES), ["a"], r=2)


def trained_on(adapter: Path, name: str) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": name}))


def notices(registry: Any, adapter: Path) -> tuple[str, ...]:
    found: tuple[str, ...] = registry.publish(adapter, "net/one").revision.notices
    return found


@pytest.mark.parametrize(
    ("card", "words"),
    [(CARD, "README.md says 4 bits"), (AXOLOTL, "README.md says QLoRA"), ("load_in_8bit: true\n", "says 8 bits")],
)
def test_the_model_card_tells(registry: Any, adapter: Path, card: str, words: str) -> None:
    (adapter / "README.md").write_text(card)
    (notice,) = notices(registry, adapter)
    assert words in notice
    assert "quantised weights" in notice


@pytest.mark.parametrize("name", ["training_args.yaml", "träiner.yml"])
def test_what_the_trainer_was_told_tells(registry: Any, adapter: Path, name: str) -> None:
    (adapter / name).write_text("finetuning_type: lora\nquantization_bit: 4\n")
    (notice,) = notices(registry, adapter)
    assert "says quantization_bit" in notice
    assert (name in notice) == name.isascii()


def test_the_folder_that_it_was_trained_on_tells(registry: Any, adapter: Path, tmp_path: Path) -> None:
    loaded = tmp_path / "loaded"
    loaded.mkdir()
    (loaded / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    trained_on(adapter, str(loaded))
    sign, compared = sorted(notices(registry, adapter))
    assert "config.json of the folder that it was trained on" in sign
    assert "was not compared with its parent: it is quantised" in compared


def test_a_relative_name_is_looked_up_from_the_adapters_folder(registry: Any, adapter: Path) -> None:
    """As the folder is whose weights are compared with the parent."""
    (adapter / "loaded").mkdir()
    (adapter / "loaded" / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}))
    trained_on(adapter, "loaded")
    assert any("config.json of the folder that it was trained on" in one for one in notices(registry, adapter))


def test_a_config_that_was_saved_beside_tells(registry: Any, adapter: Path, tmp_path: Path) -> None:
    (adapter / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    (notice,) = notices(registry, adapter)
    assert "quantization_config in its config.json" in notice
    target = LocalRegistry.open(tmp_path / "target", cache_folder=tmp_path / "cache")
    registry.copy("net/one", target)
    copied = target.show("net/one").revision
    assert copied is not None
    assert copied.notices == (notice,)
    target.close()


@pytest.mark.parametrize(
    "name", ["unsloth/llama-bnb-4bit", "x/Llama-3-8B-GPTQ-Int4", "x/y-4bit-mlx", "x/y-AWQ/", "x/y.Q4.gguf", "x/y-w4a16"]
)
def test_a_name_tells(registry: Any, adapter: Path, name: str) -> None:
    trained_on(adapter, name)
    (adapter / "README.md").write_text(CARD)  # is not said twice
    (notice,) = notices(registry, adapter)
    assert name in notice


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("x/awquila-8b", "load_in_4bit: False\n"),
        ("no/such/folder", "It was not made with load_in_4bit: true or so.\n"),
        ("x" * 4000, "\udcff"),
        ("~no-such-user/merged", "\n"),
    ],
)
def test_what_shows_nothing_is_not_said(registry: Any, adapter: Path, name: str, card: str) -> None:
    trained_on(adapter, name)
    (adapter / "README.md").write_bytes(card.encode("utf-8", "surrogateescape"))
    (adapter / "config.json").write_text("[" * 100_000)
    assert not [notice for notice in notices(registry, adapter) if "quantised" in notice]
