"""The paths that some weights may be those of, by a few elements: the right one is never struck out.

On the line between two candidates: what is sure without the product of both is so with it.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from registry.errors import InvalidBaseError
from registry.files.header import TensorEntry, read_header
from registry.files.source import FileSource
from registry.tensors.comparison.fingerprint import BaseSample, SampledValues, base_sample, sample_values
from registry.tensors.comparison.narrowing import Chain, narrow, replayed
from registry.tensors.comparison.roundings import Way
from registry.tensors.comparison.verdict import lies_at_one, surely_at_one
from tests.kit import RawTensor, write_tensors
from tests.kit.floats import Array, round_once

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
ENTRIES = {
    name: TensorEntry(name, "BF16", shape, 0, 0)
    for name, shape in {f"layer.{number}.weight": (96, 64) for number in range(12)}.items() | {"norm": (5,)}.items()
}
SAMPLE = base_sample(ENTRIES)


def test_the_elements_are_spread_and_the_same_whoever_looks() -> None:
    assert [chosen.tensor for chosen in SAMPLE.tensors] == sorted(ENTRIES)
    assert SAMPLE.digest == base_sample(dict(reversed(ENTRIES.items()))).digest
    for chosen in SAMPLE.tensors:
        assert len(set(chosen.offsets)) == chosen.elements == min(64, ENTRIES[chosen.tensor].elements)
        assert max(chosen.offsets) < ENTRIES[chosen.tensor].elements
    assert len({chosen.starts for chosen in SAMPLE.tensors}) == len(SAMPLE.tensors)
    many = {str(number): TensorEntry(str(number), "F32", (64, 64), 0, 0) for number in range(1024)}
    assert base_sample(many).elements == 1 << 14
    whole = {"index": TensorEntry("index", "I64", (4,), 0, 0), "empty": TensorEntry("empty", "F32", (0, 4), 0, 0)}
    assert base_sample(whole).elements == 0


def test_they_are_read_from_files(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    arrays = {"a": random.standard_normal((40, 30)), "b": random.standard_normal(3)}
    write_tensors(tmp_path / "x.safetensors", {name: RawTensor.of(one, "BF16") for name, one in arrays.items()})
    with ExitStack() as opened:
        source = opened.enter_context(FileSource(tmp_path / "x.safetensors"))
        entries = read_header(source, what="x", error=InvalidBaseError).entries
        sample = base_sample(dict(entries) | {"missing": TensorEntry("missing", "F32", (7,), 0, 0)})
        found = sample_values(sample, {name: (source, entry) for name, entry in entries.items()})
    assert found.dtypes == [torch.bfloat16, torch.bfloat16, None]
    for chosen in sample.tensors:
        values = found.values[sample.slices[chosen.tensor]].numpy()
        if chosen.tensor == "missing":
            assert np.isnan(values).all()
        else:
            assert np.array_equal(values, round_once(arrays[chosen.tensor].ravel()[chosen.offsets], "BF16"))


class Tree:
    """A drawn base and links, as their elements; ``size`` is that of a delta beside the weights."""

    def __init__(self, seed: int, size: float = 0.01, base: str = "BF16") -> None:
        self.random = np.random.default_rng(seed)
        self.size, self.stored = size, base
        self.base = round_once(self.random.standard_normal(SAMPLE.elements) * 0.02, base)

    def delta(self, *, tensors: slice = slice(None)) -> Array:
        found = np.zeros(SAMPLE.elements)
        for chosen in SAMPLE.tensors[tensors]:
            found[SAMPLE.slices[chosen.tensor]] = self.random.standard_normal(chosen.elements) * 0.02 * self.size
        return found

    def chain(self, name: str, *deltas: Array) -> Chain:
        """A path; its values are kept in float32, as fingerprints do."""
        sums = [self.base]
        for delta in deltas:
            sums.append(sums[-1] + delta)
        return Chain(name, [torch.from_numpy(np.float32(one)) for one in sums])

    def at_once(self, dtype: str, *deltas: Array) -> Array:
        return round_once(self.base + sum(deltas), dtype)

    def stepwise(self, dtype: str, *deltas: Array) -> Array:
        """As PEFT merges by default."""
        return self.replay(dtype, *deltas)

    def safe(self, dtype: str, *deltas: Array) -> Array:
        """As PEFT merges with ``safe_merge``."""
        return self.replay(dtype, *(round_once(delta, dtype) for delta in deltas))

    def replay(self, dtype: str, *deltas: Array) -> Array:
        found = round_once(self.base, dtype)
        for delta in deltas:
            found = np.where(delta == 0, found, round_once(found + delta, dtype))
        return found

    def left(self, chains: list[Chain], found: Array, dtype: str) -> tuple[str, ...]:
        return narrow(chains, held(found, dtype), held(self.base, self.stored), SAMPLE).left


def held(values: Array, dtype: str, sample: BaseSample = SAMPLE) -> SampledValues:
    return SampledValues(torch.from_numpy(values), [DTYPES[dtype]] * len(sample.tensors))


WAYS = [(way, dtype) for way in ("at_once", "stepwise", "safe") for dtype in DTYPES]


@pytest.mark.parametrize(("way", "dtype"), WAYS)
def test_one_of_many_paths_is_found(way: str, dtype: str) -> None:
    """Forty revisions on each other, a hundredth of the weights each; all others are struck out."""
    tree = Tree(2)
    links = [(tree.delta(), tree.delta(), tree.delta()) for _ in range(10)]
    paths = {f"{number}/{depth}": links[number][:depth] for number in range(10) for depth in range(4)}
    chains = [tree.chain(name, *deltas) for name, deltas in paths.items() if not name.endswith("/0")]
    for name in ("0/1", "3/2", "7/3", "9/3"):
        found = getattr(tree, way)(dtype, *paths[name])
        assert tree.left([tree.chain("base"), *chains], found, dtype) == (name,)


@pytest.mark.long_but("4-stepwise-BF16", "4-safe-F32", "4-at_once-F16")
@pytest.mark.parametrize(("way", "dtype"), WAYS)
@pytest.mark.parametrize("trees", [4, pytest.param(100, marks=pytest.mark.long)])
def test_what_is_right_is_never_struck_out(way: str, dtype: str, trees: int) -> None:
    """Deltas down to a hundredth of a unit, revisions that differ in one tensor, other orders."""
    for seed in range(trees):
        tree = Tree(seed, 10 ** -(1 + seed % 4))
        a, b = tree.delta(), tree.delta()
        other = a + tree.delta(tensors=slice(3, 4)) * (seed % 3)
        paths = {"": (), "a": (a,), "other": (other,), "a/b": (a, b), "b/a": (b, a), "other/b": (other, b)}
        chains = [tree.chain(name, *deltas) for name, deltas in paths.items()]
        for name, deltas in paths.items():
            assert name in tree.left(chains, getattr(tree, way)(dtype, *deltas), dtype), (seed, name)


def test_one_other_tensor_is_seen() -> None:
    tree = Tree(4)
    a = tree.delta()
    other = a + tree.delta(tensors=slice(3, 4))
    chains = [tree.chain("a", a), tree.chain("other", other)]
    for dtype in DTYPES:
        assert tree.left(chains, tree.at_once(dtype, a), dtype) == ("a",)
        assert tree.left(chains, tree.at_once(dtype, other), dtype) == ("other",)


def test_the_order_shows_in_bits_alone() -> None:
    tree = Tree(5, 0.3)
    a, b = tree.delta(), tree.delta()
    chains = [tree.chain("a/b", a, b), tree.chain("b/a", b, a)]
    for dtype in ("BF16", "F16"):
        # so few elements may not strike the other one out
        assert tree.left(chains, tree.safe(dtype, a, b), dtype)[0] == "a/b"
        assert tree.left(chains, tree.stepwise(dtype, a, b), dtype)[0] == "a/b"
        assert tree.left(chains, tree.stepwise(dtype, b, a), dtype)[0] == "b/a"
        assert set(tree.left(chains, tree.at_once(dtype, a, b), dtype)) == {"a/b", "b/a"}
    assert set(tree.left(chains, tree.stepwise("F32", a, b), "F32")) == {"a/b", "b/a"}


def test_a_merge_in_steps_is_replayed_bit_for_bit() -> None:
    tree = Tree(6, 0.1)
    deltas = tree.delta(), tree.delta(), tree.delta()
    states = [torch.from_numpy(tree.base + sum(deltas[:count], np.zeros(()))) for count in range(4)]
    for dtype in ("BF16", "F16"):
        for deltas_too, merge in ((False, tree.stepwise), (True, tree.safe)):
            # float64 sums leave less than what can turn a rounding
            found = replayed(states, Way(DTYPES[dtype], deltas_too)).numpy()
            assert np.mean(found != merge(dtype, *deltas)) < 1e-3


def test_weights_in_16_bits_that_are_kept_in_32_are_measured_by_the_16() -> None:
    tree = Tree(7)
    a, b = tree.delta(), tree.delta()
    chains = [tree.chain("a", a), tree.chain("b", b), tree.chain("a/b", a, b)]
    assert tree.left(chains, tree.stepwise("BF16", a, b), "F32") == ("a/b",)


def test_distances_are_relative_and_tensors_that_are_not_there_say_nothing() -> None:
    tree = Tree(8, 0.1)
    a, b = tree.delta(), tree.delta()
    found = tree.at_once("F32", a)
    found[SAMPLE.slices["norm"]] = np.nan
    narrowed = narrow([tree.chain("b", b), tree.chain("a", a)], held(found, "F32"), held(tree.base, "BF16"), SAMPLE)
    assert narrowed.left == ("a",)
    there = ~np.isnan(found)
    exact = np.linalg.norm((tree.base + b - found)[there]) / np.linalg.norm((tree.base + b)[there])
    assert [near.name for near in narrowed.nearest] == ["a", "b"]
    assert narrowed.nearest[1].distance == pytest.approx(exact, rel=1e-4)
    assert narrow([], held(found, "F32"), held(tree.base, "BF16"), SAMPLE).left == ()


def test_a_distance_is_that_of_whole_tensors_and_not_of_as_many_elements_of_each() -> None:
    tree = Tree(9)
    b = tree.delta()
    found = tree.at_once("F32", tree.delta())
    found[SAMPLE.slices["norm"]] += 1.0  # five elements of 73,733, and of 773 that are looked at
    narrowed = narrow([tree.chain("b", b)], held(found, "F32"), held(tree.base, "BF16"), SAMPLE)
    stand = np.concatenate([np.full(s.elements, ENTRIES[s.tensor].elements / s.elements) for s in SAMPLE.tensors])
    apart, path = (float(np.sum(stand * one**2)) for one in (tree.base + b - found, tree.base + b))
    assert narrowed.nearest[0].distance == pytest.approx((apart / path) ** 0.5, rel=1e-4)


def test_sure_without_the_product_is_sure_with_any() -> None:
    random = np.random.default_rng(1)
    sure = 0
    for _ in range(2000):
        one, other = (random.standard_normal(500) * 10 ** random.uniform(-3, 1) for _ in range(2))
        if random.random() < 0.5:
            other = one * random.uniform(-20, 20)  # as like each other as can be
        own, both, others = float(one @ one), float(one @ other), float(other @ other)
        if surely_at_one(own, others):
            sure += 1
            assert lies_at_one(own, both, others, len(one))
    assert sure > 500
    assert not surely_at_one(1.0, 40.0)  # 0.16 of the way, give or take as much
    assert not surely_at_one(0.0, 15.0)  # too little
    assert surely_at_one(0.0, 17.0)
