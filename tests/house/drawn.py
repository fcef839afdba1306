"""Draws bugs by the syntax of the code, runs the tests near each, and prints those that no test sees, for a person.

    python -m tests.house.drawn [--since REVISION | --all] [--within FOLDER] [--sample N] [--seed TEXT] [--minutes M]
                                 [--longest S]

Drawn are faults that hurt: a guard that is off, a condition or a check that is left out, a loop that looks at its first
or not at its last, a slice or a range off by one, arithmetic and comparisons turned round, a `not` that is lost. They
are drawn in the files of the package that changed since a revision, or in all where nothing is known, by a seed: the
id of the commit unless another is given. Survivors fail nothing: some of them change nothing that anybody sees (a
shortcut taken or not), which only a person tells. What a person finds worth it gets a test; a bug that this draws is
not planted by hand beside it (`tests.house.planted`).
"""

from __future__ import annotations

import argparse
import ast
import math
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from tests.house.mutant_copy import Copy, commit, copies
from tests.root import ROOT

SIDE_BY_SIDE: Final = 2
LONGEST: Final = 60  # seconds of processor time for tests of one bug: how busy a machine is does not count
WAITED: Final = 10  # times as long on the clock, for those that wait for something
FILES: Final = 5, 15  # of tests, the nearest first, that are run with one bug: most die among the first
NONE_FAILED: Final = 0, 5  # what pytest ends with: all passed, or none was chosen
SINCE: Final = "HEAD~10"

_COMPARED: Final = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
_COUNTED: Final = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*"}
_TEXTS: Final = (ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.ListComp)
_PATHS: Final = re.compile(r"folder|path|root|home|place|directory|cache|parent|scratch|here", re.IGNORECASE)
_TOLD: Final = re.compile(r"debug|info|warning|error|exception|print|close")
_CHECK: Final = re.compile(r"_?(check|verify|require|refuse|ensure|forbid|lock|validate)")


@dataclass(frozen=True)
class Bug:
    """In ``file``, below the package, the text from ``start`` to ``stop`` reads ``new``."""

    file: Path
    line: int
    inside: str  # the function, as it is called in its module
    kind: str
    start: int
    stop: int
    old: str
    new: str

    def planted(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.stop :]

    def __str__(self) -> str:
        was, now = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file.as_posix()}:{self.line} {self.inside}: {self.kind}: {was[:90]} -> {now[:90]}"


