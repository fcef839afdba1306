"""PEFT's patterns: the same answers as `re` gives PEFT, and no pattern that takes long."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint.patterns import (
    MAX_EXPANDED,
    MAX_EXPRESSIONS,
    MAX_LENGTH,
    MAX_MATCHES,
    PatternBudget,
    PatternMap,
)

NAMES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.11.self_attn.v_proj",
    "model.layers.1.mlp.up_proj",
    "q_proj",
    "modelXlayers.0",
    "lm_head",
]


def resolve(
    patterns: dict[str, int], name: str, budget: PatternBudget | None = None
) -> tuple[int | None, tuple[str, ...]]:
    return PatternMap(patterns, field="rank_pattern", budget=budget or PatternBudget()).resolve(name)


def as_peft(patterns: dict[str, int], name: str) -> list[str]:
    return [key for key in patterns if re.match(rf"(.*\.)?({key})$", name)]


@pytest.mark.parametrize(
    "key",
    [
        "q_proj", "roj", "proj", "^q_proj", "^model.layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj",
        "model.layers.0", r"^model\.layers\.0\.self_attn\.q_proj", ".q_proj", "self_attn.q_proj",
        "model.layers.0|lm_head",
        r".*\.(q|v)_proj", r"layers\.[01]\..*", r"(?:q|k)_proj", r"(?i:Q_PROJ)", r"\bq_proj", r"layers.\d+.mlp.up_proj",
        r"layers.\d{2}.*", r"(?P<a>q)_proj", "(?!lm)[a-z]+_head", "", "q_proj$", r"\w+_proj", "a++b",
        "(?>q|v)_proj", r"layers\.1+\..*",
    ],
)  # fmt: skip
def test_one_key_matches_what_it_matches_in_peft(key: str) -> None:
    for name in NAMES:
        assert list(resolve({key: 7}, name)[1]) == as_peft({key: 7}, name), (key, name)


def test_the_first_key_of_the_file_rules() -> None:
    patterns = {"v_proj": 2, "layers.11.self_attn.v_proj": 40, r".*v_proj": 3}
    assert resolve(patterns, NAMES[2]) == (2, tuple(patterns))
    turned = dict(reversed(patterns.items()))
    assert resolve(turned, NAMES[2]) == (3, tuple(turned))
    assert resolve(patterns, "lm_head") == (None, ())


def test_unused_keys_are_known() -> None:
    patterns = PatternMap({"q_proj": 1, "roj": 2}, field="rank_pattern", budget=PatternBudget())
    patterns.resolve("a.q_proj")
    assert patterns.unused == ("roj",)


def test_a_key_for_each_of_many_modules() -> None:
    names = [f"model.layers.{layer}.self_attn.{leaf}_proj" for layer in range(600) for leaf in "qkvo"]
    patterns = PatternMap({name: at for at, name in enumerate(names)}, field="rank_pattern", budget=PatternBudget())
    assert [patterns.resolve(name) for name in names] == [(at, (name,)) for at, name in enumerate(names)]


BOMBS = {
    "catastrophic": "([a-z_.0-9]+)+X",
    "catastrophic star": "(x*)*y",
    "nested counts": "((a{1000}){1000}){1000}",
    "nested plus": "(?:" * 30 + "a|b" + "+)" * 30,
    "long count": "a{4294967294}",
    "huge count": "a{99999999999999999999}",
    "deep groups": "(" * 5000 + "a" + ")" * 5000,
    "fuzzy for regex only": "(?:q_proj){e<=2}",
    "set in a set": "[[:alpha:]]+",
    "set operator": "[a-z--b]+",
    "verbose": "(?x:a )",
    "comment": "(a)(?#x)+",
    "unbalanced": "a)|(b",
    "open": "(a",
    "set": "[a",
    "flag inside": "(?i)q",
    "recursion": "(?R)",
    "property": r"\p{L}",
    "back reference": r"(a)\1",
    "nothing to repeat": "*a",
    "repeat of a repeat": "a**",
    "not ascii": "é+",
    "newline": "a\n+",
    "name": r"\N{DIGIT ONE}",
    "lookbehind": "(?<=a*)b",
}


@pytest.mark.parametrize("pattern", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_and_dialects_are_refused_by_name(pattern: str) -> None:
    with pytest.raises(InvalidAdapterError, match="rank_pattern holds the pattern") as caught:
        resolve({pattern: 1}, "a" * 30)
    assert caught.value.code == "bad_config"
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a|b)" + "c" * MAX_LENGTH, f"more than {MAX_LENGTH} characters"),
        ("(?:" + "abcdefghij" * 9 + "){99}", f"come to more than {MAX_EXPANDED} steps"),
        ("a()b", "the group that ends at position 2 holds nothing"),
        ("(ab)?+c", "repeats a group possessively"),
        ("(ab){2}+c", "repeats a group possessively"),
        ("a{,}b", "has no number"),
        ("a{1234567890}", "a number of more than 9 digits"),
        ("(" * 41 + "a" + ")" * 41, "nested deeper than 40 levels"),
    ],
)
def test_why_a_pattern_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(InvalidAdapterError, match=why):
        resolve({pattern: 1}, "a" * 30)


def test_groups_as_deep_as_is_allowed() -> None:
    assert resolve({"(" * 40 + "a" + ")" * 40: 1}, "a")[0] == 1


def test_expressions_are_counted_over_all_patterns() -> None:
    budget = PatternBudget(seconds=60)
    PatternMap({f"a{at}|b": 1 for at in range(MAX_EXPRESSIONS)}, field="rank_pattern", budget=budget)
    with pytest.raises(InvalidAdapterError, match=f"more than {MAX_EXPRESSIONS} patterns of the adapter are not plain"):
        PatternMap({"c|d": 1}, field="alpha_pattern", budget=budget)


def test_keys_that_match_one_module_are_counted() -> None:
    patterns = {f"a|{at}": at for at in range(MAX_MATCHES + 1)}
    with pytest.raises(InvalidAdapterError, match=f"{MAX_MATCHES + 1} keys that match the module 'a'") as caught:
        resolve(patterns, "a")
    assert caught.value.code == "bad_config"
    del patterns["a|0"]
    assert resolve(patterns, "a")[0] == 1


@pytest.mark.parametrize("pattern", [r"\w+|x", r"(?i:a)|x"])
def test_a_name_that_programs_match_differently(pattern: str) -> None:
    assert resolve({pattern: 1}, "a")[0] == 1
    with pytest.raises(InvalidAdapterError, match="which programs match differently with the module"):
        resolve({pattern: 1}, "model.é")


def test_time_is_bounded_over_all_patterns() -> None:
    slow = "(a|a|b)" * 3 + "(?:a|a|aa){1,9}" * 6 + "X"
    with pytest.raises(InvalidAdapterError, match=r"takes too long to match .more than 0\.05"):
        resolve({slow: 1}, "a" * 60, budget=PatternBudget(seconds=0.05))


def test_steps_are_bounded_over_all_patterns() -> None:
    with pytest.raises(InvalidAdapterError, match="steps") as caught:
        resolve({f"[a-z]{{{900 + at}}}": 1 for at in range(60)}, "a")
    assert caught.value.code == "bad_config"


def dotted(count: int) -> dict[str, int]:
    """``count`` keys of 13 letters, the dots of each at other places."""
    return {f"{number:013b}".replace("0", ".").replace("1", "a"): number for number in range(1, count + 1)}


def test_dots_stand_at_a_bounded_number_of_places() -> None:
    name = "a" * 13
    assert set(resolve(dotted(60), name)[1]) == set(dotted(60))
    PatternMap(dotted(4096), field="rank_pattern", budget=PatternBudget())
    with pytest.raises(InvalidAdapterError, match="more than 4096 keys with dots at different places") as caught:
        PatternMap(dotted(4097), field="rank_pattern", budget=PatternBudget())
    assert caught.value.code == "bad_config"
    many_names = {f"model.layers.{layer}.experts.{expert}.up": 1 for layer in range(100) for expert in range(200)}
    found = PatternMap(many_names, field="rank_pattern", budget=PatternBudget())
    assert found.resolve("model.layers.7.experts.11.up")[0] == 1


PIECES = st.sampled_from(
    [
        *"qvk_.01^$|()*+?",
        "q_proj",
        "layers",
        r"\.",
        r"\d",
        r"\w",
        "[qv]",
        "[^q]",
        "{2}",
        "{1,}",
        "(?:",
        ".*",
        r"\b",
        "(?i:",
    ]
)


@settings(deadline=None)
@example("(.)(.*)$?", NAMES[0])
@given(st.lists(PIECES, max_size=9).map("".join), st.sampled_from(NAMES) | st.text("qv.p_01", max_size=12))
def test_a_pattern_means_what_it_means_in_peft_or_is_refused(key: str, name: str) -> None:
    code = "matched"
    try:
        assert list(resolve({key: 7}, name)[1]) == as_peft({key: 7}, name)
    except InvalidAdapterError as problem:
        code = problem.code
    assert code in ("matched", "bad_config")


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_pattern_or_refused(key: str) -> None:
    code = "matched"
    try:
        resolve({key: 7}, "model.layers.0.self_attn.q_proj")
    except InvalidAdapterError as problem:
        code = problem.code
    assert code in ("matched", "bad_config")
