"""The best LoRA of a full fine-tune, published, beside mergekit's extractor (`mergekit-extract-lora` on the path).

    python -m benchmarks.extract REGISTRY FULL NAME    one measured process

The model has the shape of TinyLlama 1.1 B with one layer, in bf16, trained in all of its linear modules: what
was changed is a decaying spectrum and noise. Both make pairs of the same modules, of the same rank.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks import synthetic
from benchmarks.child import Measure
from benchmarks.machine import ROOT
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample, spent

LAYERS = 1
RANK = 32
MERGEKIT = "mergekit-extract-lora"


def ours(place: Path, full: Path, name: str) -> None:
    """Publish the adapter of a full model."""
    start = time.perf_counter()
    from registry.services.local import LocalRegistry

    for module in ("registry.services.extraction", "registry.services.publishing.publish"):
        importlib.import_module(module)  # torch is no part of the work
    with closing(LocalRegistry.open(place)) as opened:
        measure = Measure(time.perf_counter() - start)
        answer = opened.publish(full, f"llama/{name}", full=True, rank=RANK)
        assert answer.extracted is not None
        measure.report(error=answer.extracted.error)


def rows(run: Conditions) -> Iterator[Row]:
    """Time, CPU and error of both."""
    shape = synthetic.TINY if run.quick else replace(synthetic.LARGE, layers=LAYERS)
    run.cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="extract-", dir=run.cache))
    try:
        base = synthetic.base_model(run.cache, shape)
        full = _trained(work / "full", base, shape)
        _registry(work / "registry", base)
        peer = shutil.which(MERGEKIT)
        mine, theirs = [], []
        for turn in range(run.runs(3)):
            mine.append(_child(work / "registry", full, f"run-{turn}"))
            if peer is not None and not run.quick:
                theirs.append(_mergekit(peer, base, full, work / "mergekit", shape))
        said = f"a fine-tune in {sum(1 for _ in synthetic.linear_modules(shape))} modules as pairs of rank {RANK}"
        if not theirs:
            yield Row(f"{said} ({MERGEKIT} is not here)", Figure.of(mine), "s")
            return
        beside = Peer("mergekit", Figure.of(theirs))
        yield Row(f"{said}, and published", Figure.of(mine), "s", beside, Goal("at most", 0.2, of="ratio"))
        error = Figure.of(mine, "error", scale=100)
        their_error = Peer("mergekit", Figure.of(theirs, "error", scale=100))
        yield Row("  what it leaves out of the change", error, "%", their_error, Goal("at most", 1, of="ratio"))
        yield Row("  peak memory above imports", Figure.of(mine, "peak", scale=1e-6), "MB")
    finally:
        shutil.rmtree(work)


def _registry(place: Path, base: Path) -> None:
    from registry.services.local import LocalRegistry

    with closing(LocalRegistry.open(place, create=True)) as registry:
        registry.add_base("llama", base, link=True)


def _trained(folder: Path, base: Path, shape: synthetic.Shape) -> Path:
    """The base after training: singular values that fall as 1 / k over 64 directions, and noise of the same energy."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(7)
    names = {name for name, _, _ in synthetic.linear_modules(shape)}
    for file in sorted(base.iterdir()):
        if file.suffix != ".safetensors":
            shutil.copy(file, folder / file.name)
            continue
        tensors = load_file(file)
        for name, weight in tensors.items():
            if name.removesuffix(".weight") in names:
                tensors[name] = (weight.float() + _change(weight, generator)).to(weight.dtype)
        save_file(tensors, folder / file.name, metadata={"format": "pt"})
    return folder


def _change(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    rows, columns = weight.shape
    count = min(64, rows, columns)
    sizes = 1 / torch.arange(1, count + 1)
    left, right = torch.randn(rows, count, generator=generator), torch.randn(count, columns, generator=generator)
    falling, noise = (left * sizes) @ right, torch.randn(rows, columns, generator=generator)
    size = synthetic.RELATIVE_DELTA * weight.float().norm() / math.sqrt(2)
    change: torch.Tensor = size * (falling / falling.norm() + noise / noise.norm())
    return change


def _child(place: Path, full: Path, name: str) -> Sample:
    words = [sys.executable, "-m", "benchmarks.extract", str(place), str(full), name]
    done = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    sample: Sample = json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(f"  ours: {sample['seconds']:.2f} s, {sample['cpu']:.2f} s CPU\n")
    return sample


def _mergekit(command: str, base: Path, full: Path, out: Path, shape: synthetic.Shape) -> Sample:
    """Its whole process, less what it takes to say what its options are: imports are no part of the work."""
    shutil.rmtree(out, ignore_errors=True)
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    words = [command, "--model", str(full), "--base-model", str(base), "--out-path", str(out), "--max-rank", str(RANK)]
    words += ["-i", r"model\.layers\.", "--quiet", "--distribute-scale"]
    imports = _timed([command, "--help"], environ)
    whole = _timed(words, environ)
    sample = {field: whole[field] - imports[field] for field in whole}
    sys.stderr.write(f"  mergekit: {sample['seconds']:.2f} s, {sample['cpu']:.2f} s CPU\n")
    return {**sample, "error": _error_of(out, base, full, shape)}


def _timed(words: list[str], environ: dict[str, str]) -> Sample:
    start, before = time.perf_counter(), spent()
    subprocess.run(words, check=True, capture_output=True, env=environ)
    return {"seconds": time.perf_counter() - start, "cpu": spent() - before}


def _error_of(adapter: Path, base: Path, full: Path, shape: synthetic.Shape) -> float:
    """|D - s B A| / |D| of all modules side by side, in float64."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert not config["rank_pattern"], config
    scale = config["lora_alpha"] / config["r"]
    factors = load_file(adapter / "adapter_model.safetensors")
    before, after = _weights(base), _weights(full)
    left, whole = 0.0, 0.0
    for name, _, _ in synthetic.linear_modules(shape):
        lead = f"base_model.model.{name}"
        delta = after[f"{name}.weight"].double() - before[f"{name}.weight"].double()
        b, a = (factors[f"{lead}.lora_{side}.weight"].double() for side in "BA")
        whole += delta.square().sum().item()
        left += (delta - scale * (b @ a)).square().sum().item()
    return math.sqrt(left / whole)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


if __name__ == "__main__":
    ours(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
