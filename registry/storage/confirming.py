"""Tells damage where bytes lie from bytes that change on their way, by looking again in another way.

Two looks in a row that find the same are damage. The second one asks otherwise than the first: for the same bytes by
other ranges (`DividedReader`), and for what is missing or has another size by another kind of request (`told_of`). A
bit that is wrong on the disk is wrong in every cut; one that a network or a proxy turns is at another place in another
answer. If the looks differ, the blob is not called damaged: the store can't be read now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from registry.errors import IntegrityError, NotFoundError, UnavailableError
from registry.storage.driver import ObjectDriver, ObjectReader

T = TypeVar("T")

_LOOKS: Final = 3
_ADVICE: Final = "restore this file from a backup, or add or publish the same files again"


@dataclass(frozen=True)
class Finding:
    """What one read found wrong with a blob; ``what`` completes "The blob ... is damaged: "."""

    what: str
    bytes_found: str = ""  # their digest, since the same damage means the same bytes


Look = Callable[[int], "T | Finding"]
"""Gets the number of looks before this one."""


class DividedReader:
    """An open object whose reads are divided, at another place for each look; the first one reads what is requested."""

    def __init__(self, reader: ObjectReader, look: int) -> None:
        self._reader = reader
        self._look = look

    @property
    def size(self) -> int:
        return self._reader.size

    @property
    def ahead(self) -> int:
        return self._reader.ahead

    def read_into(self, offset: int, buffer: memoryview) -> None:
        middle = len(buffer) * self._look // (_LOOKS + 1)
        stop = 2 * middle if self._look == 1 else (middle + len(buffer)) // 2 if middle else 0
        # The inner piece first: a fault that ends with that request shows another byte than the look before.
        for start, end in ((middle, stop), (0, middle), (stop, len(buffer))):
            if start < end:
                self._reader.read_into(offset + start, buffer[start:end])

    def close(self) -> None:
        self._reader.close()


def told_of(driver: ObjectDriver, key: str, size: int, found: Finding, look: int) -> Finding:
    """What to think of an object that is ``found`` missing or too short: the store may report elsewhere that it exists.

    The first look is believed, as a second one follows. A store that contradicts itself has no finding twice.
    """
    if look == 0:
        return found
    listed = (one.size for one in driver.objects(key) if one.key == key)
    if size in {driver.size(key), next(listed, None)}:
        return Finding(f"{found.what}, while the store says that all of it is there", str(look))
    return found


def confirmed(look: Look[T], digest: str, place: str, *, first: Finding | None = None) -> T:
    """The result of ``look`` once it finds nothing wrong; ``first`` is a finding from before.

    Raises:
        IntegrityError: ``corrupt``, two looks in a row had the same finding.
        UnavailableError: each look had another finding; or what ``look`` raises.
    """
    before: T | Finding = look(0) if first is None else first
    for number in range(1, _LOOKS):
        if not isinstance(before, Finding):
            return before
        now = look(number)
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


def agreed(look: Callable[[int], T], place: str) -> T:
    """What two looks in a row found at bytes whose digest nobody has computed yet.

    Raises:
        UnavailableError: each look found something else; or what ``look`` raises.
    """
    before = look(0)
    for number in range(1, _LOOKS):
        now = look(number)
        if now == before:
            return now
        before = now
    raise otherwise_each_time(place)


@contextmanager
def keeps(place: str) -> Iterator[None]:
    """For objects that the store has acknowledged: if one is missing, too short or another, the store lost it."""
    try:
        yield
    except (NotFoundError, IntegrityError) as error:
        raise lost(place) from error


def otherwise_each_time(place: str) -> UnavailableError:
    """The error for a store that gives back other bytes each time."""
    return UnavailableError(
        f"The store {place} returns different bytes each time an upload is read back: check it and the network between "
        "it and this machine, and run this again."
    )


def lost(place: str) -> UnavailableError:
    """The error for a store that lacks what it acknowledged."""
    return UnavailableError(
        f"The store {place} does not have what it acknowledged a moment ago: run this again, and check the store if "
        "this continues."
    )
