"""Revisions by a part of their texts: the condition, and the keys of those that may meet it, from an index of trigrams.

SQLite's index is two tables of FTS5 that triggers keep right; PostgreSQL's are made of `pg_trgm`, where the role that
upgraded the schema could create it. What an index finds is always looked at again by the condition itself.
"""

from __future__ import annotations

from collections.abc import Iterator
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

from registry.catalogue.database.probes import finds
from registry.catalogue.database.schema import HAS_TRIGRAMS
from registry.catalogue.database.tables import Adapter, Annotation, Revision, table_of
from registry.catalogue.database.visibility import IGNORE_RIGHTS

_ADAPTERS: Final = table_of(Adapter)
_REVISIONS: Final = table_of(Revision)
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
    # Of what is not seen, too: it is asked how common the text is, and the newest may all be elsewhere.
    return (session.scalar(counted, execution_options=IGNORE_RIGHTS) or 0) * 200 >= _LOOKED_AT
