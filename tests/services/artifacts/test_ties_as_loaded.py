"""Ties are those of the model that transformers loads: what the files hold decides, whatever the configuration says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from registry.errors import ConflictError, InvalidAdapterError
from registry.reference import Reference
from registry.services.artifacts.load import load_path
from registry.services.local import LocalRegistry
from registry.tensors.lineage.paths import target_table
from registry.tensors.table.targets import TargetTable
from tests.kit import RawTensor, read_tensors, write_tensors
from tests.kit.old_tables import of_before
from tests.kit.peers import between_themselves, wrap

IDS: Final = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 40}
T5: Final = IDS | {
    "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
LLAMA: Final = IDS | {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
BERT: Final = IDS | {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 32,
}  # fmt: skip

MODELS: Final[dict[str, tuple[str, dict[str, Any], str, str]]] = {
    "t5": ("T5ForConditionalGeneration", T5, "lm_head", "shared"),
    "mt5": ("MT5ForConditionalGeneration", T5, "lm_head", "shared"),
    "llama": ("LlamaForCausalLM", LLAMA, "lm_head", "model.embed_tokens"),
    "bert": ("BertForMaskedLM", BERT, "cls.predictions.decoder", "bert.embeddings.word_embeddings"),
}
"""Class, configuration, head, embedding."""
HELD: Final = ("embedding", "head", "both alike", "both apart")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    opened = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")
    yield opened
    opened.close()


def model_class(name: str) -> Any:
    import transformers

    return getattr(transformers, MODELS[name][0])


def save(folder: Path, name: str, *, tie: bool, held: str) -> Path:
    """A base folder whose config.json says ``tie`` and whose files hold the embedding, the head, or both."""
    cls, (_, given, head, embedding) = model_class(name), MODELS[name]
    torch.manual_seed(0)
    cls(cls.config_class(**given)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": tie}))
    tensors = read_tensors(folder / "model.safetensors")
    shared = tensors.pop(f"{embedding}.weight")
    tensors.pop(f"{head}.weight", None)
    other = RawTensor(shared.dtype, shared.shape, shared.data[4:] + shared.data[:4])
    if held != "head":
        tensors[f"{embedding}.weight"] = shared
    if held != "embedding":
        tensors[f"{head}.weight"] = other if held == "both apart" else shared
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def table_of(registry: LocalRegistry, name: str) -> TargetTable:
    return target_table(registry.deployment, load_path(registry.deployment, Reference.parse(name)).base)


def _pairs() -> Iterator[Any]:
    for name in MODELS:
        for tie in (True, False):
            for held in HELD:
                quick = name in ("t5", "bert") and (held == "both apart" or tie) and held != "head"
                yield pytest.param(name, tie, held, marks=[] if quick else pytest.mark.slow)


@pytest.mark.long_but("both apart", "t5-True", "bert-True", "llama-True-both alike")
@pytest.mark.parametrize(("name", "tie", "held"), list(_pairs()))
def test_the_table_says_what_the_loaded_model_is(
    registry: LocalRegistry, tmp_path: Path, name: str, tie: bool, held: str
) -> None:
    folder = save(tmp_path / "base", name, tie=tie, held=held)
    registry.add_base("net", folder)
    table = table_of(registry, "net")
    model, info = model_class(name).from_pretrained(folder, output_loading_info=True)
    _, _, head, embedding = MODELS[name]
    if f"{embedding}.weight" in info["missing_keys"] or f"{head}.weight" in info["missing_keys"]:
        assert (table.targets.keys() & {head, embedding}) != {head, embedding}  # one has no weights at all
        return
    loaded = model.get_submodule(head).weight is model.get_submodule(embedding).weight
    assert (embedding in table.tie_group(head)) is loaded
    assert loaded is (held != "both apart" and (tie or name in ("t5", "mt5")))
    assert (head in table.apart) is (held == "both apart" and (tie or name in ("t5", "mt5")))


@pytest.mark.parametrize("name", ["t5", pytest.param("mt5", marks=pytest.mark.slow)])
def test_a_head_of_its_own_takes_an_adapter(registry: LocalRegistry, tmp_path: Path, name: str) -> None:
    """T5 v1.1 and flan-t5: the class ties, the files hold both. Merged it is what PEFT trained, and its scale stays."""
    folder = save(tmp_path / "base", name, tie=False, held="both apart")
    registry.add_base("net", folder)
    base = model_class(name).from_pretrained(folder).eval()
    before = logits(base)
    trained = wrap(tmp_path / "adapter", base, r=2, target_modules=["q", "lm_head"])
    registry.publish(tmp_path / "adapter", "net/head")
    registry.fetch("net/head", tmp_path / "merged", kind="merged")
    merged, info = model_class(name).from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.allclose(logits(merged.eval()), logits(trained), atol=1e-5)
    assert not torch.allclose(before, logits(trained), atol=1e-3)


def test_an_old_table_that_ties_what_the_files_part(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "base", "t5", tie=False, held="both apart")
    with of_before(monkeypatch):
        registry.add_base("net", folder)
    wrap(tmp_path / "q", model_class("t5").from_pretrained(folder), r=2, target_modules=["q"])
    wrap(tmp_path / "head", model_class("t5").from_pretrained(folder), r=2, target_modules=["q", "lm_head"])
    registry.publish(tmp_path / "q", "net/q")
    registry.fetch("net/q", tmp_path / "merged", kind="merged")
    with pytest.raises(ConflictError, match="registry base retable") as refused:
        registry.publish(tmp_path / "head", "net/head")
    assert refused.value.code == "retable_needed"
    assert "apart: 1 changed (for example lm_head)" in registry.retable("net").changes
    registry.publish(tmp_path / "head", "net/head")


def test_one_that_shares_its_weight_with_three_is_still_refused(registry: LocalRegistry, tmp_path: Path) -> None:
    folder = save(tmp_path / "base", "t5", tie=True, held="embedding")
    registry.add_base("net", folder)
    wrap(tmp_path / "adapter", model_class("t5").from_pretrained(folder), r=2, target_modules=["q", "lm_head"])
    with pytest.raises(InvalidAdapterError, match="share one weight") as refused:
        registry.publish(tmp_path / "adapter", "net/head")
    assert refused.value.code == "tied_partial"


def test_token_rows_go_over_the_head_as_in_peft(registry: LocalRegistry, tmp_path: Path) -> None:
    """PEFT goes by the configuration, which ties: it lays the rows over the head that only the files keep apart."""
    import peft

    folder = save(tmp_path / "base", "t5", tie=False, held="both apart")
    registry.add_base("net", folder)
    base = model_class("t5").from_pretrained(folder)
    trained = wrap(tmp_path / "a", base, r=2, target_modules=["q"], trainable_token_indices={"shared": [3, 7]})
    del trained
    registry.publish(tmp_path / "a", "net/rows")
    registry.fetch("net/rows", tmp_path / "merged", kind="merged")
    merged = model_class("t5").from_pretrained(tmp_path / "merged")
    with between_themselves():
        peers = peft.PeftModel.from_pretrained(model_class("t5").from_pretrained(folder), tmp_path / "a")
        with pytest.warns(UserWarning, match="no longer tied"):
            peers = peers.merge_and_unload()
    for name in ("shared", "lm_head"):
        assert torch.equal(merged.get_submodule(name).weight, peers.get_submodule(name).weight), name


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, decoder_input_ids=ids).logits
    return found