class _Reader(ast.NodeVisitor):
    """The places of a file where a bug can be planted; only what functions do is looked at."""

    def __init__(self, file: Path, text: str) -> None:
        self.bugs: list[Bug] = []
        self._file, self._text = file, text
        self._names: list[str] = []
        self._functions = 0
        self._begins = [0]
        for line in text.splitlines(keepends=True):
            self._begins.append(self._begins[-1] + len(line))
        self._lines = text.splitlines(keepends=True)
        self.visit(ast.parse(text))

    def _at(self, line: int, column: int) -> int:
        """The tree counts columns in bytes."""
        return self._begins[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno or 0, node.end_col_offset or 0)

    def _source(self, node: ast.expr | ast.stmt) -> str:
        start, stop = self._span(node)
        return self._text[start:stop]

    def _bug(self, kind: str, node: ast.expr | ast.stmt, new: str) -> None:
        if self._functions:
            start, stop = self._span(node)
            inside = ".".join(self._names)
            self.bugs.append(Bug(self._file, node.lineno, inside, kind, start, stop, self._text[start:stop], new))

    def _body(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, functions: int) -> None:
        self._names.append(node.name)
        self._functions += functions
        for statement in node.body:
            self.visit(statement)
        self._functions -= functions
        self._names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._body(node, 1)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._body(node, 1)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._body(node, 0)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Python before 3.12 does not know where the parts of a text stand."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node: ast.If) -> None:
        if self._source(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node.body[-1], ast.Raise):
            self._bug("guard off", node.test, "False")
        else:
            self._bug("case left out", node.test, "False")
            self._bug("case always", node.test, "True")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        for one in (node.body, node.orelse):
            self._bug("case left out", node, f"({self._source(one)})")
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._bug("case left out", node.test, "False")
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._each(node.iter, checks=any(isinstance(one, ast.Raise) for one in ast.walk(node)))
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        if not node.is_async:
            self._each(node.iter, checks=False)
        for condition in node.ifs:
            self._bug("condition left out", condition, "True")
        self.generic_visit(node)

    def _each(self, items: ast.expr, *, checks: bool) -> None:
        self._bug("first alone", items, f"[*({self._source(items)})][:1]")
        if checks:
            self._bug("last unchecked", items, f"[*({self._source(items)})][:-1]")

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound, step in ((node.lower, "+ 1"), (node.upper, "- 1")):
            if bound is not None:
                self._bug("off by one", bound, f"({self._source(bound)}) {step}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "range" and node.args:
            last = node.args[min(1, len(node.args) - 1)]
            self._bug("off by one", last, f"({self._source(last)}) - 1")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            called = node.value.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if not _TOLD.fullmatch(name):
                self._bug("check left out" if _CHECK.match(name) else "step left out", node, "pass")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        sign, sides = _COUNTED.get(type(node.op)), (node.left, node.right)
        text = any(isinstance(one, _TEXTS) or isinstance(getattr(one, "value", 0), str) for one in sides)
        if isinstance(node.op, ast.Div):  # of paths
            text = text or _PATHS.search(self._source(node.left)) is not None
        if sign is not None and not text:
            self._bug("arithmetic", node, f"(({self._source(node.left)}) {sign} ({self._source(node.right)}))")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if len(node.ops) == 1:
            left, right = self._source(node.left), self._source(node.comparators[0])
            self._bug("comparison", node, f"(({left}) {_COMPARED[type(node.ops[0])]} ({right}))")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._bug("not lost", node, f"({self._source(node.operand)})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = " and " if isinstance(node.op, ast.And) else " or "
        for left_out in node.values:
            rest = [f"({self._source(one)})" for one in node.values if one is not left_out]
            self._bug("condition left out", node, word.join(rest) if len(rest) == 1 else f"({word.join(rest)})")
        self.generic_visit(node)


def bugs_of(file: Path, text: str) -> list[Bug]:
    """Every bug that can be drawn in a file; what one makes of it is Python still."""
    return _Reader(file, text).bugs


def draw(bugs: Sequence[Bug], seed: str) -> list[Bug]:
    """All of them in an order of the seed's, of each kind one after another: comparisons are most of what there is."""
    kinds: dict[str, list[Bug]] = defaultdict(list)
    for bug in random.Random(seed).sample(list(bugs), len(bugs)):
        kinds[bug.kind].append(bug)
    return [bug for row in zip_longest(*kinds.values()) for bug in row if bug is not None]


def changed(since: str) -> set[Path] | None:
    """The files below the package that changed since a revision, or None where git knows neither."""
    asked = ["git", "diff", "--name-only", "--diff-filter=d", since, "--", "registry"]
    try:
        told = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return {Path(line).relative_to("registry") for line in told.splitlines() if line.endswith(".py")}


class Near:
    """Which tests are near a module: by where they stand, and by what they import."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @cached_property
    def _imported(self) -> dict[Path, tuple[set[str], str]]:
        """Modules of the package that each file of tests imports, and its text."""
        files = sorted((self._root / "tests").rglob("test_*.py"))
        return {path: (_imports(text), text) for path in files for text in [path.read_text(encoding="utf-8")]}

    @cached_property
    def _importers(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for path in sorted((self._root / "registry").rglob("*.py")):
            module = _dotted(path.relative_to(self._root))
            for name in _imports(path.read_text(encoding="utf-8")):
                found[name].add(module)
        return found

    def files(self, bug: Bug) -> list[str]:
        """The nearest first: that name the function, are called as the module, import it, or what imports it."""
        module = _dotted("registry" / bug.file)
        outer = self._importers[module]
        further = {name for one in outer for name in self._importers[one]}
        last = bug.inside.rpartition(".")[2]
        named = re.compile(rf"\b({last}|{bug.inside.partition('.')[0]})\b")
        words = {word for part in bug.file.with_suffix("").parts[1:] for word in _words(part)}

        def distance(path: Path) -> float:
            imported, text = self._imported[path]
            at = path.relative_to(self._root / "tests").parent.parts
            alike = sum(one == other for one, other in zip(at, bug.file.parent.parts, strict=False))
            far = 0.0 if module in imported else 2.0 if imported & outer else 4.0 if imported & further else 6.0
            far -= 1.5 * alike + (len(at) == alike == len(bug.file.parent.parts))
            far -= 1.5 * len(words & _words(path.stem)) + 1.5 * bool(named.search(text))
            return far + path.stat().st_size / 50_000  # a small one is soon done

        return [path.relative_to(self._root).as_posix() for path in sorted(self._imported, key=distance)[: sum(FILES)]]


def _words(name: str) -> set[str]:
    """The words of a name, without the endings that they have in one name and lack in another."""
    return {word[:6].rstrip("s") for word in name.split("_") if word not in {"", "test"}}


def _dotted(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def _imports(text: str) -> set[str]:
    """Modules of the package that a file imports, anywhere in it; names that it takes of one may be modules too."""
    found = set(re.findall(r"^ *import (registry[\w.]*)", text, re.MULTILINE))
    for module, several, names in re.findall(
        r"^ *from (registry[\w.]*) import (?:\(([^)]*)\)|(.*))", text, re.MULTILINE
    ):
        found |= {module, *(f"{module}.{name}" for name in re.findall(r"\w+", several or names))}
    return found


@dataclass(frozen=True)
class Outcome:
    bug: Bug
    came_to: str  # "killed", "survived" or "no time"
    by: str
    seconds: float


def try_one(bug: Bug, copy: Copy, near: Near, until: float, longest: int = LONGEST) -> Outcome:
    """Run the tests near it with the bug planted, until the first that fails; that one is tried without it.

    A file whose test fails without it, too (for a library that is not installed, say), is left out.
    """
    path, files, begun = copy.folder / "registry" / bug.file, near.files(bug), time.monotonic()
    sound = path.read_text(encoding="utf-8")
    batches = [files[: FILES[0]], files[FILES[0] :]]
    while batches := [batch for batch in batches if batch]:
        path.write_text(bug.planted(sound), encoding="utf-8")
        try:
            ended = copy.pytest(
                ["-m", "not slow and not image", *batches[0]], min(until, begun + WAITED * longest), longest
            )
        finally:
            path.write_text(sound, encoding="utf-8")
        took = time.monotonic() - begun
        if ended.code is None:
            return Outcome(bug, "survived" if time.monotonic() < until else "no time", "in time", took)
        if ended.code in NONE_FAILED:
            del batches[0]
            continue
        failed = re.search(r"^(?:FAILED|ERROR) ((\S+?\.py)(?:::.*?)?)(?: - .*)?$", ended.last, re.MULTILINE)
        if failed is None:
            return Outcome(bug, "not judged", ended.last, took)
        if copy.pytest(["-m", "", failed[1]], time.monotonic() + LONGEST).code == 0:
            return Outcome(bug, "killed", failed[1], took)
        if failed[2] not in batches[0]:
            return Outcome(bug, "not judged", failed[1], took)
        batches[0].remove(failed[2])
    return Outcome(bug, "survived", "all near it", time.monotonic() - begun)


def try_all(bugs: Sequence[Bug], ready: Sequence[Copy], until: float, longest: int = LONGEST) -> list[Outcome]:
    """Each copy takes the next one when it is free."""
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in ready:
        free.put(copy)
    near = Near(ready[0].folder)

    def tried(bug: Bug) -> Outcome:
        own = free.get()
        try:
            outcome = Outcome(bug, "no time", "", 0.0)
            if time.monotonic() < until:
                outcome = try_one(bug, own, near, until, longest)
                print(f"{outcome.came_to:<10} {bug} ({outcome.by}, {outcome.seconds:.0f} s)", flush=True)
            return outcome
        finally:
            free.put(own)

    with ThreadPoolExecutor(len(ready)) as pool:
        return list(pool.map(tried, bugs))


def concluded(outcomes: Sequence[Outcome]) -> str:
    """How many of those that were tried to an end were killed, and the others once more."""
    count = {
        word: sum(one.came_to == word for one in outcomes) for word in ("killed", "survived", "not judged", "no time")
    }
    judged = count["killed"] + count["survived"]
    share = f"{100 * count['killed'] / judged:.0f} % of {judged} killed" if judged else "none was tried to an end"
    lines = [f"{share}; {', '.join(f'{number} {word}' for word, number in count.items())}"]
    lines += [f"  registry/{one.bug}" for one in outcomes if one.came_to == "survived"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    about = argparse.ArgumentParser(prog="python -m tests.house.drawn", description="Draw bugs and see which are seen.")
    about.add_argument(
        "--since", metavar="REVISION", default=SINCE, help="in files that changed since (default: %(default)s)"
    )
    about.add_argument("--all", action="store_true", help="in all files, changed or not")
    about.add_argument("--within", metavar="FOLDER", default="", help="only in files below it, from registry/")
    about.add_argument("--sample", type=int, metavar="N", help="only so many of them, drawn by the seed")
    about.add_argument("--seed", metavar="TEXT", help="what they are drawn by (default: the commit)")
    about.add_argument("--minutes", type=float, default=math.inf, metavar="M", help="begin none after that time")
    about.add_argument("--longest", type=int, default=LONGEST, metavar="S", help="seconds of processor time for one")
    asked = about.parse_args(arguments)
    files = None if asked.all else changed(asked.since)
    package = ROOT / "registry"
    places = sorted(path.relative_to(package) for path in package.rglob("*.py"))
    looked = [file for file in places if file.as_posix().startswith(asked.within) and (not files or file in files)]
    seed = commit() if asked.seed is None else asked.seed
    if asked.sample is not None:  # files enough that most bugs are of one each
        looked = random.Random(seed).sample(looked, min(len(looked), 3 * asked.sample))
    bugs = [bug for file in looked for bug in bugs_of(file, (package / file).read_text(encoding="utf-8"))]
    chosen = draw(bugs, seed)[: asked.sample]
    print(f"Seed {seed}: {len(chosen)} of the {len(bugs)} bugs that {len(looked)} files could have", flush=True)
    with tempfile.TemporaryDirectory(prefix="drawn-") as scratch:
        ready = copies(Path(scratch), SIDE_BY_SIDE)
        print(concluded(try_all(chosen, ready, time.monotonic() + 60 * asked.minutes, asked.longest)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
