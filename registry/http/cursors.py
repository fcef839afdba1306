"""Cursors: where a list goes on, as text that clients give back as it is."""

from __future__ import annotations

import base64
import json
from typing import Any

from registry.http.request.errors import MalformedError
from registry.operations.operation import Listing


def cursor_to(key: object) -> str:
    """The cursor that leads on from an item with this key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).rstrip(b"=").decode()


def key_of(cursor: str) -> object:
    """The key of a cursor.

    Raises:
        MalformedError: it is none.
    """
    try:
        key: object = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        raise foreign() from None
    return key


def position_of(listing: Listing[Any, Any], cursor: str | None) -> object | None:
    """Where a listing goes on; None: it begins.

    Raises:
        MalformedError: no page of the listing gave the cursor.
    """
    try:
        return None if cursor is None else listing.key(key_of(cursor))
    except ValueError:
        raise foreign() from None


def foreign() -> MalformedError:
    """The error of a cursor that no page of the list gave."""
    return MalformedError("The cursor does not belong to this list: use `next` of the previous page, or leave it out.")
