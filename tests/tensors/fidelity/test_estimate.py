"""Estimates from a sample of rows: exact where all are read, else in intervals that hold the truth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from registry.errors import InvalidAdapterError
from registry.reference import Reference
from registry.schemas import Dtype
from registry.services.artifacts.load import load_path
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.fidelity.estimate import LIMIT, Estimated, EstimatedPath, _quantile, estimate, ratio, strata
from registry.tensors.lineage.bound import bound_links
from registry.tensors.lineage.inputs import Inputs
from registry.tensors.path.origins import BaseTensors
from tests.kit import Base, plain_base, round_once, write_adapter
from tests.kit.floats import Array
from tests.kit.recipes import write_recipes
from tests.kit.shelf import Shelf
from tests.kit.variants import MAKERS, VARIANTS

STORED: dict[Dtype, str] = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
CASES: list[tuple[str, tuple[str, ...], Dtype]] = [
    ("llama", ("plain", "dora", "plain"), "bf16"),
    ("llama", ("other tokens", "new norm", "plain"), "fp16"),
    ("tied llama", ("kept", "plain"), "bf16"),
    ("gpt2", ("lora bias", "plain"), "fp32"),
    ("conv", ("plain", "dora of some"), "bf16"),
    ("mixtral", ("fused", "one of each"), "bf16"),
    ("declared", ("experts",), "fp16"),
]


@contextmanager
def opened(shelf: Shelf, reference: str) -> Iterator[Callable[..., EstimatedPath]]:
    """`estimate` of a path that is open."""
    deployment = shelf.registry.deployment
    path = load_path(deployment, Reference.parse(reference))
    with ExitStack() as stack:
        inputs = Inputs(deployment.artifact_blobs, path, stack)
        base = BaseTensors(inputs.base_weights().tensors)
        yield partial(estimate, bound_links(inputs, path.links), inputs.table, base)


def estimated(shelf: Shelf, reference: str, dtype: str, *, seed: int = 1, limit: int = LIMIT) -> EstimatedPath:
    with opened(shelf, reference) as estimate_it:
        return estimate_it(FLOATS[dtype], seed=seed, limit=limit)


def expected(befores: Sequence[Array], afters: Sequence[Array], dtype: str) -> tuple[float, float, float]:
    """Relative error, unchanged share, surviving share, of several tensors together."""
    before, after = (np.concatenate([one.ravel() for one in many]) for many in (befores, afters))
    change, moved = after - before, round_once(after, dtype) - round_once(before, dtype)
    energy = float((change**2).sum())
    error = math.sqrt(float(((moved - change) ** 2).sum()) / energy)
    return error, float((moved[change != 0] == 0).mean()), float((moved * change).sum()) / energy


def values(found: Estimated) -> tuple[float, float, float]:
    assert found.relative_error is not None
    assert found.unchanged_share is not None
    assert found.surviving_share is not None
    return found.relative_error.value, found.unchanged_share.value, found.surviving_share.value


@pytest.mark.parametrize(("kind", "names", "dtype"), CASES)
def test_all_rows_are_exact(shelf: Shelf, kind: str, names: tuple[str, ...], dtype: Dtype) -> None:
    """Each link against what it was trained on, and the path against the base, as the reference has them."""
    name = kind.replace(" ", "-").replace("_", "-")
    base = shelf.base(name, MAKERS[kind])
    recipes = [dataclasses.replace(VARIANTS[kind][one], seed=n) for n, one in enumerate(names, start=1)]
    path = write_recipes(shelf.folder(), base, recipes)
    found = estimated(shelf, shelf.path(name, path), STORED[dtype])
    states = [base.simulate(path[:count]).tensors for count in range(len(path) + 1)]
    left_out = {one.tensor: one.how for one in found.left_out}
    tokens = sorted({row for recipe in recipes for rows in recipe.tokens.values() for row in rows})

    def of(state: int, tensor: str) -> Array:
        values = states[state][tensor].values
        return np.delete(values, tokens, 0) if left_out.get(tensor) == "rows replaced" else values

    measured = [tensor for tensor in states[0] if left_out.get(tensor) in (None, "rows replaced")]
    pairs = [(number, number + 1, one) for number, one in enumerate(found.links)] + [(0, len(path), found.path)]
    for first, last, one in pairs:
        wanted = expected([of(first, t) for t in measured], [of(last, t) for t in measured], STORED[dtype])
        assert values(one) == pytest.approx(wanted, rel=1e-6, abs=1e-9)
        assert one.surviving_share is not None
        assert one.surviving_share.low == one.surviving_share.high
    named = {"new norm": "replaced", "other tokens": "rows replaced"}
    assert {named[one] for one in names if one in named} <= set(left_out.values())


@pytest.mark.long_on("100")
@pytest.mark.parametrize("seeds", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_intervals_hold_the_truth(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, seeds: int) -> None:
    """With fixed seeds, each drawing other rows, at least 95 of 100 intervals of 99 % do; rows are not alike."""
    shapes = {"a.weight": (1500, 100), "b.weight": (900, 80), "c.weight": (64, 64)}
    base = shelf.base("intervals", _uneven, shapes=shapes, dtype="F32")
    path = [write_adapter(shelf.folder(), base, ["a", "b", "c"], size=2e-3, seed=seed) for seed in (1, 2)]
    reference = shelf.path("intervals", path)
    truth = estimated(shelf, reference, "BF16")
    assert truth.path.surviving_share is not None
    assert truth.path.surviving_share.low == truth.path.surviving_share.high
    monkeypatch.setattr("registry.tensors.fidelity.estimate.RUN", 2 << 10)
    held = dict.fromkeys(("relative_error", "unchanged_share", "surviving_share"), 0)
    widths = []
    with opened(shelf, reference) as estimate_it:
        estimates = [estimate_it(torch.bfloat16, seed=seed, limit=1 << 16) for seed in range(seeds)]
    for found in estimates:
        assert found.read <= 5 << 14
        for name in held:
            interval, true = getattr(found.path, name), getattr(truth.path, name).value
            held[name] += interval.low <= true <= interval.high
        assert found.path.relative_error is not None
        widths.append(found.path.relative_error.high / found.path.relative_error.low - 1)
    assert min(held.values()) >= 0.95 * seeds, held
    assert max(widths) < 1  # and they say something


def _uneven(folder: Path, **options: object) -> Base:
    """A base whose rows have very different sizes, in runs, as heads and experts have."""
    base = plain_base(folder, **options)  # type: ignore[arg-type]
    from tests.kit import RawTensor, read_model, write_model

    tensors = {}
    for name, raw in read_model(base.folder).items():
        scale = np.exp2(np.sin(np.arange(raw.shape[0]) / 40))
        tensors[name] = RawTensor.of(raw.values * scale[:, None], raw.dtype)
    write_model(base.folder, tensors)
    return base


def test_the_same_rows_with_any_threads_and_other_rows_with_another_seed(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shelf.base("seeds", plain_base, shapes={"a.weight": (1500, 400)}, dtype="F32")
    reference = shelf.path("seeds", [write_adapter(shelf.folder(), base, ["a"], size=1e-3)])
    one = estimated(shelf, reference, "BF16", limit=1 << 18)
    monkeypatch.setattr("registry.tensors.arithmetic.threads.available_cores", lambda: 1)
    assert estimated(shelf, reference, "BF16", limit=1 << 18) == one
    assert estimated(shelf, reference, "BF16", limit=1 << 18, seed=2) != one


def test_what_needs_all_rows_is_named(shelf: Shelf) -> None:
    """A DoRA of a weight that is stored with its outputs as columns: its norms are those of whole columns."""
    base = shelf.base("gpt2", MAKERS["gpt2"])
    path = write_recipes(shelf.folder(), base, [VARIANTS["gpt2"]["dora"]])
    found = estimated(shelf, shelf.path("gpt2", path), "BF16")
    assert {one.how for one in found.left_out} == {"rescaled by column"}
    assert found.path == found.links[0] == Estimated(None, None, None)


def test_weights_too_large_for_the_dtype(shelf: Shelf) -> None:
    base = shelf.base("too-large", plain_base, shapes={"a.weight": (64, 40)}, dtype="F32", scale=60000)
    reference = shelf.path("too-large", [write_adapter(shelf.folder(), base, ["a"], size=1e-3)])
    with pytest.raises(InvalidAdapterError, match="too large for float16") as raised:
        estimated(shelf, reference, "F16")
    assert raised.value.code == "overflow"
    assert values(estimated(shelf, reference, "BF16").path)


def test_strata_cover_all_units_and_draw_four_of_each() -> None:
    for units, wanted in ((100, 10), (7, 6), (1000, 333), (5, 5), (3, 9)):
        found = strata(units, wanted, seed=3)
        assert [unit for one in found for unit in one.units] == list(range(units))
        assert all(set(one.drawn) <= set(one.units) for one in found)
        assert sum(len(one.drawn) for one in found) == (units if wanted >= units else wanted // 4 * 4)


def test_a_ratio_of_proportional_sums_has_no_width() -> None:
    sample = strata(40, 8, seed=1)
    below = [float(2 + n) for n in range(8)]
    found = ratio(sample, [3 * one for one in below], below)
    assert found is not None
    assert found == pytest.approx((3, 3, 3))
    assert ratio(sample, below, [0.0] * 8) is None


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 5.841), (7, 3.499), (30, 2.750), (1e9, 2.5758)])
def test_quantiles_of_t(freedom: float, quantile: float) -> None:
    assert _quantile(freedom) == pytest.approx(quantile, rel=0.04 if freedom < 5 else 3e-3)


def test_the_default_is_bounded() -> None:
    assert LIMIT <= 64 << 20
