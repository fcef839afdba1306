"""The numbers that searches compare and sort by: metrics, and statistics. Both are rows of revision, name, value."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from registry.catalogue.database.statistics_tables import StatisticValueRecord
from registry.catalogue.database.tables import Metric, Revision, table_of
from registry.catalogue.database.transactions import finds
from registry.errors import UsageError
from registry.schemas import RevisionSummary
from registry.schemas.statistics import StatisticName

COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
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
_NAME: Final = "[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63}"
_CONDITION: Final = re.compile(rf"\s*({_NAME})\s*(?:(<=|>=|==|<|>|=)\s*(\S+))?\s*")
_COMMA: Final = re.compile(r"(.*[<>=]\s*-?\d+),(\d+)\s*")
_SORT: Final = re.compile(rf"\s*(max|min):(?:(stat:)|(?!stat:))({_NAME})\s*")


@dataclass(frozen=True, eq=False)
class Values:
    """A table of numbers of revisions."""

    what: str
    record: type[Metric] | type[StatisticValueRecord]
    form: str  # of a condition
    of: Callable[[RevisionSummary], dict[str, float]]
    names: tuple[str, ...] = ()  # all known ones; empty: any may be one

    def checked(self, name: str) -> str:
        """The name of one of them.

        Raises:
            UsageError: it can't be one; lists the known ones.
        """
        if self.names and name not in self.names:
            raise UsageError(f"{name!r} is no {self.what}; there are {', '.join(self.names)}.")
        return name


METRICS: Final = Values("metric", Metric, "'acc>0.8', 'loss<=0.2' or 'acc'", lambda one: one.metrics)
STATISTICS: Final = Values(
    "statistic",
    StatisticValueRecord,
    "'rank95<8', 'stable_rank>=2.5' or 'rank95'",
    lambda one: one.statistics,
    get_args(StatisticName),
)


@dataclass(frozen=True)
class Comparison:
    """A condition on a number: how it compares with a bound, or only that the revision has it."""

    values: Values
    name: str
    sign: str | None = None
    bound: float = 0.0

    @classmethod
    def parse(cls, values: Values, condition: str) -> Comparison:
        """``acc>0.8``, ``loss<=0.2``, or ``acc``: has it.

        Raises:
            UsageError: it is malformed, or the number is unknown; says the form, or the names.
        """
        match = _CONDITION.fullmatch(condition)
        if match is None:
            raise malformed(values.what.capitalize(), condition, f"{values.form} is expected")
        name = values.checked(match[1])
        if match[2] is None:
            return cls(values, name)
        try:
            bound = float(match[3])
        except ValueError:
            bound = math.nan
        if not math.isfinite(bound):
            raise malformed(values.what.capitalize(), condition, f"{values.form} is expected")
        return cls(values, name, match[2], bound)

    @property
    def holds(self) -> ColumnElement[bool]:
        """Of `Revision`."""
        record = self.values.record
        return finds(select(record.value).where(record.revision_id == Revision.id, *self._of(record)))

    @property
    def keys(self) -> Select[int]:
        """Keys of the revisions of which it holds, by an index."""
        columns = table_of(self.values.record).c
        return select(columns.revision_id).where(*self._of(columns))

    def _of(self, columns: Any) -> list[ColumnElement[bool]]:
        held = [columns.name == self.name]
        return held if self.sign is None else [*held, COMPARE[self.sign](columns.value, self.bound)]


_ROWS: Final = {values: aliased(values.record) for values in (METRICS, STATISTICS)}  # conditions name the tables


@dataclass(frozen=True)
class Sorting:
    """By a number: the smallest first, or the largest."""

    values: Values
    name: str
    largest: bool

    @classmethod
    def parse(cls, text: str) -> Sorting:
        """``max:acc`` or ``min:loss``; of a statistic ``min:stat:rank95``.

        Raises:
            UsageError: it is malformed, or the statistic is unknown; says the form, or the names.
        """
        match = _SORT.fullmatch(text)
        if match is None:
            forms = "'max:acc', 'min:eval_loss' or 'min:stat:rank95'"
            named = ":" not in text and text not in {"max", "min"} and _SORT.fullmatch(f"max:{text}") is not None
            turned = ":".join(reversed(text.split(":")))
            meant = f"; max:{text} has the largest first" if named else ""
            if not named and _SORT.fullmatch(turned):
                meant = f"; write {turned}"
            raise UsageError(f"Sort order {text!r} is malformed: {forms} is expected{meant}.")
        values = STATISTICS if match[2] else METRICS
        return cls(values, values.checked(match[3]), match[1] == "max")

    @property
    def row(self) -> type[Metric] | type[StatisticValueRecord]:
        """The rows of which a revision has at most one by this name."""
        return _ROWS[self.values]

    @property
    def value(self) -> ColumnElement[float]:
        """The number that it sorts by, of `row`."""
        return self.row.value.expression

    @property
    def is_there(self) -> Comparison:
        """The condition that a revision has it."""
        return Comparison(self.values, self.name)

    def of(self, one: RevisionSummary) -> float:
        """The number of a revision that a search found."""
        return self.values.of(one)[self.name]

    @property
    def is_that(self) -> ColumnElement[bool]:
        """The condition of the row that a revision is sorted by."""
        return (self.row.revision_id == Revision.id) & (self.row.name == self.name)

    def order(self, value: ColumnElement[float]) -> ColumnElement[float]:
        """The column in the requested order."""
        return value.desc() if self.largest else value.asc()

    def from_on(self, value: ColumnElement[float], last: float) -> ColumnElement[bool]:
        """As good as the last one, or worse."""
        return value <= last if self.largest else value >= last

    def beyond(self, value: ColumnElement[float], last: float) -> ColumnElement[bool]:
        """Worse than the last one."""
        return value < last if self.largest else value > last

    def is_value(self, value: float) -> ColumnElement[bool]:
        """The condition that a revision has this value."""
        return Comparison(self.values, self.name, "=", value).holds

    def better(self, value: ColumnElement[float], last: float) -> ColumnElement[bool]:
        """Better than the last one."""
        return value > last if self.largest else value < last

    def up_to(self, value: ColumnElement[float], last: float) -> ColumnElement[bool]:
        """As good as the last one, or better."""
        return value >= last if self.largest else value <= last


def with_statistics(
    session: Session, found: Mapping[int, RevisionSummary], names: Collection[str]
) -> dict[int, RevisionSummary]:
    """Revisions, by key, with those of their statistics that a search is about."""
    if not names:
        return dict(found)
    record = StatisticValueRecord
    wanted = select(record.revision_id, record.name, record.value).where(record.revision_id.in_(found))
    values: dict[int, dict[str, float]] = {key: {} for key in found}
    for row in session.execute(wanted.where(record.name.in_(set(names)))):
        values[row.revision_id][row.name] = row.value
    return {key: one.model_copy(update={"statistics": dict(sorted(values[key].items()))}) for key, one in found.items()}


def malformed(what: str, condition: str, form: str) -> UsageError:
    """The error about a condition that can't be read: its form, or what it most likely was to be."""
    if (comma := _COMMA.fullmatch(condition)) is not None:
        form = f"{f'{comma[1]}.{comma[2]}'!r} is expected, with a point"
    for wrong, right in _SIGNS:
        if wrong in condition:
            form = f"{condition.replace(wrong, right)!r} is expected"
            break
    return UsageError(f"{what} condition {condition!r} is malformed: {form}.")
