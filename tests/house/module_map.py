"""Writes the map in docs/architecture.md: ``python -m tests.house.module_map``.

Each package with its modules, and of each the first paragraph of its docstring: who looks for what does something finds
its file without opening another.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.root import ROOT

PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- packages: written by `make format` from the docstrings -->\n"
END = "<!-- end of packages -->"


def packages(package: Path) -> list[Path]:
    """The folders of modules below ``package``."""
    return sorted(path.parent for path in package.rglob("__init__.py") if path.parent != package)


def first_words(file: Path) -> str:
    """The first paragraph of a module's docstring, on one line, fit for a cell of a table."""
    words = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n", maxsplit=1)[0].split()
    return " ".join(words).replace("|", "\\|")


def rows(folder: Path, package: Path) -> list[str]:
    """The package in a folder, and its modules below it."""
    name = ".".join(folder.relative_to(package.parent).parts)
    modules = sorted(path for path in folder.glob("*.py") if not path.stem.startswith("__"))
    return [
        f"| **`{name}`** | **{first_words(folder / '__init__.py')}** |",
        *(f"| `{path.stem}` | {first_words(path)} |" for path in modules),
    ]


def render(package: Path) -> str:
    """One table: what each package is for, and each of its modules."""
    found = [row for folder in (package, *packages(package)) for row in rows(folder, package)]
    return "\n".join(["| package, module | what it is for |", "|---|---|", *found])


def with_map(page: str, package: Path) -> str:
    """The page with the list as it has to be."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{render(package)}\n\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(with_map(PAGE.read_text(encoding="utf-8"), ROOT / "registry"), encoding="utf-8")
