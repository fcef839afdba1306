"""Finding the parent of a merged folder among many revisions, beside reading the folder once.

    python -m benchmarks.identify WAY REGISTRY FOLDER PATH    one measured process: a way of `WAYS`
    python -m benchmarks.identify floor BASE FOLDER ADAPTER... [-- ADAPTER...]    the adapters of each rounded step

The folder is two links merged at once, or step by step as PEFT does it; the other revisions are small adapters. A proof
reads the base, too, and makes the sum of every element: `identify_floor` does that and nothing more.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks import synthetic
from benchmarks.child import Measure
from benchmarks.machine import ROOT
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample

OTHERS = 1000
PATH = "llama/a/b"
ODD = "llama/c/d"
"""Links whose scales are no power of two, so that PEFT's products, which are scaled afterwards, have other bits."""
_SCALES = (1.7, 2.3)
_UNLIKE = 1000  # elements of a folder whose sums may be rounded otherwise than those of the floor


def find(place: Path, folder: Path, path: str) -> None:
    """Identify the folder; where the revisions have no samples yet, these are made."""
    start = time.perf_counter()
    from registry.services.local import LocalRegistry

    importlib.import_module("registry.services.publishing.identify")  # torch is no part of the work
    with closing(LocalRegistry.open(place)) as opened:
        measure = Measure(time.perf_counter() - start)
        found = opened.identify(folder)
        assert [one.reference for one in found.merged] == [f"{path}@1"], found
        measure.report(searched=found.searched)


def read(_registry: Path, folder: Path, _path: str) -> None:
    """Read the folder's weights once."""
    measure = Measure(0.0)
    buffer = bytearray(4 << 20)
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    measure.report()


def floor(base: str, folder: str, *words: str) -> None:
    """What a proof has to do; ``words`` are folders of adapters, with ``--`` where the sum is rounded."""
    start = time.perf_counter()
    from benchmarks import identify_floor

    measure = Measure(time.perf_counter() - start)
    steps: list[list[Path]] = [[]]
    for word in words:
        if word == "--":
            steps.append([])
        else:
            steps[-1].append(Path(word))
    unlike = identify_floor.unlike(Path(base), Path(folder), steps)
    assert unlike <= _UNLIKE, f"{unlike} elements of {folder} are something else"
    measure.report(unlike=unlike)


def rows(run: Conditions) -> Iterator[Row]:
    """Both kinds of merges, and the first search, which makes the samples of all revisions."""
    shape, others = (synthetic.TINY, 4) if run.quick else (synthetic.LARGE, OTHERS)
    run.cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="identify-", dir=run.cache))
    try:
        adapters = [synthetic.adapter(run.cache, shape, seed=seed) for seed in (1, 2)]
        odd = [_scaled(one, work / one.name, scale) for one, scale in zip(adapters, _SCALES, strict=True)]
        base = synthetic.base_model(run.cache, shape)
        registry = _registry(work, base, {PATH: adapters, ODD: odd}, shape, others)
        first, second = map(str, adapters)
        cases = (
            Case("at once", work / "merged", PATH, (first, second)),
            Case("step by step", _stepwise(work / "stepwise", base, adapters), PATH, (first, "--", second)),
            Case("step by step, scales of no power of two", _stepwise(work / "odd", base, odd), ODD),
        )
        yield from _measured(run, registry, base, cases, others + 4)
    finally:
        shutil.rmtree(work)


@dataclass(frozen=True)
class Case:
    """A merged folder."""

    name: str
    folder: Path
    path: str  # of the links that were merged
    steps: tuple[str, ...] = ()  # words of the floor; none where that would not have its bits


def _measured(run: Conditions, registry: Path, base: Path, cases: Sequence[Case], searched: int) -> Iterator[Row]:
    once = cases[0]
    first = _child("find", registry, once.folder, once.path)
    yield Row(f"first search among {searched} revisions, which samples them", Figure.of([first]), "s")
    found: list[Sample] = []
    for case in cases:
        words = (str(registry), str(case.folder), case.path)
        reads, found, floors = [], [], []
        for _ in range(run.runs(3)):
            reads.append(_child("read", *words))
            found.append(_child("find", *words))
            if case.steps:
                floors.append(_child("floor", base, case.folder, *case.steps))
        reading = Peer("reading it once", Figure.of(reads))
        name, goal = f"a folder merged {case.name}, among {searched} revisions", Goal("at most", 2, of="ratio")
        yield Row(name, Figure.of(found), "s", reading, goal)
        if floors:
            yield Row(
                f"  what any proof of that does: both read, one checked, summed {case.name}, compared",
                Figure.of(floors),
                "s",
                reading,
            )
    yield Row(
        "  peak memory above imports", Figure.of([{"peak": one["peak"]} for one in found], "peak", scale=1e-6), "MB"
    )


def _scaled(adapter: Path, folder: Path, scale: float) -> Path:
    """The adapter with another scale."""
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": scale * config["r"]}))
    return folder


def _registry(work: Path, base: Path, paths: Mapping[str, Sequence[Path]], shape: synthetic.Shape, others: int) -> Path:
    """A registry with large links, two a path, and many small adapters; and the first path's folder, merged at once."""
    from registry.services.local import LocalRegistry

    with closing(LocalRegistry.open(work / "registry", create=True)) as registry:
        registry.add_base("llama", base, link=True)
        for path, adapters in paths.items():
            for adapter, at in zip(adapters, (path.rpartition("/")[0], path), strict=True):
                registry.publish(adapter, at)
        for number in range(others):
            registry.publish(_small(work / "small", paths[PATH][0], shape, number), f"llama/n{number}")
        registry.fetch(PATH, work / "merged", kind="merged")
    return work / "registry"


def _small(folder: Path, like: Path, shape: synthetic.Shape, seed: int) -> Path:
    """An adapter of rank 1 on one matrix of each layer."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(shape.layers):
        lead = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{lead}.lora_A.weight"] = torch.randn(1, shape.hidden, generator=generator) * 0.02
        tensors[f"{lead}.lora_B.weight"] = torch.randn(shape.hidden, 1, generator=generator) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors")
    config = json.loads((like / "adapter_config.json").read_text())
    config |= {"r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _stepwise(folder: Path, base: Path, adapters: Sequence[Path]) -> Path:
    """What PEFT makes of them by default: products in float32, each sum rounded to the base's dtype."""
    folder.mkdir()
    links = [
        (load_file(one / "adapter_model.safetensors"), json.loads((one / "adapter_config.json").read_text()))
        for one in adapters
    ]
    for file in sorted(base.iterdir()):
        if file.suffix != ".safetensors":
            shutil.copy(file, folder / file.name)
            continue
        tensors = load_file(file)
        for name in tensors:
            lead = f"base_model.model.{name.removesuffix('.weight')}"
            for factors, config in links:
                if f"{lead}.lora_A.weight" in factors:
                    product = factors[f"{lead}.lora_B.weight"].float() @ factors[f"{lead}.lora_A.weight"].float()
                    tensors[name] += product * (config["lora_alpha"] / config["r"])
        save_file(tensors, folder / file.name)
    return folder


def _child(way: str, *words: str | Path) -> Sample:
    command = [sys.executable, "-m", "benchmarks.identify", way, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    sample: Sample = json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(f"  {way}, {Path(words[1]).name}: {sample['seconds']:.2f} s, {sample['cpu']:.2f} s CPU\n")
    return sample


WAYS = {"find": find, "read": read}

if __name__ == "__main__":
    if sys.argv[1] == "floor":
        floor(*sys.argv[2:])
    else:
        WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
