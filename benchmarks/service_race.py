"""Several processes that do the same for some seconds, started together; how many times they did it, and how quickly.

    python -m benchmarks.service_race SIDE ACTION URL NUMBER REVISIONS SECONDS

A side is a module with ``publisher`` and ``looker``: each takes the database's URL, the number of the process and how
many revisions there are, and returns a function that does its work once. All of a run's processes begin at once: each
says that it is ready when its imports and its first connection are behind it.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[1]
Work = Callable[[], None]


def compete(side: str, action: str, url: str, number: int, revisions: int, seconds: float) -> None:
    """One process of a race: waits for the start, works, and prints what it did."""
    module = importlib.import_module(f"benchmarks.{side}")
    work: Work = getattr(module, action)(url, number, revisions)
    work()
    print("ready", flush=True)
    sys.stdin.readline()
    durations: list[float] = []
    failures: dict[str, int] = {}
    began, cpu = time.perf_counter(), time.process_time()
    now = began
    while now - began < seconds:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a peer that fails is counted, not hidden
            name = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
            failures[name] = failures.get(name, 0) + 1
            now = time.perf_counter()
        else:
            durations.append(time.perf_counter() - now)
            now += durations[-1]
    spent = time.process_time() - cpu
    print(json.dumps({"began": began, "ended": now, "cpu": spent, "durations": durations, "failures": failures}))


def race(
    side: str, action: str, url: str, revisions: int, *, count: int, seconds: float, python: str = sys.executable
) -> dict[str, float]:
    """How often a second ``count`` processes did it together; of one, CPU seconds, median and 99th percentile in ms."""
    with ExitStack() as stack:
        words = [python, "-m", "benchmarks.service_race", side, action, url]
        running = [
            stack.enter_context(
                subprocess.Popen(
                    [*words, str(number), str(revisions), str(seconds)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(count)
        ]
        for process in running:
            stack.callback(process.kill)  # when one fails, the others still wait for the start
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"{side} {action} did not get ready:\n{process.communicate()[1]}")
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [_answer(side, action, process) for process in running]
    return _summary(answers)


def _answer(side: str, action: str, process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"{side} {action} failed:\n{err}")
    answer: dict[str, object] = json.loads(out.splitlines()[-1])
    return answer


def _summary(answers: list[dict[str, object]]) -> dict[str, float]:
    durations: list[float] = []
    failed = 0
    for answer in answers:
        durations += answer["durations"] if isinstance(answer["durations"], list) else []
        failures = answer["failures"]
        assert isinstance(failures, Mapping)
        for name, times in failures.items():
            sys.stderr.write(f"    {times} x {name}\n")
            failed += times
    durations.sort()
    if not durations:
        raise SystemExit("A side did nothing but fail.")
    span = max(float(str(a["ended"])) for a in answers) - min(float(str(a["began"])) for a in answers)
    return {
        "rate": len(durations) / span,
        "count": len(durations),
        "cpu": sum(float(str(a["cpu"])) for a in answers) / len(durations),
        "p50": 1000 * durations[len(durations) // 2],
        "p99": 1000 * durations[len(durations) * 99 // 100],
        "failed": failed,
    }


if __name__ == "__main__":
    compete(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), float(sys.argv[6]))
