"""Names in the tree: their order, segment by segment and by an index, and the nearest to one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final

from sqlalchemy import and_, func, literal_column
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import Adapter
from registry.reference import Path

_LISTED = 8  # names; more would bury the sentence


def did_you_mean(wanted: str, names: Collection[str]) -> str:
    """A clause that offers the names nearest to ``wanted``, to be put behind a sentence; empty when none is near."""
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    *others, last = near or [""]
    return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?" if near else ""


def offered(wanted: str, names: Collection[str], plural: str) -> str:
    """The same, but all the names if they are few and none is near."""
    near = did_you_mean(wanted, names)
    if near or not 0 < len(names) <= _LISTED:
        return near
    return f" The {plural} are: {', '.join(sorted(names))}."


# A space comes before all that names are made of, "/" does not. As literals: an index is found only so.
PLACE: Final[ColumnElement[str]] = func.replace(Adapter.path, literal_column("'/'"), literal_column("' '"))
"""The place of an adapter in the tree."""


def place_of(path: Path | str) -> str:
    """The place of a path."""
    return str(path).replace("/", " ")


def within(path: Path) -> ColumnElement[bool]:
    """The condition that an adapter is at a path or below it, as a range of places."""
    # "!" is the character after the space; names have none between.
    return and_(place_of(path) <= PLACE, f"{place_of(path)}!" > PLACE)


def after(path: Path) -> ColumnElement[bool]:
    """The condition that an adapter comes after a path."""
    return place_of(path) < PLACE


def around(scopes: Collection[Path]) -> list[ColumnElement[bool]]:
    """One range of places with all that scopes cover, and more if they are several; none without scopes."""
    if not scopes:
        return []
    places = sorted(map(place_of, scopes))
    return [places[0] <= PLACE, max(f"{place}!" for place in places) > PLACE]


def level(path: ColumnElement[str] | InstrumentedAttribute[str]) -> ColumnElement[int]:
    """How many levels a path is below the base models, as an expression."""
    return func.length(path) - func.length(func.replace(path, "/", ""))
