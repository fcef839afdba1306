"""Statistics of an adapter of a 7 B model from its factors, and of two beside each other; beside the dense way.

    python -m benchmarks.stats WAY SHAPE LAYERS ADAPTER...  one measured process: a way of `WAYS`

The dense way makes each delta with torch and asks for its singular values, which is what a script does that has no
factors in mind; for all of a 7 B model it takes hours, so that both are compared on one layer of 1.1 B. Where gradience
is installed (a tool that audits adapters, from their factors too), it is a peer of all layers.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import synthetic
from benchmarks.child import Measure
from benchmarks.machine import ROOT
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from benchmarks.synthetic import Shape

if TYPE_CHECKING:
    from registry.tensors.path.programs import BoundLink

SHAPES = {
    "large": Shape(hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=32, vocab=32000, shards=1),
    "1.1 B": synthetic.LARGE,
    "tiny": synthetic.TINY,
}
DEPTH = 4


def ours(shape: Shape, adapters: list[Path]) -> None:
    """Open the adapters as a path and measure it."""
    start = time.perf_counter()
    from registry.tensors.analysis.statistics import delta_statistics

    opened = _Opened(shape)
    measure = Measure(time.perf_counter() - start)
    found = delta_statistics(opened.links(adapters), opened.table)
    measure.report(norm=found.frobenius)


def pair(shape: Shape, adapters: list[Path]) -> None:
    """Open two adapters as siblings and compare their deltas."""
    start = time.perf_counter()
    from registry.schemas.difference import ComparedDelta
    from registry.tensors.analysis.deltas import SinceLink, compare_deltas

    opened = _Opened(shape)
    measure = Measure(time.perf_counter() - start)
    name = ComparedDelta(reference="child", since="base")
    a, b = (SinceLink(name, opened.links([folder]), 0) for folder in adapters)
    found = compare_deltas(a, b, opened.table, undone_of="a")
    measure.report(cosine=found.cosine or 0.0, overlap=found.row_overlap or 0.0)


def children(shape: Shape, adapters: list[Path]) -> None:
    """Open adapters as siblings and compare them all with all."""
    start = time.perf_counter()
    from registry.schemas.difference import ComparedDelta
    from registry.tensors.analysis.deltas import SinceLink
    from registry.tensors.analysis.inner_products import delta_matrix

    opened = _Opened(shape)
    measure = Measure(time.perf_counter() - start)
    name = ComparedDelta(reference="child", since="base")
    found = delta_matrix("base", [SinceLink(name, opened.links([folder]), 0) for folder in adapters], opened.table)
    measure.report(cosine=found.cosine[0][1] or 0.0)


class _Opened:
    """The base model's table, and adapters on it; it imports what reads them."""

    def __init__(self, shape: Shape) -> None:
        from registry.tensors.table.targets import Target, TargetKind, TargetTable

        self.table = TargetTable(
            {
                name: Target(name, TargetKind.LINEAR, f"{name}.weight", (rows, columns))
                for name, rows, columns in synthetic.linear_modules(shape)
            },
            "benchmark",
        )
        self.links([])

    def links(self, adapters: list[Path]) -> list[BoundLink]:
        """The adapters as a path."""
        from registry.errors import InvalidAdapterError
        from registry.files.header import read_header
        from registry.files.source import FileSource
        from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
        from registry.tensors.path.programs import BoundLink

        found = []
        for folder in adapters:
            source = FileSource(folder / "adapter_model.safetensors")
            header = read_header(source, what="the adapter", error=InvalidAdapterError)
            config = parse_config((folder / "adapter_config.json").read_bytes())
            found.append(BoundLink(read_checkpoint(config, header.entries, self.table), source))
        return found


def dense(shape: Shape, adapters: list[Path]) -> None:
    """Each delta multiplied out in fp32, and its singular values."""
    start = time.perf_counter()
    import torch
    from safetensors.torch import load_file

    measure = Measure(time.perf_counter() - start)
    loaded = [load_file(folder / "adapter_model.safetensors") for folder in adapters]
    energy = 0.0
    for name, _, _ in synthetic.linear_modules(shape):
        prefix = f"base_model.model.{name}"
        delta = sum(2.0 * one[f"{prefix}.lora_B.weight"] @ one[f"{prefix}.lora_A.weight"] for one in loaded)
        assert isinstance(delta, torch.Tensor)
        energy += float(torch.linalg.svdvals(delta).square().sum())
    measure.report(norm=math.sqrt(energy))


def dense_pair(shape: Shape, adapters: list[Path]) -> None:
    """Two deltas multiplied out in fp32: their cosine, and the overlap of their row spaces."""
    start = time.perf_counter()
    import torch
    from safetensors.torch import load_file

    measure = Measure(time.perf_counter() - start)
    loaded = [load_file(folder / "adapter_model.safetensors") for folder in adapters]
    inner, energies, shared = 0.0, [0.0, 0.0], []
    for name, _, _ in synthetic.linear_modules(shape):
        prefix = f"base_model.model.{name}"
        a, b = (2.0 * one[f"{prefix}.lora_B.weight"] @ one[f"{prefix}.lora_A.weight"] for one in loaded)
        inner += float((a * b).sum())
        energies = [energy + float(delta.square().sum()) for energy, delta in zip(energies, (a, b), strict=True)]
        spaces = []
        for delta in (a, b):
            _, values, rows = torch.linalg.svd(delta, full_matrices=False)
            spaces.append(rows[values > 1e-5 * values[0]])
        shared.append(torch.linalg.svdvals(spaces[0] @ spaces[1].T).square())
    overlap = float(torch.cat(shared).mean())
    measure.report(cosine=inner / math.sqrt(energies[0] * energies[1]), overlap=overlap)


