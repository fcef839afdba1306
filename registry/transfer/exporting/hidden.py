"""Names of a path, which an export without names must not hold: they are those of customers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_BEFORE = r"(?:(?<![a-z0-9])|(?<=\\[bfnrt])|(?<=\\u[0-9a-f]{4}))"
"""A word begins after what is no letter; JSON and templates write some of that with letters, such as ``\\n``."""
_LONG = 3
"""A name of so many letters is looked for inside words, too; a shorter one would be in every other word."""


@dataclass(frozen=True)
class Hidden:
    """The names of some paths. False: nothing is hidden."""

    names: frozenset[str] = frozenset()  # of the base model and of adapters
    adapters: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()  # two names or more, as paths and repo ids have them

    @classmethod
    def of(cls, paths: Iterable[str]) -> Hidden:
        """Those of some paths, ``BASE/name/name``, and of what is above them."""
        split = [path.split("/") for path in paths]
        whole = set()
        for parts in split:
            for start in range(len(parts)):
                for end in range(start + 2, len(parts) + 1):
                    first, *rest = parts[start:end]
                    whole |= {"/".join((first, *rest)), f"{first}/{'.'.join(rest)}", ".".join((first, *rest))}
        adapters = frozenset(part for parts in split for part in parts[1:])
        return cls(adapters | {parts[0] for parts in split}, adapters, frozenset(whole))

    def __bool__(self) -> bool:
        return bool(self.names)

    def in_text(self, text: str) -> bool:
        """Whether a short text that somebody wrote, such as the name of a metric, holds a name."""
        found = text.lower()
        return any(name in found if len(name) >= _LONG else _is_word(name, found) for name in self.names)

    def path_in(self, text: str) -> str | None:
        """A path, or a part of one, that a text holds."""
        found = text.lower().replace("\\/", "/")  # as some programs write JSON
        return next((one for one in sorted(self.whole) if one in found and _is_word(one, found)), None)

    def word_in(self, text: str) -> str | None:
        """The name of an adapter that a text holds as a word."""
        found = text.lower()
        return next((one for one in sorted(self.adapters) if one in found and _is_word(one, found)), None)


def _is_word(name: str, text: str) -> bool:
    return re.search(rf"{_BEFORE}{re.escape(name)}(?![a-z0-9])", text) is not None
