"""A combination is the weighted sum of its sources' deltas, in float64, for every kind of layer and factor."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from registry.errors import InvalidAdapterError
from tests.kit import Base, plain_base, read_pairs, read_tensors, write_adapter, write_tensors
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.shelf import Shelf
from tests.kit.states import State
from tests.kit.variants import MAKERS, VARIANTS

ROUNDING = 2.0**-23  # of the weight in B and of what else is written, in terms of sum |w s b a|
KINDS = [pytest.param(one, marks=[pytest.mark.long] if one == "llama" else []) for one in VARIANTS]
DTYPES = ("F32", "F16", "BF16", "F64")
SHAPES = {"a.weight": (24, 16), "b.weight": (16, 24), "c.weight": (8, 16), "d.weight": (6, 40)}


def adds_only(recipe: Recipe) -> bool:
    return not (recipe.dora or recipe.replaced or recipe.tokens or recipe.bias != "none" or recipe.copies)


class Siblings:
    """Sources under one parent of their own, and the parent's folder."""

    def __init__(self, shelf: Shelf, name: str, base: Base, top: Path, sources: Sequence[Path]) -> None:
        self.shelf, self.base, self.top, self.sources = shelf, base, top, sources
        (self.parent,) = shelf.publish(name, [top])
        above = self.parent.partition("@")[0]
        self.references = [
            shelf.registry.publish(
                source, f"{above}/s{number}", parent=self.parent, skip_parent_check=True
            ).revision.reference
            for number, source in enumerate(sources)
        ]

    @property
    def path(self) -> str:
        return f"{self.parent.partition('@')[0]}/mixed"

    def combined(self, weights: Sequence[float], **options: object) -> Path:
        """The folder of the combination, as it was published."""
        pairs = zip(self.references, weights, strict=True)
        made = self.shelf.registry.combine(pairs, self.path, **options)  # type: ignore[arg-type]
        assert made.revision is not None
        out = self.shelf.folder()
        self.shelf.registry.fetch(made.revision.reference, out, kind="published")
        return out

    def state(self, *adapters: Path) -> State:
        return self.base.simulate([self.top, *adapters]).state

    def check(self, weights: Sequence[float], mixed: Path) -> None:
        """Every weight of the model is the ancestor's plus the sum, up to one rounding of what is written."""
        before, after = self.state(), self.state(mixed)
        states = [self.state(source) for source in self.sources]
        for name, view in after.views.items():
            old = before.views[name]
            right, spread = old.values.copy(), np.abs(old.values)
            for weight, state in zip(weights, states, strict=True):
                right += weight * (state.views[name].values - old.values)
                spread += abs(weight) * state.views[name].magnitude
            assert (np.abs(view.values - right) <= ROUNDING * spread).all(), name


def siblings(shelf: Shelf, kind: str, recipes: Sequence[Recipe], top: Recipe) -> Siblings:
    name = kind.replace(" ", "-").replace("_", "-")
    base = shelf.base(name, MAKERS[kind])
    above = write_recipe(shelf.folder(), base, replace(top, seed=99))
    folders = [
        write_recipe(shelf.folder(), base, replace(recipe, seed=number)) for number, recipe in enumerate(recipes, 1)
    ]
    return Siblings(shelf, name, base, above, folders)


@pytest.fixture
def plain(shelf: Shelf) -> Base:
    return shelf.base("net", plain_base, shapes=SHAPES)


@pytest.mark.long_but("dtypes0", "dtypes2", "dtypes7", "dtypes12")
@pytest.mark.parametrize(
    "dtypes",
    [
        ("BF16", "F64"),
        *(pytest.param(one, marks=pytest.mark.slow) for one in itertools.product(DTYPES, repeat=2)),
    ],
)
def test_random_siblings_of_all_dtypes(shelf: Shelf, plain: Base, dtypes: tuple[str, str]) -> None:
    top = write_adapter(shelf.folder(), plain, ["a"], r=2, seed=5)
    made = Siblings(
        shelf,
        "net",
        plain,
        top,
        [
            write_adapter(shelf.folder(), plain, ["a", "b"], r=3, alpha=7, rslora=True, dtype=dtypes[0], seed=1),
            write_adapter(shelf.folder(), plain, ["b", "c", "d"], r=2, rank_pattern={"c": 4}, dtype=dtypes[1], seed=2),
            write_adapter(shelf.folder(), plain, ["a", "d"], r=1, alpha_pattern={"a": -3}, seed=3),
        ],
    )
    for weights in ((0.5, 0.3, 0.2), (1.0, -1.0, 1e-3), (0.0, 2.5, 1 / 3)):
        made.check(weights, made.combined(weights))


