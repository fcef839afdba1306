"""Numbers, sizes, times and untrusted text as people read them: on screens, in notebooks and in messages.

A *span* is a piece of text that is never broken (a reference, a digest, a size) with a style; free text is broken
between words. A *cell* says one thing: of spans and texts, a tuple is read as one item, a list as several.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias

# Styles by meaning, as a terminal shows them.
REFERENCE: Final = "bold"
TAG: Final = "cyan"
BEHIND: Final = "yellow"
GONE: Final = "red"
NEW: Final = "green"
QUIET: Final = "dim"

_AGES: Final = ((365 * 86400, "year"), (30 * 86400, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def clean(text: str) -> str:
    """``text`` on one line, with control characters escaped, which could rewrite what a terminal shows."""
    return "".join(
        char if char.isprintable() else " " if char.isspace() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


@dataclass(frozen=True)
class Span:
    """Text in one style that stays on one line."""

    text: str
    style: str = ""

    @property
    def cells(self) -> int:
        """The width of the text on a terminal, in columns."""
        return sum(_columns(char) for char in self.text)


Cell: TypeAlias = "str | Span | Sequence[Cell] | None"


def _columns(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def words(text: str | None, style: str = "") -> tuple[Span, ...]:
    """Free text as spans that may be broken between words."""
    return tuple(Span(word, style) for word in clean(text or "").split(" ") if word)


def phrase(text: str | None, style: str = "") -> Span:
    """Untrusted text as one span, safe to print."""
    return Span(clean(text or ""), style)


def quiet(text: str | None) -> tuple[Span, ...]:
    """Free text that matters less."""
    return words(text, QUIET)


def reference(text: str | None) -> Span:
    """A reference or a path."""
    return phrase(text, REFERENCE)


def items(cell: Cell) -> list[list[Span]]:
    """What a cell says, an item after another; none if it says nothing."""
    parts = cell if isinstance(cell, list) else [cell]
    found = (items(part) if isinstance(part, list) else [_said(part)] for part in parts)
    return [item for several in found for item in several if item]


def _said(cell: Cell) -> list[Span]:
    if cell is None or isinstance(cell, str):
        return [*words(cell)]
    if isinstance(cell, Span):
        return [cell] if cell.text else []
    return [span for part in cell for span in _said(part)]


def command(*words: object) -> str:
    """A command to be typed next, in backticks: every word as a shell has to be given it."""
    return f"`{shlex.join(clean(str(word)) for word in words)}`"


def size(count: int) -> str:
    """Bytes in units of 1000, three digits: ``6.29 MB``."""
    return f"{count} B" if count < 1000 else _scaled(count, ("kB", "MB", "GB", "TB", "PB"))


def amount(count: int) -> str:
    """A count, three digits: ``1.10 B`` for 1.1 billion, ``22.7 M``, ``999``."""
    return str(count) if count < 1000 else _scaled(count, ("k", "M", "B", "T"))


def _scaled(count: int, units: tuple[str, ...]) -> str:
    value = float(count)
    for unit in units:
        value /= 1000
        # Not 1000: a value that rounds up to it is written in the next unit.
        if value < 999.5 or unit == units[-1]:
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f} {unit}"
    raise AssertionError


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number and its noun: ``1 file``, ``2 files``."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def ranked(rank: int) -> str:
    """The largest rank of a revision, in words; one that has only whole tensors, as an exact one, has none."""
    return f"rank {rank}" if rank else "whole tensors"


def moment(time: datetime) -> str:
    """A time in UTC, to the minute."""
    return _in_utc(time).strftime("%Y-%m-%d %H:%M")


def age(time: datetime, now: datetime) -> str:
    """How long ago ``time`` was, in its largest whole unit: ``3 days``."""
    seconds = int((_in_utc(now) - _in_utc(time)).total_seconds())
    for unit, name in _AGES:
        if seconds >= unit:
            return counted(seconds // unit, name)
    return "just now"


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def number(value: float) -> str:
    """A metric or a scaling, in at most six significant digits."""
    return f"{value:.6g}"


def metrics(values: Mapping[str, float]) -> list[str]:
    """Metrics as ``name=value``, by name."""
    return [f"{clean(name)}={number(values[name])}" for name in sorted(values)]


def short_url(url: str) -> str:
    """The host of an address and its end, which distinguish runs and commits: ``github.com/…/36fbeee7``."""
    rest = url.partition("://")[2]
    host, _, path = rest.partition("/")
    last = path.rstrip("/").rpartition("/")[2]
    return f"{host[:60]}/…/{last[-40:]}" if len(rest) > 24 and last else rest[:100]


def short_digest(digest: str) -> str:
    """The first 12 hex digits, enough to compare by eye."""
    return digest.removeprefix("sha256:")[:12]


def numbers(values: Iterable[float]) -> str:
    """Several numbers in one cell."""
    return ", ".join(number(value) for value in values)


def percent(share: float) -> str:
    """A share of the model: ``0.29 %``."""
    return f"{100 * share:.2g} %" if abs(share) < 0.1 else f"{100 * share:.0f} %"
