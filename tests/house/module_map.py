"""Writes the list of modules in docs/architecture.md, the first line of each: ``python -m tests.house.module_map``."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- modules: written by `make format` from the first line of each module -->\n"
END = "<!-- end of modules -->"


def modules(package: Path) -> list[Path]:
    return sorted(path for path in package.rglob("*.py") if "__pycache__" not in path.parts and path.stem != "__init__")


def line(path: Path) -> str:
    words = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n", maxsplit=1)[0].split()
    return f"| `{path.stem}` | {' '.join(words)} |"


def render(package: Path) -> str:
    """One table for each package, the leaves and roots last."""
    tables = []
    for folder in sorted({path.parent for path in modules(package)}, key=lambda folder: (folder == package, folder)):
        name = ".".join(folder.relative_to(package.parent).parts)
        rows = [line(path) for path in modules(package) if path.parent == folder]
        tables.append("\n".join([f"### `{name}`", "", "| module | what it is for |", "|---|---|", *rows]))
    return "\n\n".join(tables)


def with_map(page: str, package: Path) -> str:
    """The page with the list as it has to be."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{render(package)}\n\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(with_map(PAGE.read_text(encoding="utf-8"), ROOT / "registry"), encoding="utf-8")
