"""Batches whose rows follow different paths, beside PEFT's `adapter_names`, one call a path, and the base alone.

8 rows, each with a path of its own: one link of rank 16 on all linear modules of the layers. All sides have models that
share the base's weights, and factors in the model's dtype, which is PEFT's faster way in 16 bits. A call of one path
includes the switch to it. What a mixed batch costs above the base's forward of the same batch is told by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import synthetic
from benchmarks.pool_sides import DEVICE, milliseconds, models, peft_model, registry_of, timed, turns
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from registry.pool import AdapterPool

PATHS = 8
MIXED, CALLS, BASE, ONE, FIRST = "mixed", f"{PATHS} calls", "base", "one path", "first use"


@dataclass(frozen=True)
class _Case:
    """A model and a batch."""

    name: str
    shape: synthetic.Shape | synthetic.Encoder
    tokens: int
    dtype: torch.dtype
    turns: int
    dora: bool = False

    def adapters(self, cache: Path) -> list[Path]:
        """One a row."""
        return [synthetic.adapter(cache, self.shape, seed=seed, dora=self.dora) for seed in range(1, PATHS + 1)]


def rows(run: Conditions) -> Iterator[Row]:
    """MiniLM with short and long rows, DoRA, and 1.1 B."""
    encoder, decoder = (synthetic.TINY_ENCODER, synthetic.TINY) if run.quick else (synthetic.MINILM, synthetic.LARGE)
    for case in (
        _Case("MiniLM, 8 x 32 tokens, fp32", encoder, 32, torch.float32, 21),
        _Case("MiniLM, 8 x 128 tokens, fp32", encoder, 128, torch.float32, 15),
        _Case("MiniLM, 8 x 32 tokens, fp32, DoRA", encoder, 32, torch.float32, 15, dora=True),
        _Case("1.1 B, 8 x 32 tokens, bf16", decoder, 32, torch.bfloat16, 7),
    ):
        samples, apart = _measured(run, case)
        yield from _told(case, samples)
        exact = Goal("at most", 1e-5, of="figure") if case.dtype is torch.float32 else None
        yield Row(f"  distance of the outputs from PEFT's, {case.name}", Figure(apart), "", goal=exact)


def _told(case: _Case, samples: dict[str, list[Sample]]) -> Iterator[Row]:
    limit = Goal("at most", 1, of="ratio")
    mixed = milliseconds(samples[MIXED])
    name = f"{PATHS} paths in a batch, {case.name}"
    theirs = samples.get(f"PEFT, {MIXED}")
    if theirs is None:
        calls = Peer(f"PEFT, {CALLS}: it refuses DoRA in a mixed batch", milliseconds(samples[f"PEFT, {CALLS}"]))
        yield Row(name, mixed, "ms", calls, limit)
    else:
        yield Row(name, mixed, "ms", Peer("PEFT, adapter_names", milliseconds(theirs)), limit)
        above, beside = (_above(samples[side], samples[BASE]) for side in (MIXED, f"PEFT, {MIXED}"))
        yield Row("  above the base's forward", above, "ms", Peer("PEFT", beside), Goal("at most", 0.5, of="ratio"))
        yield Row("  beside calls", mixed, "ms", Peer(f"PEFT, {CALLS}", milliseconds(samples[f"PEFT, {CALLS}"])), limit)
    yield Row("  beside calls of our own", mixed, "ms", Peer(CALLS, milliseconds(samples[CALLS])), limit)
    yield Row("  beside the base alone", mixed, "ms", Peer("the model without a pool", milliseconds(samples[BASE])))
    one, active = milliseconds(samples[ONE]), milliseconds(samples[f"PEFT, {ONE}"])
    yield Row(f"one path for the batch, {case.name}", one, "ms", Peer("PEFT, the active adapter", active))
    yield Row(f"first use of a path, {case.name}", milliseconds(samples[FIRST]), "ms")


def _above(samples: Sequence[Sample], base: Sequence[Sample]) -> Figure:
    """What each turn took above the base's forward in the same turn."""
    return milliseconds(
        [
            {field: side[field] - bare[field] for field in ("seconds", "cpu")}
            for side, bare in zip(samples, base, strict=True)
        ]
    )


def _measured(run: Conditions, case: _Case) -> tuple[dict[str, list[Sample]], float]:
    """Samples by side, and how far our outputs are from PEFT's of one path at a time, in parts of the largest."""
    adapters = case.adapters(run.cache)
    bare, ours, theirs = models(run.cache, case.shape, case.dtype, 3)
    wrapped = peft_model(theirs, adapters, autocast=False)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(case.shape.vocab, (PATHS, case.tokens), generator=generator).to(DEVICE)
    with (
        registry_of(run.cache, case.shape, [[one] for one in adapters]) as (registry, found),
        AdapterPool(ours, registry, memory="4GiB") as pool,
        torch.no_grad(),
    ):
        paths = [links[0] for links in found]
        first = [timed(partial(pool.set, path)) for path in paths]
        pool.set(None)
        calls = _Calls(ids, ours, pool, paths, wrapped)
        sides: dict[str, Callable[[], object]] = {
            MIXED: calls.mixed,
            CALLS: calls.one_by_one,
            ONE: calls.uniform,
            f"PEFT, {CALLS}": calls.peft_one_by_one,
            f"PEFT, {ONE}": calls.peft_uniform,
            BASE: lambda: bare(ids),
        }
        if not case.dora:
            sides[f"PEFT, {MIXED}"] = calls.peft_mixed
        samples = {FIRST: first} | turns(run, {name: partial(timed, side) for name, side in sides.items()}, case.turns)
        right = torch.cat([one[0] for one in calls.peft_one_by_one()]).float()
        return samples, float((calls.mixed()[0].float() - right).abs().max() / right.abs().max())


@dataclass(frozen=True)
class _Calls:
    """Forwards of both sides."""

    ids: torch.Tensor
    model: Any
    pool: AdapterPool
    paths: Sequence[str]
    peft: Any

    def mixed(self) -> Any:
        """A path a row."""
        with self.pool.use(self.paths):
            return self.model(self.ids)

    def one_by_one(self) -> list[Any]:
        """A call a row, each with its path."""
        found = []
        for number, path in enumerate(self.paths):
            with self.pool.use(path):
                found.append(self.model(self.ids[number : number + 1]))
        return found

    def uniform(self) -> Any:
        """One path for all rows."""
        with self.pool.use(self.paths[0]):
            return self.model(self.ids)

    def peft_mixed(self) -> Any:
        """An adapter a row."""
        return self.peft(self.ids, adapter_names=[f"a{number}" for number in range(1, PATHS + 1)])

    def peft_one_by_one(self) -> list[Any]:
        """A call a row, each with its adapter."""
        found = []
        for number in range(PATHS):
            self.peft.set_adapter(f"a{number + 1}")
            found.append(self.peft(self.ids[number : number + 1]))
        return found

    def peft_uniform(self) -> Any:
        """One adapter for all rows."""
        self.peft.set_adapter("a1")
        return self.peft(self.ids)
