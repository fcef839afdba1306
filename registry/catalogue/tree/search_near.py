"""Names, tags and authors that are one edit away from a word: a letter more, less or another, or two exchanged.

Names are compared whole and by their parts between "-", "_" and ".". Those of adapters are proposed by the index of
texts: of a word with one edit, one of two halves is as it was, or two letters at the border are exchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.catalogue.database.tables import Adapter, BaseModelRecord, Revision, Tag
from registry.catalogue.database.visibility import IGNORE_RIGHTS, INCLUDE_DELETED
from registry.catalogue.tree.search_index import Has, adapters_having, having

LEAST: Final = 4
"""Letters of a word that may have a typo: of fewer, too much is one edit away."""
_MOST_NAMES: Final = 5000
"""Paths that are compared with a word, and values of tags and authors."""
_MOST_NEAR: Final = 50
_BETWEEN: Final = re.compile(r"[/._-]")
_OF_AUTHORS: Final = re.compile(r"[\W_]+")
_ENDS: Final = "/-_."


@dataclass(frozen=True)
class Near:
    """What is one edit away from a word: parts of paths or whole names of them, tags, and authors."""

    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()


NOTHING_NEAR: Final = Near()


def near(session: Session, word: str) -> Near:
    """What is one edit away from a word, wherever it is: whoever searches by it sees what they may see."""
    word = word.lower()
    if len(word) < LEAST:
        return NOTHING_NEAR
    tags = [tag for tag in _values(session, Tag.name) if _is_near(word, tag, _BETWEEN)]
    authors = [author for author in _values(session, Revision.author) if _is_near(word, author, _OF_AUTHORS)]
    names = {name for path in _paths(session, word) for name in _names(path) if one_edit(name, word)}
    return Near(tuple(sorted(names)[:_MOST_NEAR]), tuple(tags[:_MOST_NEAR]), tuple(authors[:_MOST_NEAR]))


def _is_near(word: str, value: str, between: re.Pattern[str]) -> bool:
    value = value.lower()
    return one_edit(value, word) or any(one_edit(part, word) for part in between.split(value))


def _names(path: str) -> Iterable[str]:
    """The names of a path, and their parts."""
    return {*path.split("/"), *_BETWEEN.split(path)}


def _paths(session: Session, word: str) -> list[str]:
    """Paths that may have a name near a word, and base models."""
    keys = adapters_having(session, _halves(word))
    found = list(session.scalars(select(BaseModelRecord.name), execution_options=IGNORE_RIGHTS))
    if keys is not None:
        paths = select(Adapter.path).where(Adapter.id.in_(keys.limit(_MOST_NAMES)))
        found += session.scalars(paths, execution_options=IGNORE_RIGHTS)
    return found


def _halves(word: str) -> Has:
    middle = len(word) // 2
    left, right = word[:middle], word[middle:]
    exchanged = left[:-1] + right[0] + left[-1] + right[1:]
    begins = [left] if len(left) > 2 else [end + left for end in _ENDS]
    ends = [right] if len(right) > 2 else [right + end for end in _ENDS]
    return Has(any_of=having(*begins, *ends, exchanged).all_of)


def _values(session: Session, of: InstrumentedAttribute[str]) -> list[str]:
    """The values of an indexed column, each once, by a step in the index for each."""
    column = of.expression
    first: Select[Any] = select(func.min(column).label("value"))
    found = first.cte("found", recursive=True)
    following = select(func.min(column)).where(column > found.c.value).scalar_subquery()
    found = found.union_all(select(following).where(found.c.value.is_not(None)))
    values = select(found.c.value).where(found.c.value.is_not(None)).limit(_MOST_NAMES)
    return list(session.scalars(values, execution_options={**IGNORE_RIGHTS, **INCLUDE_DELETED}))


def one_edit(one: str, other: str) -> bool:
    """Whether two words differ by one edit."""
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    if len(one) == len(other):
        rest, of_other = one[start + 1 :], other[start + 1 :]
        return rest == of_other or (
            one[start + 2 :] == other[start + 2 :] and one[start : start + 2] == other[start : start + 2][::-1]
        )
    longer, shorter = (one, other) if len(one) > len(other) else (other, one)
    return longer[start + 1 :] == shorter[start:]
