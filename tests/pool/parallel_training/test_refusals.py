"""What can't be trained so that siblings stay apart is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from registry.errors import InvalidAdapterError, RegistryError, UsageError
from registry.pool.parallel_training.factors import find_targets, make_pair
from registry.pool.parallel_training.hooks import Hooks, Trained
from registry.pool.parallel_training.recipe import Mixing, read_recipe
from registry.pool.parallel_training.rows import Rows
from registry.pool.weight_readers import Readers
from tests.kit.shelf import Shelf
from tests.pool.parallel_training.nursery import Nursery, texts


@pytest.fixture(scope="module")
def nursery(shelf: Shelf) -> Nursery:
    return Nursery(shelf, "llama")


def fields(**more: Any) -> dict[str, Any]:
    return {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], **more}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (peft.LoraConfig(target_modules=["q_proj"], bias="all"), InvalidAdapterError, "bias is 'all'"),
        (fields(lora_bias=True), InvalidAdapterError, "lora_bias is True"),
        (fields(target_parameters=["experts.down_proj"]), InvalidAdapterError, "target_parameters"),
        (fields(trainable_token_indices=[1]), InvalidAdapterError, "trainable_token_indices"),
        (fields(init_lora_weights="orthogonal"), InvalidAdapterError, "init_lora_weights is 'orthogonal'"),
        (fields(init_lora_weights="pissa"), InvalidAdapterError, "init_lora_weights"),
        (fields(velora_config={"num_groups": 2}), InvalidAdapterError, "velora_config"),
        (fields(ensure_weight_tying=True), InvalidAdapterError, "ensure_weight_tying"),
        (fields(layer_replication=[[0, 1]]), InvalidAdapterError, "layer_replication"),
        (fields(of_tomorrow=1), InvalidAdapterError, "of_tomorrow"),
        (fields(lora_dropout=1.0), UsageError, "lora_dropout is 1"),
        (fields(target_modules=None), UsageError, "target_modules is not set"),
        ({"lora_alpha": 2}, InvalidAdapterError, "lacks the field 'r'"),
        (peft.LoHaConfig(target_modules=["q_proj"]), InvalidAdapterError, "LOHA"),
        ("q_proj", UsageError, "peft.LoraConfig"),
    ],
)
def test_kinds_of_lora(given: Any, error: type[RegistryError], said: str) -> None:
    with pytest.raises(error, match="llama/own: ") as found:
        read_recipe("llama/own", given)
    assert said in str(found.value)


class Net(nn.Module):
    """One module of each kind that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.experts = nn.ModuleList([nn.Linear(4, 4)])
        self.table = nn.Embedding(4, 4, max_norm=1.0)
        self.empty = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.head.weight
        nn.init.zeros_(self.empty.weight)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"target_modules": ["norm"]}, "'norm' is a LayerNorm"),
        ({"target_modules": ["attention.out_proj"]}, "is read by MultiheadAttention, which does not call it"),
        ({"target_modules": ["experts.0"]}, "is of one expert"),
        ({"target_modules": ["table"]}, "embedding that changes its weight"),
        ({"modules_to_save": ["tied"], "target_modules": ["empty"]}, "'tied' shares a weight"),
        ({"modules_to_save": ["nowhere"], "target_modules": ["empty"]}, "modules_to_save names no module"),
        ({"target_modules": ["nowhere"]}, "target_modules names no module"),
    ],
)
def test_kinds_of_modules(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match="llama/own: ") as found:
        find_targets(Net(), read_recipe("llama/own", fields(**more)))
    assert said in str(found.value)


class Turned(nn.Module):
    """Puts positions before rows, as some encoders do."""

    def __init__(self, *, lstm: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 4) if lstm else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.linear(x.transpose(0, 1))
        return found


def test_rows_that_may_be_positions() -> None:
    with pytest.raises(UsageError, match=r"'lstm' .* keeps the rows of a batch in another dimension"):
        Mixing(Turned(lstm=True)).check()
    model = Turned(lstm=False)
    recipe = read_recipe("llama/own", fields(target_modules=["linear"]))
    pair = make_pair(find_targets(model, recipe).pairs[0], recipe, torch.Generator(), None)
    trained = Trained("linear", model.linear, {"llama/own": pair}, turned=Readers(model).turned)
    hooks = Hooks(model, [trained], lambda: None, lambda _: Rows.of([]))
    with hooks.choosing(Rows.of(["llama/own"] * 3)), pytest.raises(UsageError, match="can't tell whose they are"):
        model(torch.zeros(3, 3, 4))
    hooks.remove()


