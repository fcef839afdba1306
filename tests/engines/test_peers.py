"""``check --engine peft`` and ``transformers`` against both, and what ``fetch --for`` writes, loaded by PEFT.

An engine loads an adapter if it does so without a complaint and computes what was trained, to 1e-5.

Checks of engines are the same in process and over HTTP, and show no token what it may not see.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from registry.errors import AccuracyError, InvalidAdapterError, NotFoundError, RegistryError, RetractedError, UsageError
from registry.folders.receipts import read_receipt
from registry.operations.registry import Registry
from tests.kit import Base, llama_base, read_pairs
from tests.kit.peers import between_themselves, load_model, logits, no_complaints, with_weights
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.registries import ON_HTTP, opened
from tests.kit.shelf import Shelf
from tests.kit.variants import MAKERS, VARIANTS

QUICK: Final = {
    ("llama", "patterns"),
    ("llama", "new head"),
    ("tied llama", "tokens"),
    ("tied llama", "head tokens"),
    ("gpt2", "dora"),
    ("mixtral", "up only"),
}
ALL: Final = [(kind, name) for kind in VARIANTS for name in VARIANTS[kind]]
CASES: Final = [one if one in QUICK else pytest.param(*one, marks=pytest.mark.long) for one in ALL]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    made = Shelf(tmp_path_factory.mktemp("shelf"))
    yield made
    made.close()


def _published(shelf: Shelf, kind: str, *recipes: Recipe) -> tuple[Base, list[Path], str]:
    name = kind.replace(" ", "-").replace("_", "-")
    base = shelf.base(name, MAKERS[kind])
    path = write_recipes(shelf.folder(), base, [dataclasses.replace(one, copies=False) for one in recipes])
    return base, path, shelf.path(name, path)


def _truth(shelf: Shelf, base: Base, kind: str, path: list[Path]) -> torch.Tensor:
    """What the model computes that was trained, by the naive reference."""
    values = {name: view.values for name, view in base.simulate(path).state.views.items()}
    model = shelf.base("llama", MAKERS["llama"]) if kind == "tied llama" else base
    return logits(with_weights(load_model(model.folder), values))


def _loads(engine: str, base: Base, folder: Path, truth: torch.Tensor) -> bool:
    """Whether the engine loads the folder without a complaint, and rightly."""
    import peft

    model: Any = load_model(base.folder)
    try:
        with between_themselves(), no_complaints():
            if engine == "peft":
                model = peft.PeftModel.from_pretrained(model, str(folder))
            else:
                model.load_adapter(str(folder))
    except (AssertionError, ValueError, RuntimeError, KeyError):
        return False
    return bool((logits(model.eval()) - truth).abs().max() < 1e-5)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_check_says_what_peft_and_transformers_do(shelf: Shelf, kind: str, name: str) -> None:
    base, path, reference = _published(shelf, kind, dataclasses.replace(VARIANTS[kind][name], seed=5))
    folder, truth = shelf.composed(reference), _truth(shelf, base, kind, path)
    assert shelf.registry.check(reference, engine="peft").loads == _loads("peft", base, folder, truth)
    if hasattr(load_model(base.folder), "load_adapter"):  # a model of transformers
        found = shelf.registry.check(reference, engine="transformers")
        assert found.loads == _loads("transformers", base, folder, truth), found.reasons


@pytest.mark.parametrize("engine", ["vllm", "sglang", "peft", "transformers"])
def test_what_is_fetched_for_an_engine_computes_what_was_trained(shelf: Shelf, engine: Any) -> None:
    links = [
        Recipe(("q_proj", "k_proj", "v_proj"), r=4, rslora=True, rank_pattern={"v_proj": 2}, seed=1),
        Recipe(("q_proj", "v_proj", "down_proj"), r=3, alpha=7, seed=2),
    ]
    base, path, reference = _published(shelf, "llama", *links)
    out = shelf.folder()
    fetched = shelf.registry.fetch(reference, out, engine=engine)
    assert fetched.truncation is None
    assert _loads("peft", base, out, _truth(shelf, base, "llama", path))
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"] == 7
    assert config["use_rslora"] is False
    ranks = {pair.a.shape[0] for pair in read_pairs(out).values()}
    assert ranks == ({7} if engine in ("vllm", "sglang") else {3, 4, 5, 7})


def test_a_rank_above_the_limit_is_truncated_where_an_error_is_allowed(shelf: Shelf) -> None:
    _, _, reference = _published(shelf, "llama", Recipe(("q_proj", "v_proj"), r=9, seed=3))
    out = shelf.folder()
    with pytest.raises(InvalidAdapterError) as refused:
        shelf.registry.fetch(reference, out, engine="vllm", max_lora_rank=8)
    assert refused.value.code == "engine_limits"
    for words in ("rank 9", "at most 8", "--max-error", f"registry fetch {reference} --for vllm`"):
        assert words in str(refused.value)
    with pytest.raises(AccuracyError):
        shelf.registry.fetch(reference, out, engine="vllm", max_lora_rank=8, max_error=1e-6)
    assert not out.exists()
    fetched = shelf.registry.fetch(reference, out, engine="vllm", max_lora_rank=8, max_error=0.9)
    assert fetched.truncation is not None
    assert 0 < fetched.truncation.total.relative_frobenius <= 0.9
    assert read_receipt(out).truncation == fetched.truncation
    assert {pair.a.shape[0] for pair in read_pairs(out).values()} <= {*range(1, 9)}
    exact = shelf.registry.fetch(reference, shelf.folder(), engine="vllm", max_lora_rank=16, max_error=0.9)
    assert exact.truncation is None


def test_the_command_that_would_do_does(shelf: Shelf) -> None:
    _, _, reference = _published(shelf, "llama", Recipe(("q_proj",), r=9, seed=4))
    found = shelf.registry.check(reference, engine="vllm", max_lora_rank=8)
    assert (found.loads, found.rank, found.max_lora_rank) == (False, 9, 8)
    assert found.would_do == f"registry fetch {reference} --for vllm"  # 16 is what vLLM starts with
    shelf.registry.fetch(reference, shelf.folder(), engine="vllm")


def test_only_the_links_after_an_ancestor_are_judged(shelf: Shelf) -> None:
    links = [Recipe(("q_proj",), dora=True, seed=1), Recipe(("v_proj",), r=2, seed=2)]
    base = shelf.base("llama", MAKERS["llama"])
    first, last = shelf.publish("llama", write_recipes(shelf.folder(), base, links))
    assert [one.code for one in shelf.registry.check(last, engine="vllm").reasons] == ["dora"]
    found = shelf.registry.check(last, engine="vllm", since=first)
    assert found.loads
    assert found.would_do == f"registry fetch {last} --since {first} --for vllm"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "vllm", "kind": "merged"}, "--as merged"),
        ({"engine": "vllm", "rank": 4}, "--max-lora-rank"),
        ({"max_lora_rank": 8}, "--for"),
        ({"engine": "peft", "max_lora_rank": 8}, "loads any rank"),
        ({"engine": "vllm", "max_lora_rank": 12}, "1, 8, 16, 32"),
        ({"engine": "lmstudio"}, "engine"),
    ],
)
def test_options_that_contradict_each_other(shelf: Shelf, options: dict[str, Any], words: str) -> None:
    _, _, reference = _published(shelf, "llama", Recipe(("q_proj",), seed=6))
    with pytest.raises(UsageError, match=words):
        shelf.registry.fetch(reference, shelf.folder(), **options)


def test_a_path_that_no_adapter_equals_and_what_is_none(shelf: Shelf) -> None:
    links = [Recipe(("q_proj",), (), replaced=("experts",)), Recipe((), ("mlp.experts.down_proj",))]
    base = shelf.base("mixtral", MAKERS["mixtral"])
    reference = shelf.path("mixtral", write_recipes(shelf.folder(), base, [links[0], links[1]]))
    try:
        shelf.composed(reference)
        code = None
    except RegistryError as problem:
        code = problem.code
    found = shelf.registry.check(reference, engine="peft")
    assert found.loads == (code is None)
    with pytest.raises(UsageError, match="base model"):
        shelf.registry.check("mixtral", engine="peft")


@pytest.fixture(params=["embedded", ON_HTTP])
def team(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    """A registry with llama/a@1, a DoRA, and llama/b@1 of rank 9."""
    with opened(request, tmp_path) as kept:
        base = llama_base(tmp_path / "base")
        kept.add_base("llama", base.folder)
        for name, recipe in {"a": Recipe(("q_proj",), dora=True), "b": Recipe(("q_proj", "v_proj"), r=9)}.items():
            kept.publish(write_recipes(tmp_path / name, base, [recipe])[0], f"llama/{name}")
        yield kept


def test_both_say_and_write_the_same(team: Registry, tmp_path: Path) -> None:
    found = team.check("llama/b", engine="vllm", max_lora_rank=8)
    assert repr(found) == "<EngineCheck llama/b@1: does not load (rank) in vllm 0.33.0>"
    assert found.reasons[0].source.startswith("vllm/config/lora.py")
    fetched = team.fetch("llama/b", tmp_path / "out", engine="vllm")
    with team.artifact("llama/b", uniform=True) as plain:
        assert fetched.rendering == plain.rendering
    with pytest.raises(InvalidAdapterError) as refused:
        team.fetch("llama/a", tmp_path / "other", engine="sglang")
    assert refused.value.code == "engine_limits"
    assert not (tmp_path / "other").exists()


def test_what_is_not_there_or_retracted_is_no_answer(team: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        team.check("llama/c", engine="vllm")
    assert team.check("llama/a", engine="peft").loads
    team.retract("llama/a@1", reason="bad data")
    with pytest.raises(RetractedError):
        team.check("llama/a@1", engine="peft")
    with pytest.raises(RetractedError):
        team.fetch("llama/a@1", tmp_path / "out", engine="peft")


def test_dora_is_a_plain_lora_where_an_error_is_allowed(team: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapterError, match="DoRA"):
        team.fetch("llama/a", tmp_path / "out", engine="vllm", max_lora_rank=1)
    assert not (tmp_path / "out").exists()
    fetched = team.fetch("llama/a", tmp_path / "out", engine="vllm", max_lora_rank=16, max_error=0.95)
    assert fetched.truncation is not None
    assert max(one.rank_after for one in fetched.truncation.modules) <= 16
    assert "lora_magnitude_vector" not in (tmp_path / "out" / "adapter_model.safetensors").read_bytes().decode("latin1")
    assert team.verify(tmp_path / "out").equal
