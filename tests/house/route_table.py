"""Writes the routes of the operations into docs/http.md, from their table: ``python -m tests.house.route_table``."""

from __future__ import annotations

from typing import Any, get_args

from registry.operations.operation import Job, Listing, Operation
from registry.operations.table import OPERATIONS
from registry.schemas.protocol import API
from tests.root import ROOT

PAGE = ROOT / "docs" / "http.md"
BEGIN = "<!-- operations: written by `make format` from registry/operations/table.py -->\n"
END = "<!-- end of operations -->"


def line(operation: Operation[Any, Any]) -> str:
    cells = (
        f"`{operation.method}`",
        f"`{API}{operation.address}`",
        operation.about,
        _takes(operation),
        f"{operation.right.role}{', all scopes' if operation.right.where == 'all' else ''}",
        _answer(operation),
    )
    return f"| {' | '.join(cells)} |"


def _takes(operation: Operation[Any, Any]) -> str:
    if operation.method in {"POST", "PUT"}:
        return f"`{operation.request.__name__}`"
    return ", ".join(f"`{name}`" for name in operation.request.model_fields)


def _answer(operation: Operation[Any, Any]) -> str:
    if isinstance(operation, Listing):
        return f"page of `{operation.item.__name__}`"
    if get_args(operation.answer):
        item = get_args(operation.answer)[0]
        return f"list of {'references' if item is str else f'`{item.__name__}`'}"
    answer = f"`{operation.answer.__name__}`"
    if isinstance(operation, Job):
        return (
            f"201 {answer}, 200 if it was there, 202 `Operation`"
            if operation.creates
            else f"{answer}, or 202 `Operation`"
        )
    return answer if operation.status == 200 else f"{operation.status} {answer}"


def render() -> str:
    """The table: a line an operation, by address."""
    rows = map(line, sorted(OPERATIONS, key=lambda one: (one.address, one.method)))
    return "\n".join(["| method | path | what for | takes | who | answer |", "|---|---|---|---|---|---|", *rows])


def with_table(page: str) -> str:
    """The page with the table as it has to be."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{render()}\n\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
