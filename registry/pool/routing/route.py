"""A router is asked which path each row belongs to, and its answers are checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from registry.errors import UsageError
from registry.reference import Reference

Rows = Sequence[Any] | Mapping[str, Any]
"""Examples, such as texts; or an encoded batch, whose values have the rows as their first dimension."""

Unclear = Literal["base", "error"]
"""What becomes of a row that no path is clearly right for: the base model answers it, or it is an error."""


@runtime_checkable
class BatchRouter(Protocol):
    """A router that is asked about all rows at once."""

    def route(self, rows: Rows) -> Sequence[str | None]:
        """The reference of each row; None: the base model."""


Router = Callable[[Any], str | None] | BatchRouter


def route(rows: Rows, router: Router) -> list[str | None]:
    """The reference of each row, as the router says it: tags are resolved where the references are used.

    Raises:
        UsageError: the rows are none, or the router gave something else than one reference or None for each;
            ``bad_name``: a reference is outside the grammar.
    """
    count = count_rows(rows)
    if isinstance(router, BatchRouter):
        found: list[object] = list(router.route(rows))
    else:
        found = [router(row) for row in _each(rows, count)]
    if len(found) != count:
        raise UsageError(f"The router gave {len(found)} references for {count} rows; one for each is expected.")
    return [_checked(row, one) for row, one in enumerate(found)]


def count_rows(rows: Rows) -> int:
    """How many rows there are.

    Raises:
        UsageError: it is one text, no rows at all, or an encoded batch whose values differ in their first dimension.
    """
    given: object = rows
    if isinstance(given, Mapping):
        lengths = {str(name): _length(value) for name, value in given.items()}
        if not lengths or None in lengths.values() or len(set(lengths.values())) > 1:
            said = ", ".join(f"{name}: {'none' if one is None else one}" for name, one in lengths.items()) or "no value"
            raise UsageError(f"An encoded batch has one number of rows in all of its values, and this one has {said}.")
        return next(length for length in lengths.values() if length is not None)
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise UsageError(f"A list of examples or an encoded batch is expected, and not {type(given).__name__}.")
    return len(given)


def unclear_row(unclear: Unclear, row: int, why: str) -> None:
    """The base model, for a row that no path is clearly right for.

    Raises:
        UsageError: the router was made with ``unclear="error"``.
    """
    if unclear == "error":
        raise UsageError(f"No path is clearly right for row {row}: {why}.")


def check_unclear(unclear: str) -> None:
    """Check the option.

    Raises:
        UsageError: it is something else.
    """
    if unclear not in ("base", "error"):
        raise UsageError(f"unclear is {unclear!r}, and 'base' or 'error' is expected.")


def _length(value: object) -> int | None:
    try:
        return len(value)  # type: ignore[arg-type]
    except TypeError:  # also of a tensor without dimensions
        return None


def _each(rows: Rows, count: int) -> Iterator[Any]:
    if isinstance(rows, Mapping):
        for row in range(count):
            yield {name: value[row] for name, value in rows.items()}
    else:
        yield from rows


def _checked(row: int, found: object) -> str | None:
    if found is None:
        return None
    if not isinstance(found, str):
        raise UsageError(f"The router gave {found!r} for row {row}; a reference or None is expected.")
    Reference.parse(found)
    return found
