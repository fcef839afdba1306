"""Search: revisions that meet every given condition, of each adapter the newest or all, by path or by a metric."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, and_, exists, false, func, or_, select
from sqlalchemy.orm import Session, aliased
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
from registry.catalogue.tree.old_names import adapter_is_listed, new_name
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
_SORTED: Final = aliased(Metric)  # conditions name the table itself
_SORT: Final = re.compile(r"\s*(max|min):([A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63})\s*")


@dataclass(frozen=True)
class SearchPosition:
    """Where a search goes on: after this revision; the number and the metric's value where the order is by them."""

    path: Path
    number: int | None = None
    value: float | None = None


def search(
    session: Session,
    text: str | None = None,
    *,
    base: str | None = None,
    tag: str | None = None,
    rank: str | None = None,
    metric: str | None = None,
    target: str | None = None,
    sort: str | None = None,
    all_revisions: bool = False,
    old_names: bool = False,
    after: SearchPosition | None = None,
    limit: int | None = None,
) -> tuple[RevisionSummary, ...]:
    """Revisions that meet every given condition: of each adapter the newest, or all, newest first; by path.

    Args:
        session: an open transaction.
        text: part of the path, the message, or a key or value of an annotation, whatever its case.
        base: name of the base model.
        tag: the revision that this tag names.
        rank: ``16``, ``<=16``, ``>8``: the largest rank of the revision's own pairs.
        metric: ``acc>0.8``, ``loss<=0.2``, or ``acc``: has it.
        target: leaf name of a target module, ``q_proj``.
        sort: ``max:acc`` or ``min:loss``: best value of this metric first, and only revisions that have it.
        all_revisions: every matching revision, not only the newest of each adapter.
        old_names: adapters that were renamed too, under their old names; of a ``base`` that was, always.
        after: only what comes after this one; one of a search with the same conditions.
        limit: at most so many.

    Raises:
        UsageError: a condition is malformed, or ``after`` is of another order; says the form.
        NotFoundError: there is no such base model; offers the nearest.
    """
    order = None if sort is None else _Order.parse(sort)
    _check_position(after, numbered=all_revisions or order is not None, valued=order is not None)
    conditions: list[ColumnElement[bool]] = []
    if text:
        conditions.append(_has_text(check_text("The text to search for", text)))
    if base is not None:
        old_names = old_names or new_name(session, Path(base)) is not None
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
    if not old_names:
        conditions.append(adapter_is_listed(session))
    if order is not None:
        conditions.append(exists().where(Metric.revision_id == Revision.id, Metric.name == order.metric))
    chosen = _page(conditions, order, all_revisions, after).limit(limit).subquery()
    found = browse.summaries(session, select(chosen.c.id)).values()

    def place(one: RevisionSummary) -> tuple[float, list[str], int]:
        return (0.0 if order is None else order.sign * one.metrics[order.metric], one.path.split("/"), -one.number)

    return tuple(sorted(found, key=place))


@dataclass(frozen=True)
class _Order:
    """By a metric: the smallest first where the sign is 1, the largest where it is -1."""

    metric: str
    sign: int

    @classmethod
    def parse(cls, text: str) -> _Order:
        match = _SORT.fullmatch(text)
        if match is None:
            raise UsageError(f"Sort order {text!r} is malformed: 'max:acc' or 'min:eval_loss' is expected.")
        return cls(match[2], 1 if match[1] == "min" else -1)


def _check_position(after: SearchPosition | None, *, numbered: bool, valued: bool) -> None:
    if after is not None and ((after.number is not None) != numbered or (after.value is not None) != valued):
        raise UsageError("The position to continue from is of a search in another order; start from the beginning.")


def _page(
    conditions: list[ColumnElement[bool]], order: _Order | None, all_revisions: bool, after: SearchPosition | None
) -> Select[int]:
    """Keys of the revisions after a position, in order."""
    found = select(Revision.id).join(Adapter, Adapter.id == Revision.adapter_id)
    if all_revisions:
        found = found.where(*conditions)
    else:
        newest = (
            select(Revision.adapter_id, func.max(Revision.number).label("number"))
            .join(Adapter, Adapter.id == Revision.adapter_id)
            .where(*conditions, *([] if order is not None or after is None else [_path_after(after)]))
            .group_by(Revision.adapter_id, Adapter.path)
            .subquery()
        )
        found = found.join(newest, (newest.c.adapter_id == Revision.adapter_id) & (newest.c.number == Revision.number))
    rest: ColumnElement[bool] = false() if after is None else _path_after(after)
    if after is not None and after.number is not None:
        rest = or_(rest, and_(Adapter.path == str(after.path), Revision.number < after.number))
    if order is None:
        found = found.order_by(_IN_ORDER, Revision.number.desc())
    else:
        value = _SORTED.value * order.sign
        found = found.join(_SORTED, (_SORTED.revision_id == Revision.id) & (_SORTED.name == order.metric))
        found = found.order_by(value, _IN_ORDER, Revision.number.desc())
        if after is not None and after.value is not None:
            last = after.value * order.sign
            rest = or_(value > last, and_(value == last, rest))
    return found if after is None else found.where(rest)


def _path_after(after: SearchPosition) -> ColumnElement[bool]:
    return _IN_ORDER.op(">")(str(after.path).replace("/", " "))


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
