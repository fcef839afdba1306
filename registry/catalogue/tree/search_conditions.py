"""The conditions of a search: what holds of a revision, and the keys of those of which it may hold, by an index."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.probes import finds
from registry.catalogue.database.tables import (
    Adapter,
    BaseModelRecord,
    Revision,
    RevisionTarget,
    Tag,
    table_of,
)
from registry.catalogue.database.visibility import in_subtree, rights_of
from registry.catalogue.tree import bases, browse
from registry.catalogue.tree.order import level, within
from registry.catalogue.tree.search_values import COMPARE, Comparison, malformed
from registry.catalogue.tree.text_search import has_text, keys_with_text
from registry.errors import UsageError
from registry.reference import Path
from registry.schemas.parents import PARENT_WORDS, words_meant
from registry.schemas.texts import check_text

_ADAPTERS: Final = table_of(Adapter)
_REVISIONS: Final = table_of(Revision)
_TAGS: Final = table_of(Tag)
_TARGETS: Final = table_of(RevisionTarget)
_RANK: Final = re.compile(r"\s*(<=|>=|==|<|>|=|)\s*([0-9]{1,9})\s*")


@dataclass(frozen=True)
class Condition:
    """A condition of a search."""

    holds: ColumnElement[bool]
    """Of `Revision`, or of `Adapter` alone."""
    keys: Select[int] | None
    """Keys of the revisions that meet it, hidden ones too, from an index; some may be there twice."""
    of_adapter: bool = False
    """Whether it is about the adapter alone."""
    is_exact: bool = True
    """Whether all that have these keys meet it."""


def text(session: Session, value: str) -> Condition:
    """A part of the path, the message, or a key or value of an annotation, whatever its case."""
    check_text("The text to search for", value)
    return Condition(has_text(value), keys_with_text(session, value), is_exact=False)


def base(session: Session, name: str) -> Condition:
    """Adapters of a base model.

    Raises:
        NotFoundError: there is no such base model; offers the nearest.
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
        NotFoundError: there is nothing; offers the nearest.
    """
    browse.check_there(session, at)
    return Condition(within(at), _revisions_of(in_subtree(at, _ADAPTERS.c.path)), of_adapter=True)


def depth(at: Path | None, levels: int) -> Condition:
    """Adapters at most so many levels below a path, or below the base models.

    Raises:
        UsageError: a negative number.
    """
    if levels < 0:
        raise UsageError(f"The depth of a search is {levels}: 0 or more is expected.")
    return Condition(level(Adapter.path) <= levels + (0 if at is None else str(at).count("/")), None, of_adapter=True)


def author(name: str) -> Condition:
    """Those published under this name."""
    check_text("The author", name)
    return Condition(Revision.author == name, None)


def parent_known_by(text: str) -> Condition:
    """Those whose parent is known by a word, or by one of a level; words of later versions are assumed.

    Raises:
        UsageError: there is no such word; names them.
    """
    words, and_unknown = words_meant(text)
    column = Revision.parent_known_by
    others = [word for word in PARENT_WORDS if word not in words]
    return Condition(column.not_in(others) if and_unknown else column.in_(words), None)


def scopes(session: Session) -> Condition | None:
    """What the session sees, where that is not all: no condition, but a way to find those that are seen."""
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
