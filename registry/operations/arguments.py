"""What a caller gives in Python, checked in process and by a client alike; a refusal is about one argument."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from registry.errors import UsageError
from registry.schemas import Schema

S = TypeVar("S", bound=Schema)


def asked(schema: type[S], **given: object) -> S:
    """The schema of these arguments.

    Raises:
        UsageError: naming the first that has another type or value.
    """
    try:
        return schema.model_validate(given, strict=True)  # True is no rank, and "3" none either
    except ValidationError as problem:
        first = problem.errors()[0]
        name = str(first["loc"][0])
        raise UsageError(f"{name} is {given[name]!r}: {first['msg'].lower()}.") from None


def check_undo_alone(**options: bool) -> None:
    """Refuse options that say how to delete where a deletion is undone; raises `UsageError`, naming the first."""
    wrong = next((name for name, given in options.items() if given), None)
    if wrong is not None:
        raise UsageError(f"--undo restores what was deleted; leave out --{wrong.replace('_', '-')}.")
