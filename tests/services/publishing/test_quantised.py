"""An adapter that was trained on quantised weights is taken, and what shows it is said; what shows nothing is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.errors import ConflictError, UsageError
from registry.folders.quantised import how_of_name, sign_in_text
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
    assert "was not compared with its parent: it contains no safetensors weights" in compared


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


BLOCK = (
    "The following `bitsandbytes` quantization config was used during training:\n- quant_method: {}\n"
    "- load_in_4bit: True\n- bnb_4bit_quant_type: nf4\n- bnb_4bit_use_double_quant: True\n- llm_int8_skip_modules: {}\n"
)
FACTORY = "model_name_or_path: x/y\nfinetuning_type: lora\nquantization_bit: 4\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BLOCK.format("QuantizationMethod.BITS_AND_BYTES", None), "nf4:64:double"),
        (BLOCK.format("bitsandbytes", "['b', 'a']"), "nf4:64:double without a, b"),
        (BLOCK.format("bitsandbytes", "open('x')"), None),
        (CARD, None),  # 4 bits, and nothing of how
        (AXOLOTL + "load_in_4bit: true\n", "nf4:64:double"),
        (AXOLOTL + "bnb_config_kwargs:\n  bnb_4bit_quant_type: fp4\n  bnb_4bit_use_double_quant: false\n", "fp4:64"),
        (FACTORY, "nf4:64:double"),
        (FACTORY + "double_quantization: false\nquantization_type: fp4\n", "fp4:64"),
        (FACTORY + "quantization_method: hqq\n", None),
        (FACTORY + FACTORY.replace("4", "8"), None),
        ("model_name_or_path: x/y\nload_in_4bit: true\n", "nf4:64"),  # TRL
        ("model_name_or_path: x/y\nload_in_4bit: true\nuse_bnb_nested_quant: true\n", "nf4:64:double"),
        ("load_in_8bit: true\nbase_model: x\n", None),
    ],
)
def test_a_text_tells_how(text: str, said: str | None) -> None:
    found = sign_in_text("README.md", text)
    how = None if found is None else found.how
    words = None if how is None else " without ".join([str(how), *([", ".join(how.skip)] if how.skip else [])])
    assert words == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unsloth/Llama-3.2-1B-bnb-4bit", "nf4:64:double"),
        ("unsloth/Llama-3.2-1B-unsloth-bnb-4bit", None),  # some of its modules are in 16 bits
        ("x/y-bnb-4bit", None),
        ("unsloth/Llama-3.2-1B", None),
    ],
)
def test_a_name_tells_how(name: str, said: str | None) -> None:
    how = how_of_name(name)
    assert (None if how is None else str(how)) == said


def test_how_it_was_trained_is_in_the_manifest_and_goes_along(registry: Any, adapter: Path, tmp_path: Path) -> None:
    plain = registry.publish(adapter, "net/plain").revision
    assert "trained_quantised" not in registry.show("net/plain").model_dump()
    published = registry.publish(adapter, "net/one", trained_quantised="NF4:128:double").revision
    assert plain.digest != published.digest
    assert str(registry.show("net/one").trained_quantised) == "nf4:128:double"
    assert registry.show("net/one").model_dump()["trained_quantised"] == {"type": "nf4", "block": 128, "double": True}
    (notice,) = published.notices
    assert "(nf4:128:double)" in notice
    assert not registry.publish(adapter, "net/one", trained_quantised="nf4:128:double").created
    target = LocalRegistry.open(tmp_path / "target", cache_folder=tmp_path / "cache")
    registry.copy("net/one", target)
    copied = target.show("net/one")
    assert copied.revision is not None
    assert (copied.revision.digest, str(copied.trained_quantised)) == (published.digest, "nf4:128:double")
    target.close()


def test_what_the_folder_tells_is_in_the_manifest(registry: Any, adapter: Path) -> None:
    trained_on(adapter, "unsloth/llama-bnb-4bit")
    preview = registry.preview(adapter, "net/one")
    assert registry.publish(adapter, "net/one").revision.digest == preview.digest
    assert str(registry.show("net/one").trained_quantised) == "nf4:64:double"
    registry.publish(adapter, "net/two", trained_quantised="fp4")  # who says it knows better
    assert str(registry.show("net/two").trained_quantised) == "fp4:64"


@pytest.mark.parametrize("wrong", ["", "int8", "nf4:100", "nf4:64:single", "nf4:64:double:x", "nf4:", "fp4:double"])
def test_what_is_no_quantisation_is_refused(adapter: Path, wrong: str, tmp_path: Path) -> None:
    local = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")
    with local, pytest.raises(UsageError, match=r"--trained-quantised is nf4 or fp4.*such as nf4:64:double"):
        local.publish(adapter, "net/one", trained_quantised=wrong)


def test_a_name_that_an_admin_gave_the_base_finds_it_and_says_that_it_is_quantised(
    registry: Any, adapter: Path, tmp_path: Path
) -> None:
    """It names the base model, as its own repository does, and proves nothing of its weights."""
    name = "unsloth/net-bnb-4bit"
    trained_on(adapter, name)
    before = registry.publish(adapter, "net/before").revision
    registry.also_known_as("net", name)
    published = registry.publish(adapter, "net/one")
    assert (before.parent_known_by, published.revision.parent_known_by) == ("assumed", "named")
    assert published.parent_reason == f"the path is directly under net, which is {name}"
    assert [name in notice and "a quantised copy" in notice for notice in published.revision.notices] == [True]
    assert str(registry.show("net/one").trained_quantised) == "nf4:64:double"


@pytest.mark.parametrize("policy", ["proven", "stated"])
def test_a_registry_of_proven_parents_does_not_take_a_name(adapter: Path, tmp_path: Path, policy: Any) -> None:
    trained_on(adapter, "unsloth/net-bnb-4bit")
    opened = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache", parents=policy)
    with opened as registry:
        registry.add_base("net", plain_base(tmp_path / "base", SHAPES).folder)
        registry.also_known_as("net", "unsloth/net-bnb-4bit")
        if policy == "stated":
            assert registry.publish(adapter, "net/one").revision.parent_known_by == "named"
            return
        with pytest.raises(ConflictError, match=r"REGISTRY_PARENTS=proven.*which is unsloth/net-bnb-4bit"):
            registry.publish(adapter, "net/one")


def test_a_rebased_revision_says_how_its_files_were_trained(adapter: Path, tmp_path: Path) -> None:
    local = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")
    with local:
        local.add_base("net", plain_base(tmp_path / "base", SHAPES).folder)
        for seed in (1, 2):
            other = write_adapter(tmp_path / f"above{seed}", plain_base(tmp_path / "same", SHAPES), ["a"], seed=seed)
            local.publish(other, "net/one")
        local.publish(adapter, "net/one/two", parent="net/one@1", trained_quantised="nf4")
        made = local.rebase("net/one/two", "net/one@2").revision
        assert made is not None
        assert str(local.show(made.reference).trained_quantised) == "nf4:64"
