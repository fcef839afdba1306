r"""PEFT's patterns over module names: which of them are compiled at all, and matching in bounded time.

Keys of ``rank_pattern`` and ``alpha_pattern`` are regular expressions from the publisher: the first key in file order
with ``re.match(rf"(.*\.)?({key})$", name)`` gives the value of a module (PEFT ``get_pattern_key``). A key such as
``([a-z_.0-9]+)+X`` keeps PEFT busy for minutes, so everything here counts against one budget for the whole checkpoint.

Nearly all keys are plain names (EVA writes one for every module), and these need no regular expression: a name matches
where one of its ends that begin a segment equals the key, a dot of the key standing for any character.

A pattern is refused before it reaches a compiler when it could be a bomb (the `regex` package writes out repeats: 90
nested ``+`` are 2^90 nodes) or when `re`, which PEFT uses, and `regex`, which can be stopped, read it differently
(``{e<=1}`` is fuzzy matching only in `regex`, nested sets and set operators are announced for `re`). What is left is
the common language: groups, alternatives, sets, anchors, escapes of ASCII, bounded repeats.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import regex

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown

MAX_EXPANDED: Final = 8192
"""Steps of a pattern after its repeats are written out: compiling can't be stopped, and takes up to 20 us a step."""
MAX_LENGTH: Final = 16_384
MAX_REPEAT_DIGITS: Final = 9
MAX_GROUPS_DEEP: Final = 40

_TOKEN: Final = re.compile(
    r"""(?P<escape>\\.)
      | (?P<set>\[\^?+\]?+(?:\\.|[^\]\\])*\])
      | (?P<open>\((?:\?(?:P<\w+>|P=|<?[=!]|>|[aims-]*:|\(\w+\)|[aims]+(?=\))))?(?!\?))
      | (?P<close>\))
      | (?P<repeat>(?:\{(?P<low>\d*)(?P<range>,(?P<high>\d*))?\}|[*+?])[?+]?)
      | (?P<bar>\|)
      | (?P<other>[^\\\[\](){}*+?|])""",
    re.VERBOSE | re.ASCII,
)
_CODE_POINTS: Final = re.compile(r"\\[xuUN0-9]")
_SET_OPERATORS: Final = ("[", "--", "&&", "~~", "||")


class PatternFaultError(ValueError):
    """Why a pattern is refused, as a clause."""


def check(pattern: str, *, whole: bool) -> int:
    """The steps of a pattern after its repeats are written out, which bounds what compiling it costs.

    ``whole`` takes the pattern as it is; else it stands inside PEFT's ``(.*\\.)?(...)$``. Comments and the verbose flag
    are outside the common language: with them, what a repeat repeats isn't what stands before it.

    Raises:
        PatternFaultError: the pattern must not be compiled.
    """
    if len(pattern) > MAX_LENGTH:
        raise PatternFaultError(f"it has more than {MAX_LENGTH} characters")
    if not (pattern.isascii() and pattern.isprintable()):
        raise PatternFaultError("it has characters other than printable ASCII")
    if _CODE_POINTS.search(pattern.replace("\\\\", "")):
        raise PatternFaultError("it names characters or groups by number")
    steps = _steps(pattern)
    try:
        re.compile(pattern if whole else rf"(.*\.)?({pattern})$")  # what PEFT would meet
    except (OverflowError, RecursionError):
        raise PatternFaultError("it has more repeats or groups than programs support") from None
    except re.error as problem:
        raise PatternFaultError(f"it is not a regular expression ({problem.msg})") from None
    return steps


def _steps(pattern: str) -> int:
    scan, at = _Scan(), 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            raise PatternFaultError(f"the character {pattern[at]!r} at position {at} has no plain meaning there")
        at = token.end()
        if token["open"]:
            scan.open(token)
        elif token["close"]:
            scan.close(at)
        elif token["repeat"]:
            scan.repeat(token)
        else:
            scan.add(_set_steps(token[0]) if token["set"] else 1)
        if scan.totals[-1] > MAX_EXPANDED:
            raise PatternFaultError(f"its repeats come to more than {MAX_EXPANDED} steps")
    return sum(scan.totals)


