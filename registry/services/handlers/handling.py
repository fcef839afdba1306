"""Which function does an operation of a registry in process; the caller has checked the operation's right."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from registry.operations.operation import A, Item, Listing, Operation, Part, R
from registry.progress import Progress
from registry.services.deployment import Deployment

Handler = Callable[[Deployment, R, Progress], A]
Lister = Callable[[Deployment, R, Any, int | None], Part[Item]]

HANDLERS: Final[dict[Operation[Any, Any], Handler[Any, Any]]] = {}
LISTERS: Final[dict[Listing[Any, Any], Lister[Any, Any]]] = {}


def does(operation: Operation[R, A]) -> Callable[[Handler[R, A]], Handler[R, A]]:
    """This function does the operation."""

    def note(handler: Handler[R, A]) -> Handler[R, A]:
        HANDLERS[operation] = handler
        return handler

    return note


def lists(listing: Listing[R, Item]) -> Callable[[Lister[R, Item]], Lister[R, Item]]:
    """This function gives the items of the listing."""

    def note(lister: Lister[R, Item]) -> Lister[R, Item]:
        LISTERS[listing] = lister
        return lister

    return note


def one_more(limit: int | None) -> int | None:
    """How many to read, so as to know whether the list goes on."""
    return None if limit is None else limit + 1


MODULES: Final = ("browsing", "labels", "upkeep", "publishing")
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
