"""Suggestions for names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_LISTED = 8  # names; more would bury the sentence


def did_you_mean(wanted: str, names: Collection[str]) -> str:
    """A clause that offers the names nearest to ``wanted``, to be put behind a sentence; empty when none is near."""
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    *others, last = near or [""]
    return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if near else ""


def offered(wanted: str, names: Collection[str], plural: str) -> str:
    """The same, but all the names where there are few and none is near."""
    near = did_you_mean(wanted, names)
    if near or not 0 < len(names) <= _LISTED:
        return near
    return f" The {plural} are: {', '.join(sorted(names))}."
