"""What the parts about pools share: the device, models over the same weights, filled registries, and the clock."""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks import synthetic
from benchmarks.rows import Figure
from benchmarks.running import Conditions, Sample
from registry.services.local import LocalRegistry

DEVICE: Final = "cuda" if torch.cuda.is_available() else "cpu"
"""Where the models are; the adapters and the rows of the base are read on the CPU in any case."""


def models(cache: Path, shape: synthetic.Shape | synthetic.Encoder, dtype: torch.dtype, count: int) -> list[Any]:
    """Models of one base that share its weights, so that each side has hooks or layers of its own on equal values."""
    from transformers import AutoModel, AutoModelForCausalLM

    kind: Any = AutoModel if isinstance(shape, synthetic.Encoder) else AutoModelForCausalLM
    first = kind.from_pretrained(synthetic.base_model(cache, shape), dtype=dtype).eval().requires_grad_(False)
    first = first.to(DEVICE)
    shared = {id(one): one for one in first.parameters()}
    return [first, *(copy.deepcopy(first, dict(shared)) for _ in range(count - 1))]


def peft_model(model: Any, adapters: Sequence[Path], *, autocast: bool = True) -> Any:
    """The model in PEFT, the adapters loaded as ``a1``, ``a2``, ...; ``autocast``: factors in fp32, PEFT's way."""
    import peft

    with warnings.catch_warnings():
        # PEFT reads an attribute that transformers is about to rename
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        wrapped: Any = peft.PeftModel.from_pretrained(
            model, adapters[0], adapter_name="a1", autocast_adapter_dtype=autocast
        )
        for number, folder in enumerate(adapters[1:], 2):
            wrapped.load_adapter(folder, adapter_name=f"a{number}", autocast_adapter_dtype=autocast)
    return wrapped.eval()


@contextmanager
def registry_of(
    cache: Path, shape: synthetic.Shape | synthetic.Encoder, chains: Sequence[Sequence[Path]]
) -> Iterator[tuple[LocalRegistry, list[list[str]]]]:
    """A registry of the base with chains of adapters, each below the one before it; the revisions of each chain."""
    with tempfile.TemporaryDirectory(prefix="pool-", dir=cache) as made:
        registry = LocalRegistry.open(Path(made) / "registry", create=True)
        registry.add_base("base", synthetic.base_model(cache, shape))
        revisions: list[list[str]] = []
        for chain, folders in enumerate(chains, 1):
            path, links = f"base/c{chain}", list[str]()
            for number, folder in enumerate(folders, 1):
                path = path if number == 1 else f"{path}/l{number}"
                above: dict[str, Any] = {"parent": links[-1], "skip_parent_check": True} if links else {}
                links.append(registry.publish(folder, path, **above).revision.reference)
            revisions.append(links)
        try:
            yield registry, revisions
        finally:
            registry.close()


def timed(work: Callable[[], object]) -> Sample:
    """Seconds and CPU seconds of one call."""
    _wait()
    began, cpu = time.perf_counter(), time.process_time()
    work()
    _wait()
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def typical(works: Iterable[Callable[[], object]]) -> Sample:
    """The median of the seconds of works that differ, and that of their CPU seconds."""
    samples = [timed(work) for work in works]
    return {field: statistics.median(sample[field] for sample in samples) for field in ("seconds", "cpu")}


def turns(run: Conditions, sides: Mapping[str, Callable[[], Sample]], usual: int) -> dict[str, list[Sample]]:
    """Samples of sides that touch no files and take turns, after a turn that starts threads and fills caches."""
    samples: dict[str, list[Sample]] = {name: [side()] for name, side in sides.items()}
    for turn in range(run.runs(usual)):
        for name, side in sides.items():
            samples[name].append(side())
            sys.stderr.write(f"  run {turn + 1}, {name}: {1e3 * samples[name][-1]['seconds']:.3f} ms\n")
    return {name: found[1:] for name, found in samples.items()}


def milliseconds(samples: Sequence[Sample]) -> Figure:
    """The figure of seconds, in ms."""
    return Figure.of(samples, scale=1e3)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
