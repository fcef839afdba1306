"""The code that docs/training.md shows, by section."""

from __future__ import annotations

import re
from typing import Any

from tests.root import ROOT

PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def blocks(heading: str) -> list[str]:
    """The Python code of a section."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def run(heading: str, names: dict[str, Any], *changed: tuple[str, str]) -> None:
    """Run the first code of a section; ``changed``: where this machine is another than the page's."""
    code = blocks(heading)[0]
    for old, new in changed:
        assert old in code
        code = code.replace(old, new)
    exec(compile(code, "<docs/training.md>", "exec"), names)
