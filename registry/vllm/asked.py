"""What a client of vLLM may ask for as ``model``, and the names under which vLLM gets adapters.

A name says which revision and which bytes: ``llama/support/french#3-<32 hex of the rendering>``. Whatever was asked
for, a tag, a number or a digest: those that mean the same share one adapter in vLLM. Its prefix cache is keyed by the
name, so a tag that moved never meets a block of what it meant before. The name is answered as ``model`` and listed in
``/v1/models``; asked for itself, it means that very revision and bytes.
"""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass
from typing import Final

from registry.digest import hex_of
from registry.reference import Path, Reference

DIGITS: Final = 32  # hex digits of a rendering in a name: 128 bits
_GIVEN: Final = re.compile(rf"(.+)#([1-9][0-9]{{0,17}})-([0-9a-f]{{{DIGITS}}})(?:~[1-9][0-9]{{0,8}})?")
_LEAST: Final = 1 << 20  # below are the numbers that vLLM counts up itself, for adapters of others
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
        """Read a name; None where it is that of a base model, which is no adapter.

        Raises:
            UsageError: it is no reference.
        """
        given = _GIVEN.fullmatch(text)
        said = given[1] if given else text
        reference = Reference.parse(said)
        if reference.path.is_base:
            return None
        if given is None:
            return cls(text, said, reference)
        return cls(text, said, Reference(reference.path, number=int(given[2])), given[3])


def base_of(text: str) -> str:
    """The base model that a malformed name begins with, as far as it names one and something in it."""
    base = re.split("[/@#]", text, maxsplit=1)[0]
    return "" if base == text else base


class Names:
    """Names and numbers of the adapters that one process of vLLM was given."""

    def __init__(self) -> None:
        self._numbers: dict[int, str] = {}  # number -> name
        self._lock = threading.Lock()

    def give(self, path: Path, revision: int, rendering: str) -> tuple[str, int]:
        """The name of these bytes of this revision, and the number that belongs to it alone.

        vLLM takes two requests with one name for the same adapter and activates only one of them: one name has one
        number, always.
        """
        name = f"{path}#{revision}-{hex_of(rendering)[:DIGITS]}"
        number = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") % (_MOST - _LEAST) + _LEAST
        with self._lock:
            while self._numbers.setdefault(number, name) != name:
                number = number + 1 if number < _MOST else _LEAST
        return name, number
