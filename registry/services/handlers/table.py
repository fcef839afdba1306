"""The handlers of all operations: the table of operations, done in process."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from registry.operations.operation import A, Item, Listing, Operation, R
from registry.services.handlers import (
    browsing,
    cards,
    labels,
    materialisations,
    naming,
    publishing,
    removal,
    tokens,
    upkeep,
)
from registry.services.handlers.handling import HANDLERS, LISTERS, Handler, Lister

GROUPS: Final[tuple[ModuleType, ...]] = (
    browsing,
    labels,
    cards,
    naming,
    tokens,
    publishing,
    materialisations,
    removal,
    upkeep,
)
"""What registers the handlers, by being imported."""


def handler_of(operation: Operation[R, A]) -> Handler[R, A]:
    """The handler of an operation."""
    return HANDLERS[operation]


def lister_of(listing: Listing[R, Item]) -> Lister[R, Item]:
    """The handler of a listing; it takes a request, the key to continue after, and the maximum number of items."""
    return LISTERS[listing]
