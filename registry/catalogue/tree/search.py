"""Search: the newest revision of each adapter that meets every given condition."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.tables import (
    Adapter,
    Annotation,
    BaseModelRecord,
    Metric,
    Revision,
    RevisionTarget,
    Tag,
)
from registry.catalogue.tree import bases, browse
from registry.errors import UsageError
from registry.reference import Path
from registry.schemas import RevisionSummary
from registry.schemas.texts import check_text

_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
    "==": operator.eq,
    "": operator.eq,
}
_SIGNS: Final = (
    ("=>", ">="),
    ("=<", "<="),
    ("\N{GREATER-THAN OR EQUAL TO}", ">="),
    ("\N{LESS-THAN OR EQUAL TO}", "<="),
)
# The order of paths segment by segment: a space comes before all that names are made of, "/" does not.
_IN_ORDER: Final = func.replace(Adapter.path, "/", " ")
_RANK: Final = re.compile(r"\s*(<=|>=|==|<|>|=|)\s*([0-9]{1,9})\s*")
_METRIC: Final = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63})\s*(?:(<=|>=|==|<|>|=)\s*(\S+))?\s*")


def search(
    session: Session,
    text: str | None = None,
    *,
    base: str | None = None,
    tag: str | None = None,
    rank: str | None = None,
    metric: str | None = None,
    target: str | None = None,
    after: Path | None = None,
    limit: int | None = None,
) -> tuple[RevisionSummary, ...]:
    """The newest revision of each adapter that meets every given condition, by path.

    Args:
        session: an open transaction.
        text: part of the path, the message, or a key or value of an annotation, whatever its case.
        base: name of the base model.
        tag: the revision that this tag names.
        rank: ``16``, ``<=16``, ``>8``: the largest rank of the revision's own pairs.
        metric: ``acc>0.8``, ``loss<=0.2``, or ``acc``: has it.
        target: leaf name of a target module, ``q_proj``.
        after: only paths after this one.
        limit: at most so many.

    Raises:
        UsageError: a condition is malformed; says the form.
        NotFoundError: there is no such base model; offers the nearest.
    """
    conditions: list[ColumnElement[bool]] = []
    if text:
        conditions.append(_has_text(check_text("The text to search for", text)))
    if base is not None:
        conditions.append(Adapter.base_id == _base_id(session, check_text("The base model", base)))
    if tag is not None:
        conditions.append(exists().where(Tag.revision_id == Revision.id, Tag.name == check_text("The tag", tag)))
    if rank is not None:
        conditions.append(_has_rank(rank))
    if metric is not None:
        conditions.append(_has_metric(metric))
    if target is not None:
        conditions.append(
            exists().where(
                RevisionTarget.revision_id == Revision.id, RevisionTarget.name == check_text("The target", target)
            )
        )
    if after is not None:
        conditions.append(_IN_ORDER.op(">")(str(after).replace("/", " ")))
    matching = (
        select(Revision.adapter_id, func.max(Revision.number).label("number"))
        .join(Adapter, Adapter.id == Revision.adapter_id)
        .where(*conditions)
        .group_by(Revision.adapter_id, Adapter.path)
        .order_by(_IN_ORDER)
        .limit(limit)
        .subquery()
    )
    chosen = select(Revision.id).join(
        matching, (matching.c.adapter_id == Revision.adapter_id) & (matching.c.number == Revision.number)
    )
    return tuple(sorted(browse.summaries(session, chosen).values(), key=lambda one: one.path.split("/")))


def _base_id(session: Session, name: str) -> int:
    found = session.scalar(select(BaseModelRecord.id).where(BaseModelRecord.name == name))
    if found is None:
        raise bases.missing(session, name)
    return found


def _has_text(text: str) -> ColumnElement[bool]:
    return or_(
        Adapter.path.icontains(text, autoescape=True),
        Revision.message.icontains(text, autoescape=True),
        exists().where(
            Annotation.revision_id == Revision.id,
            or_(Annotation.key.icontains(text, autoescape=True), Annotation.value.icontains(text, autoescape=True)),
        ),
    )


def _has_rank(condition: str) -> ColumnElement[bool]:
    match = _RANK.fullmatch(condition)
    if match is None:
        raise _malformed("Rank", condition, "16, '<=16' or '>8' is expected")
    met: ColumnElement[bool] = _COMPARE[match[1]](Revision.rank, int(match[2]))
    return met


def _has_metric(condition: str) -> ColumnElement[bool]:
    match = _METRIC.fullmatch(condition)
    if match is None:
        raise _bad_metric(condition)
    conditions: list[ColumnElement[bool]] = [Metric.revision_id == Revision.id, Metric.name == match[1]]
    if match[2]:
        try:
            value = float(match[3])
        except ValueError as error:
            raise _bad_metric(condition) from error
        if not math.isfinite(value):
            raise _bad_metric(condition)
        conditions.append(_COMPARE[match[2]](Metric.value, value))
    return exists().where(*conditions)


def _bad_metric(condition: str) -> UsageError:
    return _malformed("Metric", condition, "'acc>0.8', 'loss<=0.2' or 'acc' is expected")


def _malformed(what: str, condition: str, form: str) -> UsageError:
    for wrong, right in _SIGNS:
        if wrong in condition:
            form = f"{condition.replace(wrong, right)!r} is expected"
            break
    return UsageError(f"{what} condition {condition!r} is malformed: {form}.")
