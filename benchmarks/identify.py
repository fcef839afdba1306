"""Finding the parent of a merged folder among many revisions, beside reading the folder once.

    python -m benchmarks.identify WAY REGISTRY FOLDER    one measured process: a way of `WAYS`

The folder is two links merged at once, or step by step as PEFT does it; the other revisions are small adapters.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
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


def find(place: Path, folder: Path) -> None:
    """Identify the folder; where the revisions have no samples yet, these are made."""
    start = time.perf_counter()
    from registry.services.local import LocalRegistry

    importlib.import_module("registry.services.publishing.identify")  # torch is no part of the work
    with closing(LocalRegistry.open(place)) as opened:
        measure = Measure(time.perf_counter() - start)
        found = opened.identify(folder)
        assert [one.reference for one in found.merged] == [f"{PATH}@1"], found
        measure.report(searched=found.searched)


def read(_registry: Path, folder: Path) -> None:
    """Read the folder's weights once."""
    measure = Measure(0.0)
    buffer = bytearray(4 << 20)
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    measure.report()


def rows(run: Conditions) -> Iterator[Row]:
    """Both kinds of merges, and the first search, which makes the samples of all revisions."""
    shape, others = (synthetic.TINY, 4) if run.quick else (synthetic.LARGE, OTHERS)
    run.cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="identify-", dir=run.cache))
    try:
        adapters = [synthetic.adapter(run.cache, shape, seed=seed) for seed in (1, 2)]
        base = synthetic.base_model(run.cache, shape)
        registry = _registry(work, base, adapters, shape, others)
        folders = {"at once": work / "merged", "step by step": _stepwise(work / "stepwise", base, adapters)}
        first = _child("find", registry, folders["at once"])
        yield Row(f"first search among {others + 2} revisions, which samples them", Figure.of([first]), "s")
        found: list[Sample] = []
        for name, folder in folders.items():
            reading = Peer("reading it once", Figure.of([_child("read", registry, folder) for _ in range(run.runs(3))]))
            found = [_child("find", registry, folder) for _ in range(run.runs(3))]
            goal = Goal("at most", 2, of="ratio")
            yield Row(f"a folder merged {name}, among {others + 2} revisions", Figure.of(found), "s", reading, goal)
        peak = Figure.of([{"peak": sample["peak"]} for sample in found], "peak", scale=1e-6)
        yield Row("  peak memory above imports", peak, "MB")
    finally:
        shutil.rmtree(work)


def _registry(work: Path, base: Path, adapters: Sequence[Path], shape: synthetic.Shape, others: int) -> Path:
    """A registry with two large links and many small adapters; and the folder of the two, merged at once."""
    from registry.services.local import LocalRegistry

    with closing(LocalRegistry.open(work / "registry", create=True)) as registry:
        registry.add_base("llama", base, link=True)
        for adapter, path in zip(adapters, ("llama/a", PATH), strict=True):
            registry.publish(adapter, path)
        for number in range(others):
            registry.publish(_small(work / "small", adapters[0], shape, number), f"llama/n{number}")
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


def _child(way: str, registry: Path, folder: Path) -> Sample:
    words = [sys.executable, "-m", "benchmarks.identify", way, str(registry), str(folder)]
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    sample: Sample = json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(f"  {way}, {folder.name}: {sample['seconds']:.2f} s\n")
    return sample


WAYS = {"find": find, "read": read}

if __name__ == "__main__":
    WAYS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
