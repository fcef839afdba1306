"""The table of kinds: every kind has its row, and takes and refuses what the row says."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from registry.cli.options import FloatType, Kind
from registry.errors import UsageError
from registry.schemas import ArtifactKind, Dtype, Options
from registry.schemas.artifacts import BASE_KIND, KINDS, OPTIONS, TRAINED_ON, check_options
from registry.schemas.protocol import VIEWS

GIVEN: dict[str, Any] = {"since": "tiny/a@1", "dtype": "bf16", "rank": 2, "max_error": 0.1, "uniform": True}
GIVEN["onto"] = "trained"
GIVEN["min_fidelity"] = 0.5
"""A value for each option."""

TAKEN: dict[str, set[str]] = {"published": set(), "lora": set(GIVEN) - {"onto", "min_fidelity"}}
TAKEN["merged"] = {"dtype", "onto", "min_fidelity"}
ABOUT_MERGED = "{flag} needs --as merged, not --as {kind}: it says what the adapters are merged onto."
ABOUT_COMPOSED = "{flag} needs --as lora, not --as {kind}: it applies to composed adapters."


def test_every_kind_has_a_row() -> None:
    kinds = set(get_args(ArtifactKind))
    assert set(KINDS) == kinds == set(TAKEN)
    assert all(row.name == name for name, row in KINDS.items())
    assert {member.value for member in Kind} == kinds
    assert {member.value for member in FloatType} == set(get_args(Dtype))


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
    beside: dict[str, Any] = {"dtype": "fp8"} if option == "min_fidelity" and taken else {}
    options = Options(kind=kind, **{option: GIVEN[option]}, **beside)
    if taken:
        check_options(options)
        return
    with pytest.raises(UsageError) as caught:
        check_options(options)
    flag = f"--{option.replace('_', '-')}"
    stored = "--dtype can't be given with --as published: these are the bytes as they were published."
    sentence = ABOUT_MERGED if option in ("onto", "min_fidelity") else ABOUT_COMPOSED
    assert str(caught.value) == (stored if option == "dtype" else sentence.format(flag=flag, kind=kind))


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