class _Scan:
    """What is known of a pattern up to a token."""

    def __init__(self) -> None:
        self.totals = [0]  # steps of the whole and of each open group
        self._endless = [False]  # whether the whole and each open group holds a repeat without end
        self._last = 0  # steps of what stands last, which a repeat would repeat
        self._last_endless = False
        self._last_is_group = False
        self._opened = -1  # where the group that was opened last began

    def open(self, token: re.Match[str]) -> None:
        self._opened = -1 if token[0][-1].isalpha() else token.end()  # (?i) is whole as it is
        self.totals.append(0)
        self._endless.append(False)
        self._last, self._last_endless, self._last_is_group = 0, False, False
        if len(self.totals) - 1 > MAX_GROUPS_DEEP:
            raise PatternFaultError(f"its groups are nested deeper than {MAX_GROUPS_DEEP} levels")

    def close(self, at: int) -> None:
        if len(self.totals) == 1:
            raise PatternFaultError(f"the ')' at position {at - 1} closes nothing")
        if self._opened == at - 1:
            # regex compiles a run of empty groups in time that grows with the square of their number
            raise PatternFaultError(f"the group that ends at position {at - 1} holds nothing")
        endless = self._endless.pop()
        self.add(self.totals.pop() + 1)
        self._last_endless, self._last_is_group = endless, True
        self._endless[-1] |= endless

    def add(self, steps: int) -> None:
        self._last, self._last_endless, self._last_is_group = steps, False, False
        self.totals[-1] += steps

    def repeat(self, token: re.Match[str]) -> None:
        possessive = len(token["repeat"]) > 1 and token["repeat"].endswith("+")
        if possessive and self._last_is_group:
            raise PatternFaultError("it repeats a group possessively, which programs do not agree on")
        grown = self._last * _copies(token["repeat"], token["low"], token["high"])
        if _is_endless(token):
            if self._last_endless:
                raise PatternFaultError("it nests repeats, which takes PEFT exponential time to match")
            self._endless[-1] = self._last_endless = True
        self.totals[-1] += grown - self._last
        self._last, self._last_is_group = grown, False


def _is_endless(token: re.Match[str]) -> bool:
    """A repeat without end, or so long that it is as slow."""
    if token["repeat"][0] in "*+" or (token["range"] and not token["high"]):
        return True
    return any(int(digits) >= 10 for digits in (token["low"], token["high"]) if digits)


def _set_steps(text: str) -> int:
    inner = text[1:-1]
    if any(operator in inner for operator in _SET_OPERATORS):
        raise PatternFaultError(f"the set {shown(text)} holds a set or an operator on sets")
    return len(text)


def _copies(repeat: str, low: str | None, high: str | None) -> int:
    """How often a compiler may write out what is repeated."""
    if repeat[0] in "*?":
        return 1
    if repeat[0] == "+":
        return 2
    digits = [digits for digits in (low, high) if digits]
    if not digits:
        raise PatternFaultError(f"the repeat {shown(repeat)} has no number")
    if max(map(len, digits)) > MAX_REPEAT_DIGITS:
        raise PatternFaultError(f"a repeat has a number of more than {MAX_REPEAT_DIGITS} digits")
    numbers = [int(number) for number in digits]
    return max(numbers) + 1


SECONDS: Final = 0.4
MAX_EXPRESSIONS: Final = 1024
MAX_STEPS: Final = 65_536
"""Steps of all expressions of a checkpoint, after their repeats are written out."""
MAX_MATCHES: Final = 64
"""Keys of one field that match one module: nobody would read about more of them."""
MAX_PLAIN: Final = 4096
"""Characters of a key that is looked up as a name: more than the name of any module has, with every dot escaped."""

MAX_SHAPES: Final = 4096
"""Sets of places at which the dots of plain keys stand, for one field: the modules of a model share a few hundred."""

