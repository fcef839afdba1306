"""The conditions of a search, and the keys of the revisions that may meet them, by an index.

Of words, `registry.catalogue.tree.search_words` makes one. What an index finds is checked by the condition itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, Select, or_, select, union_all
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import (
    Adapter,
    BaseModelRecord,
    Revision,
    RevisionSource,
    RevisionTarget,
    Tag,
    table_of,
)
from registry.catalogue.database.transactions import finds
from registry.catalogue.database.visibility import in_subtree, rights_of
from registry.catalogue.tree import bases, browse
from registry.catalogue.tree.order import level, within
from registry.catalogue.tree.search_values import COMPARE, Comparison, malformed
from registry.errors import UsageError
from registry.reference import Path
from registry.schemas.form import check_text
from registry.schemas.parents import PARENT_WORDS, words_meant

_ADAPTERS: Final = table_of(Adapter)
_REVISIONS: Final = table_of(Revision)
_TAGS: Final = table_of(Tag)
_TARGETS: Final = table_of(RevisionTarget)
_SOURCES: Final = table_of(RevisionSource)
_AGO: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_RANK: Final = re.compile(r"\s*(<=|>=|==|<|>|=|)\s*([0-9]{1,9})\s*")


@dataclass(frozen=True)
class Proposed:
    """What the index of texts proposes for words.

    Args:
        adapters: of `Adapter`, that it has a revision that may have them.
        at: the keys at a path, with some below it.
    """

    adapters: ColumnElement[bool]
    at: Callable[[Path], Select[int] | None]


@dataclass(frozen=True)
class Condition:
    """A condition of a search."""

    holds: ColumnElement[bool]
    """Of `Revision`, or of `Adapter` alone."""
    keys: Select[int] | None
    """Keys of the revisions that meet it, hidden ones too, from an index; some may occur twice."""
    of_adapter: bool = False
    """Whether it is about the adapter alone."""
    words: Proposed | None = None
    """Of words: what else the index of texts says. Not all that have the keys meet it."""


def base(session: Session, name: str) -> Condition:
    """Adapters of a base model.

    Raises:
        NotFoundError: the base model does not exist; offers the nearest.
    """
    check_text("The base model", name)
    key = session.scalar(select(BaseModelRecord.id).where(BaseModelRecord.name == name))
    if key is None:
        raise bases.missing(session, name)
    below = _ADAPTERS.c.base_id == key
    return Condition(within(Path(name)), _revisions_of(below), of_adapter=True)


def path(session: Session, at: Path) -> Condition:
    """Adapters at a path and under it.

    Raises:
        NotFoundError: nothing exists at it; offers the nearest.
    """
    browse.check_there(session, at)
    return Condition(within(at), _revisions_of(in_subtree(at, _ADAPTERS.c.path)), of_adapter=True)


def depth(path: str | None, levels: int) -> Condition:
    """Adapters at most so many levels below a path, or below the base models.

    Raises:
        UsageError: a negative number.
    """
    if levels < 0:
        raise UsageError(f"The depth of a search is {levels}: 0 or more is expected.")
    above = 0 if path is None else str(Path.parse(path)).count("/")
    return Condition(level(Adapter.path) <= levels + above, None, of_adapter=True)


def author(name: str) -> Condition:
    """Those published under this name."""
    check_text("The author", name)
    return Condition(Revision.author == name, select(_REVISIONS.c.id).where(_REVISIONS.c.author == name))


def since(text: str, now: datetime) -> Condition:
    """``30d``, ``12h``, or a day or time of UTC such as ``2026-11-01``: those published since then.

    Raises:
        UsageError: it is neither; says the form.
    """
    first = _time(text.strip(), now)
    return Condition(Revision.created_at >= first, select(_REVISIONS.c.id).where(_REVISIONS.c.created_at >= first))


def _time(text: str, now: datetime) -> datetime:
    with suppress(ValueError, OverflowError):
        if (ago := _AGO.fullmatch(text)) is not None:
            return now - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        when = datetime.fromisoformat(text)
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    raise UsageError(f"Since {text!r} is malformed: 30d, 12h, or a day such as 2026-11-01 is expected.")


def numbered(number: str) -> Condition:
    """Those with this number."""
    return Condition(Revision.number == int(number), None)


def digest(prefix: str) -> Condition:
    """Those whose digest begins so."""
    begins = (_REVISIONS.c.digest >= prefix, _REVISIONS.c.digest <= f"{prefix}~")
    return Condition(Revision.digest.startswith(prefix), select(_REVISIONS.c.id).where(*begins))


def retracted() -> Condition:
    """Those that are retracted, or contain what is: by their parents, or as a combination."""
    found = select(_REVISIONS.c.id).where(_REVISIONS.c.retracted_at.is_not(None), _REVISIONS.c.deleted_at.is_(None))
    known = found.cte("withdrawn", recursive=True)
    below = union_all(
        select(_REVISIONS.c.id, _REVISIONS.c.parent_id.label("above")),
        select(_SOURCES.c.revision_id, _SOURCES.c.source_id),
    ).subquery()
    known = known.union(select(below.c.id).join(known, below.c.above == known.c.id))
    keys = select(known.c.id)
    return Condition(Revision.id.in_(keys), keys)


def parent_known_by(text: str) -> Condition:
    """Those whose parent is known by a word, or by one of a level; words of later versions are assumed.

    Raises:
        UsageError: the word is unknown; names the known ones.
    """
    words, and_unknown = words_meant(text)
    column = Revision.parent_known_by
    others = [word for word in PARENT_WORDS if word not in words]
    return Condition(column.not_in(others) if and_unknown else column.in_(words), None)


def scopes(session: Session) -> Condition | None:
    """What the session sees, if that is not all: no condition, but a way to find those that are seen."""
    seen = rights_of(session).scopes
    if rights_of(session).unlimited:
        return None
    covered = or_(*(in_subtree(scope, _ADAPTERS.c.path) for scope in seen))
    return Condition(or_(*map(within, seen)), _revisions_of(covered), of_adapter=True)


def _revisions_of(condition: ColumnElement[bool]) -> Select[int]:
    return select(_REVISIONS.c.id).join(_ADAPTERS, _ADAPTERS.c.id == _REVISIONS.c.adapter_id).where(condition)


def tag(name: str) -> Condition:
    """The revision that a tag names."""
    check_text("The tag", name)
    # By its adapter, which has one such tag: so a walk doesn't look for it at 200,000 revisions.
    named = select(Tag.revision_id).where(Tag.adapter_id == Adapter.id, Tag.name == name).correlate(Adapter)
    return Condition(Revision.id == named.scalar_subquery(), select(_TAGS.c.revision_id).where(_TAGS.c.name == name))


def target(name: str) -> Condition:
    """Those with a target module of this leaf name."""
    check_text("The target", name)
    of_name = (RevisionTarget.revision_id == Revision.id, RevisionTarget.name == name)
    there = finds(select(RevisionTarget.name).where(*of_name))
    return Condition(there, select(_TARGETS.c.revision_id).where(_TARGETS.c.name == name))


def rank(condition: str) -> Condition:
    """``16``, ``<=16``, ``>8``: the largest rank of the revision's own pairs.

    Raises:
        UsageError: it is malformed; says the form.
    """
    match = _RANK.fullmatch(condition)
    if match is None:
        raise malformed("Rank", condition, "16, '<=16' or '>8' is expected")
    compare, value = COMPARE[match[1]], int(match[2])
    return Condition(compare(Revision.rank, value), select(_REVISIONS.c.id).where(compare(_REVISIONS.c.rank, value)))


def number(comparison: Comparison) -> Condition:
    """Those with a metric or a statistic, or where it compares so."""
    return Condition(comparison.holds, comparison.keys)
