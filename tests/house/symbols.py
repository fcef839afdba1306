"""Finds functions, classes, constants and files by name, wherever in a tree of Python files they stand.

A symbol is the qualified name of a definition in its module, `compose_pair`, `Pair.rows` or `_decoder.object_of`, or
the name of a file, `test_patterns.py`. Where several have it, one folder above the wanted one, or its module, goes
before it: `dora:fold`, `services:fetch`. Nothing else of where it stands is in a symbol, so that moves leave it right.
"""

from __future__ import annotations

import ast
import copy
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class SymbolError(LookupError):
    """Nothing has the name of a symbol, or more than one thing has it."""


@dataclass(frozen=True)
class Definition:
    """A function, class, constant or whole file, decorators included."""

    file: Path
    name: str  # qualified within the file; empty for the file itself
    first: int  # its lines, from 1, both included
    last: int

    @property
    def way(self) -> tuple[str, ...]:
        """The folders above it, and its module."""
        return (*self.file.parent.parts, self.file.stem)

    def __str__(self) -> str:
        return f"{self.file.as_posix()}:{self.first}"


class Index:
    """What is defined below ``root``; files are told from there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._named: dict[str, list[Definition]] = defaultdict(list)
        for path in sorted(root.rglob("*.py")):
            file, text = path.relative_to(root), path.read_text(encoding="utf-8")
            self._named[file.name].append(Definition(file, "", 1, text.count("\n") + 1))
            for name, node in _definitions(ast.parse(text).body, "", constants=True):
                first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
                self._named[name].append(Definition(file, name, first, node.end_lineno or first))

    def below(self, root: Path) -> Index:
        """The same of a copy below ``root``, which is not read again."""
        other = copy.copy(self)
        other.root = root
        return other

    def find(self, symbol: str) -> Definition:
        """The one definition that the symbol names.

        Raises:
            SymbolError: None or several have the name; it says where they stand.
        """
        near, _, name = symbol.rpartition(":")
        named = self._named.get(name, [])
        found = [one for one in named if not near or near in one.way]
        if len(found) == 1:
            return found[0]
        elsewhere = ", ".join(map(str, found or named)) or "nowhere"
        if found:
            msg = f"{symbol} is the name of {len(found)}: say FOLDER:{name} or MODULE:{name} of one of {elsewhere}"
        else:
            msg = f"nothing below {self.root.name}/ is called {symbol}; {name} is found in: {elsewhere}"
        raise SymbolError(msg)


def _definitions(body: list[ast.stmt], above: str, *, constants: bool) -> Iterator[tuple[str, ast.stmt]]:
    """Functions and classes at any depth; assigned names only where they outlive a call."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield above + node.name, node
            inside = isinstance(node, ast.ClassDef)
            yield from _definitions(node.body, f"{above}{node.name}.", constants=inside)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if constants:
                yield from ((above + one.id, node) for one in targets if isinstance(one, ast.Name))
        else:  # what stands under `if`, `try` or `with` is defined as well
            for part in ("body", "orelse", "finalbody"):
                yield from _definitions(getattr(node, part, []), above, constants=constants)
            for handler in getattr(node, "handlers", []):
                yield from _definitions(handler.body, above, constants=constants)
