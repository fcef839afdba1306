"""Patterns of strangers mean here what they mean in PEFT, or are refused; none takes long."""

from __future__ import annotations

import json
import re
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint.coverage import name_test
from registry.tensors.checkpoint.patterns import SECONDS, PatternBudget, PatternMap
from registry.tensors.checkpoint.reading import parse_config
from tests.fuzz.effort import LONG, QUICK, said_well
from tests.fuzz.pattern_texts import BOMBS, NAMES, PATTERNS, PLAIN
from tests.fuzz.peft_source import functions

KEY = functions(("utils/other.py", "get_pattern_key"))["get_pattern_key"]
TARGETS_OF_PEFT = functions(
    ("utils/other.py", "match_target_against_key"),
    ("tuners/tuners_utils.py", "_ExcludedModule"),
    ("tuners/tuners_utils.py", "check_target_module_exists"),
)["check_target_module_exists"]


def compare(keys: list[str], names: list[str]) -> None:
    patterns = {key: place for place, key in enumerate(keys)}
    try:
        ours = PatternMap(patterns, field="rank_pattern", budget=PatternBudget())
        found = {name: ours.resolve(name)[0] for name in names}
    except InvalidAdapterError as problem:
        said_well(problem)
        return
    for name in names:
        assert found[name] == patterns.get(KEY(patterns, name)), name


@settings(QUICK, max_examples=300)
@given(st.lists(PATTERNS, min_size=1, max_size=2), st.lists(NAMES, min_size=1, max_size=4))
@example(["aa*[]||"], ["a"])  # a bracket that comes first in a set does not end it
@example(["a[]b]"], ["ab", "a]"])
@example(["a[^]b]"], ["ac", "a]"])
def test_the_key_that_rules(keys: list[str], names: list[str]) -> None:
    compare(keys, names)


@settings(QUICK)
@given(st.lists(PLAIN | NAMES, max_size=8), st.lists(NAMES | PLAIN, min_size=1, max_size=4))
@example(["a+b"], ["a+b", "x.a+b"])
def test_the_plain_name_that_rules(keys: list[str], names: list[str]) -> None:
    compare(keys, names)


@pytest.mark.long
@settings(LONG)
@given(st.lists(PATTERNS | PLAIN, min_size=1, max_size=3), st.lists(NAMES | PLAIN, min_size=1, max_size=6))
def test_the_key_that_rules_long(keys: list[str], names: list[str]) -> None:
    compare(keys, names)


UNUSUAL = ["\u017f", "\u212a.q", "\u0130", "\u0131", "ß", "é.q", "q.\u0301", "\u2163.q", "\u0663.q", "a\u200bb", "i"]


@settings(QUICK)
@given(
    PATTERNS | st.sampled_from([r"\w+", r"(?i:k|s|i)", r".*\b.", r"[^\W_]+", r"\d\.q", ".*q", "[^a]+"]),
    st.sampled_from(UNUSUAL),
)
def test_names_outside_ascii(key: str, name: str) -> None:
    compare([key], [name])


PARTS = st.sampled_from(["layers", "a", "q_proj", "a.q_proj", "layers.0.q_proj", "b1", "0", "q", ""])
TARGETS = st.fixed_dictionaries(
    {"target_modules": st.lists(PARTS, max_size=4) | PATTERNS},
    optional={
        "exclude_modules": st.none() | st.lists(PARTS, max_size=2) | PATTERNS,
        "layers_to_transform": st.none() | st.integers(0, 2) | st.lists(st.integers(0, 11), max_size=2),
        "modules_to_save": st.none() | st.lists(PARTS.filter(bool), max_size=2),
        "layers_pattern": st.none() | PARTS | st.lists(PARTS | PATTERNS, max_size=2),
    },
)


def compare_targets(fields: dict[str, Any], names: list[str]) -> None:
    document = {"peft_type": "LORA", "r": 4, "lora_alpha": 8} | fields
    try:
        config = parse_config(json.dumps(document).encode())
        test = name_test(config, PatternBudget())
        ours = {name: bool(test(name)) for name in names}
    except InvalidAdapterError as problem:
        said_well(problem)
        return
    asked = SimpleNamespace(
        modules_to_save=None, target_parameters=None, exclude_modules=None, layers_to_transform=None
    )
    asked.layers_pattern = None
    asked.__dict__.update(fields)
    for name in names:
        try:
            expected = TARGETS_OF_PEFT(asked, name)
        except (re.error, UnboundLocalError, ValueError, IndexError):
            assume(False)
        assert ours[name] is (bool(expected) and "Excluded" not in type(expected).__name__), name


@settings(QUICK, max_examples=200)
@given(TARGETS, st.lists(NAMES, min_size=1, max_size=4))
def test_the_modules_that_are_targeted(fields: dict[str, Any], names: list[str]) -> None:
    compare_targets(fields, names)


@pytest.mark.long
@settings(LONG)
@given(TARGETS, st.lists(NAMES, min_size=1, max_size=4))
def test_the_modules_that_are_targeted_long(fields: dict[str, Any], names: list[str]) -> None:
    compare_targets(fields, names)


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("whole", [False, True])
def test_a_bomb_is_matched_or_refused(bomb: str, whole: bool) -> None:
    """That it happens in time is for `test_bounds` to measure; this says that it happens at all, and well."""
    budget = PatternBudget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            expression = budget.compile(bomb, field="target_modules", whole=whole)
            for name in ("model.layers.0.self_attn.q_proj", "a" * 60, "a." * 30):
                expression.match(name)
        except InvalidAdapterError as problem:
            said_well(problem, "bad_config")
    assert budget.left <= SECONDS
