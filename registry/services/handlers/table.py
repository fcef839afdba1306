"""The handlers of all operations: the table of operations, done in process."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from registry.operations.operation import A, Item, Listing, Operation, R
from registry.services.handlers.handling import HANDLERS, LISTERS, Handler, Lister

MODULES: Final = (
    "browsing",
    "tokens",
    "labels",
    "naming",
    "cards",
    "publishing",
    "materialisations",
    "removal",
    "upkeep",
)
"""What registers the handlers, by being imported: in the order in which they are, until an operation has one."""


def handler_of(operation: Operation[R, A]) -> Handler[R, A]:
    """The handler of an operation."""
    _load(HANDLERS, operation)
    return HANDLERS[operation]


def lister_of(listing: Listing[R, Item]) -> Lister[R, Item]:
    """The handler of a listing; it takes a request, the key to continue after, and the maximum number of items."""
    _load(LISTERS, listing)
    return LISTERS[listing]


def _load(table: Mapping[Any, Any], operation: object) -> None:
    for module in MODULES:
        if operation in table:
            return
        importlib.import_module(f"{__package__}.{module}")
