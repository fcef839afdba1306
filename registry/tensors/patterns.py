r"""PEFT's patterns over module names, matched in bounded time.

Keys of ``rank_pattern`` and ``alpha_pattern`` are regular expressions from the publisher: the first key in file order
with ``re.match(rf"(.*\.)?({key})$", name)`` gives the value of a module (PEFT ``get_pattern_key``). A key such as
``([a-z_.0-9]+)+X`` keeps PEFT busy for minutes, so everything here counts against one budget for the whole checkpoint.

Nearly all keys are plain names (EVA writes one for every module), and these need no regular expression: a name matches
where one of its ends that begin a segment equals the key, a dot of the key standing for any character.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import regex

from registry.errors import InvalidAdapterError
from registry.tensors.pattern_syntax import PatternFaultError, check
from registry.tensors.strict_json import shown

SECONDS: Final = 2.0
MAX_EXPRESSIONS: Final = 1024
MAX_STEPS: Final = 131_072
"""Steps of all expressions of a checkpoint, after their repeats are written out."""

_PLAIN: Final = re.compile(r"\^?(?:[\w.-]|\\[.-])+", re.ASCII)

Value = TypeVar("Value")


@dataclass
class PatternBudget:
    """What all patterns of one checkpoint share: steps, and time on a processor, not on the clock."""

    seconds: float = SECONDS
    _stop: float = 0.0
    _expressions: int = 0
    _steps: int = 0

    def __post_init__(self) -> None:
        self._stop = time.thread_time() + self.seconds

    def compile(self, pattern: str, *, field: str, whole: bool = False) -> Expression:
        """Compile a publisher's expression; ``whole`` takes it as it is, else PEFT's ``(.*\\.)?(...)$`` is put around.

        Raises:
            InvalidAdapterError: ``bad_config``, for a pattern that is malformed, too large or one too many.
        """
        try:
            compiled = self._compile(pattern, whole=whole)
        except (PatternFaultError, regex.error, OverflowError, RecursionError) as problem:
            raise InvalidAdapterError(
                f"{field} holds the pattern {shown(pattern)}, which is refused: {problem}. Name the modules in full."
            ) from None
        self.left(pattern, field)
        return Expression(pattern, field, compiled, self, whole)

    def _compile(self, pattern: str, *, whole: bool) -> regex.Pattern[str]:
        self._expressions += 1
        if self._expressions > MAX_EXPRESSIONS:
            raise PatternFaultError(f"more than {MAX_EXPRESSIONS} patterns of the adapter are not plain names")
        self._steps += check(pattern, whole=whole)
        if self._steps > MAX_STEPS:
            raise PatternFaultError(f"the patterns of the adapter come to more than {MAX_STEPS} steps")
        return regex.compile(pattern if whole else rf"(.*\.)?({pattern})$", regex.V0)

    def left(self, pattern: str, field: str) -> float:
        """Seconds left; raises `InvalidAdapterError` (``bad_config``), naming the pattern, when there are none."""
        left = self._stop - time.thread_time()
        if left <= 0:
            raise self.spent(pattern, field)
        return left

    def spent(self, pattern: str, field: str) -> InvalidAdapterError:
        """The error that says which pattern used up the time."""
        return InvalidAdapterError(
            f"{field} holds the pattern {shown(pattern)}, which takes too long to match (more than {self.seconds:g} "
            "seconds for the checkpoint). Name the modules in full instead."
        )


@dataclass(frozen=True)
class Expression:
    """A publisher's compiled pattern."""

    pattern: str
    field: str
    _compiled: regex.Pattern[str]
    _budget: PatternBudget
    _whole: bool

    def match(self, name: str) -> regex.Match[str] | None:
        """The match at the start of ``name`` (over all of it for a pattern taken as a whole)."""
        timeout = self._budget.left(self.pattern, self.field)
        try:
            if self._whole:
                return self._compiled.fullmatch(name, timeout=timeout)
            return self._compiled.match(name, timeout=timeout)
        except TimeoutError:
            raise self._budget.spent(self.pattern, self.field) from None


def ends(name: str) -> Iterator[str]:
    """The name and every end of it that begins after a dot, longest first."""
    yield name
    at = name.find(".")
    while at >= 0:
        yield name[at + 1 :]
        at = name.find(".", at + 1)


@dataclass
class _Shape:
    """Plain keys with wildcards at the same places: one look-up answers for all of them."""

    wild: tuple[int, ...]
    keys: dict[str, list[int]] = field(default_factory=dict)

    def masked(self, text: str) -> str:
        if all(text[at] == "." for at in self.wild):
            return text
        letters = list(text)
        for at in self.wild:
            letters[at] = "."
        return "".join(letters)


class PatternMap(Generic[Value]):
    """``rank_pattern`` or ``alpha_pattern``, ready to be asked for the value of a module."""

    def __init__(self, patterns: Mapping[str, Value], *, field: str, budget: PatternBudget) -> None:
        self.field = field
        self._keys = tuple(patterns)
        self._values = tuple(patterns.values())
        self._shapes: dict[tuple[int, bool], dict[tuple[int, ...], _Shape]] = {}
        self._expressions: list[tuple[int, Expression]] = []
        self._used: set[int] = set()
        for place, key in enumerate(self._keys):
            if _PLAIN.fullmatch(key):
                self._add_plain(place, key)
            else:
                self._expressions.append((place, budget.compile(key, field=field)))

    def _add_plain(self, place: int, key: str) -> None:
        anchored = key.startswith("^")
        pieces = re.findall(r"\\?.", key.removeprefix("^"))
        wild = tuple(at for at, piece in enumerate(pieces) if piece == ".")
        text = "".join(piece[-1] for piece in pieces)
        shape = self._shapes.setdefault((len(text), anchored), {}).setdefault(wild, _Shape(wild))
        shape.keys.setdefault(text, []).append(place)

    def matches(self, name: str) -> list[int]:
        """Places of all keys that match, in file order."""
        found: list[int] = []
        for end in ends(name) if self._shapes else ():
            for anchored in (False, True) if end is name else (False,):
                for shape in self._shapes.get((len(end), anchored), {}).values():
                    found.extend(shape.keys.get(shape.masked(end), ()))
        found.extend(place for place, expression in self._expressions if expression.match(name))
        return sorted(found)

    def resolve(self, name: str) -> tuple[Value | None, tuple[str, ...]]:
        """The value for a module (None: no key matches) and all keys that match, the one that rules first."""
        found = self.matches(name)
        self._used.update(found)
        if not found:
            return None, ()
        return self._values[found[0]], tuple(self._keys[place] for place in found)

    def conflict(self, keys: Iterable[str]) -> bool:
        """Whether keys of this map have different values."""
        return len({self._values[self._keys.index(key)] for key in keys}) > 1

    @property
    def unused(self) -> tuple[str, ...]:
        """Keys that matched no module asked for so far."""
        return tuple(key for place, key in enumerate(self._keys) if place not in self._used)


def resolve_pattern(
    patterns: Mapping[str, Value], name: str, *, field: str = "rank_pattern", budget: PatternBudget | None = None
) -> tuple[Value | None, tuple[str, ...]]:
    """`PatternMap.resolve` for one name."""
    return PatternMap(patterns, field=field, budget=budget or PatternBudget()).resolve(name)