class Checkpointed(nn.Module):
    """Runs its module again in a backward pass, and does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = checkpoint(self.body, x, use_reentrant=False)
        return found

    def body(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.linear(x)
        return found


def test_checkpointing_that_no_flag_tells(nursery: Nursery) -> None:
    model = Checkpointed()
    recipe = read_recipe("llama/own", fields(target_modules=["linear"]))
    pair = make_pair(find_targets(model, recipe).pairs[0], recipe, torch.Generator(), None)
    hooks = Hooks(model, [Trained("linear", model.linear, {"llama/own": pair})], lambda: None, lambda _: Rows.of([]))
    with hooks.choosing(Rows.of(["llama/own"] * 3)):
        out = model(torch.zeros(3, 4))
        with pytest.raises(UsageError, match="run again in a backward pass"):
            out.sum().backward()
    hooks.remove()


def test_dora_of_a_feature_without_weight(nursery: Nursery) -> None:
    model = nursery.load(nursery.base.folder)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight[0] = 0
    recipe = read_recipe("llama/own", fields(use_dora=True))
    target = find_targets(model, recipe).pairs[0]
    with pytest.raises(UsageError, match=r"'model\.layers\.0\.self_attn\.q_proj' has an output feature without"):
        make_pair(target, recipe, torch.Generator(), None)


def _dropout(model: Any) -> None:
    model.add_module("extra", nn.Dropout(0.25))


def _attention(model: Any) -> None:
    model.model.layers[1].self_attn.attention_dropout = 0.5


def _norm(model: Any) -> None:
    model.add_module("extra", nn.BatchNorm1d(4))


def _router(model: Any) -> None:
    model.config.output_router_logits = True


def _checkpointing(model: Any) -> None:
    model.model.gradient_checkpointing = True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_dropout, "extra.p is 0.25"),
        (_attention, "model.layers.1.self_attn.attention_dropout is 0.5"),
        (_norm, "'extra' is a batch norm"),
        (_router, "output_router_logits"),
        (_checkpointing, "gradient checkpointing is on (model)"),
    ],
)
def test_what_mixes_rows(nursery: Nursery, change: Callable[[Any], None], said: str) -> None:
    path = nursery.path("own")
    model = nursery.load(nursery.base.folder)
    change(model)
    with pytest.raises(UsageError, match="Siblings can't be trained") as found:
        Mixing(model.train()).check()
    assert said in str(found.value)
    assert found.value.code == "unsupported_model"
    if change is not _router:
        Mixing(model.eval()).check()
    with nursery.pool() as pool, pool.siblings({path: fields()}, nursery.parent) as siblings:
        _attention(pool._model)
        siblings.step(texts(1), [path])
        pool._model.train()
        with pytest.raises(UsageError, match="attention_dropout"):
            siblings.step(texts(1), [path])


def test_batches_that_do_not_fit(nursery: Nursery) -> None:
    path = nursery.path("own")
    batch = texts(2)
    with nursery.pool() as pool, pool.siblings({path: fields()}, nursery.parent) as siblings:
        with pytest.raises(UsageError, match="names 3 rows, but the batch has 2 rows"):
            siblings.step(batch, [path] * 3)
        with pytest.raises(UsageError, match="is none of the siblings"):
            siblings.step(batch, [path, "llama/other"])
        with pytest.raises(UsageError, match="no labels"):
            siblings.step({"input_ids": batch["input_ids"]}, [path] * 2)
        with pytest.raises(UsageError, match=r"The labels are of the shape \[1, 9\]"):
            siblings.step({**batch, "labels": batch["labels"][:1]}, [path] * 2)
        with pytest.raises(UsageError, match="have no logits"):
            siblings.losses(SimpleNamespace(), batch["labels"])
        # after all these, nothing is left of the rows that were named
        assert torch.equal(pool._model(batch["input_ids"]).logits, pool._model(batch["input_ids"]).logits)
        assert siblings.step(batch, [path] * 2).losses
    with nursery.pool() as pool:
        with pytest.raises(UsageError, match="No siblings"):
            pool.siblings({}, nursery.parent)
        with pytest.raises(UsageError, match="lacks"):
            pool.siblings({path: fields()}, nursery.parent, learning_rate={})