def test_past_the_rank_of_the_matrix(shelf: Shelf, plain: Base) -> None:
    top = write_adapter(shelf.folder(), plain, ["a"], r=2, seed=5)
    folders = [write_adapter(shelf.folder(), plain, ["c", "d"], r=5, seed=seed) for seed in (1, 2)]
    made = Siblings(shelf, "net", plain, top, folders)
    mixed = made.combined((0.7, 0.6))
    made.check((0.7, 0.6), mixed)
    written = read_tensors(mixed / "adapter_model.safetensors")["base_model.model.c.lora_A.weight"].values
    deltas = [read_pairs(folder)["c"].delta for folder in folders]
    assert np.array_equal(written, np.float32(0.7 * deltas[0] + 0.6 * deltas[1]))  # rounded once


def test_factors_are_rounded_once_at_most(shelf: Shelf, plain: Base) -> None:
    top = write_adapter(shelf.folder(), plain, ["a"], r=2, seed=5)
    folders = [write_adapter(shelf.folder(), plain, ["a"], r=2, alpha=7, rslora=True, seed=seed) for seed in (1, 2)]
    made = Siblings(shelf, "net", plain, top, folders)
    pair = read_pairs(made.combined((0.3, 0.7)))["a"]
    own = [read_pairs(folder)["a"] for folder in folders]
    assert np.array_equal(pair.a, np.concatenate([one.a for one in own]))
    scaled = [one.b * (one.scaling * weight) for one, weight in zip(own, (0.3, 0.7), strict=True)]
    assert np.array_equal(pair.b, np.float32(np.concatenate(scaled, axis=1)))
    assert pair.scaling == 1.0


@pytest.mark.slow
def test_a_longer_path_and_an_ancestor_above(shelf: Shelf, plain: Base) -> None:
    registry = shelf.registry
    folders = [write_adapter(shelf.folder(), plain, ["a", "b"], r=2, seed=seed) for seed in range(4)]
    top, one, two, other = folders
    refs = shelf.publish("net", [top, one, two])
    above = refs[0].partition("@")[0]
    beside = registry.publish(other, f"{above}/beside", parent=refs[0]).revision.reference
    found = registry.combine({refs[2]: 0.5, beside: 0.25}, f"{above}/far", tags=("t",))
    assert (found.over, found.revision and found.revision.parent) == (refs[0], refs[0])
    out = shelf.folder()
    registry.fetch(f"{above}/far@t", out, kind="published")
    low = plain.simulate([top]).state.views
    right = {
        name: view.values + 0.5 * (plain.simulate([top, one, two]).state.views[name].values - view.values)
        + 0.25 * (plain.simulate([top, other]).state.views[name].values - view.values)
        for name, view in low.items()
    }  # fmt: skip
    for name, view in plain.simulate([top, out]).state.views.items():
        assert np.allclose(view.values, right[name], rtol=0, atol=1e-6)
    over = registry.combine({refs[2]: 0.5, beside: 0.25}, "net/over", over="net")
    assert over.over == "net"
    whole = shelf.folder()
    registry.fetch("net/over", whole, kind="published")
    none = plain.simulate([]).state.views
    for name, view in plain.simulate([whole]).state.views.items():
        base = none[name].values
        one_path = plain.simulate([top, one, two]).state.views[name].values - base
        other_path = plain.simulate([top, other]).state.views[name].values - base
        assert np.allclose(view.values, base + 0.5 * one_path + 0.25 * other_path, rtol=0, atol=1e-6)


def test_weight_one_of_one_source_is_the_identity(shelf: Shelf, plain: Base) -> None:
    recipe = Recipe(("a",), replaced=("c",))
    top = write_adapter(shelf.folder(), plain, ["a", "c"], r=2, seed=5)
    made = Siblings(shelf, "net", plain, top, [write_recipe(shelf.folder(), plain, recipe)])
    mixed = made.combined((1.0,))
    for name, view in made.state(mixed).views.items():
        right = made.state(made.sources[0]).views[name]
        assert (np.abs(view.values - right.values) <= ROUNDING * right.magnitude).all(), name
    assert (
        shelf.merged(f"{made.path}@1")["c.weight"].values.tobytes()
        == shelf.merged(made.references[0])["c.weight"].values.tobytes()
    )


