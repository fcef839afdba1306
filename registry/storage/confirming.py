"""What is wrong with a blob is said after it was seen twice: one answer may be damaged or lost where the blob is right.

A store that answers otherwise each time has not shown its blob, right or wrong: that passes, or is the way to it.
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
    """What one look at a blob found to be wrong; ``what`` completes "The blob ... is damaged: "."""

    what: str
    bytes_found: str = ""  # their digest: the same damage is the same bytes


Look = Callable[[], "T | Finding"]


def confirmed(look: Look[T], digest: str, place: str, *, first: Finding | None = None) -> T:
    """What ``look`` sees when it finds nothing wrong; ``first`` is what it found already.

    Raises:
        IntegrityError: ``corrupt``, two looks in a row found the same.
        UnavailableError: each look found something else; or what ``look`` raises.
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
            f"The blob {digest} can't be read from {place}, which answers otherwise each time (last: {before.what}): "
            "check the store and what stands between it and this machine, and run this again."
        )
    return before


def corrupt(digest: str, place: str, what: str) -> IntegrityError:
    """The error of a blob that is not what was stored; ``what`` completes "The blob ... is damaged: "."""
    return IntegrityError(f"The blob {digest} in {place} is damaged: {what}; {_ADVICE}.", code="corrupt")


def lost(place: str) -> UnavailableError:
    """The error of a store that does not have what it said that it has taken."""
    return UnavailableError(
        f"The store {place} does not have what it acknowledged a moment ago: run this again, and check the store if "
        "that goes on."
    )
