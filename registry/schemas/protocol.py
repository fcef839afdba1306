"""The protocol between a client and a service: version, addresses, forms of a token, errors, pages of lists."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Final, Generic, TypeVar

from pydantic import Field

from registry.schemas import (
    ArtifactKind,
    Schema,
)
from registry.schemas.artifacts import KINDS

PROTOCOL: Final = 4
"""Raised by what makes an answer mean something else. A new field of an answer does not: clients ignore what they don't
know, see docs/decisions/0025. Those of 3 refuse it."""
SPOKEN: Final = frozenset({"3", "4"})
"""The protocols of services that a client of this version may use."""
AGENT: Final = "adapter-registry/"
"""How the ``User-Agent`` of a client begins; its version follows."""
HUB_ORIGIN: Final = "adapter-registry"
"""What Hub clients add to their ``User-Agent`` in the environment that `registry env` prints."""
TOKEN_PREFIX: Final = "reg_"  # noqa: S105 - a prefix
"""How the secret of a token begins, for secret scanners."""
HUB_TOKEN_PREFIX: Final = "hf_"  # noqa: S105 - a prefix
"""How it begins once more in the form for Hub clients: some send nothing that begins otherwise."""
API: Final = "/api/v1"
VIEWS: Final[dict[str, ArtifactKind]] = {kind.view: kind.name for kind in KINDS.values()}
"""The Hub-compatible views: where each is below the service's address, and what it hands out of a path."""
VERSION_HEADER: Final = "X-Registry-Version"
PROTOCOL_HEADER: Final = "X-Registry-Protocol"
USE_HEADER: Final = "X-Registry-Use"
"""With a plan or a bundle: through which interface its weights are used, or `NOT_A_USE`."""
NOT_A_USE: Final = "none"
EVENT_STREAM: Final = "text/event-stream"
"""The type of server-sent events."""
END_EVENT: Final = "end"
"""The server-sent event that says, as a problem, why no more will come."""
MOST: Final = 500
"""Items of a page, at most."""

T = TypeVar("T", bound=Schema)


class Problem(Schema):
    """An error as the service sends it (RFC 9457, application/problem+json)."""

    type: str  # urn:adapter-registry:error:CODE
    title: str  # what the code means
    status: int
    detail: str  # the sentence
    code: str
    kind: str  # the class of `registry.errors`
    request: str | None = None  # id of the request, to find it in the log
    retry_after: int | None = None  # seconds


class Page(Schema, Generic[T]):
    """Some items of a list, in its order, and a cursor that leads on from the last of them."""

    items: tuple[T, ...]
    next: str | None  # None: no more pages
    notices: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()  # what was not looked at


def cursor_to(key: object) -> str:
    """The cursor that leads on from an item with this key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).rstrip(b"=").decode()


def key_of(cursor: str) -> object:
    """The key of a cursor; raises ValueError if it is none."""
    try:
        key: object = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return key


def hub_form(secret: str) -> str:
    """The secret of a token as all Hub clients take it: ``hf_reg_...``, which services take for the same secret.

    After ``hf_`` a secret of the Hub has letters and digits only, so no scanner takes this one for it.
    """
    return f"{HUB_TOKEN_PREFIX}{secret}" if secret.startswith(TOKEN_PREFIX) else secret


def own_form(secret: str) -> str:
    """The secret of a token as it was created, from either form."""
    return secret.removeprefix(HUB_TOKEN_PREFIX) if secret.startswith(HUB_TOKEN_PREFIX + TOKEN_PREFIX) else secret
