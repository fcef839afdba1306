"""One operation of a registry: its schemas, its route, the right that it needs, and whether it is long work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, Literal, TypeVar

from registry.reference import Reference
from registry.rights import Rights, Role
from registry.schemas import Schema
from registry.schemas.frames import Described
from registry.schemas.jobs import OperationKind

R = TypeVar("R", bound=Schema)
A = TypeVar("A")
Item = TypeVar("Item", bound=Schema)
Method = Literal["GET", "POST", "PUT", "DELETE"]
Group = Literal["browse", "labels", "names", "tokens", "publish", "transfer", "artifacts", "deletions", "keeping"]


@dataclass(frozen=True)
class Right:
    """What a token needs: a role, and what its scopes have to cover."""

    role: Role
    where: Literal["any", "path", "all"] = "any"
    """Nothing; the path that the request names; or everything, so that a token with scopes does not do."""
    what: str = ""
    """Completes "This token may not ..."."""
    field: str = ""
    """The field of the request that names the path: a reference, a path, or the name of a base model."""

    def require(self, rights: Rights, request: Schema) -> None:
        """Refuse a request.

        Raises:
            NotAllowedError: naming the role or the scopes that are needed.
            UsageError: the request names no path.
        """
        if self.where == "all":
            rights.require_everywhere(self.role, self.what)
        elif self.where == "path":
            rights.require_on(self.role, Reference.parse(attrgetter(self.field)(request)).path, self.what)
        else:
            rights.require(self.role, self.what)


READER = Right("reader")
"""Whoever has a token: what it may not see does not exist for it."""


def _always(request: Schema) -> bool:
    del request
    return True


@dataclass(frozen=True, eq=False, kw_only=True)
class Operation(Generic[R, A]):
    """What a registry can do. ``GET`` and ``DELETE`` carry the request as query parameters, the others as JSON."""

    name: str
    """Of the route, in the description of the API."""
    method: Method
    address: str
    """Below the address of the API; ``{field}`` is a field of the request."""
    request: type[R]
    answer: type[A]
    does: str
    """The function below `registry.services` that does it; its module is loaded when it is needed."""
    right: Right
    about: str
    """One line of help."""
    group: Group
    refusals: tuple[int, ...] = ()
    """Statuses that it may answer with, besides those that every route may."""
    idempotent: Callable[[R], bool] = _always
    """Whether doing it twice is the same as once, so that a client may send it again."""
    status: int = 200
    tagged: bool = False
    """The answer has an ETag of its content, and 304 says that a client has it already."""
    slow: bool = False
    """The answer may take longer than a lookup."""
    takes_process: bool = False
    """It may start a process of its own; a service bounds their number."""
    reads: bool = False
    """It changes nothing of the tree, though its role and its method are those of what does."""

    def writes(self, request: Schema) -> bool:
        """Whether doing it changes the registry, so that a folder of an older schema is upgraded before it."""
        changes = self.right.role != "reader" and self.method != "GET" and not self.reads
        return changes and not getattr(request, "dry_run", False)


@dataclass(frozen=True, eq=False, kw_only=True)
class Listing(Operation[R, tuple[Item, ...]], Generic[R, Item]):
    """An operation that lists, over HTTP in pages."""

    item: type[Item]
    key: Callable[[object], object]
    """Reads the key of a cursor, where the next page begins; raises ValueError where no page of the list gave it."""
    described: Described[Item] | None = None
    """How its items are shown."""
    page: str = ""
    """The title of the page that shows it, as it is described, with its conditions; empty: none does."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Job(Operation[R, A]):
    """An operation that may outlive its request: any replica of a service goes on with it."""

    kind: OperationKind
    """As its row keeps it."""
    result: str
    """The field of `registry.schemas.jobs.OperationResult` that holds its answer."""
    creates: bool = False
    """Status 201 if the answer says ``created``, 200 if it existed already."""


@dataclass(frozen=True)
class Part(Generic[Item]):
    """Some items of a listing, and the key of the item after which the rest begins."""

    items: tuple[Item, ...]
    next: object | None = None
    notices: tuple[str, ...] = ()
    """What was not looked at, and what else was listed, as sentences."""


def one_more(limit: int | None) -> int | None:
    """How many items to read, so as to know whether the list goes on."""
    return None if limit is None else limit + 1


def part(found: tuple[Item, ...], limit: int | None, key: Callable[[Item], object]) -> Part[Item]:
    """The first ``limit`` of ``found``, which has one more if the list goes on."""
    if limit is None or len(found) <= limit:
        return Part(found)
    return Part(found[:limit], key(found[limit - 1]))
