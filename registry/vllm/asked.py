"""What a client of vLLM may ask for as ``model``, and the names under which vLLM gets adapters.

A name carries the reference that was asked for, and what it meant then: ``llama/support/french@prod#3-<32 hex of the
rendering>``. vLLM's prefix cache is keyed by it, so a tag that moved never meets a block of what it meant before. The
name is answered as ``model`` and listed in ``/v1/models``; asked for itself, it means that very revision and bytes.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Final

from registry.digest import hex_of
from registry.errors import UsageError
from registry.reference import Reference

DIGITS: Final = 32  # hex digits of a rendering in a name: 128 bits
_GIVEN: Final = re.compile(rf"(.+)#([1-9][0-9]{{0,17}})-([0-9a-f]{{{DIGITS}}})(?:~[1-9][0-9]{{0,8}})?")
_MOST: Final = 2**31 - 1  # vLLM keeps the numbers of adapters in arrays of 32 bits


@dataclass(frozen=True)
class Asked:
    """A name that a client asked for, where it is one of the registry's."""

    text: str
    said: str  # the reference in it
    reference: Reference
    rendering: str | None = None  # the digits, where the name says which bytes

    @classmethod
    def parse(cls, text: str) -> Asked | None:
        """Read a name; None where it can't name an adapter of a registry."""
        given = _GIVEN.fullmatch(text)
        said = given[1] if given else text
        try:
            reference = Reference.parse(said)
        except UsageError:
            return None
        if reference.path.is_base:
            return None
        if given is None:
            return cls(text, said, reference)
        return cls(text, said, Reference(reference.path, number=int(given[2])), given[3])


class Names:
    """Names and numbers of the adapters that one process of vLLM was given."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._numbers: dict[int, str] = {}  # number -> rendering
        self._lock = threading.Lock()

    def give(self, said: str, revision: int, rendering: str) -> tuple[str, int]:
        """A name that no adapter had before, and the number that belongs to these bytes alone.

        vLLM takes two requests with one name for the same adapter and activates only one of them. It gives each a
        number of its own, so that a name must not come twice, also where it is unloaded and asked for again.
        """
        name = f"{said}#{revision}-{hex_of(rendering)[:DIGITS]}"
        with self._lock:
            free, tries = name, 1
            while free in self._given:
                tries += 1
                free = f"{name}~{tries}"
            self._given.add(free)
            number = int(hex_of(rendering), 16) % _MOST + 1
            while self._numbers.setdefault(number, rendering) != rendering:
                number = number % _MOST + 1
            return free, number
