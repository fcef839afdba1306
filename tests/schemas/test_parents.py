"""How parents are known, in words: for each word that the documentation lists."""

from __future__ import annotations

import re

import pytest

from registry.schemas.parents import (
    KNOWN_BY,
    LEVELS,
    PARENT_WORDS,
    POLICIES,
    Policy,
    accepted,
    in_short,
    known_by,
    level_of,
    strongest,
)
from tests.root import ROOT

_TABLE = re.compile(r"^\| `(\w+)` \| (\w+) \|", re.MULTILINE)


def test_each_word_is_documented_with_its_level() -> None:
    table = (ROOT / "docs" / "concepts.md").read_text().partition("| exact word | level |")[2].partition("\n\n")[0]
    assert dict(_TABLE.findall(table)) == {word: each.level for word, each in PARENT_WORDS.items()}
    assert all(re.fullmatch(KNOWN_BY, word) for word in PARENT_WORDS)
    assert len({each.clause for each in PARENT_WORDS.values()}) == len(PARENT_WORDS)


def test_what_is_inferred_says_so_and_is_never_more_than_assumed() -> None:
    for word in ("loaded", "cache", "assumed"):
        assert (level_of(word), known_by(word).startswith("assumed")) == ("assumed", True)
    assert [known_by(word) for word in PARENT_WORDS if level_of(word) == "proven" and "assumed" in known_by(word)] == []


def test_a_word_of_a_later_version_is_assumed() -> None:
    assert (known_by("of_a_later_version"), level_of("of_a_later_version")) == ("of_a_later_version", "assumed")
    assert not accepted("of_a_later_version", "stated")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_takes_levels_and_proven_also_what_a_person_gave(policy: Policy) -> None:
    levels = {"any": LEVELS, "stated": LEVELS[:2], "proven": LEVELS[:1]}[policy]
    for word in PARENT_WORDS:
        assert accepted(word, policy) == (level_of(word) in levels or word == "given"), word


def test_in_short_and_in_order() -> None:
    assert [in_short(word) for word in ("given", "receipt", "assumed")] == [
        "stated (given)",
        "proven (receipt)",
        "assumed",
    ]
    assert strongest(["loaded", "given", "receipt"]) == "receipt"
    assert strongest(["of_a_later_version", "assumed"]) == "assumed"
    levels = [LEVELS.index(level_of(word)) for word in PARENT_WORDS]
    assert levels == sorted(levels)  # the strongest first
