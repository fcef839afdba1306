"""Writes the list of packages in docs/architecture.md, the first line of each: ``python -m tests.house.module_map``."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.root import ROOT

PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- packages: written by `make format` from the first line of each -->\n"
END = "<!-- end of packages -->"


def packages(package: Path) -> list[Path]:
    """The folders of modules below ``package``."""
    return sorted(path.parent for path in package.rglob("__init__.py") if path.parent != package)


def line(folder: Path, package: Path) -> str:
    source = (folder / "__init__.py").read_text(encoding="utf-8")
    words = (ast.get_docstring(ast.parse(source)) or "").split("\n\n", maxsplit=1)[0].split()
    return f"| `{'.'.join(folder.relative_to(package.parent).parts)}` | {' '.join(words)} |"


def render(package: Path) -> str:
    """One table: what each package is for."""
    rows = [line(folder, package) for folder in packages(package)]
    return "\n".join(["| package | what it is for |", "|---|---|", *rows])


def with_map(page: str, package: Path) -> str:
    """The page with the list as it has to be."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{render(package)}\n\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(with_map(PAGE.read_text(encoding="utf-8"), ROOT / "registry"), encoding="utf-8")
