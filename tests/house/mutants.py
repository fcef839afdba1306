"""Plants bugs in a copy of the package, one at a time, and sees that the tests catch each.

    python -m tests.house.mutants [NAME]...

A mutant is caught when the tests named with it fail; the same tests pass without it, which is tried first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("registry", "tests", "benchmarks", "alembic", "migrations", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Mutant:
    """A bug: in ``file``, the one place that reads ``old`` reads ``new``; ``tests`` are to notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MERGE = "tests/tensors/artifacts/test_merge_values.py"
COMPOSE = "tests/tensors/composed/test_compose_values.py"
CONFIG = "tests/tensors/checkpoint/test_lora_config.py"
ROUNDING = "tests/tensors/arithmetic/test_rounding.py"
PATTERNS = "tests/tensors/checkpoint/test_patterns.py"
DAMAGE = "tests/storage/test_damage.py"
PUBLISHING = "tests/catalogue/test_publishing.py"
BROWSE = "tests/catalogue/test_browse.py"
PARENTS = "tests/services/test_registry.py"
LINEAGE = "tests/services/test_lineage_copies.py"

MUTANTS = (
    Mutant("scale-dropped", "tensors/factors.py", ".mul_(self.scale)", "", MERGE),
    Mutant(
        "rslora-as-plain", "tensors/checkpoint/lora_config.py", "alpha / math.sqrt(rank) if", "alpha / rank if", CONFIG
    ),
    Mutant(
        "wrong-transposition",
        "tensors/table/targets.py",
        "in (TargetKind.CONV1D, TargetKind.EMBEDDING)",
        "in ()",
        MERGE,
    ),
    Mutant(
        "conv1d-as-linear",
        "tensors/table/targets.py",
        "(TargetKind.CONV1D, TargetKind.EMBEDDING)",
        "(TargetKind.EMBEDDING,)",
        MERGE,
    ),
    Mutant(
        "rank-order",
        "tensors/factors.py",
        "[link.b_rows(start, end, dtype) for link in self.links]",
        "[link.b_rows(start, end, dtype) for link in reversed(self.links)]",
        MERGE,
    ),
    Mutant(
        "rank-order-composed",
        "tensors/composed/composition.py",
        "for link in self.links.links:",
        "for link in reversed(self.links.links):",
        COMPOSE,
    ),
    Mutant(
        "round-twice",
        "tensors/arithmetic/rounding.py",
        "values = _to_odd(values)",
        "values = values.to(torch.float32)",
        ROUNDING,
    ),
    Mutant(
        "round-a-slice",
        "tensors/arithmetic/blocks.py",
        "            sums.addmm_(",
        "            sums.copy_(sums.bfloat16()).addmm_(",
        MERGE,
    ),
    Mutant(
        "base-rounded-first",
        "tensors/artifacts/merged.py",
        "sums[:rows].copy_(base)",
        "sums[:rows].copy_(base.bfloat16())",
        MERGE,
    ),
    Mutant(
        "last-rank-slice-lost",
        "tensors/arithmetic/blocks.py",
        "RANK_GROUP, rank), RANK_SLICE)",
        "RANK_GROUP, rank) - 1, RANK_SLICE)",
        MERGE,
    ),
    Mutant(
        "first-block-again",
        "tensors/artifacts/merged.py",
        "first = index * self.rows_a_block\n        add",
        "first = 0\n        add",
        MERGE,
    ),
    Mutant(
        "overflow-let-through",
        "tensors/arithmetic/rounding.py",
        "low.item() > -limit and high.item() < limit",
        "low.item() == low.item()",
        ROUNDING,
    ),
    Mutant(
        "last-pattern-wins",
        "tensors/checkpoint/patterns.py",
        "self._values[found[0]]",
        "self._values[found[-1]]",
        PATTERNS,
    ),
    Mutant(
        "scale-not-one", "tensors/composed/composition.py", '"lora_alpha": rank,', '"lora_alpha": 2 * rank,', COMPOSE
    ),
    Mutant(
        "block-not-checked",
        "storage/reading.py",
        "if not self._right(index, block_digest(block)):",
        "if False:",
        DAMAGE,
    ),
    Mutant(
        "block-list-not-checked",
        "storage/reading.py",
        "opened.size != len(data) or sha256_digest(data) != blocks_digest",
        "opened.size != len(data)",
        DAMAGE,
    ),
    Mutant(
        "number-given-again",
        "catalogue/publishing.py",
        "number=adapter.next_number,",
        "number=1 + len(session.scalars(select(Revision.id).where(Revision.adapter_id == adapter.id)).all()),",
        PUBLISHING,
    ),
    Mutant(
        "grandparent-not-looked-at",
        "catalogue/browse.py",
        "(outdated[parent] or is_behind(parent))",
        "outdated[parent]",
        BROWSE,
    ),
    Mutant("wrong-parent", "services/parents.py", "row.digest == receipt.tip), None)", "True), None)", PARENTS),
    Mutant("parent-guessed", "services/parents.py", "if len(candidates) > 1:", "if len(candidates) > 99:", PARENTS),
    Mutant("lineage-not-compared", "services/lineage_check.py", "if not excess <= 0:", "if False:", LINEAGE),
)


def copy_to(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(source, folder)


def places(mutant: Mutant, root: Path = ROOT) -> int:
    """How often the text that the mutant changes stands in its file; anything but 1 makes it useless."""
    file = root / "registry" / mutant.file
    return file.read_text(encoding="utf-8").count(mutant.old) if file.exists() else 0


def run_tests(folder: Path, tests: str) -> tuple[int, str]:
    """Exit code of pytest in the copy, and its last lines; child processes see the copy too."""
    # Bytecode is kept by a file's size and second: planting and taking away within one second would go unseen.
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", tests]
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    return done.returncode, "\n".join((done.stdout + done.stderr).splitlines()[-3:])


def try_one(mutant: Mutant, folder: Path) -> str | None:
    """None when the mutant is caught, else why not."""
    if places(mutant, folder) != 1:
        return f"the text it changes stands {places(mutant, folder)} times in {mutant.file}"
    file = folder / "registry" / mutant.file
    sound = file.read_text(encoding="utf-8")
    file.write_text(sound.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, last = run_tests(folder, mutant.tests)
    finally:
        file.write_text(sound, encoding="utf-8")
    closing = last.splitlines()[-1] if last else ""
    if (
        code == 1 and " failed" in closing
    ):  # an error while a test is set up would show a broken mutant, not a caught one
        return None
    return f"SURVIVED {mutant.tests}" if code == 0 else f"pytest ended with {code}: {last}"


def main(names: list[str]) -> int:
    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        sys.exit(f"No such mutant: {', '.join(sorted(unknown))}.")
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    bad = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        folder = Path(scratch)
        copy_to(folder)
        unsound: dict[str, str] = {}
        for tests in sorted({mutant.tests for mutant in chosen}):
            code, last = run_tests(folder, tests)
            if code != 0:
                unsound[tests] = f"NOT TRIED, {tests} fails without it (pytest ended with {code}):\n{last}"
        for mutant in chosen:
            start = time.perf_counter()
            why = unsound.get(mutant.tests) or try_one(mutant, folder)
            bad += why is not None
            print(f"{mutant.name:<28} {why or 'caught'} ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"{len(chosen) - bad} passed, {bad} failed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
