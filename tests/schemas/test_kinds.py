"""The table of kinds: every kind has its row, and takes and refuses what the row says.

How parents are known, in words: for each word that the documentation lists.
"""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest

from registry.cli.options import Kind
from registry.errors import UsageError
from registry.schemas import ArtifactKind, Options
from registry.schemas.artifacts import BASE_KIND, KINDS, OPTIONS, TRAINED_ON, check_options
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
from registry.schemas.protocol import VIEWS
from tests.root import ROOT

GIVEN: dict[str, Any] = {"since": "tiny/a@1", "dtype": "bf16", "rank": 2, "max_error": 0.1, "uniform": True}
GIVEN["onto"] = "trained"
GIVEN["min_fidelity"] = 0.5
GIVEN["layout"] = "comfyui"
GIVEN["dense_as_diff"] = True
GIVEN["plain"] = True
GIVEN["weights"] = "style=0.8"
"""A value for each option."""

TAKEN: dict[str, set[str]] = {"published": set(), "lora": set(GIVEN) - {"onto", "min_fidelity"}}
TAKEN["merged"] = {"dtype", "onto", "min_fidelity", "weights"}
ABOUT_MERGED = "{flag} needs --as merged, not --as {kind}: it says what the adapters are merged onto."
ABOUT_COMPOSED = "{flag} needs --as lora, not --as {kind}: it applies to composed adapters."


def test_every_kind_has_a_row() -> None:
    kinds = set(get_args(ArtifactKind))
    assert set(KINDS) == kinds == set(TAKEN)
    assert set(get_args(Kind)) == kinds
    assert all(row.name == name for name, row in KINDS.items())


def test_each_kind_has_a_view() -> None:
    assert VIEWS == {"hf": "merged", "hf-lora": "lora", "hf-published": "published"}


def test_rows_say_what_the_code_relies_on() -> None:
    assert KINDS[BASE_KIND].is_verbatim
    assert KINDS[TRAINED_ON].is_model
    for row in KINDS.values():
        assert not (row.is_model and row.is_composed)
        assert not row.on_base_dir or row.is_model
        assert set(row.refuses) <= set(OPTIONS)


def test_the_options_are_those_of_the_schema() -> None:
    assert set(OPTIONS) == set(GIVEN)


@pytest.mark.parametrize("option", GIVEN)
@pytest.mark.parametrize("kind", TAKEN)
def test_a_kind_takes_or_refuses_an_option_as_its_row_says(kind: ArtifactKind, option: str) -> None:
    taken = option in TAKEN[kind]
    assert (option in KINDS[kind].takes) == taken
    with_it: dict[str, dict[str, Any]] = {
        "min_fidelity": {"dtype": "fp8"},
        "dense_as_diff": {"layout": "comfyui"},
        "plain": {"max_error": 0.5},
    }
    beside = with_it.get(option, {}) if taken else {}
    options = Options(kind=kind, **{option: GIVEN[option]}, **beside)
    if taken:
        check_options(options)
        return
    with pytest.raises(UsageError) as caught:
        check_options(options)
    flag = f"--{option.replace('_', '-')}"
    flag = "--weight" if option == "weights" else flag
    stored = f"{flag} can't be given with --as published: these are the bytes as they were published."
    sentence = ABOUT_MERGED if option in ("onto", "min_fidelity") else ABOUT_COMPOSED
    assert str(caught.value) == (stored if option in ("dtype", "weights") else sentence.format(flag=flag, kind=kind))


@pytest.mark.parametrize("kind", TAKEN)
def test_a_kind_alone_is_no_contradiction(kind: ArtifactKind) -> None:
    check_options(Options(kind=kind))


def test_options_are_checked_in_the_order_of_the_row() -> None:
    with pytest.raises(UsageError, match=r"^--dtype "):
        check_options(Options(kind="published", since="tiny/a@1", dtype="bf16"))
    with pytest.raises(UsageError, match=r"^--since "):
        check_options(Options(kind="merged", since="tiny/a@1", rank=2, uniform=True))


def test_only_what_is_merged_takes_base_weights_of_a_client() -> None:
    for kind, row in KINDS.items():
        if row.on_base_dir:
            assert kind == "merged"
            row.check_base_dir()
        else:
            with pytest.raises(UsageError, match=f"--base-dir needs --as merged, not --as {kind}: "):
                row.check_base_dir()


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
