"""Writes the lists of commands (docs/cli.md) and of decisions: ``python -m tests.house.indexes``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Final

from registry.cli.program import build_command
from tests.root import ROOT

CLI = ROOT / "docs" / "cli.md"
DECISIONS = ROOT / "docs" / "decisions" / "README.md"
BEGIN = "<!-- commands: written by `make format` from their help -->\n"
END = "<!-- end of commands -->"
_ABOUT: Final = """# Decisions

Why it is built as it is: a page a decision, in the order in which they were made. One that was changed later says so.
This list is written by `make format`.
"""


def commands() -> Iterator[tuple[str, str]]:
    """Every command, and what it does in a sentence."""
    yield from _below(build_command(), "registry")


def _below(command: Any, name: str) -> Iterator[tuple[str, str]]:
    if not hasattr(command, "commands"):
        yield name, inspect.cleandoc(command.help or "").partition("\n")[0]
        return
    for below, one in command.commands.items():
        if not one.hidden:
            yield from _below(one, f"{name} {below}")


def with_commands(page: str) -> str:
    """docs/cli.md with the list as it has to be: a line a command, in the order of the page."""
    about = dict(commands())
    order = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## registry ")]
    rows = [f"| [`{name}`](#{name.replace(' ', '-')}) | {about[name]} |" for name in order if name in about]
    table = "\n".join(["| command | what it does |", "|---|---|", *rows])
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table}\n\n{END}{tail}"


def decisions() -> str:
    """The page that lists the decisions: number, title and file."""
    pages = sorted(page for page in DECISIONS.parent.glob("[0-9]*.md"))
    titles = [page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for page in pages]
    items = [f"{title.replace('. ', '. [', 1)}]({page.name})" for title, page in zip(titles, pages, strict=True)]
    return "\n".join([_ABOUT, *items, ""])


if __name__ == "__main__":
    CLI.write_text(with_commands(CLI.read_text(encoding="utf-8")), encoding="utf-8")
    DECISIONS.write_text(decisions(), encoding="utf-8")
