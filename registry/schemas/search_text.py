"""The grammar of what people type to search: words, "exact phrases", and filters, named as the command's options.

    sweep run tag:prod author:"Ana Maria" acc>0.8 rank<=16 behind since:30d llama/support@3

A word has to be found somewhere in a name, a tag, the author, the message, the name of a metric, an annotation or the
edited card; one of one or two letters has to be a whole name or tag. All words and filters have to be met.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, get_args

from registry.errors import UsageError
from registry.schemas.parents import LEVELS
from registry.schemas.statistics import StatisticName

MOST_WORDS: Final = 16
SHORT: Final = 2
"""Letters of a word up to which it has to be a whole name or tag."""

FILTERS: Final = (
    "tag", "author", "base", "path", "depth", "parent-known-by", "rank", "metric", "stat", "target", "since",
)  # fmt: skip
"""Filters with a value, as the options of the command are called."""
FLAGS: Final = ("behind", "retracted")
"""Filters that are one word; to look for the word itself, it is quoted."""

_TOKEN: Final = re.compile(r'(?:[^\s"]|"[^"]*")+')
_FILTER: Final = re.compile(r"([A-Za-z][A-Za-z_-]*):(.*)", re.DOTALL)
_COMPARED: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63})(<=|>=|=>|=<|==|<|>|=|≤|≥)(.*)", re.DOTALL)
_SIGN: Final = re.compile(r"[<>=≤≥]+")
_NUMBERED: Final = re.compile(r"(.*[^@/])@([1-9][0-9]{0,17})")
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{8,64})")


@dataclass(frozen=True)
class Filter:
    """A filter that was typed: the option of the command, or ``number`` or ``digest`` of a reference."""

    name: str
    value: str = ""


@dataclass(frozen=True)
class Typed:
    """What was typed: all words and phrases have to be found, and all filters to be met."""

    words: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = field(default=())


def parse(text: str) -> Typed:
    """Read what was typed.

    Raises:
        UsageError: a quotation has no end, a filter is unknown or has no value, or there are too many words; each
            with what to write instead. What a filter's value may be, the filter itself says.
    """
    words: list[str] = []
    filters: list[Filter] = []
    for token in _tokens(text):
        found, word = _read(token)
        filters += found
        if word and word not in words:
            words.append(word)
    if len(words) > MOST_WORDS:
        raise UsageError(f"The search has {len(words)} words: at most {MOST_WORDS} are looked for together.")
    return Typed(tuple(words), tuple(filters))


def _tokens(text: str) -> Iterator[str]:
    if text.count('"') % 2:
        raise UsageError(f"The search {text!r} has a quotation mark without another: a phrase has one at both ends.")
    for token in _TOKEN.findall(text):
        if _SIGN.fullmatch(token):
            raise UsageError(f"In the search {text!r}, {token!r} stands alone: write a filter without spaces, acc>0.8.")
        yield token


def _read(token: str) -> tuple[list[Filter], str]:
    """The filters of a token, and the word that it is besides."""
    plain = token.replace('"', "")
    if token.startswith('"'):
        return [], plain
    if (found := _filter(token, plain)) is not None:
        return [found], ""
    numbered = _NUMBERED.fullmatch(plain)
    return ([], plain) if numbered is None else ([Filter("number", numbered[2])], numbered[1])


def _filter(token: str, plain: str) -> Filter | None:
    """The filter that a token is."""
    for name, words in ((None, FLAGS), ("parent-known-by", LEVELS)):
        if plain in words:
            return Filter(plain) if name is None else Filter(name, plain)
    if _DIGEST.fullmatch(plain):
        return Filter("digest", plain)
    named = _FILTER.fullmatch(token)
    found = None if named is None else _named(named[1], named[2].replace('"', ""), token)
    compared = None if found is not None else _COMPARED.fullmatch(plain)
    return found if compared is None else _compared(compared[1], plain)


def _named(name: str, value: str, token: str) -> Filter | None:
    """The filter that is called so; None: the token is a word, as an address is one."""
    name = name.replace("_", "-").lower()
    if name in FILTERS:
        if not value:
            raise UsageError(f"The filter {token!r} has no value: write it behind the colon, or quote it as a word.")
        return Filter(name, value)
    if name in FLAGS:
        raise UsageError(f"The filter {token!r} takes no value: write {name} alone.")
    near = difflib.get_close_matches(name, FILTERS, n=1, cutoff=0.75)
    if near and value:
        raise UsageError(
            f"There is no filter {name!r}: write {near[0]}:{value}, or quote {token!r} to look for it as a word."
        )
    return None


def _compared(name: str, token: str) -> Filter:
    """``rank<=16``, ``rank95<8`` or ``acc>0.8``: of the rank, of a statistic, of a metric."""
    if name == "rank":
        return Filter("rank", token.removeprefix(name))
    return Filter("stat" if name in get_args(StatisticName) else "metric", token)


def quoted(word: str) -> str:
    """A word or a value, as it is typed."""
    return f'"{word}"' if parse(word) != Typed((word,)) else word


def typed(name: str, value: str) -> str:
    """A filter, as it is typed."""
    return f'{name}:"{value}"' if re.search(r"\s", value) else f"{name}:{value}"
