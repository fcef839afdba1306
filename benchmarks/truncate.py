"""Truncating a composed block beside PEFT's `add_weighted_adapter(combination_type="svd")`: seconds and errors.

Four adapters of rank 16 on one block of a Llama 1.1 B (seven linear modules), truncated to rank 16. Both sides begin
with the factors in memory, as fp32 tensors, and end with the new ones there. Errors are of the sum of the deltas, over
all modules, against float64; no pair of the rank can have a smaller one than the optimum (Eckart and Young 1936).
"""

from __future__ import annotations

import json
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks import running, synthetic
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.truncation.rank_choice import ModuleSpectrum, relative_error
from registry.tensors.truncation.truncate import decompose

DEPTH = 4
RANK = 16
PREFIX = "base_model.model."
Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]  # B (out, R) and A (R, in) by module

OURS = "ours"
PEFT = "peft"
PEFT_THIN = "peft thin"


@dataclass(frozen=True)
class Block:
    """The path on one block: its factors, and its deltas in float64."""

    pairs: Pairs
    deltas: Mapping[str, torch.Tensor]

    def error(self, truncated: Pairs) -> float:
        """||D - D'||_F / ||D||_F over all modules."""
        rests = [
            (delta - truncated[name][0].double() @ truncated[name][1].double()) for name, delta in self.deltas.items()
        ]
        return _norm(rests) / _norm(list(self.deltas.values()))

    def optimum(self) -> float:
        """The smallest error that pairs of rank `RANK` can have, from a dense SVD in float64."""
        values = [torch.linalg.svdvals(delta) for delta in self.deltas.values()]
        return _norm([one[RANK:] for one in values]) / _norm(values)


def _norm(parts: list[torch.Tensor]) -> float:
    return math.hypot(*(float(part.norm()) for part in parts))


def load_block(adapters: list[Path]) -> Block:
    """Read the adapters' factors and put them side by side, scales in B."""
    loaded = []
    for folder in adapters:
        config = json.loads((folder / "adapter_config.json").read_text())
        loaded.append((config["lora_alpha"] / config["r"], load_file(folder / "adapter_model.safetensors")))
    tail = ".lora_A.weight"
    names = [key.removeprefix(PREFIX).removesuffix(tail) for key in sorted(loaded[0][1]) if key.endswith(tail)]
    pairs = {
        name: (
            torch.cat([scaling * tensors[f"{PREFIX}{name}.lora_B.weight"] for scaling, tensors in loaded], dim=1),
            torch.cat([tensors[f"{PREFIX}{name}.lora_A.weight"] for _, tensors in loaded]),
        )
        for name in names
    }
    return Block(pairs, {name: b.double() @ a.double() for name, (b, a) in pairs.items()})


def ours(block: Block) -> tuple[Sample, Pairs]:
    """Decompose every module on the lanes, and make the new factors."""

    def truncate(name: str) -> tuple[str, ModuleSpectrum, tuple[torch.Tensor, torch.Tensor]]:
        b, a = block.pairs[name]
        found = decompose(b, a, name=name)
        kept = found.keep(RANK)
        spectrum = ModuleSpectrum(name, a.shape[0], b.shape[0] + a.shape[1], (found.singular_values,))
        return name, spectrum, (kept.b_rows(b).float(), kept.a_rows(a).float())

    start, cpu = time.perf_counter(), time.process_time()
    results = list(in_order(truncate, block.pairs))
    claimed = relative_error([spectrum for _, spectrum, _ in results], dict.fromkeys(block.pairs, RANK))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    truncated = {name: pair for name, _, pair in results}
    return {"seconds": seconds, "cpu": cpu, "error": block.error(truncated), "claimed": claimed}, truncated


class Peft:
    """PEFT with the same adapters loaded."""

    def __init__(self, base: Path, adapters: list[Path]) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        self._names = [f"link{number}" for number in range(len(adapters))]
        with warnings.catch_warnings():
            # PEFT reads an attribute that transformers is about to rename.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            self._model: Any = PeftModel.from_pretrained(model, adapters[0], adapter_name=self._names[0])
            for name, folder in zip(self._names[1:], adapters[1:], strict=True):
                self._model.load_adapter(folder, adapter_name=name)

    def run(self, block: Block, *, full_matrices: bool) -> tuple[Sample, Pairs]:
        """One `add_weighted_adapter`; what it made is taken off again."""
        start, cpu = time.perf_counter(), time.process_time()
        self._model.add_weighted_adapter(
            self._names,
            [1.0] * len(self._names),
            "truncated",
            combination_type="svd",
            svd_rank=RANK,
            svd_full_matrices=full_matrices,
        )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        layers = {name: self._model.base_model.model.get_submodule(name) for name in block.pairs}
        truncated = {
            name: (
                layer.scaling["truncated"] * layer.lora_B["truncated"].weight.detach().clone(),
                layer.lora_A["truncated"].weight.detach().clone(),
            )
            for name, layer in layers.items()
        }
        self._model.delete_adapter("truncated")
        return {"seconds": seconds, "cpu": cpu, "error": block.error(truncated)}, truncated


def measure(cache: Path, shape: synthetic.Shape, runs: int, peer_runs: int) -> tuple[dict[str, list[Sample]], float]:
    """All samples by side, and the optimum."""
    cache.mkdir(parents=True, exist_ok=True)
    adapters = [synthetic.adapter(cache, shape, seed=seed) for seed in range(1, DEPTH + 1)]
    block = load_block(adapters)
    peer = Peft(synthetic.base_model(cache, shape), adapters)
    sides: dict[str, Callable[[Path], Sample]] = {
        OURS: lambda _out: ours(block)[0],
        PEFT: lambda _out: peer.run(block, full_matrices=True)[0],
        PEFT_THIN: lambda _out: peer.run(block, full_matrices=False)[0],
    }
    ours(block)  # starts the threads
    with tempfile.TemporaryDirectory(prefix="truncate-", dir=cache) as scratch:
        few = {PEFT: peer_runs, PEFT_THIN: peer_runs}
        samples = running.alternate(sides, runs=runs, scratch=Path(scratch), few=few)
    return samples, block.optimum()


def rows(run: Conditions) -> Iterator[Row]:
    """A block from factors to factors, beside PEFT's full SVD and its thin one; errors beside the optimum."""
    # Neither side reads the embeddings, so the model gets small ones.
    shape = replace(synthetic.TINY if run.quick else replace(synthetic.LARGE, vocab=256), layers=1)
    runs = run.runs(15)
    samples, optimum = measure(run.cache, shape, runs, min(3, runs))
    ours = Figure.of(samples[OURS], scale=1000)
    full, thin = Figure.of(samples[PEFT], scale=1000), Figure.of(samples[PEFT_THIN], scale=1000)
    name = f"depth {DEPTH} to rank {RANK}, one block"
    yield Row(name, ours, "ms", Peer("PEFT, svd_full_matrices=False", thin), Goal("at most", 0.5, of="ratio"))
    yield Row(f"{name}, beside the default", ours, "ms", Peer("PEFT, svd", full), Goal("at most", 1 / 200, of="ratio"))
    claimed = Figure(running.median(samples[OURS], "claimed"))
    error = Figure(100 * running.median(samples[OURS], "error"))
    yield Row("  relative error", error, "%", Peer("PEFT", Figure(100 * running.median(samples[PEFT], "error"))))
    yield Row(
        "  the reported error's distance from the optimum",
        Figure(abs(claimed.value / optimum - 1)),
        "",
        goal=Goal("at most", 1e-6, of="figure"),
    )
