"""Which regular expressions of a publisher are compiled at all.

A pattern is refused before it reaches a compiler when it could be a bomb (the `regex` package writes out repeats: 90
nested ``+`` are 2^90 nodes) or when `re`, which PEFT uses, and `regex`, which can be stopped, read it differently
(``{e<=1}`` is fuzzy matching only in `regex`, nested sets and set operators are announced for `re`).
What is left is the common language: groups, alternatives, sets, anchors, escapes of ASCII, bounded repeats.
"""

from __future__ import annotations

import re
from typing import Final

MAX_EXPANDED: Final = 65_536
"""Steps of a pattern after its repeats are written out."""
MAX_GROUPS_DEEP: Final = 40

_TOKEN: Final = re.compile(
    r"""(?P<escape>\\.)
      | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
      | (?P<open>\((?:\?(?:P<\w+>|P=|<?[=!]|>|[aims-]*:|\(\w+\)|[aims]+(?=\))))?(?!\?))
      | (?P<close>\))
      | (?P<repeat>(?:\{(?P<low>\d*)(?P<range>,(?P<high>\d*))?\}|[*+?])[?+]?)
      | (?P<bar>\|)
      | (?P<other>[^\\\[\](){}*+?|])""",
    re.VERBOSE | re.ASCII,
)
_CODE_POINTS: Final = re.compile(r"\\[xuUN0-7]")
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
    if not (pattern.isascii() and pattern.isprintable()):
        raise PatternFaultError("it has characters other than printable ASCII")
    if _CODE_POINTS.search(pattern.replace("\\\\", "")):
        raise PatternFaultError("it names characters or groups by number")
    steps = _steps(pattern)
    try:
        re.compile(pattern if whole else rf"(.*\.)?({pattern})$")  # what PEFT would meet
    except (re.error, OverflowError, RecursionError) as problem:
        raise PatternFaultError(f"it is not a regular expression ({problem})") from None
    return steps


def _steps(pattern: str) -> int:
    totals, last, at = [0], 0, 0
    endless, last_endless = [False], False  # whether an open group, or what stands last, holds a repeat without end
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            raise PatternFaultError(f"the character {pattern[at]!r} at position {at} has no plain meaning there")
        at = token.end()
        kind = token.lastgroup
        if kind == "open":
            totals.append(0)
            endless.append(False)
            last, last_endless = 0, False
            if len(totals) > MAX_GROUPS_DEEP:
                raise PatternFaultError(f"its groups are nested deeper than {MAX_GROUPS_DEEP} levels")
        elif kind == "close":
            if len(totals) == 1:
                raise PatternFaultError(f"the ')' at position {at - 1} closes nothing")
            last, last_endless = totals.pop() + 1, endless.pop()
            totals[-1] += last
            endless[-1] |= last_endless
        elif token["repeat"]:
            grown = last * _copies(token["repeat"], token["low"], token["high"])
            if _is_endless(token):
                if last_endless:
                    raise PatternFaultError(
                        "it repeats what holds a repeat, which takes PEFT exponential time to match"
                    )
                endless[-1] = last_endless = True
            totals[-1] += grown - last
            last = grown
        else:
            last, last_endless = _set_steps(token[0]) if kind == "set" else 1, False
            totals[-1] += last
        if totals[-1] > MAX_EXPANDED:
            raise PatternFaultError(f"its repeats come to more than {MAX_EXPANDED} steps")
    return sum(totals)


def _is_endless(token: re.Match[str]) -> bool:
    """A repeat without end, or so long that it is as slow."""
    if token["repeat"][0] in "*+" or (token["range"] and not token["high"]):
        return True
    return any(int(digits[:9]) >= 10 for digits in (token["low"], token["high"]) if digits)


def _set_steps(text: str) -> int:
    inner = text[1:-1]
    if any(operator in inner for operator in _SET_OPERATORS):
        raise PatternFaultError(f"the set {text!r} holds a set or an operator on sets")
    return len(text)


def _copies(repeat: str, low: str | None, high: str | None) -> int:
    """How often a compiler may write out what is repeated."""
    if repeat[0] in "*?":
        return 1
    if repeat[0] == "+":
        return 2
    numbers = [int(digits[:9]) for digits in (low, high) if digits]
    if not numbers:
        raise PatternFaultError(f"the repeat {repeat!r} has no number")
    return max(numbers) + 1
