"""The conditions of a search, and the keys of the revisions that may meet them, by an index.

SQLite's index of texts is two tables of FTS5 that triggers keep right; PostgreSQL's are made of `pg_trgm`, if the
role that upgraded the schema could create it. What an index finds is always checked by the condition itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    ColumnElement,
    Select,
    String,
    bindparam,
    column,
    func,
    literal_column,
    or_,
    select,
    table,
    union_all,
)
from sqlalchemy.orm import Session

from registry.catalogue.database.migrations import HAS_TRIGRAMS
from registry.catalogue.database.tables import (
    Adapter,
    Annotation,
    BaseModelRecord,
    Revision,
    RevisionTarget,
    Tag,
    table_of,
)
from registry.catalogue.database.transactions import finds
from registry.catalogue.database.visibility import IGNORE_RIGHTS, in_subtree, rights_of
from registry.catalogue.tree import bases, browse
from registry.catalogue.tree.order import level, within
from registry.catalogue.tree.search_values import COMPARE, Comparison, malformed
from registry.errors import UsageError
from registry.reference import Path
from registry.schemas.form import check_text
from registry.schemas.parents import PARENT_WORDS, words_meant

_ANNOTATIONS: Final = table_of(Annotation)
_ADAPTER_TEXTS: Final = table("adapter_texts", column("rowid"))
_REVISION_TEXTS: Final = table("revision_texts", column("rowid"))
_LOOKED_AT: Final = 1000  # of the newest revisions
_DOT_ABOVE: Final = "\u0307"
_CAPITAL_DOTTED: Final = "\u0130"


def has_text(text: str) -> ColumnElement[bool]:
    """The condition that the path, the message, or a key or value of an annotation has this part, whatever its case."""
    return or_(
        Adapter.path.icontains(text, autoescape=True),
        Revision.message.icontains(text, autoescape=True),
        finds(
            select(Annotation.key).where(
                Annotation.revision_id == Revision.id,
                or_(Annotation.key.icontains(text, autoescape=True), Annotation.value.icontains(text, autoescape=True)),
            )
        ),
    )


def keys_with_text(session: Session, text: str) -> Select[int] | None:
    """Keys of revisions, all that have the text among them; None: no index knows, or it is in too many."""
    if session.get_bind().dialect.name == "postgresql":
        return _by_pg_trgm(session, text)
    terms = list(trigrams(text))
    # Each is a list of all that have it, which is read whole: those that overlap with others would add little.
    expression = " AND ".join(dict.fromkeys([*terms[::3], *terms[-1:]]))
    return _by_fts(expression) if expression else None


def _by_fts(expression: str) -> Select[int]:
    def matching(name: str) -> ColumnElement[bool]:
        return literal_column(name).op("MATCH")(bindparam(None, expression, String()))

    adapters = select(_ADAPTER_TEXTS.c.rowid).where(matching("adapter_texts"))
    found = union_all(
        select(_REVISION_TEXTS.c.rowid.label("id")).where(matching("revision_texts")),
        select(_REVISIONS.c.id).where(_REVISIONS.c.adapter_id.in_(adapters)),
    ).subquery()
    return select(found.c.id)


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


def _by_pg_trgm(session: Session, text: str) -> Select[int] | None:
    if not session.scalar(HAS_TRIGRAMS) or _is_common(session, text):
        return None
    noted = (_ANNOTATIONS.c.key.icontains(text, autoescape=True), _ANNOTATIONS.c.value.icontains(text, autoescape=True))
    adapters = select(_ADAPTERS.c.id).where(_ADAPTERS.c.path.icontains(text, autoescape=True))
    found = union_all(
        select(_REVISIONS.c.id).where(_REVISIONS.c.message.icontains(text, autoescape=True)),
        select(_ANNOTATIONS.c.revision_id).where(or_(*noted)),
        select(_REVISIONS.c.id).where(_REVISIONS.c.adapter_id.in_(adapters)),
    ).subquery()
    return select(found.c.id)


def _is_common(session: Session, text: str) -> bool:
    """Whether 1 in 200 of the newest revisions has it: an index of PostgreSQL finds all before it gives the first."""
    newest = select(_REVISIONS.c.id).order_by(_REVISIONS.c.id.desc()).limit(_LOOKED_AT).subquery()
    counted = (
        select(func.count())
        .select_from(newest)
        .join(Revision, Revision.id == newest.c.id)
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(has_text(text))
    )
    # Of what is not seen, too: what matters is how common the text is, and the newest may all be elsewhere.
    return (session.scalar(counted, execution_options=IGNORE_RIGHTS) or 0) * 200 >= _LOOKED_AT


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
    """Keys of the revisions that meet it, hidden ones too, from an index; some may occur twice."""
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
    return Condition(Revision.author == name, None)


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
