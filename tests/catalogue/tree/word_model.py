"""What words of a search mean, said in plain Python over what a registry shows: the other side of comparisons.

Words are given as a list and typed by `typed`; nothing here reads what was typed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

from registry.schemas import RevisionSummary


def typed(words: Sequence[str]) -> str:
    """Words and phrases as somebody types them."""
    return "  ".join(f'"{word}"' for word in words)


def has_word(one: RevisionSummary, word: str, cards: Mapping[str, str]) -> bool:
    """Whether a revision has a word as it is; of one or two letters, as a whole name or tag."""
    word = word.lower()
    if len(word) <= 2:
        return word in one.path.split("/") or word in one.tags
    own = [f"/{one.path}/", one.author, one.message, *(f"/{one.path}@{tag}@" for tag in one.tags)]
    own += [*one.metrics, *one.annotations, *one.annotations.values(), cards.get(one.path, "")]
    return any(word in text.lower() for text in own)


def is_near(one: RevisionSummary, word: str) -> bool:
    """Whether a name, a tag or the author of a revision, or a part of one, is one edit away from a word."""
    if len(word) < 4:
        return False
    names = [*one.path.split("/"), *one.tags, one.author]
    parts = [*names, *(part for name in names for part in re.split(r"[-_. ]", name))]
    return any(edits(part.lower(), word.lower()) == 1 for part in parts)


@cache
def edits(one: str, other: str) -> int:
    """How many letters are added, left out, replaced or exchanged with the next, from one word to another."""
    if not one or not other:
        return len(one) + len(other)
    steps = [edits(one[1:], other) + 1, edits(one, other[1:]) + 1, edits(one[1:], other[1:]) + (one[0] != other[0])]
    if one[:2] == other[1::-1] and len(one) > 1 and len(other) > 1:
        steps.append(edits(one[2:], other[2:]) + 1)
    return min(steps)


def with_words(
    found: Sequence[RevisionSummary], words: Sequence[str], cards: Mapping[str, str]
) -> list[RevisionSummary]:
    """Those of some revisions that have all words; where none has, what is near counts too."""
    exact = [one for one in found if all(has_word(one, word, cards) for word in words)]
    if exact or not words:
        return exact
    return [one for one in found if all(has_word(one, word, cards) or is_near(one, word) for word in words)]