def _with_values_of(folder: Path, other: Path) -> Path:
    """``folder`` with what ``other`` replaces, number for number."""
    tensors = read_tensors(folder / "adapter_model.safetensors")
    theirs = read_tensors(other / "adapter_model.safetensors")
    same = {name: raw for name, raw in theirs.items() if ".lora_" not in name and name in tensors}
    assert same
    write_tensors(folder / "adapter_model.safetensors", dict(sorted({**tensors, **same}.items())))
    return folder


@pytest.mark.parametrize("weights", [(0.5, 0.5), (2.0, -0.25)])
def test_replaced_values_that_agree_are_taken_over(shelf: Shelf, plain: Base, weights: tuple[float, float]) -> None:
    top = write_adapter(shelf.folder(), plain, ["a", "c"], r=2, seed=5)
    one, other = (
        write_recipe(shelf.folder(), plain, Recipe(("a", target), replaced=("c",), seed=seed))
        for seed, target in ((1, "a"), (2, "b"))
    )
    made = Siblings(shelf, "net", plain, top, [one, _with_values_of(other, one)])
    mixed = made.combined(weights)
    after, of_one = made.state(mixed).views, made.state(one).views
    assert np.array_equal(after["c.weight"].values, of_one["c.weight"].values)
    low, high = made.state().views["a.weight"].values, made.state(other).views["a.weight"].values
    right = low + weights[0] * (of_one["a.weight"].values - low) + weights[1] * (high - low)
    assert np.allclose(after["a.weight"].values, right, rtol=0, atol=1e-6)


def test_replaced_values_that_disagree_are_refused_by_name(shelf: Shelf, plain: Base) -> None:
    top = write_adapter(shelf.folder(), plain, ["a"], r=2, seed=5)
    replacing = [write_recipe(shelf.folder(), plain, Recipe(("a",), replaced=("c",), seed=seed)) for seed in (1, 2)]
    adding = write_adapter(shelf.folder(), plain, ["a", "c"], r=2, seed=3)
    apart = write_adapter(shelf.folder(), plain, ["a"], r=2, seed=4)
    made = Siblings(shelf, "net", plain, top, [*replacing, adding, apart])
    first, second, added, plainly = made.references
    for sources, words in (
        ((first, second), f"{first} and {second} can't be combined: they disagree about row 0 of 'c.weight'"),
        ((first, plainly), f"{first} and {plainly} can't be combined: they disagree about row 0 of 'c.weight'"),
        ((first, added), f"{first} replaces values of 'c.weight', and {added} adds to them"),
    ):
        with pytest.raises(InvalidAdapterError) as refused:
            shelf.registry.combine([(one, 0.5) for one in sources], made.path)
        assert (refused.value.code, str(refused.value).startswith(words)) == ("not_combinable", True), refused.value
    # a source without weight has no say, and one that keeps the parent's values agrees with who replaces nothing
    shelf.registry.combine([(first, 1.0), (second, 0.0)], made.path)
    kept = write_recipe(shelf.folder(), plain, Recipe(("a",), replaced=("c",), seed=7))
    tensors = read_tensors(kept / "adapter_model.safetensors")
    (name,) = [name for name in tensors if "lora" not in name]
    base = read_tensors(plain.folder / "model.safetensors")["c.weight"]
    write_tensors(kept / "adapter_model.safetensors", {**tensors, name: base})
    same = Siblings(shelf, "net", plain, top, [kept, apart])
    same.check((0.5, 2.0), same.combined((0.5, 2.0)))


def test_a_dora_is_refused_by_name(shelf: Shelf, plain: Base) -> None:
    top = write_recipe(shelf.folder(), plain, Recipe(("a",), dora=True, seed=5))
    folders = [
        write_adapter(shelf.folder(), plain, ["a", "b"], r=2, seed=1),
        write_recipe(shelf.folder(), plain, Recipe(("b",), dora=True, seed=2)),
        write_adapter(shelf.folder(), plain, ["b"], r=2, seed=3),
    ]
    made = Siblings(shelf, "net", plain, top, folders)
    with pytest.raises(InvalidAdapterError, match=rf"{made.references[1]} can't be combined: it rescales 'b' by DoRA"):
        shelf.registry.combine([(one, 1.0) for one in made.references], made.path)
    pair = Siblings(shelf, "net", plain, top, [folders[0], folders[2]])  # under a DoRA, which is the ancestor
    pair.check((0.5, -1.5), pair.combined((0.5, -1.5)))
    above = {made.references[0]: 1.0, made.references[2]: 1.0}
    with pytest.raises(InvalidAdapterError, match="by DoRA"):  # over the base model it would be one of the links
        shelf.registry.combine(above, "net/over", over="net")


