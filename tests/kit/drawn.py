"""Heaps that are drawn by a seed, tried one after another from the command line."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path


def try_heaps(try_heap: Callable[[Path, int], Counter[str]]) -> None:
    """Try as many heaps as the first argument says, from the seed of the second on; print what came out so far."""
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    total: Counter[str] = Counter()
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            total += try_heap(Path(folder), seed)
        print(seed, dict(sorted(total.items())), flush=True)
