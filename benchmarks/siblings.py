"""Five adapters trained at once over one base, beside five runs of PEFT one after another.

Both sides have the base in bf16, and adapters of rank 16 in fp32 on all of its linear modules, updated by AdamW. The
time is that of a step of all five, without imports and loading: of PEFT five steps of a model with one adapter. Memory
is that of the processes with what they share counted once (PSS), while all of them hold their model after a step.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks import running, synthetic
from benchmarks.machine import ROOT
from benchmarks.rows import Figure, Goal, Peer, Row
from benchmarks.running import Conditions, Sample
from registry.pool import AdapterPool
from registry.services.local import LocalRegistry

COUNT: Final = 5
OURS: Final = "ours"
PEFT: Final = "peft"
_LEAVES: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_RATE: Final = 1e-4
_READY: Final = b"a step is done"
_SIZES: Final = ((1, 32, 0.5), (8, 128, 1.1))
"""Rows of each adapter, tokens of a row, and the most that our step may take of theirs."""

Step = Callable[[int, int], None]


def _config() -> Any:
    import peft

    return peft.LoraConfig(r=16, lora_alpha=32, target_modules=list(_LEAVES))


def _batch(rows: int, tokens: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 200, (rows, tokens), generator=torch.Generator().manual_seed(rows))
    return {"input_ids": ids, "labels": ids}


def our_step(base: Path, opened: ExitStack) -> Step:
    """A step of all adapters at once."""
    made = opened.enter_context(tempfile.TemporaryDirectory(prefix="siblings-"))
    registry = LocalRegistry.open(Path(made), create=True)
    opened.callback(registry.close)
    registry.add_base("llama", base)
    pool = opened.enter_context(AdapterPool(_model(base), registry, memory=0))
    paths = [f"llama/a{number}" for number in range(COUNT)]
    siblings = opened.enter_context(pool.siblings({path: _config() for path in paths}, learning_rate=_RATE))

    def step(rows: int, tokens: int) -> None:
        siblings.step(_batch(rows * COUNT, tokens), [path for path in paths for _ in range(rows)])

    return step


def peft_step(base: Path, _: ExitStack) -> Step:
    """A step of one adapter."""
    import peft

    with warnings.catch_warnings():
        # PEFT reads an attribute that transformers is about to rename
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        model: Any = peft.get_peft_model(_model(base), _config())
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=_RATE, weight_decay=0.0, fused=True)

    def step(rows: int, tokens: int) -> None:
        model(**_batch(rows, tokens)).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


SIDES: Final[dict[str, Callable[[Path, ExitStack], Step]]] = {OURS: our_step, PEFT: peft_step}


def _model(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).train()


def _times(base: Path, runs: int) -> Iterator[tuple[int, int, float, dict[str, list[Sample]]]]:
    with ExitStack() as opened:
        ours, theirs = our_step(base, opened), peft_step(base, opened)

        def timed(step: Step, times: int, rows: int, tokens: int) -> Sample:
            began, cpu = time.perf_counter(), time.process_time()
            for _ in range(times):
                step(rows, tokens)
            return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}

        for rows, tokens, most in _SIZES:
            ours(rows, tokens)
            theirs(rows, tokens)
            sides: dict[str, Callable[[Path], Sample]] = {
                OURS: lambda _, rows=rows, tokens=tokens: timed(ours, 1, rows, tokens),  # type: ignore[misc]
                PEFT: lambda _, rows=rows, tokens=tokens: timed(theirs, COUNT, rows, tokens),  # type: ignore[misc]
            }
            yield rows, tokens, most, running.alternate(sides, runs=runs, scratch=base.parent)


def _memory(base: Path, side: str, processes: int) -> float:
    """PSS of all processes of a side in MiB, each after a step of one row of 32 tokens an adapter."""
    command = [sys.executable, "-m", "benchmarks.siblings", str(base), side]
    with ExitStack() as opened:
        children = [
            opened.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(processes)
        ]
        for child in children:
            if child.stdout is None or not any(line.strip() == _READY for line in child.stdout):
                raise SystemExit("A process whose memory was to be measured failed.")
        total = sum(_pss(child.pid) for child in children)
        for child in children:
            child.communicate()
    return total / 2**20


def _pss(process: int) -> int:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def rows(run: Conditions) -> Iterator[Row]:
    """The time of a step, and memory."""
    base = synthetic.base_model(run.cache, synthetic.TINY if run.quick else synthetic.LARGE)
    for count, tokens, most, samples in _times(base, run.runs(5)):
        goal = Goal("at most", most, of="ratio")
        name = f"step of {COUNT} adapters, {count} x {tokens} tokens each, bf16"
        yield Row(name, Figure.of(samples[OURS]), "s", Peer("PEFT, one after another", Figure.of(samples[PEFT])), goal)
    beside = Peer(f"{COUNT} processes of PEFT", Figure(_memory(base, PEFT, COUNT)))
    memory = Figure(_memory(base, OURS, 1))
    yield Row(f"memory of training {COUNT} adapters (PSS)", memory, "MiB", beside, Goal("at most", 0.35, of="ratio"))


def _hold(base: Path, side: str) -> None:
    """Make a step, say so, and keep all that it needs until the input ends."""
    with ExitStack() as opened:
        step = SIDES[side](base, opened)  # which holds the model
        step(1, 32)
        print(_READY.decode(), flush=True)
        sys.stdin.read()
        del step


if __name__ == "__main__":
    _hold(Path(sys.argv[1]), sys.argv[2])
