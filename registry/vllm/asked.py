"""Parses the ``model`` names that clients of vLLM request, and names the adapters that vLLM is given.

A name identifies the revision and the bytes: ``llama/support/french#3-<32 hex of the rendering>``. All requested forms,
a tag, a number or a digest, that resolve to the same share one adapter in vLLM. Its prefix cache is keyed by the name,
so after a tag has moved, no cached block of its former target is used. The name is returned as ``model`` and listed in
``/v1/models``; requesting it gives exactly that revision and those bytes.
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
_LEAST: Final = 1 << 20  # vLLM counts up its own numbers below, for other adapters
_MOST: Final = 2**31 - 1  # vLLM keeps the numbers of adapters in arrays of 32 bits


@dataclass(frozen=True)
class Asked:
    """A requested name that may be one of the registry's."""

    text: str
    said: str  # the reference in it, as text
    reference: Reference
    rendering: str | None = None  # the digits, if the name identifies bytes

    @classmethod
    def parse(cls, text: str) -> Asked | None:
        """Parse a name; None if it is a base model's, which is no adapter.

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
    """The base model that a malformed name begins with; empty unless something follows it."""
    base = re.split("[/@#]", text, maxsplit=1)[0]
    return "" if base == text else base


class Names:
    """Names and numbers of the adapters given to one vLLM process."""

    def __init__(self) -> None:
        self._numbers: dict[int, str] = {}  # number -> name
        self._lock = threading.Lock()

    def give(self, path: Path, revision: int, rendering: str) -> tuple[str, int]:
        """The name of these bytes of this revision, and its unique number.

        vLLM takes two requests with one name for the same adapter and activates only one of them, so a name always has
        the same number.
        """
        name = f"{path}#{revision}-{hex_of(rendering)[:DIGITS]}"
        number = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") % (_MOST - _LEAST) + _LEAST
        with self._lock:
            while self._numbers.setdefault(number, name) != name:
                number = number + 1 if number < _MOST else _LEAST
        return name, number
