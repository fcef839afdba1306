"""The index of texts: revisions, cards and adapters whose texts may have some parts, by the trigrams of these.

Each revision has a text of lines: its path between slashes, the author, the message, each tag behind the path between
two signs, names of metrics, keys and values of annotations. SQLite has tables of FTS5, PostgreSQL GIN indexes of its
own arrays; triggers of the database keep both right. What an index finds is always checked by the condition itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Final

from sqlalchemy import ColumnElement, Select, String, bindparam, column, func, literal_column, or_, select, table
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import Adapter, table_of
from registry.catalogue.database.team_tables import CardRecord

REVISION_TEXTS: Final = table("revision_texts", column("rowid"), column("text", String()), column("adapter_id"))
"""The texts of revisions; with the key of the adapter on PostgreSQL alone."""
_ADAPTER_TEXTS: Final = table("adapter_texts", column("rowid"))
_CARD_TEXTS: Final = table("card_texts", column("rowid"))
_ADAPTERS: Final = table_of(Adapter)
_CARDS: Final = table_of(CardRecord)
_MOST_WAYS: Final = 64
_DOT_ABOVE: Final = "\u0307"
_CAPITAL_DOTTED: Final = "\u0130"


@dataclass(frozen=True)
class Has:
    """What a text may have: a part; or all, or any, of several such."""

    part: str = ""
    all_of: tuple[Has, ...] = ()
    any_of: tuple[Has, ...] = ()


def having(*parts: str) -> Has:
    """All of these parts."""
    return Has(all_of=tuple(map(Has, parts)))


def revisions_having(session: Session, has: Has, of: ColumnElement[int] = REVISION_TEXTS.c.rowid) -> Select[int] | None:
    """Keys of the revisions whose text may have it, hidden ones too, or another column; None: no index knows."""
    if (held := _held(session, has, "revision_texts", "revision_texts.trigrams")) is None:
        return None
    return select(of.label("id")).select_from(REVISION_TEXTS).where(held)


def cards_having(session: Session, has: Has) -> ColumnElement[bool] | None:
    """The condition that the edited card of an adapter, of the records, may have it; None: no index knows."""
    if session.get_bind().dialect.name == "postgresql":
        return _held(session, has, "cards", "cards.card_trigrams")
    held = _held(session, has, "card_texts", "")
    return None if held is None else CardRecord.adapter_id.in_(select(_CARD_TEXTS.c.rowid).where(held))


def adapters_having(session: Session, has: Has) -> Select[int] | None:
    """Keys of adapters whose path between slashes may have it."""
    if session.get_bind().dialect.name == "postgresql":
        held = _held(session, has, "adapters", "adapters.path_trigrams")
        return None if held is None else select(_ADAPTERS.c.id).where(held)
    held = _held(session, has, "adapter_texts", "")
    return None if held is None else select(_ADAPTER_TEXTS.c.rowid).where(held)


def _held(session: Session, has: Has, name: str, trigrams_in: str) -> ColumnElement[bool] | None:
    """The condition of a table of FTS5, or of a column of PostgreSQL."""
    if session.get_bind().dialect.name == "postgresql":
        return _in_arrays(has, literal_column(trigrams_in))
    expression = _expression(has)
    return None if expression is None else literal_column(name).op("MATCH")(bindparam(None, expression, String()))


def _in_arrays(has: Has, own: ColumnElement[object]) -> ColumnElement[bool] | None:
    """For PostgreSQL, which makes the trigrams of parts as it made those of the texts.

    One question to the index for each of the ways to meet it: of two that both have to hold, PostgreSQL would ask the
    index one, and look at the arrays of all that it finds for the other.
    """
    ways = [way for way in _ways(has) if way]
    if not ways or len(ways) < len(_ways(has)):
        return None
    arrays = (reduce(func.array_cat, map(func.text_trigrams, way)) for way in ways)
    return or_(*(own.op("@>")(array) for array in arrays))


def _ways(has: Has) -> list[tuple[str, ...]]:
    """The ways to meet it: all parts of one of them. What would make too many is left out, as if all had it."""
    if has.part:
        return [(has.part,) if len(has.part.encode()) >= 3 else ()]
    if has.any_of:
        found = [way for one in has.any_of for way in _ways(one)]
        return found if all(found) else [()]
    ways: list[tuple[str, ...]] = [()]
    for more in sorted(map(_ways, has.all_of), key=len):
        if len(ways) * len(more) <= _MOST_WAYS or ways == [()]:
            ways = [(*way, *other) for way in ways for other in more]
    return ways


def _expression(has: Has) -> str | None:
    """For FTS5; None: it can't narrow anything."""
    if has.part:
        terms = list(trigrams(has.part))
        # Each is a list of all that have it, which is read whole: those that overlap with others would add little.
        return " AND ".join(dict.fromkeys([*terms[::3], *terms[-1:]])) or None
    found = [_expression(one) for one in has.all_of or has.any_of]
    known = [f"({one})" for one in dict.fromkeys(found) if one is not None]
    if has.any_of and None in found:
        return None
    return (" OR " if has.any_of else " AND ").join(known) or None


def trigrams(text: str) -> Iterator[str]:
    """Terms of FTS5 that every text has that has ``text`` in it, whatever its case.

    FTS5 folds the case of letters by a table of its own, and the condition by Python's. Where these differ, a trigram
    is left out; and a capital I with a dot becomes two characters in Python, and stays as it is in FTS5.
    """
    lower = text.lower()
    for start in range(len(lower) - 2):
        three = lower[start : start + 3]
        if not all(map(_folds_alike, three)) or lower[start + 3 : start + 4] == _DOT_ABOVE:
            continue
        term = _quoted(three)
        if three[2] == "i" and start + 3 == len(lower):
            term = f"({term} OR {_quoted(three[:2] + _CAPITAL_DOTTED)})"
        yield term


def _folds_alike(character: str) -> bool:
    """Whether all characters that Python lowers to this one are the same to FTS5, in all its versions."""
    if character.upper() == character.lower():
        return character not in {_DOT_ABOVE, "\0"}
    return character < "\u0250" or "\u0370" <= character < "\u03f3" or "\u0400" <= character < "\u0524"


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'
