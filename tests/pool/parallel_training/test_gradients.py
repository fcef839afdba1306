"""The gradients and updates of each sibling are those of PEFT, which trains it alone on the merged files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import peft
import pytest
import torch

from registry.pool.parallel_training import Siblings
from tests.kit.peers import load_model
from tests.kit.shelf import Shelf
from tests.pool.parallel_training.nursery import (
    Batch,
    Nursery,
    classifier,
    distance,
    mine,
    peft_names,
    texts,
    values_of,
)

GRADIENTS = 1e-6
WEIGHTS = 1e-5
LOSSES = 1e-4

TARGETS = {
    "llama": (["q_proj", "v_proj"], ["q_proj", "gate_proj", "down_proj"], ["embed_tokens", "o_proj"]),
    "gpt2": (["c_attn"], ["c_attn", "c_fc"], ["wte", "c_proj"]),
    "bert": (["query", "value"], ["query", "dense"], ["word_embeddings", "key"]),
}


def configs(kind: str, **options: Any) -> list[Any]:
    """LoRA, rsLoRA and DoRA, with ranks, scalings and targets of their own."""
    if kind == "bert":
        options["task_type"] = "SEQ_CLS"
    plain, more, embedded = TARGETS[kind]
    return [
        peft.LoraConfig(r=2, lora_alpha=3, target_modules=plain, **options),
        peft.LoraConfig(
            r=4, use_rslora=True, target_modules=more, rank_pattern={more[-1]: 3}, alpha_pattern={more[0]: 5}, **options
        ),
        peft.LoraConfig(r=3, use_dora=True, target_modules=plain, **options),
        peft.LoraConfig(r=2, use_dora=True, use_rslora=True, target_modules=embedded, **options),
    ]


@pytest.fixture(scope="module")
def nurseries(shelf: Shelf) -> dict[str, Nursery]:
    loads = {"llama": load_model, "gpt2": load_model, "bert": classifier}
    return {kind: Nursery(shelf, kind, load) for kind, load in loads.items()}


def gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def check_gradients(siblings: Siblings, path: str, alone: Any) -> None:
    expected = {name: gradient(one) for name, one in peft_names(alone).items()}
    found = {name: gradient(one) for name, one in siblings.named_parameters(path).items()}
    assert found.keys() == expected.keys()
    names = sorted(found)
    ours, theirs = (torch.cat([side[name].flatten() for name in names]) for side in (found, expected))
    assert distance(ours, theirs) <= GRADIENTS
    for name in names:  # of one that is small beside others, rounding is a larger share
        assert distance(found[name], expected[name]) <= 5 * GRADIENTS, name


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("llama", "mixed"),
        ("llama", "together"),
        pytest.param("gpt2", "mixed", marks=pytest.mark.slow),
        pytest.param("bert", "together", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_those_of_peft_alone(nurseries: dict[str, Nursery], kind: str, order: str) -> None:
    nursery = nurseries[kind]
    given = {nursery.path("s"): config for config in configs(kind, init_lora_weights=False)}
    rows = [list(given)[number] for number in (0, 1, 1, 2, 0, 3, 1, 2)]
    rows = sorted(rows) if order == "together" else rows
    batch = texts(len(rows), labels=3 if kind == "bert" else None)
    with nursery.pool() as pool, pool.siblings(given, nursery.parent) as siblings:
        assert pool.path == nursery.parent
        seen: list[dict[str, float]] = []
        for _ in range(2):  # gradients of two batches are added
            with siblings.rows(rows):
                out = pool._model(**{name: one for name, one in batch.items() if name != "labels"})
            losses = siblings.losses(out, batch["labels"])
            torch.autograd.backward(list(losses.values()))
            seen.append({path: float(loss.detach()) for path, loss in losses.items()})
        for path, config in given.items():
            alone = nursery.alone(config, values_of(siblings, path))
            for losses_then in seen:
                loss = alone(**mine(batch, rows, path, cut=kind != "bert")).loss
                loss.backward()
                assert losses_then[path] == pytest.approx(float(loss.detach()), rel=1e-6)
            check_gradients(siblings, path, alone)


OPTIMIZERS: Mapping[str, Any] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01),
}


def batches(kind: str, count: int, rows: int) -> list[Batch]:
    return [texts(rows, seed=number, labels=3 if kind == "bert" else None) for number in range(count)]


def labels_in(kind: str, labels: torch.Tensor) -> int:
    """The labels that a loss is the mean over."""
    return int((labels if kind == "bert" else labels[:, 1:]).ne(-100).sum())


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.slow), "sgd"])
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("llama", 5),
        pytest.param("llama", 50, marks=pytest.mark.slow),
        *(pytest.param(kind, 50, marks=pytest.mark.long) for kind in ("gpt2", "bert")),
    ],
)
def test_steps_are_those_of_peft_alone(nurseries: dict[str, Nursery], kind: str, count: int, optimizer: str) -> None:
    """One takes two batches for each update, and all their labels alike; the other is clipped and sits out a third."""
    nursery = nurseries[kind]
    given = {nursery.path("s"): config for config in configs(kind)[1:3]}
    first, second = given
    make = OPTIMIZERS[optimizer]
    usual = [first, second, first, second]
    norm, accumulate = {first: None, second: 0.05}, {first: 2, second: 1}
    with (
        nursery.pool() as pool,
        pool.siblings(given, nursery.parent, optimizer=make, max_grad_norm=norm, accumulate=accumulate) as siblings,
    ):
        begun = {path: values_of(siblings, path) for path in given}
        seen: dict[str, list[float]] = {path: [] for path in given}
        work = []
        for number, batch in enumerate(batches(kind, count, 4)):
            rows = usual if number % 3 else [first] * 4
            work.append((batch, rows))
            step = siblings.step(batch, rows)
            assert set(step.losses) == set(rows)
            for path, loss in step.losses.items():
                seen[path].append(loss)
        for path, config in given.items():
            alone = nursery.alone(config, begun[path])
            trained = peft_names(alone)
            theirs = make(list(trained.values()))
            losses = []
            own = [mine(batch, rows, path) for batch, rows in work if path in rows]
            counts = [labels_in(kind, one["labels"]) for one in own]
            size = accumulate[path]
            for at in range(0, len(own), size):
                for batch, labels in zip(own[at : at + size], counts[at : at + size], strict=True):
                    loss = alone(**batch).loss
                    losses.append(float(loss.detach()))
                    (loss * labels / sum(counts[at : at + size])).backward()
                    if len(losses) % size == 0:
                        torch.nn.utils.clip_grad_norm_(trained.values(), norm[path] or math.inf)
                        theirs.step()
                        theirs.zero_grad()
            assert seen[path] == pytest.approx(losses, rel=LOSSES)
            if optimizer == "sgd":
                for name, one in siblings.named_parameters(path).items():
                    assert distance(one, trained[name]) <= WEIGHTS, name
