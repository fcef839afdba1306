"""Names of tensors from strangers: each is a part of one module and says so again, or is refused."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint.key_grammar import LEAD, PARAMETER, ParsedKey, parse_key
from registry.tensors.checkpoint.variants.table import TAILS
from tests.fuzz.effort import LONG, QUICK, said_well
from tests.fuzz.small_adapters import MODULES

ALIKE: Final = (
    "lora_\u0410.weight",
    "lora_A\u200b.weight",
    "\uff4cora_A.weight",
    "lora_A\u2024weight",
    "lora_A.weigh\u0442",
)
SEGMENTS: Final = st.one_of(
    st.sampled_from(["model", "layers", "0", "q_proj", "base_layer", "default", "modules_to_save", "original_module"]),
    st.sampled_from(["lora_A", "lora_B", "weight", "bias", "lora_", "lora_embedding_A", "token_adapter", "processor"]),
    st.sampled_from(["to_q_lora", "down", "up", "lora_down", "hada_w1_a", "unet", "lora_unet_a_b", "_lora", "", " "]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    st.sampled_from(
        ["\t", "\n", "\x1b[2J", "\x7f", "\u202e", "\u2028", "\u00a0", "\u0085", "é", "e\u0301", "a b", "\ufeff"]
    ),
)
NAMES: Final = st.one_of(
    st.tuples(st.lists(SEGMENTS, max_size=5), st.sampled_from([*TAILS, *ALIKE, "weight", "p"])).map(
        lambda found: LEAD + ".".join([*found[0], found[1]])
    ),
    st.tuples(
        st.sampled_from([LEAD, "base_model.model", "base_model.", "", "model.", "unet.", LEAD + LEAD, LEAD.upper()]),
        st.lists(SEGMENTS, max_size=6),
    ).map(lambda found: found[0] + ".".join(found[1])),
    st.text(max_size=40),
)


def written(key: ParsedKey) -> list[str]:
    """Every name that the key can have been read from, when no wrapper stands inside it."""
    tails = [key.parameter] if key.part == PARAMETER else [tail for tail, part in TAILS.items() if part == key.part]
    return [f"{LEAD}{key.module}.{tail}" for tail in tails]


def judge(name: str) -> None:
    try:
        key = parse_key(name, MODULES)
    except InvalidAdapterError as problem:
        said_well(problem, "unexpected_tensor")
        return
    assert name.startswith(LEAD)
    assert key.module
    assert (key.parameter == "") is (key.part != PARAMETER)
    assert not any(letter.isspace() or ord(letter) < 32 or ord(letter) == 127 for letter in name), ascii(name)
    assert "" not in name.split(".")
    if "modules_to_save" in name or "original_module" in name:
        assert key.part in TAILS.values()  # the wrapper is taken out of the middle: the name is not written so again
        return
    assert name in written(key)
    assert all(parse_key(other) == key for other in written(key))


@settings(QUICK, max_examples=400)
@given(NAMES)
def test_any_name(name: str) -> None:
    judge(name)


@pytest.mark.long
@settings(LONG)
@given(NAMES)
def test_many_names(name: str) -> None:
    judge(name)


@pytest.mark.parametrize("module", ["q_proj", "model.layers.0.q_proj", "a.base_layer.b", "é", "lora", "weight", "0"])
@pytest.mark.parametrize("tail", TAILS)
def test_every_tail_is_a_round_trip(module: str, tail: str) -> None:
    name = f"{LEAD}{module}.{tail}"
    key = parse_key(name)
    assert (key.module, key.part) == (module, TAILS[tail])
    judge(name)


@pytest.mark.parametrize("tail", ALIKE)
def test_letters_that_look_alike_are_no_tail(tail: str) -> None:
    try:
        assert parse_key(f"{LEAD}model.q_proj.{tail}").part == PARAMETER
    except InvalidAdapterError as problem:
        said_well(problem, "unexpected_tensor")


@pytest.mark.parametrize(
    "name",
    [
        LEAD + "a." * 500 + "lora_A.weight",
        LEAD + "." * 1000,
        LEAD + ".lora_A" * 150,
        LEAD + ".lora_A.processor.to_q_lora.down" * 40,
        LEAD + "x.lora_A." + "d" * 900 + ".weight",
        LEAD + "lora_A.default." * 60,
        LEAD + LEAD + "a.lora_A.weight",
        "lora_unet_" + "_a" * 500,
        ".lora" * 200 + ".up.weight",
        "unet." * 200,
        "a" * 100_000,
        "\n" * 1000,
    ],
)
def test_long_names(name: str) -> None:
    judge(name)