_LETTERS: Final = re.compile(r"\\[wWbBdDsS]|\(\?[a-z]*i")
_FREE_SHAPES: Final = 32
_PLAIN: Final = re.compile(r"\^?(?:[\w.-]++|\\[.-])++", re.ASCII)

Value = TypeVar("Value")


@dataclass
class PatternBudget:
    """What all patterns of one checkpoint share: steps, and time on a processor, not on the clock.

    Only time spent on patterns counts, so that a large checkpoint is not taken for a slow pattern.
    """

    seconds: float = SECONDS
    _used: float = 0.0
    _expressions: int = 0
    _steps: int = 0

    def compile(self, pattern: str, *, field: str, whole: bool = False) -> Expression:
        """Compile a publisher's expression; ``whole`` takes it as it is, else PEFT's ``(.*\\.)?(...)$`` is put around.

        Raises:
            InvalidAdapterError: ``bad_config``, for a pattern that is malformed, too large or one too many.
        """
        start = time.thread_time()
        try:
            compiled = self._compile(pattern, whole=whole)
        except (PatternFaultError, regex.error, OverflowError, RecursionError) as problem:
            why = str(problem)[:200]
            raise InvalidAdapterError(
                f"{field} holds the pattern {shown(pattern)}, which is refused: {why}. Name the modules in full."
            ) from None
        self.charge(start, pattern, field)
        return Expression(pattern, field, compiled, self, whole)

    def _compile(self, pattern: str, *, whole: bool) -> regex.Pattern[str]:
        self._expressions += 1
        if self._expressions > MAX_EXPRESSIONS:
            raise PatternFaultError(f"more than {MAX_EXPRESSIONS} patterns of the adapter are not plain names")
        self._steps += check(pattern, whole=whole)
        if self._steps > MAX_STEPS:
            raise PatternFaultError(f"the patterns of the adapter come to more than {MAX_STEPS} steps")
        compiled = regex.compile(pattern if whole else rf"(.*\.)?({pattern})$", regex.V0, cache_pattern=False)
        regex.purge()  # it remembers the text of every pattern that it has seen, without end
        return compiled

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.seconds - self._used

    def charge(self, start: float, pattern: str, field: str) -> None:
        """Count the time since ``start`` (of `time.thread_time`).

        Raises:
            InvalidAdapterError: ``bad_config``, naming the pattern, when no time is left.
        """
        self._used += time.thread_time() - start
        if self._used >= self.seconds:
            raise InvalidAdapterError(
                f"{field} holds the pattern {shown(pattern)}, which takes too long to match (more than "
                f"{self.seconds:g} seconds for the checkpoint). Name the modules in full instead.",
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
        """The match at the start of ``name`` (over all of it for a pattern taken as a whole).

        Raises:
            InvalidAdapterError: ``bad_config``, when no time is left, or for a name outside ASCII and a pattern that
                asks for the class or the case of letters, where `re`, which PEFT uses, and `regex` differ.
        """
        if not name.isascii() and _LETTERS.search(self.pattern):
            raise InvalidAdapterError(
                f"{self.field} holds the pattern {shown(self.pattern)}, which programs match differently with the "
                f"module {shown(name)}. Name the modules in full."
            )
        match = self._compiled.fullmatch if self._whole else self._compiled.match
        while True:
            start = time.thread_time()
            try:
                found = match(name, timeout=self._budget.left)
            except TimeoutError:  # regex counts the time of all threads: the budget shows whether it was this one's
                self._budget.charge(start, self.pattern, self.field)
                continue
            self._budget.charge(start, self.pattern, self.field)
            return found


def ends(name: str) -> Iterator[str]:
    """The name and every end of it that begins after a dot, longest first."""
    yield name
    at = name.find(".")
    while at >= 0:
        yield name[at + 1 :]
        at = name.find(".", at + 1)


@dataclass(slots=True)
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
    """``rank_pattern`` or ``alpha_pattern``, ready to look up the value of a module."""

    def __init__(self, patterns: Mapping[str, Value], *, field: str, budget: PatternBudget) -> None:
        """Read the keys.

        Raises:
            InvalidAdapterError: ``bad_config``, for keys that are malformed or take too long to match.
        """
        self.field = field
        self._patterns = dict(patterns)
        self._keys = tuple(patterns)
        self._budget = budget
        self._shapes: dict[tuple[int, bool], dict[tuple[int, ...], _Shape]] = {}
        self._expressions: list[tuple[int, Expression]] = []
        self._used: set[int] = set()
        self._shape_count = 0
        for place, key in enumerate(self._keys):
            if len(key) <= MAX_PLAIN and _PLAIN.fullmatch(key):
                self._add_plain(place, key)
            else:
                self._expressions.append((place, budget.compile(key, field=field)))

    def _add_plain(self, place: int, key: str) -> None:
        anchored = key.startswith("^")
        pieces = key[anchored:] if "\\" not in key else re.findall(r"\\?.", key[anchored:])
        wild = tuple([at for at, piece in enumerate(pieces) if piece == "."]) if "." in pieces else ()
        text = "".join([piece[-1] for piece in pieces]) if isinstance(pieces, list) else pieces
        shapes = self._shapes.setdefault((len(text), anchored), {})
        shape = shapes.get(wild) or self._new_shape(shapes, wild, key)
        shape.keys.setdefault(text, []).append(place)

    def _new_shape(self, shapes: dict[tuple[int, ...], _Shape], wild: tuple[int, ...], key: str) -> _Shape:
        self._shape_count += 1
        if self._shape_count > MAX_SHAPES:
            raise InvalidAdapterError(
                f"{self.field} holds more than {MAX_SHAPES} keys with dots at different places, the last {shown(key)}, "
                "which takes too long to match. Name the modules in full."
            )
        shapes[wild] = shape = _Shape(wild)
        return shape

    def matches(self, name: str) -> list[int]:
        """Places of all keys that match, in file order.

        Raises:
            InvalidAdapterError: ``bad_config``, for keys that take too long, or when too many match.
        """
        found = self._plain_matches(name) if self._shapes else []
        for place, expression in self._expressions:
            if expression.match(name):
                found.append(place)
        if len(found) > MAX_MATCHES:
            raise InvalidAdapterError(
                f"{self.field} has {len(found)} keys that match the module {shown(name)}, at most {MAX_MATCHES} are "
                "expected. Give each module one key."
            )
        return sorted(found)

    def _plain_matches(self, name: str) -> list[int]:
        """Names of modules share a few shapes, and looking these up is free: their number is that of the modules."""
        found: list[int] = []
        free, start = _FREE_SHAPES, 0.0
        for end in ends(name):
            for anchored in (False, True) if end is name else (False,):
                shapes = self._shapes.get((len(end), anchored))
                if not shapes:
                    continue
                free -= len(shapes)
                if free < 0 and not start:
                    start = time.thread_time()
                for shape in shapes.values():
                    found.extend(shape.keys.get(shape.masked(end), ()))
        if start:
            self._budget.charge(start, self._keys[found[0] if found else 0], self.field)
        return found

    def resolve(self, name: str) -> tuple[Value | None, tuple[str, ...]]:
        """The value for a module (None: no key matches) and all keys that match, the one that rules first.

        A name that no key matches as a pattern may still be a key as it is (PEFT looks it up in the end): ``a+b``.
        """
        found = self.matches(name)
        if not found and name in self._patterns:
            found = [self._keys.index(name)]
        self._used.update(found)
        if not found:
            return None, ()
        keys = tuple(self._keys[place] for place in found)
        return self._patterns[keys[0]], keys

    def conflict(self, keys: Iterable[str]) -> bool:
        """Whether keys of this map have different values."""
        return len({self._patterns[key] for key in keys}) > 1

    @property
    def unused(self) -> tuple[str, ...]:
        """Keys that matched no module queried so far."""
        return tuple(key for place, key in enumerate(self._keys) if place not in self._used)
