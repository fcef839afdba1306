"""Edited cards of adapters that are copied; a published README.md comes with its revision."""

from __future__ import annotations

from typing import Protocol

from registry.digest import sha256_digest
from registry.errors import ConflictError, NotAllowedError, NotFoundError
from registry.schemas import Shown
from registry.schemas.cards import Card, CardState


class CardSource(Protocol):
    """Where cards are read."""

    def show(self, ref: str) -> Shown:
        """See `registry.operations.registry.Registry`; likewise for the other methods."""

    def card(self, ref: str) -> Card: ...


class CardTarget(CardSource, Protocol):
    """Where cards are written."""

    def set_card(self, path: str, text: str | None, *, expected: str | None = None) -> Card: ...


def copy_card(source: CardSource, target: CardTarget, path: str, where: str) -> str | None:
    """Give the adapter at ``target`` the edited card that it has at ``source``; a card that was edited there stays.

    ``where`` is the target's address, for the notice that is returned where the card was not copied.
    """
    if not _is_edited(source.show(path).card):  # a service of before cards knows none
        return None
    card = source.card(path)
    there = target.show(path).card
    if there is not None and there.digest == card.digest:
        return None
    if _is_edited(there):
        return f"{path} has an edited card in {where}, which was not replaced by that of the source."
    try:
        target.set_card(path, card.text, expected=there.digest if there else sha256_digest(b""))
    except (
        ConflictError,
        NotAllowedError,
        NotFoundError,
    ) as error:  # edited this moment, no right, a service of before
        return f"{path} was copied without its edited card: {error}"
    return None


def _is_edited(state: CardState | None) -> bool:
    return state is not None and state.source == "edited"
