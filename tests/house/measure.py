"""Prints figures of the package: ``python -m tests.house.measure [--against DIR]``, DIR being another checkout.

Lines, modules, functions, imports between the folders, and the modules that work while one thing is done. Sizes are no
rule (`test_rules` has those): they show whether a change of the structure made it smaller.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from tests.house.entered import THINGS
from tests.house.rooms import imports_between_rooms
from tests.root import ROOT

ENTERED: Final = Path(__file__).with_name("entered.py")
OPERATION: Final = re.compile(r"protect_tag|ProtectRequest|ProtectedTag\b|protected-tags")
"""What tells the operation that lets only admins move tags."""

Imports = Mapping[str, set[str]]
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One file."""

    path: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())

    def kinds(self) -> Counter[str]:
        """Lines by what is on them."""
        docstrings, imports = set[int](), set[int]()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                imports |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            elif (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                docstrings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        found = Counter[str]()
        for number, line in enumerate(self.text.splitlines(), 1):
            bare = line.strip()
            if number in docstrings:
                found["docstrings"] += 1
            elif not bare:
                found["blank"] += 1
            elif number in imports:
                found["imports"] += 1
            else:
                found["comments" if bare.startswith("#") else "code"] += 1
        return found

    def functions(self) -> list[_Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, _Function)]


def modules(checkout: Path) -> list[Module]:
    """All of the package in a checkout."""
    files = sorted((checkout / "registry").rglob("*.py"))
    return [Module(path, path.read_text(encoding="utf-8")) for path in files if "__pycache__" not in path.parts]


def private_called_once(module: Module) -> int:
    """Functions and methods of the module with a leading underscore that it mentions once."""
    mentioned = Counter(
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name | ast.Attribute)
    )
    return sum(mentioned[one.name] == 1 for one in module.functions() if is_private(one))


def is_private(function: _Function) -> bool:
    return function.name.startswith("_") and not function.name.startswith("__")


def together(imports: Imports) -> list[set[str]]:
    """What imports each other, directly or on a way round: each set of two and more."""
    reached: dict[str, set[str]] = {}
    for start in imports:
        rest, found = list(imports[start]), set[str]()
        while rest:
            one = rest.pop()
            if one not in found:
                found.add(one)
                rest += imports.get(one, ())
        reached[start] = found
    sets = {frozenset(other for other in found if start in reached[other]) for start, found in reached.items()}
    return [set(one) for one in sets if len(one) > 1]


def imports_of(found: list[Module], package: Path) -> Imports:
    """Which modules each module of the package imports, also inside functions."""
    names = {_name(module.path, package): module for module in found}
    return {name: set(_imported(module, names)) - {name} for name, module in names.items()}


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(module: Module, names: Mapping[str, Module]) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (one for one in (below if below in names else node.module for below in inner) if one in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)


def among(imports: Imports, rooms: Mapping[str, str]) -> Imports:
    """The imports among rooms, those of the modules that lie in them; a module without a room is left out."""
    found: dict[str, set[str]] = {room: set() for room in rooms.values()}
    for one, others in imports.items():
        if one in rooms:
            found[rooms[one]] |= {rooms[other] for other in others if other in rooms} - {rooms[one]}
    return found


def count(imports: Imports) -> int:
    return sum(map(len, imports.values()))


def in_circles(imports: Imports) -> int:
    """Imports of which another leads back."""
    return sum(len(imports[one] & around) for around in together(imports) for one in around)


def floors(imports: Imports) -> int:
    """How many rooms lie above each other at most; -1 where there is a circle."""
    if together(imports):
        return -1
    height: dict[str, int] = {}
    for room in TopologicalSorter(imports).static_order():
        height[room] = 1 + max((height[below] for below in imports.get(room, ())), default=0)
    return max(height.values())


def figures(checkout: Path) -> dict[str, int]:
    """All that is read from the files."""
    package = checkout / "registry"
    found = modules(checkout)
    sizes = [module.lines for module in found]
    kinds = sum((module.kinds() for module in found), Counter[str]())
    folders = Counter(module.path.parent for module in found if module.path.stem != "__init__")
    functions = [function for module in found for function in module.functions()]
    imports = imports_of(found, package)
    house = imports_between_rooms(package)
    services = {one: one for one in imports if one.startswith("registry.services.")}
    rooms = {one: ".".join(one.split(".")[:3]) for one in services}
    faces = {one: one.split(".")[1] for one in imports if one != "registry"}
    return {
        "lines": sum(sizes),
        **{f"  {kind}": kinds[kind] for kind in ("code", "docstrings", "comments", "imports", "blank")},
        "modules": sum(folders.values()),
        "folders": len(folders),
        "modules in the fullest folder": max(folders.values()),
        "lines of a file: p50": round(median(sizes)),
        "lines of a file: p90": round(quantiles(sizes, n=10)[-1]),
        "lines of a file: max": max(sizes),
        "functions": len(functions),
        "  private": sum(map(is_private, functions)),
        "  private, called once": sum(map(private_called_once, found)),
        "imports between modules": count(imports),
        "services: modules": sum(
            n for folder, n in folders.items() if (package / "services") in (folder, *folder.parents)
        ),
        "services: imports between modules": count(among(imports, services)),
        "services: of them in a circle": in_circles(among(imports, services)),
        "services: rooms": len(set(rooms.values())),
        "services: floors of rooms": floors(among(imports, rooms)),
        "services: imports between rooms": count(among(imports, rooms)),
        "services: of them in a circle of rooms": in_circles(among(imports, rooms)),
        "parts of the package in a circle": sum(map(len, together(among(imports, faces)))),
        "rooms of the package in a circle": sum(map(len, together(house))),
        "files that tell of protect_tag": sum(bool(OPERATION.search(module.text)) for module in found),
    }


def entered(checkout: Path) -> dict[str, int]:
    """The modules that work while one thing is done, each counted in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    environ = {**kept, "PYTHONPATH": str(checkout)}
    found = {}
    for thing in THINGS:
        command = [sys.executable, str(ENTERED), thing]
        done = subprocess.run(command, cwd=checkout, env=environ, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        found[f"modules entered by {thing}"] = int(done.stdout)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure one checkout, or two, and print the table."""
    parser = argparse.ArgumentParser(prog="tests.house.measure", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, shown first")
    against = parser.parse_args(arguments).against
    columns = [figures(checkout) | entered(checkout) for checkout in (against and against.resolve(), ROOT) if checkout]
    heads = ["before", "after"] if against else ["now"]
    print("| figure | " + " | ".join(heads) + " |\n|---|" + "---:|" * len(heads))
    for name in columns[-1]:
        print(f"| {name} | " + " | ".join(str(column[name]) for column in columns) + " |")


if __name__ == "__main__":
    main()