def gradience(shape: Shape, adapters: list[Path]) -> None:
    """Its audit of a PEFT folder; what it says meanwhile goes to stderr."""
    start = time.perf_counter()
    from contextlib import redirect_stdout

    audit = importlib.import_module("gradience.vnext.audit.lora_audit").audit_lora_peft_dir
    measure = Measure(time.perf_counter() - start)
    with redirect_stdout(sys.stderr):
        found = audit(str(adapters[0]))
    assert found.n_layers == 7 * shape.layers
    measure.report(norm=math.sqrt(math.fsum(layer.frob_sq for layer in found.layers)))


def _child(way: str, shape: str, layers: int, adapters: list[Path]) -> Sample:
    words = [sys.executable, "-m", "benchmarks.stats", way, shape, str(layers), *map(str, adapters)]
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    sample: Sample = json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(f"  {way}, {layers} layers, {len(adapters)} links: {sample['seconds']:.2f} s\n")
    return sample


def rows(run: Conditions) -> Iterator[Row]:
    """All layers of one link and of a path of four; one layer beside the dense way."""
    name = "tiny" if run.quick else "large"
    shape, runs = SHAPES[name], run.runs(5)
    run.cache.mkdir(parents=True, exist_ok=True)
    adapters = [synthetic.adapter(run.cache, shape, seed=seed) for seed in range(1, DEPTH + 1)]
    small = "tiny" if run.quick else "1.1 B"
    layer = [synthetic.adapter(run.cache, replace(SHAPES[small], layers=1), seed=1)]
    one = [_child("ours", name, shape.layers, adapters[:1]) for _ in range(runs)]
    path = [_child("ours", name, shape.layers, adapters) for _ in range(runs)]
    targets = f"{7 * shape.layers} targets of rank 16"
    audit = None
    if importlib.util.find_spec("gradience") is not None:
        audit = Peer("gradience, audit", Figure.of([_child("gradience", name, shape.layers, adapters[:1])]))
    yield Row(f"one link, {targets}", Figure.of(one), "s", audit, Goal("at most", 3, of="figure"))
    peak = Figure.of([{"peak": sample["peak"]} for sample in one], "peak", scale=1e-6)
    yield Row("  peak memory above imports", peak, "MB", goal=Goal("at most", 300, of="figure"))
    yield Row(f"a path of {DEPTH} links, {targets}", Figure.of(path), "s")
    ours_layer = [_child("ours", small, 1, layer) for _ in range(runs)]
    dense_layer = [_child("dense", small, 1, layer)]
    peer = Peer("torch, dense singular values", Figure.of(dense_layer))
    yield Row("one link, one layer of 1.1 B", Figure.of(ours_layer), "s", peer, Goal("at most", 1 / 200, of="ratio"))
    apart = abs(ours_layer[0]["norm"] / dense_layer[0]["norm"] - 1)
    yield Row("  distance of the norms", Figure(apart), "", goal=Goal("at most", 1e-5, of="figure"))
    yield from _compared(run, name, small, adapters)


def _compared(run: Conditions, name: str, small: str, adapters: list[Path]) -> Iterator[Row]:
    """Two siblings of all layers, four of them all with all, and two of one layer beside the dense way."""
    shape, runs = SHAPES[name], run.runs(5)
    targets = f"{7 * shape.layers} targets of rank 16"
    two = [_child("pair", name, shape.layers, adapters[:2]) for _ in range(runs)]
    yield Row(f"deltas of two siblings, {targets}", Figure.of(two), "s")
    peak = Figure.of([{"peak": sample["peak"]} for sample in two], "peak", scale=1e-6)
    yield Row("  peak memory above imports", peak, "MB")
    every = [_child("children", name, shape.layers, adapters) for _ in range(runs)]
    yield Row(f"{DEPTH} siblings all with all, {targets}", Figure.of(every), "s")
    layers = [synthetic.adapter(run.cache, replace(SHAPES[small], layers=1), seed=seed) for seed in (1, 2)]
    ours_layer = [_child("pair", small, 1, layers) for _ in range(runs)]
    dense_layer = [_child("dense pair", small, 1, layers)]
    peer = Peer("torch, dense singular vectors", Figure.of(dense_layer))
    yield Row("deltas of two siblings, one layer of 1.1 B", Figure.of(ours_layer), "s", peer)
    apart = max(abs(ours_layer[0][figure] - dense_layer[0][figure]) for figure in ("cosine", "overlap"))
    yield Row("  distance of cosine and overlap", Figure(apart), "", goal=Goal("at most", 1e-4, of="figure"))


WAYS = {
    "ours": ours,
    "dense": dense,
    "gradience": gradience,
    "pair": pair,
    "dense pair": dense_pair,
    "children": children,
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](replace(SHAPES[sys.argv[2]], layers=int(sys.argv[3])), [Path(word) for word in sys.argv[4:]])
