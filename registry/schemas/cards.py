"""Cards: the text about an adapter, published as README.md or edited since."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field

from registry.schemas.form import Schema

MAX_CARD: Final = 256 << 10
"""Bytes of a card."""


class CardState(Schema):
    """Which text is the card of an adapter."""

    source: Literal["edited", "published"]
    digest: str  # of the text
    reference: str | None = None  # the revision with which it was published
    edited_at: datetime | None = None
    edited_by: str | None = None


class Card(Schema):
    """Answer of ``card``. A path without a card has an empty text."""

    path: str
    text: str
    digest: str  # of the text; `SetCardRequest.expected` takes it
    state: CardState | None = None  # None: there is no card
    metadata: dict[str, Any] = Field(default_factory=dict)  # the front matter of the text


class SetCardRequest(Schema):
    """Edit the card of an adapter."""

    path: str
    text: str | None = Field(default=None, description="Null: the published README.md is the card again.")
    expected: str | None = Field(default=None, description="Refuse if the card has another digest by now.")
