"""Columns of tables of revisions: which there are, which a reader chose, their order, and what they say of a row.

The choice is a word of the address, ``columns=acc,loss,rank``, which is the bookmark: a metric is called by its name,
what every revision has by a word of `PLAIN`, a statistic ``stat:NAME``, an annotation ``annotation:KEY``. A metric that
has the name of one of these is ``metric:NAME``. The first ``pinned`` of them stay in sight beside the revision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal, get_args
from urllib.parse import unquote

from pydantic import Field

from registry.catalogue.tree.statistics import RowFigures
from registry.errors import UsageError
from registry.figures import counted, number
from registry.schemas import RevisionSummary, Schema
from registry.schemas.statistics import StatisticName

MOST: Final = 40  # columns of a table
MOST_PINNED: Final = 3
_METRICS: Final = 6  # columns, as long as nobody chose
_OFFERED: Final = 80  # annotations that the form offers
_LONGEST: Final = 256
PLAIN: Final[Mapping[str, tuple[str, str]]] = {
    "rank": ("Rank", "The largest rank of its own pairs"),
    "scaling": ("Scaling", "alpha / r of its own pairs, or alpha / sqrt(r)"),
    "learning-rate": ("Learning rate", "As its trainer wrote it: the annotation learning_rate or lr"),
    "run": ("Run", "As its trainer wrote it: the annotation run_id, run or run_url"),
    "commit": ("Commit", "As its trainer wrote it: the annotation git_commit, commit or git_sha"),
    "author": ("Author", "Under which name it was published"),
    "published": ("Published", "When"),
    "targets": ("Targets", "The modules that it has pairs for"),
    "tags": ("Tags", "The tags that name it"),
    "message": ("Message", "The first line of its message"),
    "parent": ("Parent", "The revision that it was trained on"),
    "known": ("Parent known by", "How its parent is known"),
    "parameters": ("Parameters", "The weights of its own files"),
    "size": ("Size", "Of its own files"),
}
"""Columns that any revision may have, with what stands above them and what it means, in the order of the form."""
NOTED: Final[Mapping[str, tuple[str, ...]]] = {
    "learning-rate": ("learning_rate", "lr"),
    "run": ("run_id", "run", "run_url"),
    "commit": ("git_commit", "commit", "git_sha"),
}
"""Columns of annotations, and the keys that trainers write them under."""
_FIRST: Final = ("rank", "scaling", *NOTED, "author", "published", "targets")
_SHOWN_STATISTICS: Final = ("relative_frobenius", "effective_rank")
STATISTICS: Final = {
    "relative_frobenius": ("Δ of base", "Norm of its own delta, relative to the base model's weights"),
    "relative_spectral": ("largest Δ", "Largest singular value of its own delta, relative to the base model's weights"),
    "effective_rank": ("eff. rank", "How many directions of its own delta matter"),
    "stable_rank": ("stable rank", "Energy of its own delta over that of its largest direction"),
    "rank95": ("rank, 95 %", "The rank that holds 95 % of its own delta"),
    "rank99": ("rank, 99 %", "The rank that holds 99 % of its own delta"),
}
_SMALLER_IS_BETTER: Final = ("loss", "err", "perplexity", "ppl", "wer", "cer", "mae", "mse", "latency")
_AMOUNTS: Final = ("rank", "scaling", "parameters", "size")  # right-aligned among `PLAIN`

Word = Annotated[str, Field(max_length=16 * _LONGEST)]
Kind = Literal["plain", "metric", "stat", "annotation", "config"]


class Chosen(Schema):
    """The columns that an address names.

    Args:
        columns: in their order, each field of some, with commas between them; none: those that a table begins with.
        pinned: how many of them stay in sight.
        move: what a button of the form does with one of them: ``left acc``, ``right acc``, ``pin acc``, ``unpin acc``.
        panel: whether the form is open, as it is after such a button.
    """

    columns: tuple[Word, ...] = Field(default=(), max_length=400)
    pinned: int = Field(default=0, ge=0, le=MOST_PINNED)
    move: str | None = Field(default=None, max_length=2 * _LONGEST)
    panel: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns, each once; raises `UsageError` if they are too many."""
        keys = tuple(dict.fromkeys(key for some in self.columns for one in some.split(",") if (key := one.strip())))
        if len(keys) > MOST:
            raise UsageError(f"A table has at most {MOST} columns, and {len(keys)} are chosen: leave some out.")
        return keys

    def settled(self) -> dict[str, object] | None:
        """The words of the address that says the same in one word each; None: it is as it should be.

        Raises:
            UsageError: too many columns, or ``move`` is none of its four forms.
        """
        keys, pins = self.keys, self.pinned
        if self.move is not None:
            keys, pins = _moved(keys, pins, self.move)
        elif len(self.columns) < 2 and pins <= len(keys):
            return None
        panel = None if self.move is None else 1
        return {"columns": ",".join(keys), "pinned": min(pins, len(keys)) or None, "panel": panel}


