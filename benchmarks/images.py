"""Merging four LoRA files into a UNet of SDXL beside diffusers and kohya's; truncating one.

    python -m benchmarks.images half [--runs N] [--cache FOLDER]    the same at another size, printed only

The UNet is of fp16 and of random weights (`benchmarks.images_made`), the LoRAs of rank 32 on all linear modules of its
transformers, named as kohya's. Every side is a whole process, from the start of Python until what it wrote is synced:
ours is the command ``registry fetch``, theirs are in `benchmarks.images_sides`. What is done once before, taking
the base and the files, has a row of its own. Errors of what each side made are against float64, those of merges over
some modules.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks import report, running
from benchmarks.images_made import BLOCK, CONFIGS, Unet, folder_of, lora_of
from benchmarks.images_sides import DOWN, UP
from benchmarks.machine import ROOT
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample

LORAS: Final = 4
RANK: Final = 32
LARGE: Final = 128  # the rank that is truncated to `RANK`
FASTER: Final = Goal("at most", 0.2, of="ratio")
BOUNDED: Final = Goal("at most", 1000, of="figure")  # MB of the whole process
OURS, DIFFUSERS, KOHYA = "registry fetch", "diffusers, load_lora_weights and fuse_lora", "merge_lora's formula, in fp32"
RESIZED, RESIZE = "registry fetch --rank", "resize_lora's formula"
ALL_RESIZED: Final = "registry fetch --rank, all modules"
PATH: Final = "sdxl/" + "/".join(f"style{number}" for number in range(LORAS))


@dataclass(frozen=True)
class Bench:
    """Where everything lies."""

    unet: Unet
    base: Path
    loras: tuple[Path, ...]
    large: Path  # of `LARGE`, on all targets
    block: Path  # of `LARGE`, on one block
    work: Path

    @property
    def url(self) -> tuple[str, str]:
        """The option that names the registry."""
        return "--url", str(self.work / "registry")

    @property
    def names(self) -> Path:
        """A JSON file with the modules by kohya's names."""
        return self.work / "names.json"


