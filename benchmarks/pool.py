"""Merging a path into a running model and taking it out again, beside PEFT's `merge_adapter` and `unmerge_adapter`.

Both sides have a model of the same weights in bf16 in memory, and adapters of rank 16 on all of its linear modules;
ours reads the adapters from the registry at each merge. PEFT adds a delta and subtracts it again, so weights come
back with other bits: the share of these is told beside ours, which is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks import running, synthetic
from benchmarks.pool_sides import models, peft_model, registry_of, timed, turns
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from registry.pool import AdapterPool

OURS = "ours"
PEFT = "peft"


def _in_and_out(merge: Callable[[], object], unmerge: Callable[[], object]) -> Sample:
    inside, out = timed(merge), timed(unmerge)
    return {**inside, "out": out["seconds"], "out_cpu": out["cpu"]}


def _changed(model: Any, base: Any) -> float:
    """The share of a model's weights that have other bits than the base's, in percent."""
    right = base.state_dict()
    weights: dict[str, torch.Tensor] = {
        name.replace(".base_layer", ""): one for name, one in model.state_dict().items() if "lora_" not in name
    }
    other: int = sum(
        int((one.view(torch.int16) != right[name].view(torch.int16)).sum()) for name, one in weights.items()
    )
    return 100 * other / sum(int(one.numel()) for one in weights.values())


def _measured(run: Conditions, shape: synthetic.Shape, depth: int) -> tuple[dict[str, list[Sample]], float, float]:
    """All samples by side, and what share of the weights has other bits afterwards: ours, PEFT's."""
    adapters = [synthetic.adapter(run.cache, shape, seed=seed) for seed in range(1, depth + 1)]
    (ours,), (theirs,) = (models(run.cache, shape, torch.bfloat16, 1) for _ in range(2))  # weights of their own
    wrapped = peft_model(theirs, adapters)
    names = [f"a{number}" for number in range(1, depth + 1)]
    with (
        registry_of(run.cache, shape, [adapters]) as (registry, [revisions]),
        AdapterPool(ours, registry, memory="8GiB") as pool,
    ):
        sides: dict[str, Callable[[], Sample]] = {
            OURS: lambda: _in_and_out(lambda: pool.merge(revisions[-1]), pool.unmerge),
            PEFT: lambda: _in_and_out(
                lambda: wrapped.base_model.merge_adapter(adapter_names=names), wrapped.base_model.unmerge_adapter
            ),
        }
        samples = turns(run, sides, 5)
        right = models(run.cache, shape, torch.bfloat16, 1)[0]
        return samples, _changed(ours, right), _changed(wrapped.base_model.model, right)


def rows(run: Conditions) -> Iterator[Row]:
    """Paths of one link and of four, in and out."""
    # Neither side touches the embeddings, so the model gets small ones; the layers are those of 1.1 B.
    shape = synthetic.TINY if run.quick else replace(synthetic.LARGE, vocab=256, layers=6)
    for depth in (1, 4):
        samples, ours, theirs = _measured(run, shape, depth)
        name = f"{depth} link{'s' if depth > 1 else ''}, bf16"
        for what, of, peer in (("merge", "seconds", "merge_adapter"), ("unmerge", "out", "unmerge_adapter")):
            beside = Peer(f"PEFT, {peer}", _figure(samples[PEFT], of))
            yield Row(f"{what} {name}", _figure(samples[OURS], of), "s", beside, Goal("at most", 0.1, of="ratio"))
        yield Row("  weights with other bits afterwards", Figure(ours), "%", Peer("PEFT", Figure(theirs)))


def _figure(samples: list[Sample], field: str) -> Figure:
    spent = running.median(samples, "cpu" if field == "seconds" else f"{field}_cpu")
    return replace(Figure.of(samples, field), cpu=spent)
