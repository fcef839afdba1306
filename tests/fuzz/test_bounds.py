"""Any file under 1 MB is read or refused within 1 second of processor time and 200 MB of memory.

The bound is part of the contract, so this is the one place of the tests where time is asserted: processor time, in a
child process of its own, against a limit that grows with how slow the machine is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.effort import LONGEST_MESSAGE
from tests.root import ROOT

SECONDS = 1.0
BYTES = 200_000_000
YARDSTICK = 0.12
"""Seconds that the worker's fixed piece of work takes on the machine for which the bound is meant."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure memory")


def measured(*sorts: str) -> tuple[float, list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.bound_worker", *sorts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, *rest = map(json.loads, done.stdout.splitlines())
    return max(1.0, first["yardstick"] / YARDSTICK), rest


def check(*wanted: str) -> None:
    slowness, results = measured(*wanted)
    assert results
    faults = [
        f"{found['sort']}/{found['name']}: {found['outcome']}, {found['seconds']:.2f} s, {found['bytes']} bytes, "
        f"a message of {len(found['message'])} characters"
        for found in results
        if found["outcome"] in ("traceback", "killed")
        or found["seconds"] > SECONDS * slowness
        or found["bytes"] > BYTES
        or len(found["message"]) > LONGEST_MESSAGE
    ]
    assert not faults, f"on a machine {slowness:.2f} times as slow: {faults}"


@pytest.mark.long
@pytest.mark.parametrize("sort", ["headers", "configs", "bases", "patterns", "adapters"])
def test_all_bad_files(sort: str) -> None:
    check(sort)