def run_side(*words: str) -> Sample:
    """Run one side; seconds of its whole process, CPU seconds and the peak of its memory."""
    start, before = time.perf_counter(), running.spent()
    called = [sys.executable, "-m", "benchmarks.images_sides", *words]
    done = subprocess.run(called, cwd=ROOT, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"benchmarks.images_sides {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return {"seconds": seconds, "cpu": running.spent() - before, **json.loads(done.stdout.splitlines()[-1])}


def prepare(cache: Path, size: str, work: Path) -> tuple[Bench, Sample]:
    """Write what is missing, and a registry that holds it; what taking the base model and the four files cost."""
    unet = Unet.of(size)
    loras = tuple(lora_of(cache, unet, seed=seed, rank=RANK) for seed in range(LORAS))
    large = lora_of(cache, unet, seed=LORAS, rank=LARGE)
    block = lora_of(cache, unet, seed=LORAS, rank=LARGE, below=BLOCK)
    bench = Bench(unet, folder_of(cache, unet), loras, large, block, work)
    bench.names.write_text(json.dumps(unet.kohya_names()))
    running.warm(bench.base, *(file.parent for file in (*loras, large, block)))
    steps: list[tuple[str, ...]] = [("base", "add", "sdxl", str(bench.base), "--link", *bench.url)]
    links = PATH.split("/")
    for number, file in enumerate(loras):
        steps.append(("publish", str(file), "/".join(links[: number + 2]), *bench.url))
    taken = [run_side("command", *step) for step in steps]
    for file, name in ((large, "large"), (block, "block")):
        run_side("command", "publish", str(file), f"sdxl/{name}", *bench.url)
    return bench, {
        "seconds": sum(one["seconds"] for one in taken),
        "cpu": sum(one["cpu"] for one in taken),
        "peak": max(one["peak"] for one in taken),
    }


def delta_error(bench: Bench, out: Path) -> float:
    """Relative error of the sum of deltas that merged weights hold, over some modules, against float64."""
    names = sorted(bench.unet.kohya_names().items())
    picked = names[:: max(1, len(names) // 8)]
    rest = whole = 0.0
    for name, module in picked:
        exact = torch.stack([_delta(file, name) for file in bench.loras]).sum(0)
        held = _weight(out, f"{module}.weight") - _weight(bench.base, f"{module}.weight")
        rest, whole = math.hypot(rest, float((held - exact).norm())), math.hypot(whole, float(exact.norm()))
    return rest / whole


def resize_error(before: Path, after: Path) -> float:
    """||D - D'||_F / ||D||_F over all modules of two LoRA files, in float64."""
    rest = whole = 0.0
    for key in load_file(before):
        if key.endswith(DOWN):
            exact, held = (_delta(file, key.removesuffix(DOWN)) for file in (before, after))
            rest, whole = math.hypot(rest, float((held - exact).norm())), math.hypot(whole, float(exact.norm()))
    return rest / whole


def _delta(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as tensors:
        down, up = tensors.get_tensor(name + DOWN).double(), tensors.get_tensor(name + UP).double()
        delta: torch.Tensor = up @ down * (tensors.get_tensor(f"{name}.alpha").double() / down.shape[0])
    return delta


def _weight(folder: Path, name: str) -> torch.Tensor:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118  the file is no mapping
                weight: torch.Tensor = tensors.get_tensor(name)
                return weight.double()
    raise SystemExit(f"{folder} has no tensor {name}.")


def merges(bench: Bench) -> dict[str, Callable[[Path], Sample]]:
    """The sides that merge the four files, by name."""
    files = [str(file) for file in bench.loras]
    words: dict[str, Callable[[str], tuple[str, ...]]] = {
        OURS: lambda out: ("command", "fetch", PATH, "--as", "merged", "-o", out, *bench.url),
        DIFFUSERS: lambda out: ("diffusers", str(bench.base), out, *files),
        KOHYA: lambda out: ("merge_lora", str(bench.base), out, str(bench.names), *files),
    }

    def side(name: str) -> Callable[[Path], Sample]:
        def run(out: Path) -> Sample:
            sample = run_side(*words[name](str(out)))
            return {**sample, "error": delta_error(bench, out)}

        return run

    return {name: side(name) for name in words}


def truncations(bench: Bench) -> dict[str, Callable[[Path], Sample]]:
    """The sides that truncate from kohya's names to kohya's names, by name."""

    def ours(name: str, file: Path) -> Callable[[Path], Sample]:
        def run(out: Path) -> Sample:
            out.mkdir()
            made = out / "small.safetensors"
            words = ("fetch", f"sdxl/{name}", "--for", "comfyui", "--rank", str(RANK), "-o", str(made), *bench.url)
            return {**run_side("command", *words), "error": resize_error(file, made)}

        return run

    def theirs(out: Path) -> Sample:
        out.mkdir()
        made = out / "small.safetensors"
        sample = run_side("resize_lora", str(bench.block), str(made), str(RANK))
        return {**sample, "error": resize_error(bench.block, made)}

    return {RESIZED: ours("block", bench.block), RESIZE: theirs, ALL_RESIZED: ours("large", bench.large)}


def rows(run: Conditions) -> Iterator[Row]:
    """Merging and truncating at SDXL's size, or tiny."""
    yield from _rows("tiny" if run.quick else "full", run.cache, run.runs(3))


def _rows(size: str, cache: Path, runs: int) -> Iterator[Row]:
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="images-", dir=cache))
    try:
        bench, taken = prepare(cache, size, work)
        samples = running.alternate(merges(bench) | truncations(bench), runs=runs, scratch=work)
    finally:
        shutil.rmtree(work)
    what = f"{LORAS} LoRAs of rank {RANK} merged into a UNet of {bench.unet.parameters / 1e9:.2g} B in fp16"
    yield from _beside(what, samples[OURS], {name: samples[name] for name in (DIFFUSERS, KOHYA)})
    yield Row("  once before: base add --link, publish of the 4 files", Figure.of([taken]), "s")
    count = sum(module.startswith(BLOCK) for module in bench.unet.targets())
    what = f"a LoRA of rank {LARGE} on {count} modules truncated to {RANK}"
    yield from _beside(what, samples[RESIZED], {RESIZE: samples[RESIZE]})
    whole = f"a LoRA of rank {LARGE} on {len(bench.unet.targets())} modules truncated to {RANK}"
    yield Row(whole, Figure.of(samples[ALL_RESIZED]), "s")
    yield Row(f"  peak memory: {whole}", _peak(samples[ALL_RESIZED]), "MB", goal=BOUNDED)


def _beside(what: str, ours: Sequence[Sample], peers: dict[str, list[Sample]]) -> Iterator[Row]:
    """Time, memory and error, beside each peer."""
    for name, theirs in peers.items():
        yield Row(what, Figure.of(ours), "s", Peer(name, Figure.of(theirs)), FASTER)
        yield Row(f"  peak memory: {what}", _peak(ours), "MB", Peer(name, _peak(theirs)), BOUNDED)
        yield Row(f"  error of the deltas: {what}", _error(ours), "%", Peer(name, _error(theirs)))


def _peak(samples: Sequence[Sample]) -> Figure:
    values = [sample["peak"] / 1e6 for sample in samples]
    return Figure(running.median(samples, "peak") / 1e6, None, min(values), max(values), len(values))


def _error(samples: Sequence[Sample]) -> Figure:
    return Figure(100 * running.median(samples, "error"))


def main() -> None:
    """Print the table of one size."""
    from benchmarks.__main__ import measured

    parser = argparse.ArgumentParser(prog="python -m benchmarks.images")
    parser.add_argument("size", choices=CONFIGS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "registry-benchmarks")
    given = parser.parse_args()
    part = measured(lambda run: _rows(given.size, run.cache, given.runs), Conditions(False, given.cache))
    print(report.markdown(report.Document({"images": part})))


if __name__ == "__main__":
    main()
