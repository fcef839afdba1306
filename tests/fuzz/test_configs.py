"""Configurations from strangers: read as a strict reader reads them, and held against a base, or refused by name."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from tests.fuzz.config_texts import DEFAULTS, FIELDS, ODD_TEXTS, VALUES, documents, dumped, texts
from tests.fuzz.effort import LONG, QUICK, said_well
from tests.fuzz.peft_source import functions
from tests.fuzz.small_adapters import FEATURES, TABLE, Tensors, adapters, pair, variants
from tests.fuzz.strict_reader import Fraction, RefusedError, read_json

PATTERN_KEY = functions(("utils/other.py", "get_pattern_key"))["get_pattern_key"]


def strictly(data: bytes) -> dict[str, Any] | None:
    try:
        found = read_json(data)
        _finite(found)
    except (RefusedError, OverflowError):
        return None
    return found


def _finite(value: Any) -> None:
    if isinstance(value, Fraction) and not math.isfinite(float(value.text)):
        raise OverflowError
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _finite(child)


def judge(data: bytes, tensors: Tensors) -> Checkpoint | None:
    try:
        config = parse_config(data)
    except InvalidAdapterError as problem:
        said_well(problem)
        return None
    assert strictly(data) is not None, "accepted, but a strict reader refuses it"
    assert config.document == json.loads(data)
    assert config.r == config.document["r"]
    assert type(config.r) is int
    assert math.isfinite(config.lora_alpha)
    try:
        checkpoint = read_checkpoint(config, tensors, TABLE)
    except InvalidAdapterError as problem:
        said_well(problem)
        return None
    for notice in checkpoint.notices:
        assert len(notice) < 2000
        assert notice.isprintable()
    return checkpoint


def check_scales(data: bytes, checkpoint: Checkpoint) -> None:
    """The scale of every linear pair is what PEFT computes from the same file."""
    document = json.loads(data)
    ranks, alphas = document.get("rank_pattern") or {}, document.get("alpha_pattern") or {}
    for found in checkpoint.pairs.values():
        name = found.a.name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        rank = ranks.get(PATTERN_KEY(ranks, name), document["r"])
        alpha = alphas.get(PATTERN_KEY(alphas, name), document["lora_alpha"])
        if found.fused is None and found.a.name.endswith(".lora_A.weight"):
            assert found.rank == rank
            scaling = alpha / (math.sqrt(rank) if document.get("use_rslora") else rank)
            twice = name.endswith("base_layer.out_proj")  # of nn.MultiheadAttention: PEFT up to 0.21.2 adds it twice
            assert found.scaling in (pytest.approx(scaling), pytest.approx(2 * scaling if twice else scaling))


PLAIN = pair("model.layers.0.q_proj") | pair("model.layers.1.q_proj")


@settings(QUICK, max_examples=200)
@given(texts())
def test_any_text(data: bytes) -> None:
    judge(data, PLAIN)


@settings(QUICK, max_examples=200)
@given(documents(), adapters() | st.just(PLAIN))
@example(DEFAULTS, PLAIN)
def test_any_document_with_any_tensors(document: dict[str, Any], tensors: Tensors) -> None:
    data = dumped(document).encode()
    checkpoint = judge(data, tensors)
    if checkpoint is not None:
        check_scales(data, checkpoint)


def judge_variant(found: tuple[dict[str, Any], Tensors], field: str | None, value: Any) -> None:
    fields, tensors = found
    data = dumped(DEFAULTS | fields | ({} if field is None else {field: value})).encode()
    checkpoint = judge(data, tensors)
    if checkpoint is not None and not fields.get("use_bdlora"):
        check_scales(data, checkpoint)


@settings(QUICK, max_examples=200)
@given(variants(), st.none() | st.sampled_from(FIELDS), VALUES)
def test_variants_with_faults(found: tuple[dict[str, Any], Tensors], field: str | None, value: Any) -> None:
    judge_variant(found, field, value)


@pytest.mark.long
@settings(LONG)
@given(variants(), st.none() | st.sampled_from(FIELDS), VALUES)
def test_many_variants(found: tuple[dict[str, Any], Tensors], field: str | None, value: Any) -> None:
    judge_variant(found, field, value)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: "-".join(feature[0]))
def test_every_variant_is_read(feature: tuple[dict[str, Any], Tensors]) -> None:
    """The fuzzers above start from adapters that pass every check, and not from refused ones."""
    fields, tensors = feature
    assert judge(dumped(DEFAULTS | fields).encode(), PLAIN | tensors) is not None


@pytest.mark.long
@settings(LONG)
@given(texts() | documents().map(lambda document: dumped(document).encode()), adapters() | st.just(PLAIN))
def test_many(data: bytes, tensors: Tensors) -> None:
    checkpoint = judge(data, tensors)
    if checkpoint is not None:
        check_scales(data, checkpoint)


def test_the_plain_one_is_accepted() -> None:
    checkpoint = judge(dumped(DEFAULTS).encode(), PLAIN)
    assert checkpoint is not None
    assert [found.scaling for found in checkpoint.pairs.values()] == [2.0, 2.0]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_with_every_odd_text(field: str) -> None:
    members = {key: dumped(value) for key, value in DEFAULTS.items()}
    for text in ODD_TEXTS:
        raw = ",".join(f"{json.dumps(key)}:{value}" for key, value in (members | {field: text}).items())
        judge(("{" + raw + "}").encode("utf-8", "surrogatepass"), PLAIN)


@settings(QUICK, max_examples=150)
@given(st.sampled_from(FIELDS), VALUES)
def test_every_field_with_any_value(field: str, value: Any) -> None:
    data = dumped(DEFAULTS | {field: value}).encode()
    checkpoint = judge(data, PLAIN)
    if checkpoint is not None:
        check_scales(data, checkpoint)
