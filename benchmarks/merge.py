"""Merging a path to disk beside copying the same files and beside PEFT; memory, depth, and publish.

A synthetic Llama 1.1 B in bf16 (three shards) and adapters of rank 16 in fp32 on all linear modules, nested
sixteen deep. Every measured piece runs in a process of its own, after its imports.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from benchmarks import merge_floor, merge_parts, running, synthetic
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample

DEPTH = 4
DEEP = 16
MODULE = "model.layers.0.self_attn.q_proj"


@dataclass(frozen=True)
class Bench:
    """Where everything lies."""

    base: Path
    adapters: tuple[Path, ...]
    registry: Path
    scratch: Path
    dora: Path  # a DoRA that takes the place of the second adapter in the path below `DORA`

    def reference(self, depth: int) -> str:
        """The path of the adapter that stands on ``depth - 1`` others."""
        return "/".join(["llama", *(f"a{number:02d}" for number in range(1, depth + 1))])

    def with_dora(self, depth: int) -> str:
        """The same path with a DoRA as its second link."""
        names = ["llama", "a01", "dora", *(f"a{number:02d}" for number in range(3, depth + 1))]
        return "/".join(names[: depth + 1])


def prepare(cache: Path, shape: synthetic.Shape) -> Bench:
    """Write model and adapters where they are missing, and a new registry that holds them."""
    from registry.services.local import LocalRegistry

    cache.mkdir(parents=True, exist_ok=True)
    base = synthetic.base_model(cache, shape)
    adapters = tuple(synthetic.adapter(cache, shape, seed=seed) for seed in range(1, DEEP + 1))
    folder = Path(tempfile.mkdtemp(prefix="registry-", dir=cache))
    bench = Bench(base, adapters, folder, cache / "scratch", synthetic.adapter(cache, shape, seed=2, dora=True))
    shutil.rmtree(bench.scratch, ignore_errors=True)
    bench.scratch.mkdir()
    registry = LocalRegistry.open(bench.registry, create=True)
    start = time.perf_counter()
    added = registry.add_base("llama", base)
    sys.stderr.write(f"  base add, by {added.stored_by}: {time.perf_counter() - start:.1f} s\n")
    for depth, adapter in enumerate(adapters, start=1):
        registry.publish(adapter, bench.reference(depth))
    for depth, adapter in enumerate([bench.dora, *adapters[2:DEPTH]], start=2):
        registry.publish(adapter, bench.with_dora(depth))
    registry.close()
    running.warm(bench.base, *bench.adapters, bench.dora, bench.registry)
    return bench


def _weight(folder: Path, tensor: str) -> torch.Tensor:
    index = folder / "model.safetensors.index.json"  # PEFT's peer saves a single file
    file = json.loads(index.read_text())["weight_map"][tensor] if index.exists() else "model.safetensors"
    with safe_open(folder / file, framework="pt") as tensors:
        weight: torch.Tensor = tensors.get_tensor(tensor)
    return weight.double()


def delta_error(bench: Bench, out: Path) -> float:
    """Relative error of the sum of deltas that the merged weights of one module hold, against float64."""
    exact = torch.zeros((), dtype=torch.float64)
    for folder in bench.adapters[:DEPTH]:
        config = json.loads((folder / "adapter_config.json").read_text())
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            a = file.get_tensor(f"base_model.model.{MODULE}.lora_A.weight").double()
            b = file.get_tensor(f"base_model.model.{MODULE}.lora_B.weight").double()
        exact = exact + config["lora_alpha"] / config["r"] * b @ a
    held = _weight(out, f"{MODULE}.weight") - _weight(bench.base, f"{MODULE}.weight")
    return float((held - exact).norm() / exact.norm())


def _ours(bench: Bench, depth: int) -> Callable[[Path], Sample]:
    def side(out: Path) -> Sample:
        sample = running.run_child("fetch", str(bench.registry), bench.reference(depth), str(out))
        return {**sample, "error": delta_error(bench, out)} if depth == DEPTH else sample

    return side


def _parts(bench: Bench) -> Callable[[Path], Sample]:
    return lambda out: running.run_child("fetch_parts", str(bench.registry), bench.reference(DEPTH), str(out))


def _floor(bench: Bench, depth: int) -> Callable[[Path], Sample]:
    adapters = [str(folder) for folder in bench.adapters[:depth]]
    return lambda out: running.run_child("floor", str(bench.base), str(out), *adapters)


def _with_dora(bench: Bench) -> Callable[[Path], Sample]:
    return lambda out: running.run_child("fetch", str(bench.registry), bench.with_dora(DEPTH), str(out))


def _peft(bench: Bench) -> Callable[[Path], Sample]:
    def side(out: Path) -> Sample:
        adapters = [str(folder) for folder in bench.adapters[:DEPTH]]
        return {**running.run_child("peft", str(bench.base), str(out), *adapters), "error": delta_error(bench, out)}

    return side


def _publish(bench: Bench) -> Callable[[Path], Sample]:
    turn = 0

    def side(out: Path) -> Sample:
        """Publish bytes that the registry does not hold: a copy with its last bytes changed."""
        nonlocal turn
        turn += 1
        shutil.copytree(bench.adapters[0], out)
        with (out / "adapter_model.safetensors").open("r+b") as file:
            file.seek(-4, 2)
            file.write(bytes([turn % 256, turn // 256, 0, 0x3A]))
        running.warm(out)
        os.sync()
        return running.run_child("publish", str(bench.registry), str(out), "llama/published")

    return side


def measure(bench: Bench, runs: int, peer_runs: int) -> dict[str, list[Sample]]:
    """All samples, by side."""
    sides: dict[str, Callable[[Path], Sample]] = {
        "copy": lambda out: running.copy_and_sync(bench.base, out),
        f"merge depth {DEPTH}": _ours(bench, DEPTH),
        f"merge depth {DEPTH}, one DoRA": _with_dora(bench),
        "merge depth 1": _ours(bench, 1),
        f"merge depth {DEEP}": _ours(bench, DEEP),
        f"parts of depth {DEPTH}": _parts(bench),
        **{f"floor depth {depth}": _floor(bench, depth) for depth in (1, DEPTH, DEEP)},
        "peft": _peft(bench),
        "publish": _publish(bench),
        "read and hash": lambda _out: running.run_child("read_and_hash", str(bench.adapters[0])),
    }
    return running.alternate(sides, runs=runs, scratch=bench.scratch, few={"peft": peer_runs})


def rows(run: Conditions) -> Iterator[Row]:
    """Merging beside copying and beside PEFT; depth; memory; publishing beside reading and hashing."""
    bench = prepare(run.cache, synthetic.TINY if run.quick else synthetic.LARGE)
    try:
        samples = measure(bench, run.runs(5), min(3, run.runs(5)))
    finally:
        shutil.rmtree(bench.registry, ignore_errors=True)
        shutil.rmtree(bench.scratch, ignore_errors=True)
    of = {name: Figure.of(values) for name, values in samples.items()}
    copy = Peer("cp -r and sync", of["copy"])
    ours = of[f"merge depth {DEPTH}"]
    what = "merge to disk with sync, 1.1 B in bf16"
    yield Row(f"{what}, depth {DEPTH}", ours, "s", copy, Goal("at most", 1.6, of="ratio"))
    yield Row(
        "  the same", ours, "s", Peer("PEFT, all adapters in one merge", of["peft"]), Goal("at most", 0.1, of="ratio")
    )
    yield Row(
        "  error of the sum of deltas",
        _percent(samples[f"merge depth {DEPTH}"]),
        "%",
        Peer("PEFT", _percent(samples["peft"])),
    )
    for depth, limit in ((1, 1.3), (DEPTH, 1.25), (DEEP, 1.3)):
        floor = Peer("the floor: what any merge of verified blocks has to do", of[f"floor depth {depth}"])
        yield Row(f"{what}, depth {depth}", of[f"merge depth {depth}"], "s", floor, Goal("at most", limit, of="ratio"))
    parts, floors = samples[f"parts of depth {DEPTH}"], samples[f"floor depth {DEPTH}"]
    for part in merge_parts.OF_MERGE:
        beside = Peer("the floor", Figure.of(floors, part)) if part in merge_floor.PARTS else None
        yield Row(f"  CPU of depth {DEPTH}: {part}", Figure.of(parts, part), "s", beside)
    for side in ("merge depth 1", f"merge depth {DEEP}", f"merge depth {DEPTH}, one DoRA"):
        yield Row(f"{what}, {side.removeprefix('merge ')}", of[side], "s", copy)
    for side in (f"merge depth {DEPTH}", f"merge depth {DEPTH}, one DoRA", f"merge depth {DEEP}"):
        peak = Figure(max(sample["peak"] for sample in samples[side]) / 1e6)
        yield Row(f"peak memory above imports, {side}", peak, "MB", goal=Goal("at most", 500, of="figure"))
    peer = Peer("read and sha256", of["read and hash"])
    yield Row("publish 50 MB into a folder", of["publish"], "s", peer, Goal("at most", 4.0, of="cpu"))
    yield Row("  the same, in time", of["publish"], "s", peer, Goal("at most", 4.0, of="ratio"))


def _percent(samples: list[Sample]) -> Figure:
    return Figure(100 * running.median(samples, "error"))
