"""Which folders of the package import which others, and the circles among them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


def imports_between_rooms(package: Path) -> dict[str, set[str]]:
    """For each room of the package, the rooms that it imports.

    A room is a folder of modules, or, where a folder has folders of its own, each single module beside them.
    """
    files = sorted(path for path in package.rglob("*.py") if "__pycache__" not in path.parts)
    files.remove(package / "__init__.py")  # the public face, which loads what it needs when it is called
    names = {_name(path, package): path for path in files}
    divided = {path.parent.parent for path in files}
    rooms = {name: name if path.parent in divided else _name(path.parent, package) for name, path in names.items()}
    found: dict[str, set[str]] = {room: set() for room in rooms.values()}
    for name, path in names.items():
        found[rooms[name]] |= {rooms[one] for one in _imported(path, names)} - {rooms[name]}
    return found


def circles(imports: Mapping[str, set[str]]) -> list[str]:
    """The first circle, in its order; empty where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, names: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                yield from (one for one in (f"{node.module}.{alias.name}", node.module) if one in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
