"""Which regular expressions of a publisher are compiled at all.

A pattern is refused before it reaches a compiler when it could be a bomb (the `regex` package writes out repeats: 90
nested ``+`` are 2^90 nodes) or when `re`, which PEFT uses, and `regex`, which can be stopped, read it differently
(``{e<=1}`` is fuzzy matching only in `regex`, nested sets and set operators are announced for `re`).
What is left is the common language: groups, alternatives, sets, anchors, escapes of ASCII, bounded repeats.
"""

from __future__ import annotations

import re
from typing import Final

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