def _moved(keys: tuple[str, ...], pins: int, move: str) -> tuple[tuple[str, ...], int]:
    """The columns after a button was pressed, and how many are pinned; one that is not there moves nothing."""
    what, _, key = move.partition(" ")
    if what not in {"left", "right", "pin", "unpin"}:
        raise UsageError(f"Columns are moved left or right, pinned or unpinned: {what[:32]!r} is none of these.")
    if key not in keys:
        return keys, pins
    at = keys.index(key)
    rest = [one for one in keys if one != key]
    inside = at < pins
    if what == "pin" and not inside and pins < MOST_PINNED:
        return (*rest[:pins], key, *rest[pins:]), pins + 1
    if what == "unpin" and inside:
        return (*rest[: pins - 1], key, *rest[pins - 1 :]), pins - 1
    if what in {"left", "right"}:
        first, last = (0, pins - 1) if inside else (pins, len(keys) - 1)
        at = max(first, min(last, at + (1 if what == "right" else -1)))
        return (*rest[:at], key, *rest[at:]), pins
    return keys, pins


@dataclass(frozen=True)
class Later:
    """A value that was set after its revision was published: by whom and when, and whether that is worth a mark."""

    told: str
    is_marked: bool


@dataclass(frozen=True)
class Row:
    """A revision in a table.

    Args:
        one: it.
        own: its figures.
        name: as the table calls it, without what all of its rows share.
        later: metrics that were not published with it.
        config: its configuration, where a table has that.
    """

    one: RevisionSummary
    own: RowFigures
    name: str
    later: Mapping[str, Later] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """One thing that rows say.

    Args:
        key: by which an address names it.
        kind, name: what it is of a revision.
        title, about: above it, and in words.
        order: ``ascending`` or ``descending``, if the rows are in its order.
        href: the page in its order; where it is, in the other one; None: nothing is sorted by it.
        pinned: from 1, if it stays in sight.
    """

    key: str
    kind: Kind
    name: str
    title: str
    about: str
    order: str | None = None
    href: str | None = None
    pinned: int | None = None

    @property
    def is_number(self) -> bool:
        """Whether its values stand at the right."""
        return self.kind in {"metric", "stat"} or self.name in _AMOUNTS

    @property
    def look(self) -> str:
        """The classes of its cells."""
        names = ("number" if self.is_number else "", "sorted" if self.order else "")
        return " ".join(filter(None, (*names, f"pin pin-{self.pinned}" if self.pinned else "")))

    def value(self, row: Row) -> object:
        """What it says of a row, for people and for programs; None: nothing."""
        one = row.one
        if self.kind == "metric":
            return one.metrics.get(self.name)
        if self.kind == "stat":
            return row.own.statistics.get(self.name)
        if self.kind == "annotation":
            return one.annotations.get(self.name)
        if self.kind == "config":
            return row.config.get(self.name)
        return _PLAIN_VALUES[self.name](row)

    def plain(self, row: Row) -> object:
        """The same as one value of a file."""
        value = self.value(row)
        if self.name == "scaling" and self.kind == "plain":
            return " ".join(map(number, row.own.distinct))
        return " ".join(value) if isinstance(value, tuple) else value


def _noted(name: str) -> Callable[[Row], str | None]:
    return lambda row: next((row.one.annotations[key] for key in NOTED[name] if key in row.one.annotations), None)


