"""Try every model type of transformers against PEFT: ``make test-long ONLY=architectures``.

Each type is tried in a process that is forked from this one, which has torch, transformers and PEFT in memory, with
limits on time and memory. Verdicts are kept as lines of JSON, a file a type, and a type that has its file is not tried
again; ``--again`` tries it anew. At the end, and with ``--table`` alone, a table is printed.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.architectures.trial import Verdict

SECONDS: Final = 400
MEMORY: Final = 6 << 30


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description="Try every model type of transformers against PEFT.")
    parser.add_argument("--only", nargs="*", default=[], metavar="TYPE", help="Only these model types.")
    parser.add_argument("--variants", nargs="*", default=[], help="Only these variants.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="Processes at a time.")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/architectures"))
    parser.add_argument("--again", action="store_true", help="Try types that have a result, too.")
    parser.add_argument("--retry", nargs="*", default=[], metavar="VERDICT", help="Try again what had these verdicts.")
    parser.add_argument("--table", action="store_true", help="Only print the table of the results.")
    options = parser.parse_args()
    if not options.table:
        _run(options)
    print(table(_read(options.results, options.only)))


def _run(options: argparse.Namespace) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import peft  # noqa: F401 (children find it in memory)
    import torch

    from registry.services.local import LocalRegistry
    from tests.architectures.links import VARIANTS
    from tests.architectures.tiny import architectures
    from tests.architectures.trial import try_type

    torch.set_num_threads(1)
    options.results.mkdir(parents=True, exist_ok=True)
    variants = options.variants or list(VARIANTS)
    left = {name: _left(options, name, variants) for name in options.only or architectures()}
    types = [name for name, one in left.items() if one]
    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "template"
        LocalRegistry.open(template, create=True).close()
        gc.collect()
        gc.freeze()  # else the first collection in a child copies all pages of this process
        running: dict[int, tuple[str, float]] = {}
        while types or running:
            while types and len(running) < options.jobs:
                name = types.pop(0)
                sys.stdout.flush()
                pid = os.fork()
                if pid == 0:
                    _child(
                        try_type(name, left[name], Path(folder) / name, template),
                        Path(folder) / name,
                        _file(options.results, name),
                    )
                running[pid] = (name, time.monotonic())
            pid, _, used = os.wait3(0)
            name, began = running.pop(pid)
            shutil.rmtree(Path(folder) / name, ignore_errors=True)
            _settle(name, left[name], options.results, time.monotonic() - began, used.ru_utime + used.ru_stime)


def _file(results: Path, model_type: str) -> Path:
    return results / f"{model_type}.jsonl"


def _left(options: argparse.Namespace, model_type: str, variants: Sequence[str]) -> list[str]:
    """The variants that are to be tried."""
    file = _file(options.results, model_type)
    found = _lines(file) if file.exists() and not options.again else []
    done = {one["variant"] for one in found if one["verdict"] not in options.retry}
    return [one for one in variants if one not in done]


def _child(verdicts: Iterator[Verdict], work: Path, results: Path) -> None:
    """Try one type; never returns."""
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        signal.alarm(3 * SECONDS)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        work.mkdir()
        with results.with_suffix(".part").open("w") as out:
            for verdict in verdicts:
                out.write(verdict.line() + "\n")
                out.flush()
    finally:
        os._exit(0)


def _settle(name: str, variants: Sequence[str], results: Path, seconds: float, cpu: float) -> None:
    """Keep what a child has written, with a verdict for what it did not come to."""
    part = _file(results, name).with_suffix(".part")
    found = _lines(part) if part.exists() else []
    done = {one["variant"] for one in found}
    missing = [one for one in variants if one not in done]
    for variant in missing:
        text = f"the process ended after {seconds:.0f} s"
        found.append({"type": name, "variant": variant, "verdict": "failed", "code": "ended", "text": text})
        text = "the process had ended"
    old = _file(results, name)
    kept = [one for one in _lines(old) if one["variant"] not in variants] if old.exists() else []
    old.write_text("".join(json.dumps(one) + "\n" for one in [*kept, *found]))
    part.unlink(missing_ok=True)
    told = ", ".join(f"{one['variant']} {one['verdict']} {one.get('code', '')}".strip() for one in found)
    print(f"{name}: {told} ({seconds:.1f} s, {cpu:.1f} of a CPU)")


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _read(results: Path, only: Sequence[str]) -> list[dict[str, Any]]:
    files = sorted(results.glob("*.jsonl"))
    return [one for file in files if not only or file.stem in only for one in _lines(file)]


def table(verdicts: Iterable[dict[str, Any]]) -> str:
    """Numbers by variant and verdict, then every wrong one and the refusals by code."""
    verdicts = list(verdicts)
    kinds = ("exact", "refused", "wrong", "peft", "not built", "failed", "nothing")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in verdicts:
        counts[one["variant"]][one["verdict"]] += 1
    lines = ["| variant | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(str(found[kind]) for kind in kinds) + " |" for name, found in counts.items()]
    composed = Counter(one["composed"] for one in verdicts if one.get("composed"))
    lines += ["", "Composed: " + ", ".join(f"{name} {count}" for name, count in composed.most_common())]
    parents = Counter(one["parent"] for one in verdicts if one.get("parent"))
    lines.append("Parents known by: " + ", ".join(f"{name} {count}" for name, count in parents.most_common()))
    for kind in ("wrong", "failed", "refused"):
        groups: dict[str, list[str]] = defaultdict(list)
        for one in verdicts:
            if one["verdict"] == kind:
                groups[f"{kind} {one['code']} ({one['variant']})"].append(one["type"])
        lines += [f"{name}: {len(types)}: {' '.join(types)}" for name, types in sorted(groups.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
