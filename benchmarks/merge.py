"""Merging a path to disk beside copying the same files and beside PEFT; memory, depth, and publish.

    python -m benchmarks.merge [--tiny] [--cache FOLDER] [--runs N] [--peer-runs N]

A synthetic Llama 1.1 B in bf16 (three shards) and adapters of rank 16 in fp32 on all linear modules, nested
sixteen deep. Every measured piece runs in a process of its own, after its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from benchmarks import merge_floor, running, synthetic
from benchmarks.running import Figure, Sample

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


def _floor(bench: Bench, depth: int) -> Callable[[Path], Sample]:
    return lambda out: running.run_child("floor", str(bench.base), str(out), str(depth))


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
        "merge depth 4": _ours(bench, DEPTH),
        "merge depth 4, one DoRA": _with_dora(bench),
        "merge depth 1": _ours(bench, 1),
        "merge depth 16": _ours(bench, DEEP),
        **{f"floor depth {depth}": _floor(bench, depth) for depth in (1, DEPTH, DEEP)},
        "peft depth 4": _peft(bench),
        "publish": _publish(bench),
        "read and hash": lambda _out: running.run_child("read_and_hash", str(bench.adapters[0])),
    }
    if peer_runs == 0:
        del sides["peft depth 4"]
    return running.alternate(sides, runs=runs, scratch=bench.scratch, few={"peft depth 4": peer_runs})


def _beside_floor(samples: dict[str, list[Sample]], depth: int, limit: str) -> list[Figure]:
    """A merge beside what any merge of that depth has to do, with the parts of that."""
    ours, floor = samples[f"merge depth {depth}"], samples[f"floor depth {depth}"]
    seconds, cpu = running.median(floor), running.median(floor, "cpu")
    parts = [Figure(f"    {part}", running.median(floor, part), "s") for part in merge_floor.PARTS]
    return [
        Figure("  its CPU time", running.median(ours, "cpu"), "s"),
        Figure("  the floor: what any merge has to do", seconds, "s"),
        Figure("  the CPU time of the floor, of which", cpu, "s"),
        *(parts if depth == DEPTH else [part for part in parts if part.name.strip() == "product"]),
        Figure("  times the floor", running.median(ours) / seconds, "x", limit),
        Figure("  CPU time, times that of the floor", running.median(ours, "cpu") / cpu, "x"),
    ]


def figures(samples: dict[str, list[Sample]]) -> list[Figure]:
    """What the samples say, with the limits that the project set itself."""
    mid = {name: running.median(values) for name, values in samples.items()}
    merge = samples["merge depth 4"]
    rows = [
        Figure("cp -r and sync of the same files", mid["copy"], "s"),
        Figure("merge to disk, depth 4, with sync", mid["merge depth 4"], "s"),
        Figure("  of which the last sync", running.median(merge, "sync"), "s"),
        Figure("  its imports, not counted above", running.median(merge, "imports"), "s"),
        Figure("  the whole process", running.median(merge, "process"), "s"),
        Figure("  times the copy", mid["merge depth 4"] / mid["copy"], "x", "at most 1.6"),
        *_beside_floor(samples, DEPTH, "at most 1.25"),
        Figure("  error of the sum of deltas", 100 * running.median(merge, "error"), "%"),
        Figure("  peak memory above imports", max(s["peak"] for s in merge) / 1e6, "MB", "under 500"),
        Figure("merge to disk, depth 4 with a DoRA link", mid["merge depth 4, one DoRA"], "s"),
        Figure("  times that without", mid["merge depth 4, one DoRA"] / mid["merge depth 4"], "x", "at most 1.6"),
        Figure(
            "  peak memory above imports",
            max(s["peak"] for s in samples["merge depth 4, one DoRA"]) / 1e6,
            "MB",
            "under 500",
        ),
        Figure("merge to disk, depth 1", mid["merge depth 1"], "s"),
        *_beside_floor(samples, 1, "at most 1.3"),
        Figure("merge to disk, depth 16", mid["merge depth 16"], "s"),
        Figure("  times depth 1", mid["merge depth 16"] / mid["merge depth 1"], "x"),
        *_beside_floor(samples, DEEP, "at most 1.3"),
        Figure(
            "  peak memory above imports", max(s["peak"] for s in samples["merge depth 16"]) / 1e6, "MB", "under 500"
        ),
    ]
    if "peft depth 4" in samples:
        peft = samples["peft depth 4"]
        rows += [
            Figure("PEFT: load, merge 4 times, save, sync", mid["peft depth 4"], "s"),
            Figure("  times ours", mid["peft depth 4"] / mid["merge depth 4"], "x", "at least 10"),
            Figure("  error of the sum of deltas", 100 * running.median(peft, "error"), "%"),
            Figure("  peak memory above imports", max(s["peak"] for s in peft) / 1e6, "MB"),
        ]
    rows += [
        Figure("read and sha256 one adapter", mid["read and hash"], "s"),
        Figure("publish that adapter", mid["publish"], "s"),
        Figure("  times reading and hashing", mid["publish"] / mid["read and hash"], "x", "at most 4"),
    ]
    return rows


def main(arguments: list[str] | None = None) -> Path:
    """Run everything once and print the table; the JSON file."""
    parser = argparse.ArgumentParser(prog="benchmarks.merge", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--tiny", action="store_true", help="a model of a few kB: shows that the benchmark works")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "registry-benchmarks")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer-runs", type=int, default=3, help="runs of PEFT, which is slow; 0 leaves it out")
    options = parser.parse_args(arguments)
    bench = prepare(options.cache, synthetic.TINY if options.tiny else synthetic.LARGE)
    try:
        samples = measure(bench, options.runs, min(options.peer_runs, options.runs))
    finally:
        shutil.rmtree(bench.registry, ignore_errors=True)
        shutil.rmtree(bench.scratch, ignore_errors=True)
    rows = figures(samples)
    title = f"{'Tiny' if options.tiny else '1.1 B'} Llama, bf16, medians of {options.runs} alternating runs"
    print(running.table(title, rows))
    file = running.save("merge-tiny" if options.tiny else "merge", rows, dict(samples))
    print(f"\nSamples: {file.name} in benchmarks/results")
    return file


if __name__ == "__main__":
    main()
