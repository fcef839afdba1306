"""What is sent to databases, as SQLAlchemy's event tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Engine, event

READS: Final = ("SELECT", "WITH")


@contextmanager
def statements(*kinds: str) -> Iterator[list[tuple[str, Any]]]:
    """Every statement that is sent meanwhile, or those that begin with one of some words, with what is bound to it."""
    sent: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: object, *rest: object) -> None:
        if not kinds or statement.startswith(kinds):
            sent.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)
