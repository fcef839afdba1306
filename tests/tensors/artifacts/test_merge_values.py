"""Merged weights are the path's meaning in real numbers, summed in fp32 or better and rounded once.

Every output is judged by the float64 reference of the kit: |error| <= 0.5 ulp + 2**-20 (|w| + sum |s b a|).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.schemas import Dtype
from registry.tensors.artifacts.merged import overflow
from tests.kit import (
    Base,
    RawTensor,
    add_integers,
    add_tokenizer,
    bert_base,
    gpt2_base,
    llama_base,
    other_files,
    plain_base,
    read_model,
    read_pairs,
    round_once,
    used_bound,
    write_adapter,
    write_chain,
    write_model,
    write_tensors,
)
from tests.kit.floats import Array
from tests.kit.reference import SUM_ERROR
from tests.kit.shelf import Shelf

DTYPES = ["F32", "F16", "BF16", "F64"]
OPTIONS: dict[Dtype, str] = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
SHAPES = {
    "wide.weight": (3, 300),
    "tall.weight": (130, 5),
    "row.weight": (1, 17),
    "column.weight": (33, 1),
    "square.weight": (64, 64),
    "square.bias": (64,),
    "untouched.weight": (4, 4),
}
KNOWN: dict[str, tuple[Callable[..., Base], dict[str, Any], list[str]]] = {
    "llama": (llama_base, {"dtype": "BF16", "shards": 3}, ["q_proj", "v_proj", "down_proj", "embed_tokens", "lm_head"]),
    "gpt2": (gpt2_base, {"dtype": "F32"}, ["c_attn", "c_proj", "c_fc", "wpe"]),
    "gpt2-hub": (gpt2_base, {"dtype": "F16", "hub_names": True}, ["c_attn", "c_proj", "c_fc", "wpe"]),
    "bert": (bert_base, {"dtype": "F16", "shards": 2}, ["query", "dense", "word_embeddings"]),
}


def _plain(shelf: Shelf, dtype: str) -> tuple[str, Base]:
    name = f"plain-{dtype.lower()}"
    return name, shelf.base(name, plain_base, shapes=SHAPES, dtype=dtype, seed=5)


def _known(shelf: Shelf, kind: str) -> tuple[str, Base, list[str]]:
    make, options, targets = KNOWN[kind]
    return kind, shelf.base(kind, make, **options), targets


# --- within the bound, whatever the architecture, the dtypes and the depth ---


@pytest.mark.long_but("6", "bert-1")
@pytest.mark.parametrize("depth", [1, 2, 6])
@pytest.mark.parametrize("kind", sorted(KNOWN))
def test_known_architectures(shelf: Shelf, kind: str, depth: int) -> None:
    name, base, targets = _known(shelf, kind)
    path = write_chain(shelf.folder(), base, depth, targets, r=4, seed=depth)
    merged = base.reference(path)
    assert used_bound(merged, shelf.merged(shelf.path(name, path))) <= 1


@pytest.mark.long_but("F32-F32", "F16-BF16", "BF16-F16", "BF16-BF16", "F64-F32", "F32-F64", "F16-F16")
@pytest.mark.parametrize("adapter_dtype", DTYPES)
@pytest.mark.parametrize("base_dtype", DTYPES)
def test_every_pair_of_dtypes(shelf: Shelf, base_dtype: str, adapter_dtype: str) -> None:
    name, base = _plain(shelf, base_dtype)
    path = write_chain(shelf.folder(), base, 3, ["wide", "tall", "row", "column", "square"], dtype=adapter_dtype, r=6)
    merged = base.reference(path)
    out = shelf.merged(shelf.path(name, path))
    assert used_bound(merged, out) <= 1
    assert {tensor.dtype for tensor in out.values()} == {base_dtype}


@pytest.mark.parametrize("adapter_dtypes", [("F16", "F64"), ("BF16", "F32", "F16")])
def test_links_of_different_dtypes(shelf: Shelf, adapter_dtypes: tuple[str, ...]) -> None:
    name, base = _plain(shelf, "BF16")
    path = [
        write_adapter(shelf.folder(), base, ["square", "tall"], dtype=dtype, seed=number)
        for number, dtype in enumerate(adapter_dtypes)
    ]
    assert used_bound(base.reference(path), shelf.merged(shelf.path(name, path))) <= 1


@pytest.mark.parametrize("shape", [(1300, 900), (9000, 30), (20, 60000), (33, 40000)])
def test_matrices_of_several_blocks(shelf: Shelf, shape: tuple[int, int]) -> None:
    """Blocks are rows of about a million elements; the last one is short."""
    name = f"blocks-{shape[0]}"
    base = shelf.base(name, plain_base, shapes={"a.weight": shape}, dtype="BF16")
    path = write_chain(shelf.folder(), base, 2, ["a"], r=3)
    reference = shelf.path(name, path)
    assert used_bound(base.reference(path), shelf.read_merged(reference)) <= 1
    composed = read_pairs(shelf.composed(reference))["a"]
    both = [read_pairs(adapter)["a"] for adapter in path]
    assert np.array_equal(composed.a, np.concatenate([pair.a for pair in both]))
    assert np.allclose(
        composed.b, np.concatenate([pair.scaling * pair.b for pair in both], axis=1), rtol=2**-23, atol=0
    )


def test_scales(shelf: Shelf) -> None:
    """Plain, rsLoRA, fractional, negative and zero alpha, patterns by leaf, by path and by regex, in one path."""
    name, base, _ = _known(shelf, "llama")
    options: list[dict[str, Any]] = [
        {"r": 3, "alpha": 7},
        {"r": 8, "alpha": 16, "rslora": True},
        {"r": 4, "alpha": 0.125},
        {"r": 4, "alpha": -8},
        {"r": 4, "alpha": 0},
        {"rank_pattern": {"q_proj": 7, "layers.1.self_attn.v_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"rank_pattern": {r"layers\.0\..*": 5}, "alpha_pattern": {"^model.layers.1.mlp.down_proj": 30}, "rslora": True},
    ]
    path = [
        write_adapter(shelf.folder(), base, ["q_proj", "v_proj", "down_proj"], seed=number, **one)
        for number, one in enumerate(options)
    ]
    for end in range(1, len(path) + 1):
        merged = base.reference(path[:end])
        assert used_bound(merged, shelf.read_merged(shelf.path(name, path[:end]))) <= 1, options[end - 1]


LINKS = st.fixed_dictionaries(
    {
        "r": st.integers(1, 40),
        "alpha": st.one_of(st.integers(1, 64), st.floats(-4, 4, allow_nan=False, width=32)),
        "rslora": st.booleans(),
        "dtype": st.sampled_from(DTYPES),
        "seed": st.integers(0, 10**6),
        "fill": st.sampled_from(["normal", "positive"]),
    }
)
GENERATED = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@GENERATED
@given(data=st.data(), links=st.lists(LINKS, min_size=1, max_size=5), out=st.sampled_from([None, *OPTIONS]))
def test_generated_paths(shelf: Shelf, data: st.DataObject, links: list[dict[str, Any]], out: Dtype | None) -> None:
    kind = data.draw(st.sampled_from(["plain", "llama", "gpt2"]))
    if kind == "plain":
        name, base = _plain(shelf, data.draw(st.sampled_from(DTYPES)))
        leaves = ["wide", "tall", "row", "column", "square"]
    else:
        name, base, leaves = _known(shelf, kind)
    path = []
    for link in links:
        names = data.draw(st.lists(st.sampled_from(leaves), min_size=1, unique=True))
        path.append(write_adapter(shelf.folder(), base, names, **link))
    merged = base.reference(path)
    result = shelf.read_merged(shelf.path(name, path), dtype=out)
    assert used_bound(merged, result, OPTIONS[out] if out else None) <= 1


# --- one rounding: exact where the sum is exact ---


def _whole_numbers(shelf: Shelf, dtype: str) -> tuple[Base, list[Path]]:
    """Weights and factors of few bits, so that every sum is exact in fp32 and only the last rounding is left."""
    generator = np.random.default_rng(3)

    def draw(most: int, shape: tuple[int, int], unit: float) -> Array:
        return generator.integers(-most, most + 1, shape).astype(np.float64) * unit

    folder = shelf.folder()
    folder.mkdir()
    base = plain_base(folder, {"a.weight": (48, 40)}, dtype=dtype)
    write_model(folder, {"a.weight": RawTensor.of(draw(127, (48, 40), 2.0**-10), dtype)})
    path = []
    for number in range(4):
        adapter = write_adapter(shelf.folder(), base, ["a"], r=4, alpha=4)
        pair = {
            "base_model.model.a.lora_A.weight": RawTensor.of(draw(99, (4, 40), 2.0**-15), "F32"),
            "base_model.model.a.lora_B.weight": RawTensor.of(draw(9, (48, 4), 2.0**-number), "F32"),
        }
        write_tensors(adapter / "adapter_model.safetensors", pair)
        path.append(adapter)
    return base, path


@pytest.mark.long_but("F32-None", "F16-bf16", "BF16-fp32", "BF16-None", "F64-fp16", "F32-fp16")
@pytest.mark.parametrize("option", [None, "fp32", "bf16", "fp16"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_exact_sums_round_once(shelf: Shelf, dtype: str, option: str | None) -> None:
    base, path = _whole_numbers(shelf, dtype)
    name = f"whole-{dtype.lower()}-{option or 'same'}"
    shelf.registry.add_base(name, base.folder)
    out = shelf.merged(shelf.path(name, path), dtype=option)["a.weight"]
    expected = base.reference(path)["a.weight"].rounded(out.dtype)
    assert np.array_equal(out.values, expected)
    if out.dtype in ("BF16", "F16"):  # the numbers can tell: rounding after each link gives others
        weight = base.reference([])["a.weight"].values
        steps = weight
        for adapter in path:
            steps = round_once(steps + base.reference([adapter])["a.weight"].values - weight, out.dtype)
        assert not np.array_equal(steps, expected)


def test_float64_to_bf16_is_not_rounded_by_way_of_float32(shelf: Shelf) -> None:
    trap = 1 + 2**-8 + 2**-40
    folder = shelf.folder()
    base = plain_base(folder, {"a.weight": (4, 4), "b.weight": (4, 4)}, dtype="F64")
    write_model(folder, {key: RawTensor.of(np.full((4, 4), trap), "F64") for key in ("a.weight", "b.weight")})
    shelf.registry.add_base("trap", folder)
    adapter = write_adapter(shelf.folder(), base, ["a"], fill="zero")
    out = shelf.merged(shelf.path("trap", [adapter]), dtype="bf16")
    assert (out["a.weight"].values == 1 + 2**-7).all()
    assert (out["b.weight"].values == 1 + 2**-7).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_deltas_change_nothing(shelf: Shelf, dtype: str) -> None:
    name, base = _plain(shelf, dtype)
    path = write_chain(shelf.folder(), base, 2, ["wide", "tall", "row", "column", "square"], fill="zero")
    out = shelf.merged(shelf.path(name, path))
    for tensor, raw in read_model(base.folder).items():
        assert np.array_equal(out[tensor].values, raw.values), tensor


# --- what is not adapted stays as it is ---


def test_untouched_tensors_and_all_other_files_are_identical(shelf: Shelf) -> None:
    folder = shelf.folder()
    shapes = {f"layers.{number}.{leaf}.weight": (12, 8) for number in range(3) for leaf in ("one", "two")}
    base = plain_base(folder, shapes, dtype="BF16", shards=3)
    add_tokenizer(folder)
    (folder / "generation_config.json").write_text('{"do_sample": true}\n')
    shelf.registry.add_base("whole-folder", folder)
    path = write_chain(shelf.folder(), base, 2, ["one"])
    out = shelf.folder()
    shelf.registry.fetch(shelf.path("whole-folder", path), out, kind="merged")
    before, after = read_model(folder), read_model(out)
    merged = base.reference(path)
    assert list(after) == list(before)
    for name, raw in before.items():
        assert (after[name] == raw) is not merged[name].touched, name
    theirs = dict(other_files(out))
    theirs.pop("registry-receipt.json")
    assert theirs.pop("README.md").startswith(b"---\nbase_model: ")  # made of the lineage
    assert theirs == dict(other_files(folder))
    for shard in folder.glob("*.safetensors"):
        size = int.from_bytes(shard.read_bytes()[:8], "little") + 8
        assert (out / shard.name).read_bytes()[:size] == shard.read_bytes()[:size]


def test_mixed_dtypes_and_integers_stay(shelf: Shelf) -> None:
    folder = shelf.folder()
    base = plain_base(folder, {"a.weight": (8, 8), "b.weight": (8, 8), "norm.weight": (8,)}, dtype="F32")
    tensors = read_model(folder)
    write_model(folder, tensors | {"b.weight": RawTensor.of(tensors["b.weight"].values, "BF16")})
    add_integers(base)
    shelf.registry.add_base("mixed", folder)
    path = write_chain(shelf.folder(), base, 2, ["a", "b"])
    reference = shelf.path("mixed", path)
    out = shelf.merged(reference)
    assert used_bound(base.reference(path), out) <= 1
    before = read_model(folder)
    assert {name: raw.dtype for name, raw in out.items()} == {name: raw.dtype for name, raw in before.items()}
    assert out["steps"] == before["steps"]
    assert out["norm.weight"] == before["norm.weight"]
    half = shelf.merged(reference, dtype="bf16")
    assert half["steps"] == before["steps"]
    assert half["norm.weight"] == RawTensor.of(before["norm.weight"].values, "BF16")


@pytest.mark.parametrize("option", sorted(OPTIONS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_option_applies_to_all_float_tensors(shelf: Shelf, dtype: str, option: Dtype) -> None:
    name, base = _plain(shelf, dtype)
    path = write_chain(shelf.folder(), base, 2, ["wide", "square"], r=3)
    out = shelf.folder()
    shelf.registry.fetch(shelf.path(name, path), out, kind="merged", dtype=option)
    tensors = read_model(out)
    merged = base.reference(path)
    assert {raw.dtype for raw in tensors.values()} == {OPTIONS[option]}
    assert used_bound(merged, tensors, OPTIONS[option]) <= 1
    for tensor, one in merged.items():
        if not one.touched:
            assert np.array_equal(tensors[tensor].values, one.rounded(OPTIONS[option])), tensor
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[option]


def test_overflow_is_refused_and_leaves_nothing(shelf: Shelf) -> None:
    """Two links whose products the dtype holds, and not their sum."""
    name, base = _plain(shelf, "F16")
    path = [write_adapter(shelf.folder(), base, ["square"], fill="positive", alpha=alpha) for alpha in (8e4, 8.5e4)]
    reference, out = shelf.path(name, path), shelf.folder()
    with pytest.raises(InvalidAdapterError, match=r"square\.weight.*fetch with --dtype bf16 or fp32\.") as caught:
        shelf.registry.fetch(reference, out, kind="merged")
    assert caught.value.code == "overflow"
    assert not out.exists() or not any(out.iterdir())
    assert used_bound(base.reference(path), shelf.merged(reference, dtype="fp32"), "F32") <= 1


@pytest.mark.parametrize(
    ("largest", "dtype", "advice"),
    [
        (7e4, torch.float16, "fetch with --dtype bf16 or fp32."),
        (3.4e38, torch.bfloat16, "fetch with --dtype fp32."),
        (3.4e38, torch.float16, "fetch with --dtype fp32."),
        (1e39, torch.float32, "no dtype that can be asked for holds them."),
        (float("nan"), torch.float16, "no dtype that can be asked for holds them."),
    ],
)
def test_the_advice_names_a_dtype_that_helps(largest: float, dtype: torch.dtype, advice: str) -> None:
    found = overflow("a.weight", dtype, torch.tensor([1.0, -largest], dtype=torch.float64))
    assert str(found).endswith(advice)


def test_untouched_values_too_large_for_the_dtype_are_refused(shelf: Shelf) -> None:
    folder = shelf.folder()
    base = plain_base(folder, {"a.weight": (4, 4), "big.weight": (4, 4)}, dtype="F32")
    write_model(folder, read_model(folder) | {"big.weight": RawTensor.of(np.full((4, 4), 1e6), "F32")})
    shelf.registry.add_base("big", folder)
    reference = shelf.path("big", [write_adapter(shelf.folder(), base, ["a"])])
    with pytest.raises(InvalidAdapterError, match=r"big\.weight") as caught:
        shelf.registry.fetch(reference, shelf.folder(), kind="merged", dtype="fp16")
    assert caught.value.code == "overflow"


# --- the sums themselves ---


def test_ten_links_in_bf16_lose_a_third_of_what_merging_step_by_step_loses(shelf: Shelf) -> None:
    base = shelf.base("deep", plain_base, shapes={"a.weight": (256, 256)}, dtype="BF16", seed=9)
    path = write_chain(shelf.folder(), base, 10, ["a"], r=16, size=0.01)
    reference = base.reference(path)["a.weight"]
    weight = reference.base.values
    delta = reference.values - weight

    def lost(values: Any) -> float:
        return float(np.linalg.norm(values - weight - delta) / np.linalg.norm(delta))

    steps = weight
    for adapter in path:
        steps = round_once(steps + base.reference([adapter])["a.weight"].values - weight, "BF16")
    ours = lost(shelf.merged(shelf.path("deep", path))["a.weight"].values)
    assert ours <= lost(reference.rounded()) * 1.001  # nothing is lost but the last rounding
    assert ours <= lost(steps) / 3


@pytest.mark.long_but("1-16", "1-128-positive", "4-256-positive", "16-aligned")
@pytest.mark.parametrize("fill", ["positive", "aligned"])
@pytest.mark.parametrize(("links", "rank"), [(1, 16), (1, 64), (1, 128), (16, 16), (4, 256)])
def test_sums_without_cancellation_stay_within_the_bound(shelf: Shelf, links: int, rank: int, fill: str) -> None:
    """Positive factors: rounding errors of a long sum can't hide; aligned ones even add up, as with plain sums."""
    base = shelf.base("positive", plain_base, shapes={"a.weight": (480, 640)}, dtype="F32", seed=2)
    path = write_chain(shelf.folder(), base, links, ["a"], r=rank, alpha=rank, fill=fill)
    assert used_bound(base.reference(path), shelf.merged(shelf.path("positive", path))) <= 1


@pytest.mark.parametrize("fill", ["positive", "aligned"])
def test_the_composed_factors_carry_the_same_sum(shelf: Shelf, fill: str) -> None:
    """Where ranks pass the matrix, the composed adapter holds the delta itself: summed as carefully."""
    base = shelf.base("narrow", plain_base, shapes={"a.weight": (300, 96)}, dtype="F32", seed=2)
    path = write_chain(shelf.folder(), base, 2, ["a"], r=64, alpha=64, fill=fill)
    composed = read_pairs(shelf.composed(shelf.path("narrow", path)))["a"]
    assert composed.rank == 96
    delta = sum(read_pairs(adapter)["a"].delta for adapter in path)
    assert (np.abs(composed.delta - delta) <= SUM_ERROR * np.abs(delta)).all()
