"""Switching between paths beside the base, beside PEFT's `set_adapter` and `hotswap_adapter` of one link.

Both sides have one model of the same weights, and all that they switch between in memory: two paths of each depth, two
adapters. What a switch costs depends on the number of modules and hardly on their sizes, so that the model of 154
modules, as many as TinyLlama has, is a narrow one. `hotswap_adapter` reads an adapter's files over the one in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice

import torch

from benchmarks import synthetic
from benchmarks.pool_sides import DEVICE, milliseconds, models, peft_model, registry_of, turns, typical
from benchmarks.rows import Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from registry.pool import AdapterPool

DEPTHS = (1, 4, 15)
SET, HOTSWAP, FORWARD = "PEFT, set_adapter of one link", "PEFT, hotswap_adapter", "PEFT, set_adapter and a forward"
_NARROW = replace(synthetic.LARGE, hidden=256, intermediate=704, heads=8, kv_heads=2, vocab=256, shards=1)


def rows(run: Conditions) -> Iterator[Row]:
    """Switches of a MiniLM and of a model with as many modules as 1.1 B."""
    yield from _rows(run, "MiniLM", synthetic.TINY_ENCODER if run.quick else synthetic.MINILM)
    yield from _rows(run, "a Llama of 22 layers", synthetic.TINY if run.quick else _NARROW)


def _rows(run: Conditions, name: str, shape: synthetic.Shape | synthetic.Encoder) -> Iterator[Row]:
    modules = len(list(synthetic.linear_modules(shape)))
    samples = _measured(run, shape)
    limit = Goal("at most", 1, of="ratio")
    for depth in DEPTHS:
        links = f"{depth} link{'s' if depth > 1 else ''}"
        figure = milliseconds(samples[f"set {depth}"])
        beside = Peer(SET, milliseconds(samples[SET]))
        yield Row(f"switch unmerged, {links}, {modules} modules ({name})", figure, "ms", beside, limit)
    one = milliseconds(samples["set 1"])
    yield Row("  1 link", one, "ms", Peer(HOTSWAP, milliseconds(samples[HOTSWAP])), limit)
    used = milliseconds(samples["use"])
    yield Row("  in and out of `use` around nothing", used, "ms", Peer(SET, milliseconds(samples[SET])), limit)
    both = milliseconds(samples["set and a forward"])
    yield Row("  with a forward of 8 tokens", both, "ms", Peer(FORWARD, milliseconds(samples[FORWARD])), limit)


def _measured(run: Conditions, shape: synthetic.Shape | synthetic.Encoder) -> dict[str, list[Sample]]:
    """Samples by side, each the median of some switches."""
    from peft.utils.hotswap import hotswap_adapter

    chains = [
        [synthetic.adapter(run.cache, shape, seed=first + number) for number in range(max(DEPTHS))]
        for first in (1, 1 + max(DEPTHS))
    ]
    roots = [chain[0] for chain in chains]
    ours, theirs, swapped = models(run.cache, shape, torch.float32, 3)
    wrapped, hot = peft_model(theirs, roots), peft_model(swapped, roots[:1])
    count, few = (4, 4) if run.quick else (100, 10)
    ids = torch.arange(8, device=DEVICE)[None]
    with (
        registry_of(run.cache, shape, chains) as (registry, revisions),
        AdapterPool(ours, registry, memory="4GiB") as pool,
        torch.no_grad(),
    ):
        links = [chain[0] for chain in revisions]

        def used(reference: str) -> None:
            with pool.use(reference):
                pass

        def set_and_forward(reference: str) -> None:
            pool.set(reference)
            ours(ids)

        def peft_and_forward(name: str) -> None:
            wrapped.set_adapter(name)
            wrapped(ids)

        sides: dict[str, Callable[[], Sample]] = {
            f"set {depth}": _switching(pool.set, [chain[depth - 1] for chain in revisions], count) for depth in DEPTHS
        }
        sides["use"] = _switching(used, links, count)
        sides["set and a forward"] = _switching(set_and_forward, links, few)
        sides[SET] = _switching(wrapped.set_adapter, ["a1", "a2"], count)
        sides[FORWARD] = _switching(peft_and_forward, ["a1", "a2"], few)
        sides[HOTSWAP] = _switching(
            lambda folder: hotswap_adapter(hot, folder, adapter_name="a1"), [*map(str, roots)], few
        )
        samples = turns(run, sides, 7)
        pool.set(None)
        return samples


def _switching(switch: Callable[[str], object], between: Sequence[str], count: int) -> Callable[[], Sample]:
    return lambda: typical(partial(switch, one) for one in islice(cycle(between), count))
