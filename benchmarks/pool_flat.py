"""Whether switches stay as fast with many paths resident, what the first use of a path costs, and whether memory grows.

The model is a tiny one, so that 1,000 paths fit. The pools of 1, 100 and 1,000 paths share its weights and one registry
of 1,000 siblings; each switch is to one drawn at random from those that are resident. PEFT has adapters loaded instead.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import synthetic
from benchmarks.pool_sides import DEVICE, milliseconds, models, peft_model, registry_of, timed, turns, typical
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from registry.pool import AdapterPool

_SHAPE = synthetic.TINY
_PEFT = 100
"""How many adapters PEFT has loaded at most: each one that it loads takes longer than the one before."""


@dataclass(frozen=True)
class _Side:
    """A model and what is resident beside it."""

    switch: Callable[[str], object]
    model: Any
    names: Sequence[str]

    def first_uses(self) -> list[Sample]:
        """A switch to each."""
        return [timed(partial(self.switch, name)) for name in self.names]

    def switches(self, count: int) -> Sample:
        """Switches to what is drawn at random."""
        return typical(partial(self.switch, name) for name in self._drawn(count))

    def forwards(self, count: int) -> Sample:
        """Forwards of 8 tokens, each after a switch."""
        return typical(self._forward(name) for name in self._drawn(count))

    def both(self, count: int) -> None:
        """Switches, and a forward after every tenth."""
        for number, name in enumerate(self._drawn(count)):
            self.switch(name)
            if number % 10 == 0:
                self._call()

    def _drawn(self, count: int) -> list[str]:
        return random.Random(count).choices(self.names, k=count)

    def _forward(self, name: str) -> Callable[[], object]:
        self.switch(name)
        return self._call

    def _call(self) -> object:
        return self.model(torch.arange(8, device=DEVICE)[None])


def rows(run: Conditions) -> Iterator[Row]:
    """Switches and forwards by what is resident; first uses; memory."""
    counts = (1, 2, 4) if run.quick else (1, 100, 1000)
    folders = [synthetic.adapter(run.cache, _SHAPE, seed=seed, rank=4) for seed in range(1, counts[-1] + 1)]
    copies = models(run.cache, _SHAPE, torch.float32, len(counts) + 3)
    with registry_of(run.cache, _SHAPE, [[one] for one in folders]) as (registry, found), ExitStack() as opened:
        opened.enter_context(torch.no_grad())
        sides, pools = dict[str, _Side](), dict[int, AdapterPool]()
        first: list[Sample] = []
        for count in counts:
            model = copies.pop()
            pools[count] = opened.enter_context(AdapterPool(model, registry, memory="4GiB"))
            sides[f"ours, {count}"] = _Side(pools[count].set, model, [links[0] for links in found[:count]])
            first = sides[f"ours, {count}"].first_uses()
            if pools[count].stats().resident != count:
                raise SystemExit(f"The budget is too small for {count:,} resident paths.")
        few = min(_PEFT, counts[-1])
        sides["PEFT, 1"], _ = _loaded(copies.pop(), folders[:1])
        sides[f"PEFT, {few}"], adding = _loaded(copies.pop(), folders[:few])
        beside = Peer(f"PEFT, load_adapter, up to {few}", milliseconds(adding))
        yield Row("first use of a path, 1 link of rank 4, 14 modules", milliseconds(first), "ms", beside)
        yield from _flat(run, sides, counts, few)
        kept = sides[f"ours, {counts[1]}"]
        yield _memory("", kept, *((10, 100) if run.quick else (100, 10_000)))
        model, room = copies.pop(), pools[counts[1]].stats().resident_bytes // 2
        small = opened.enter_context(AdapterPool(model, registry, memory=room))
        short = _Side(small.set, model, kept.names)
        yield _memory(", room for half of the paths", short, *((10, 20) if run.quick else (100, 1000)))


def _loaded(model: Any, folders: Sequence[Path]) -> tuple[_Side, list[Sample]]:
    """PEFT with some adapters, and what loading each but the first took."""
    wrapped = peft_model(model, folders[:1])
    names = [f"a{number}" for number in range(1, len(folders) + 1)]
    loading = [partial(wrapped.load_adapter, *one) for one in zip(folders[1:], names[1:], strict=True)]
    return _Side(wrapped.set_adapter, wrapped, names), [timed(one) for one in loading]


def _flat(run: Conditions, sides: dict[str, _Side], counts: Sequence[int], few: int) -> Iterator[Row]:
    switches = turns(run, {name: partial(side.switches, 8 if run.quick else 300) for name, side in sides.items()}, 7)
    forwards = turns(run, {name: partial(side.forwards, 4 if run.quick else 100) for name, side in sides.items()}, 7)
    limits = {"switch unmerged": Goal("at most", 1.2, of="ratio"), "forward of 8 tokens": None}
    for (what, goal), samples in zip(limits.items(), (switches, forwards), strict=True):
        ours = {count: milliseconds(samples[f"ours, {count}"]) for count in counts}
        for count in counts[1:]:
            yield Row(f"{what}, {count:,} resident", ours[count], "ms", Peer("with 1 resident", ours[1]), goal)
        for count, loaded in ((1, 1), (counts[-1], few)):
            beside = Peer(f"PEFT, {loaded} loaded", milliseconds(samples[f"PEFT, {loaded}"]))
            yield Row(f"  {count:,} resident", ours[count], "ms", beside)


def _memory(with_what: str, side: _Side, begin: int, end: int) -> Row:
    side.both(begin)
    before = _resident()
    side.both(end - begin)
    grown = Figure((_resident() - before) / 1e6)
    name = f"resident memory grown from {begin} to {end:,} switches{with_what}"
    return Row(name, grown, "MB", goal=Goal("at most", 8, of="figure"))


def _resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