_PLAIN_VALUES: Final[Mapping[str, Callable[[Row], object]]] = {
    "rank": lambda row: row.one.rank,
    "scaling": lambda row: row.own.distinct,
    **{name: _noted(name) for name in NOTED},
    "author": lambda row: row.one.author,
    "published": lambda row: row.one.created_at,
    "targets": lambda row: tuple(row.own.scalings),
    "tags": lambda row: row.one.tags,
    "message": lambda row: row.one.message.strip().partition("\n")[0],
    "parent": lambda row: row.one.parent,
    "known": lambda row: row.one.parent_known_by,
    "parameters": lambda row: row.one.parameters,
    "size": lambda row: row.one.size,
}


def key_of(kind: Kind, name: str) -> str:
    """What an address calls a column. A name that no grammar knows may have a comma: it is written as ``%2C``."""
    safe = name.replace("%", "%25").replace(",", "%2C")
    if kind == "plain" or (kind == "metric" and name not in PLAIN and not name.startswith(_PREFIXES)):
        return safe
    return f"{kind}:{safe}"


_PREFIXES: Final = ("metric:", "stat:", "annotation:", "config:")


def named(key: str) -> Column:
    """The column of a key; what is no other word is a metric."""
    kind, mark, rest = key.partition(":")
    if mark and f"{kind}:" in _PREFIXES:
        name = unquote(rest)
        if kind == "stat":
            return Column(key, "stat", name, *STATISTICS.get(name, (name, f"The statistic {name} of its own delta")))
        if kind == "annotation":
            return Column(key, "annotation", name, name, f"The annotation {name}")
        if kind == "config":
            return Column(key, "config", name, name, f"{name} of its configuration")
        return Column(key, "metric", name, name, f"The metric {name}")
    if key in PLAIN:
        return Column(key, "plain", key, *PLAIN[key])
    return Column(key, "metric", unquote(key), unquote(key), unquote(key))


def best_first(name: str) -> str:
    """The order of a metric in which the best value comes first: ``max`` or ``min``."""
    return "min" if any(part in name.lower() for part in _SMALLER_IS_BETTER) else "max"


@dataclass(frozen=True)
class Offer:
    """What a table shows, and what it could.

    Args:
        shown: its columns.
        others: the rest of what its rows have.
        notices: what there is to say of the choice.
    """

    shown: tuple[Column, ...]
    others: tuple[Column, ...]
    notices: tuple[str, ...]


def offered(rows: Sequence[Row], chosen: Chosen, by: str) -> Offer:
    """The columns of a table of these rows, which are in the order of ``by``: a column's key, or nothing."""
    metrics = _by_count(one for row in rows for one in row.one.metrics)
    kept = [name for name in get_args(StatisticName) if any(name in row.own.statistics for row in rows)]
    noted = [name for name in NOTED if any(_PLAIN_VALUES[name](row) is not None for row in rows)]
    texts = _by_count(one for row in rows for one in row.one.annotations)[:_OFFERED]
    there = [
        *(key_of("metric", name) for name in metrics),
        *(f"stat:{name}" for name in kept),
        *(name for name in PLAIN if name not in NOTED or name in noted),
        *(key_of("annotation", name) for name in texts),
    ]
    keys = list(chosen.keys)
    lost = [key for key in keys if key not in there and key not in PLAIN]
    if not keys:
        first = sorted(metrics, key=lambda name: key_of("metric", name) != by)[:_METRICS]
        statistics = [f"stat:{name}" for name in _SHOWN_STATISTICS if name in kept]
        keys = [*(key_of("metric", name) for name in first), *statistics, *(name for name in _FIRST if name in there)]
    if by and by not in keys:
        keys.insert(chosen.pinned, by)
    notices = []
    if lost and rows:
        told = ", ".join(lost[:6]) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
        notices.append(f"No revision here has {told}: {counted(len(lost), 'column')} without a value.")
    pins = min(chosen.pinned, len(keys))
    shown = [replace(named(key), pinned=at + 1 if at < pins else None) for at, key in enumerate(keys)]
    return Offer(tuple(shown), tuple(named(key) for key in there if key not in keys), tuple(notices))


def _by_count(names: Iterable[str]) -> list[str]:
    counts = Counter(names)
    return sorted(counts, key=lambda name: (-counts[name], name))
