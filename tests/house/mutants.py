"""Plants bugs in a copy of the package, one at a time, and sees that the tests catch each.

    python -m tests.house.mutants [NAME]... [--sample N] [--seed TEXT] [--minutes M]

A mutant is caught when the tests named with it fail; the same tests pass without it, which is tried first. The list is
in `tests.house.planted`. Two are tried at a time, each in a copy of its own. A sample is drawn by a seed, the id of the
commit unless another is given: another commit tries others, and the same commit the same ones.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.house.mutant_copy import Copy, Trial, Verdict, commit, copies, planted, selection
from tests.house.planted import MUTANTS, Mutant
from tests.house.symbols import SymbolError

SIDE_BY_SIDE = 2


def sample(mutants: Sequence[Mutant], size: int, seed: str) -> list[Mutant]:
    """So many of them, or all when there are no more, in an order that the seed gives."""
    return random.Random(seed).sample(list(mutants), min(size, len(mutants)))


def unfit(mutants: Sequence[Mutant], copy: Copy) -> list[str]:
    """What keeps bugs of the list from being planted, or their tests from being found."""
    found = []
    for mutant in mutants:
        try:
            planted(mutant, copy.package)
            selection(mutant.tests, copy.tests)
        except SymbolError as error:
            found.append(f"{mutant.name}: {error}")
    return found


def try_all(mutants: Sequence[Mutant], ready: Sequence[Copy], until: float) -> list[Trial]:
    """Each copy tries those that name the same tests one after another, and says what came of each."""
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in ready:
        free.put(copy)
    groups: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        groups[mutant.tests].append(mutant)

    def try_group(tests: str) -> list[Trial]:
        own, trials = free.get(), []
        try:
            for trial in own.try_each(tests, groups[tests], until):
                print(f"{trial.mutant.name:<34} {trial.came_to} ({trial.seconds:.0f} s)", flush=True)
                trials.append(trial)
        finally:
            free.put(own)
        return trials

    with ThreadPoolExecutor(len(ready)) as pool:
        return [trial for trials in pool.map(try_group, groups) for trial in trials]


def concluded(trials: Sequence[Trial]) -> int:
    """Say what came of them together, and give the exit code: 0 when all that were tried are caught.

    Where the machine was too slow for a single one, that is said, and fails nothing.
    """
    count = {verdict: sum(trial.verdict is verdict for trial in trials) for verdict in Verdict}
    print(", ".join(f"{number} {verdict.value}" for verdict, number in count.items()))
    caught = [trial for trial in trials if trial.verdict is Verdict.CAUGHT]
    if caught:
        slowest = sorted(caught, key=lambda trial: -trial.seconds)[:5]
        median = statistics.median(trial.seconds for trial in caught)
        told = ", ".join(f"{trial.mutant.name} {trial.seconds:.0f} s" for trial in slowest)
        print(f"Caught within {median:.1f} s in the median; the slowest: {told}")
    return 1 if count[Verdict.NOT_CAUGHT] else 0


def main(arguments: Sequence[str] | None = None) -> int:
    about = argparse.ArgumentParser(prog="python -m tests.house.mutants", description="Plant bugs and see them caught.")
    about.add_argument("names", nargs="*", metavar="NAME", help="only these; all when none is named")
    about.add_argument("--sample", type=int, metavar="N", help="only so many of them, drawn by the seed")
    about.add_argument("--seed", metavar="TEXT", help="what the sample is drawn by (default: the commit)")
    about.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        metavar="M",
        help="begin none that would take longer, from when copies are made",
    )
    asked = about.parse_args(arguments)
    if unknown := set(asked.names) - {mutant.name for mutant in MUTANTS}:
        about.error(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in MUTANTS if not asked.names or mutant.name in asked.names]
    if asked.sample is not None:
        seed = commit() if asked.seed is None else asked.seed
        known, chosen = len(chosen), sample(chosen, asked.sample, seed)
        print(f"Seed {seed}, {len(chosen)} of {known}: {', '.join(mutant.name for mutant in chosen)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        ready = copies(Path(scratch), SIDE_BY_SIDE)
        if reasons := unfit(chosen, ready[0]):
            print("\n".join(reasons))
            return 1
        return concluded(try_all(chosen, ready, time.monotonic() + 60 * asked.minutes))


if __name__ == "__main__":
    sys.exit(main())
