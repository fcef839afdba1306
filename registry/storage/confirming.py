"""Confirms damage by a second read: one answer may be corrupted or lost although the blob is intact.

If a store answers differently each time, neither is shown: the fault is transient, or lies between store and client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from registry.errors import IntegrityError, UnavailableError

T = TypeVar("T")

_LOOKS: Final = 3
_ADVICE: Final = "restore this file from a backup, or add or publish the same files again"


@dataclass(frozen=True)
class Finding:
    """What one read found wrong with a blob; ``what`` completes "The blob ... is damaged: "."""

    what: str
    bytes_found: str = ""  # their digest, since the same damage means the same bytes


Look = Callable[[], "T | Finding"]


def confirmed(look: Look[T], digest: str, place: str, *, first: Finding | None = None) -> T:
    """The result of ``look`` once it finds nothing wrong; ``first`` is a finding from before.

    Raises:
        IntegrityError: ``corrupt``, two looks in a row had the same finding.
        UnavailableError: each look had another finding; or what ``look`` raises.
    """
    before: T | Finding = look() if first is None else first
    for _ in range(_LOOKS - 1):
        if not isinstance(before, Finding):
            return before
        now = look()
        if now == before:
            raise corrupt(digest, place, before.what)
        before = now
    if isinstance(before, Finding):
        raise UnavailableError(
            f"The blob {digest} can't be read from {place}, which returns something different each time (last: "
            f"{before.what}): check the store and the network between it and this machine, and run this again."
        )
    return before


def corrupt(digest: str, place: str, what: str) -> IntegrityError:
    """The error for a blob that is not what was stored; ``what`` completes "The blob ... is damaged: "."""
    return IntegrityError(f"The blob {digest} in {place} is damaged: {what}; {_ADVICE}.", code="corrupt")


def lost(place: str) -> UnavailableError:
    """The error for a store that lacks what it acknowledged."""
    return UnavailableError(
        f"The store {place} does not have what it acknowledged a moment ago: run this again, and check the store if "
        "this continues."
    )
