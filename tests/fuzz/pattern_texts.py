"""Regular expressions and module names for fuzzing: the language that `re` and `regex` share, and its borders."""

from __future__ import annotations

from random import Random
from typing import Final

from hypothesis import strategies as st

_LITERALS: Final = "abqQ._01-"
_ESCAPES: Final = (
    r"\.", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", r"\b", r"\B", r"\A", r"\Z", r"\-", r"\_", r"\n", r"\<", r"\h",
    r"\K", r"\G", r"\m", r"\z", r"\/", r"\^", r"\$", r"\{", r"\X", r"\R", r"\L<a>", r"\p", r"\8", r"\#", r"\~",
    r"\x41", r"\1",
)  # fmt: skip
_SETS: Final = (
    "[qv]", "[^q]", "[a-z_]", "[0-9.]", "[]a]", "[^]a]", r"[\w.]", r"[\d-]", r"[^\W_]", r"[\b]", r"[a\-z]", "[a-]",
    "[-a]", r"[\]a]", "[$^]", "[a^]", r"[\s\S]", "[A-z]", r"[\.-0]", "[|a]", "[&a]", "[~a]", "[)a]", "[?*+]", "[{}]",
    "[ a]",
    "[a:b]", "[:a:]", r"[\\a]", "[^^]", r"[^\n]", r"[a-\d]", "[--0]", "[a||b]", "[a&&b]", "[[a]]", "[a", "[]",
)  # fmt: skip
_OPENINGS: Final = (
    "(", "(", "(", "(?:", "(?:", "(?P<n>", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:", "(?s:", "(?a:", "(?m:",
    "(?ai:", "(?i-s:", "(?(n)", "(?(1)", "(?#", "(?R", "(?x:", "(?<n>", "(?|", "(?P>n",
)  # fmt: skip
_REPEATS: Final = ("*", "+", "?", "{2}", "{1,3}", "{,2}", "{2,}", "{0}", "{0,1}", "{,}", "{3}", "{02}", "{}", "{e<=1}")
_SUFFIXES: Final = ("", "", "", "?", "+")
_FLAGS: Final = ("(?i)", "(?s)", "(?a)", "(?m)", "(?ai)", "(?x)", "(?L)", "(?u)", "(?b)", "(?V1)")
_SEGMENTS: Final = ("a", "q", "aa", "ab", "b1", "layers", "0", "10", "q_proj", "Q", "a-b", "a_1")


def pattern_of(random: Random, depth: int = 0) -> str:
    """One random pattern; most are legal."""
    pieces = []
    for _ in range(random.choice([0, 1, 1, 2, 2, 3] if depth else [1, 2, 3, 4])):
        kind = random.random()
        if kind < 0.5 or depth > 3:
            piece = random.choice(_LITERALS)
        elif kind < 0.58:
            piece = random.choice(_ESCAPES)
        elif kind < 0.7:
            piece = random.choice(_SETS)
        elif kind < 0.75:
            piece = random.choice(("^", "$", "(?P=n)", "{", "]", " ", "#"))
        else:
            piece = random.choice(_OPENINGS) + pattern_of(random, depth + 1) + ")"
        if random.random() < 0.3:
            piece += random.choice(_REPEATS) + random.choice(_SUFFIXES)
        pieces.append(piece)
    text = "".join(pieces)
    if random.random() < 0.2:
        text += "|" + (pattern_of(random, depth + 1) if depth < 4 else "")
    if depth == 0 and random.random() < 0.03:
        text = random.choice(_FLAGS) + text
    return text


PATTERNS: Final = st.randoms(use_true_random=False).map(pattern_of)
NAMES: Final = st.lists(st.sampled_from(_SEGMENTS), min_size=1, max_size=5).map(".".join)
PLAIN: Final = st.lists(
    st.sampled_from(["a", "q", ".", r"\.", "-", r"\-", "_", "0", "b1"]), min_size=1, max_size=6
).map("".join)
"""Names with dots, which are wildcards, and with escaped ones."""

BOMBS: Final = {
    "nested repeats": "([a-z_.0-9]+)+X",
    "nested through an alternative": "(?:a|b*)*X",
    "repeat of an optional repeat": "(?:a*)?{2,}X",
    "counts with leading zeros": "(?:(?:a{00000000001000}){00000000001000}){00000000001000}",
    "nested with leading zeros": "(?:a*){00000000001000}X",
    "five thousand digits": "a{" + "0" * 5000 + "1}",
    "empty groups, repeated": "(){8000}",
    "empty groups, written out": "()" * 4000,
    "nested empty groups": "((?:))" * 2000,
    "many repeats": ".*" * 400 + "X",
    "many groups of repeats": "(.*)" * 200 + "X",
    "optional letters": "a?" * 800 + "a" * 800,
    "alternatives of prefixes": "(?:" + "|".join("a" * size for size in range(1, 60)) + "){9}X",
    "look-ahead in a repeat": "(?:(?=.*a.*b.*c)a){9}" * 20,
    "back references": "(?P<n>.*)(?P=n)(?P=n)(?P=n)(?P=n)X",
    "conditions": "(?P<n>a)?" + "(?(n)a|b)" * 900 + "X",
    "question marks": "a" + "?" * 900_000,
    "a set without end": "[" * 100_000,
    "a very long set": "[" + "a-z" * 290_000 + "]",
    "a very long name": "(?P<" + "n" * 900_000 + ">a)",
    "stars": "*" * 900_000,
    "bars": "|" * 900_000,
    "deep groups": "(" * 400_000 + "a" + ")" * 400_000,
    "one empty group too deep": "(" * 39 + ")" * 39,
    "long counts": "a{9}" * 1_000,
    "flags": "(?i)" * 200_000,
}  # fmt: skip
"""Patterns made to burn time or memory, each alone in one field of a file under 1 MB."""
