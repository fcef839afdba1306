"""Measures parts, and writes the one table: `benchmarks` says how."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report, running
from benchmarks.machine import commit, machine
from benchmarks.parts import PARTS
from benchmarks.rows import Row
from benchmarks.running import Conditions

Rows = Callable[[Conditions], Iterator[Row]]


def measured(rows: Rows, run: Conditions) -> report.Part:
    """One part, measured now."""
    at, before = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), os.getloadavg()[0]
    found: list[Row] = []
    for row in rows(run):
        found.append(row)
        beside = "" if row.ratio is None else f", {report.number(row.ratio)} x"
        sys.stderr.write(f"  {row.name}: {report.number(row.figure.value)} {row.unit}{beside}\n")
    return report.Part(at, commit(), (before, os.getloadavg()[0]), machine(), tuple(found))


def main(arguments: list[str] | None = None) -> Path:
    """Run the parts that were asked for, all by default; the file with the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="; ".join(f"{one}: {of}" for one, of in PARTS.items()))
    parser.add_argument("--quick", action="store_true", help="small models, one run: shows that the benchmarks work")
    parser.add_argument("--runs", type=int, help="alternating runs, instead of each part's usual number")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "registry-benchmarks")
    parser.add_argument("--peer-python", help="the Python that has the packages of benchmarks/peers.txt, or none")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"{', '.join(unknown)}: the parts are {', '.join(PARTS)}")
    asked = [name for name in PARTS if name in options.parts or not options.parts]
    python = running.peer_python(options.peer_python)
    run = Conditions(quick=options.quick, cache=options.cache, python=python, most=options.runs)
    name = "quick" if run.quick else "bench"
    document = report.read(running.RESULTS / f"{name}.json")
    for part in asked:
        sys.stderr.write(f"{part}:\n")
        found = measured(importlib.import_module(f"benchmarks.{part}").rows, run)
        parts = {**document.parts, part: found}
        document = replace(document, parts={one: parts[one] for one in PARTS if one in parts})
        report.write(running.RESULTS, name, document)  # after each part: an end in between loses none
    print(report.markdown(replace(document, parts={part: document.parts[part] for part in asked})))
    return running.RESULTS / f"{name}.json"


if __name__ == "__main__":
    main()
