"""Lists over HTTP come in pages: the items, and a cursor that leads on from the last of them."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from registry.schemas.form import Schema

T = TypeVar("T", bound=Schema)
MOST: Final = 500
"""Items of a page, at most."""


class Page(Schema, Generic[T]):
    """Some items of a list, in its order."""

    items: tuple[T, ...]
    next: str | None  # None: there are no more