@pytest.mark.slow
def test_truncated_as_a_path_is(shelf: Shelf, plain: Base) -> None:
    top = write_adapter(shelf.folder(), plain, ["a"], r=2, seed=5)
    folders = [write_adapter(shelf.folder(), plain, ["a", "b"], r=4, seed=seed) for seed in (1, 2)]
    made = Siblings(shelf, "net", plain, top, folders)
    report = shelf.registry.combine(zip(made.references, (0.5, 0.5), strict=True), made.path, rank=3, dry_run=True)
    assert report.rank == 3
    assert report.truncation is not None
    mixed = made.combined((0.5, 0.5), rank=3)
    error, total = 0.0, 0.0
    low = made.state().views
    states = [made.state(folder).views for folder in folders]
    for name, view in made.state(mixed).views.items():
        right = sum(0.5 * (state[name].values - low[name].values) for state in states)
        values = np.linalg.svd(right, compute_uv=False)
        assert np.isclose(np.linalg.norm(view.values - low[name].values - right), np.linalg.norm(values[3:]), atol=1e-6)
        error, total = error + float((values[3:] ** 2).sum()), total + float((values**2).sum())
    assert np.isclose(report.truncation.total.relative_frobenius, np.sqrt(error / total))
    within = shelf.registry.combine(zip(made.references, (0.5, 0.5), strict=True), made.path, max_error=0.5)
    assert within.truncation is not None
    assert within.truncation.total.relative_frobenius <= 0.5
    assert within.rank < 8


def test_the_energy_ratio_is_of_the_dense_deltas(shelf: Shelf, plain: Base) -> None:
    top = write_adapter(shelf.folder(), plain, ["a"], r=2, seed=5)
    folders = [write_adapter(shelf.folder(), plain, ["a", "b"], r=3, seed=seed) for seed in (1, 2)]
    made = Siblings(shelf, "net", plain, top, folders)
    weights = (0.5, -2.0)
    report = shelf.registry.combine(zip(made.references, weights, strict=True), made.path, dry_run=True)
    low = made.state().views
    parts = [
        {name: weight * (view.values - low[name].values) for name, view in made.state(folder).views.items()}
        for folder, weight in zip(folders, weights, strict=True)
    ]
    norms = [np.sqrt(sum(float((one**2).sum()) for one in part.values())) for part in parts]
    whole = np.sqrt(sum(float(((parts[0][name] + parts[1][name]) ** 2).sum()) for name in low))
    assert np.allclose([one.frobenius for one in report.sources], norms)
    assert np.isclose(report.frobenius, whole)
    assert report.energy_ratio is not None
    assert np.isclose(report.energy_ratio, whole**2 / sum(norm**2 for norm in norms))
    alone = shelf.registry.combine({made.references[0]: -3}, made.path, dry_run=True)
    assert alone.energy_ratio is not None
    assert np.isclose(alone.energy_ratio, 1.0)


@pytest.mark.long_but("gpt2", "conv", "mixtral")
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_that_add(shelf: Shelf, kind: str) -> None:
    """Neighbours in the list of variants, under a parent of another one, which may be a DoRA or replace something."""
    adding = [recipe for recipe in VARIANTS[kind].values() if adds_only(recipe)]
    tops = list(VARIANTS[kind].values())
    checked = 0
    for number, (one, other) in enumerate(itertools.pairwise([*adding, adding[0]])):
        top = tops[number % len(tops)]
        if top.copies:
            top = adding[0]
        made = siblings(shelf, kind, (one, other), top)
        weights = (0.5, -1.25)
        made.check(weights, made.combined(weights))
        checked += 1
    assert checked == len(adding)


@pytest.mark.long_but("tied llama-tokens", "gpt2-bias")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [("llama", "tokens"), ("tied llama", "tokens"), ("gpt2", "bias"), ("gpt2", "biases"), ("mixtral", "new experts")],
)
def test_what_agrees_is_taken_over(shelf: Shelf, kind: str, name: str) -> None:
    recipe = VARIANTS[kind][name]
    made = siblings(shelf, kind, (recipe, recipe), VARIANTS[kind]["fused" if kind == "mixtral" else "plain"])
    with pytest.raises(InvalidAdapterError) as refused:
        made.combined((0.5, 0.5))
    assert refused.value.code == "not_combinable"
    one, other = made.sources
    same = Siblings(shelf, made.parent.partition("/")[0], made.base, made.top, [one, _with_values_of(other, one)])
    same.check((0.5, 0.5), same.combined((0.5, 0.5)))
