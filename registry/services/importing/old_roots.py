"""Heaps that were moved: the folders that configurations name are below another root by now.

A name that ends as a place of the heap says little: there are many ``out/merged``. Where the names of two different
folders have the same root before their places in the heap, the heap lay there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_LEAST: Final = 2  # folders that say the same root


@dataclass(frozen=True)
class Moved:
    """The roots that a heap may have been at, with the places that names below them stand for."""

    places: dict[tuple[str, ...], dict[tuple[str, ...], str]]  # by root: the parts of places below it

    @classmethod
    def of(cls, named: Sequence[str], places: Sequence[str]) -> Moved:
        """Find the roots that the names of folders which are gone have in common."""
        roots: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
        for name in set(named):
            parts = named_parts(name)
            for place in places:
                below = named_parts(place)
                if below and len(parts) > len(below) and parts[-len(below) :] == below and _absolute(name):
                    roots.setdefault(parts[: -len(below)], {})[below] = place
        return cls({lead: found for lead, found in roots.items() if len(found) >= _LEAST})

    def place(self, name: str) -> str | None:
        """The place that a name stands for now; None: unknown, or several."""
        found = set(self._places(named_parts(name)))
        return found.pop() if len(found) == 1 else None

    def _places(self, parts: tuple[str, ...]) -> Iterator[str]:
        for lead, places in self.places.items():
            if parts[: len(lead)] == lead and (place := places.get(parts[len(lead) :])) is not None:
                yield place


def named_parts(name: str | None) -> tuple[str, ...]:
    """The parts of a path, of any system."""
    return tuple(part for part in re.split(r"[/\\]+", name or "") if part not in {"", "."})


def _absolute(name: str) -> bool:
    return name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name) is not None
