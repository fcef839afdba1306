"""Fidelity that was measured in a merge, against the reference in float64 with a rounding of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from registry.schemas import Dtype, Fidelity
from registry.schemas.artifacts import FidelityFigures, Options
from registry.schemas.form import MeasuredRows
from registry.services.artifacts.opened import ask, open_asked
from registry.tensors.fidelity.meter import SMALL
from tests.kit import Base, plain_base, round_once, write_adapter, write_chain
from tests.kit.floats import Array
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf, artifact_tensors
from tests.kit.tensor_files import RawTensor
from tests.kit.variants import MAKERS, VARIANTS

STORED: dict[Dtype, str] = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
CASES = [
    ("llama", ("plain", "dora"), "bf16"),
    ("llama", ("dora of others", "plain", "half"), "fp16"),
    ("llama", ("new linear", "plain", "tokens"), "bf16"),
    ("llama", ("embedding and head", "tokens", "new norm"), "fp32"),
    ("tied llama", ("kept", "plain"), "bf16"),
    ("tied llama", ("dora embedding",), "bf16"),
    ("tied llama", ("embedding", "tokens"), "bf16"),
    ("gpt2", ("dora", "plain"), "bf16"),
    ("gpt2", ("dora positions", "lora bias"), "fp32"),
    ("conv", ("plain", "dora"), "bf16"),
    ("attention", ("ranks",), "fp16"),
    ("mixtral", ("fused", "one of each"), "bf16"),
    ("gpt_oss", ("fused",), "bf16"),
    ("declared", ("experts", "dora"), "bf16"),
]


def measured(
    shelf: Shelf, reference: str, dtype: Dtype | None = None, rows: MeasuredRows = "sample", lanes: int | None = None
) -> tuple[Fidelity, dict[str, RawTensor]]:
    """The figures of a merge, and what it made."""
    asked = ask(shelf.registry.deployment, reference, Options(kind="merged", dtype=dtype))
    with open_asked(shelf.registry.deployment, asked, measured=rows) as artifact:
        for file in artifact.files.values():
            for _ in file.chunks(lanes=lanes):
                pass
        found = artifact.fidelity()
        assert found is not None
        return found, artifact_tensors(artifact)


def expected(before: Array, after: Array, out: Array, dtype: str) -> tuple[float, float, float]:
    """Relative error, unchanged share, surviving share, by their definitions."""
    change = after - before
    moved = out - round_once(before, dtype)
    energy = float((change**2).sum())
    error = math.sqrt(float(((moved - change) ** 2).sum()) / energy)
    return error, float((moved[change != 0] == 0).mean()), float((moved * change).sum()) / energy


def figures(found: FidelityFigures) -> tuple[float, float, float]:
    assert found.relative_error is not None
    assert found.unchanged_share is not None
    assert found.surviving_share is not None
    return found.relative_error, found.unchanged_share, found.surviving_share


@pytest.mark.parametrize(("kind", "names", "dtype"), CASES)
def test_variants(shelf: Shelf, kind: str, names: tuple[str, ...], dtype: Dtype) -> None:
    name = kind.replace(" ", "-").replace("_", "-")
    base = shelf.base(name, MAKERS[kind])
    recipes = [dataclasses.replace(VARIANTS[kind][one], seed=n) for n, one in enumerate(names, start=1)]
    path = write_recipes(shelf.folder(), base, recipes)
    found, out = measured(shelf, shelf.path(name, path), dtype)
    _check(base, path, recipes, found, out, STORED[dtype])


def _check(
    base: Base,
    path: Sequence[Path],
    recipes: Sequence[Recipe],
    found: Fidelity,
    out: Mapping[str, RawTensor],
    dtype: str,
) -> None:
    reference = base.simulate(path).tensors
    rows_of_tokens = sorted({row for recipe in recipes for rows in recipe.tokens.values() for row in rows})
    left_out = {one.tensor: one.how for one in found.left_out}
    every = []
    for one in found.tensors:
        merged = reference[one.tensor]
        before, after, written = merged.base.values, merged.values, out[one.tensor].values
        if left_out.get(one.tensor) == "rows replaced":
            before, after, written = (np.delete(values, rows_of_tokens, 0) for values in (before, after, written))
        wanted = expected(before, after, written, dtype)
        assert figures(one) == pytest.approx(wanted, rel=2e-4, abs=1e-6), one.tensor
        if dtype != "F32":  # the files hold what the oracle rounds itself, but for what lies next to a tie
            own = expected(before, after, round_once(after, dtype), dtype)
            assert figures(one) == pytest.approx(own, rel=2e-2, abs=2e-3), one.tensor
        every.append((before, after, written))
    joined = [np.concatenate([values[n].ravel() for values in every]) for n in range(3)]
    assert figures(found) == pytest.approx(expected(joined[0], joined[1], joined[2], dtype), rel=2e-4, abs=1e-6)
    own_names = base.reference([]).keys()
    changed = {
        name for name, one in reference.items() if name in own_names and not np.array_equal(one.values, one.base.values)
    }
    named = {one.tensor for one in found.tensors} | set(left_out)
    assert changed == named & own_names
    assert found.rows == "sample"


@pytest.mark.long_but("bf16-0.001", "fp16-1e-06", "fp32-0.3")
@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_small_and_large_deltas(shelf: Shelf, dtype: Dtype, size: float) -> None:
    """Every 16th row of a large tensor, all of small ones, and both in the proportion of their elements."""
    shapes = {"large.weight": (1300, 900), "small.weight": (64, 40)}
    base = shelf.base("sizes", plain_base, shapes=shapes, dtype="F32")
    assert 64 * 40 < SMALL < 1300 * 900
    path = [write_adapter(shelf.folder(), base, ["large", "small"], size=size, seed=seed) for seed in (1, 2)]
    reference = shelf.path("sizes", path)
    found, out = measured(shelf, reference, dtype)
    merged = base.reference(path)
    before, after = ({name: one.base.values for name, one in merged.items()}, {n: o.values for n, o in merged.items()})
    figures_of = {one.tensor: figures(one) for one in found.tensors}
    for name, step in (("large.weight", 16), ("small.weight", 1)):
        part = [values[name][::step] for values in (before, after, {n: o.values for n, o in out.items()})]
        assert figures_of[name] == pytest.approx(
            expected(part[0], part[1], part[2], STORED[dtype]), rel=2e-4, abs=1e-9
        ), name
    full, _ = measured(shelf, reference, dtype, "full")
    joined = [
        np.concatenate([values[name].ravel() for name in shapes])
        for values in (before, after, {n: o.values for n, o in out.items()})
    ]
    assert figures(full) == pytest.approx(expected(joined[0], joined[1], joined[2], STORED[dtype]), rel=2e-4, abs=1e-9)
    if size > 1e-6:  # below, what survives is decided by a few elements
        assert figures(found) == pytest.approx(figures(full), rel=0.1, abs=1e-3)


def test_small_and_large_tensors_count_by_their_size(shelf: Shelf) -> None:
    """A sampled row stands for sixteen: what a small tensor lost counts no more than its elements do."""
    base = shelf.base(
        "counts", plain_base, shapes={"large.weight": (1300, 900), "small.weight": (64, 40)}, dtype="BF16"
    )
    path = [
        write_adapter(shelf.folder(), base, ["large"], size=1e-3),
        write_adapter(shelf.folder(), base, ["small"], size=0.05),
    ]
    found, out = measured(shelf, shelf.path("counts", path), None)
    lost = energy = 0.0
    for name, step in (("large.weight", 16), ("small.weight", 1)):
        one = base.reference(path)[name]
        change = (one.values - one.base.values)[::step]
        moved = (out[name].values - one.base.values)[::step]
        share = one.values.size / change.size
        lost, energy = lost + share * ((moved - change) ** 2).sum(), energy + share * (change**2).sum()
    assert found.relative_error == pytest.approx(math.sqrt(lost / energy), rel=1e-4)


def test_tiny_deltas_keep_their_digits(shelf: Shelf) -> None:
    """Their squares are none in float32."""
    base = shelf.base("tiny", plain_base, shapes={"a.weight": (64, 40)}, dtype="BF16")
    path = [write_adapter(shelf.folder(), base, ["a"], size=1e-24)]
    found, _ = measured(shelf, shelf.path("tiny", path))
    assert figures(found) == pytest.approx((1, 1, 0), abs=1e-6)


def test_figures_wait_for_every_tensor(shelf: Shelf) -> None:
    base = shelf.base("two", plain_base, shapes={"a.weight": (64, 40), "b.weight": (64, 40)}, dtype="BF16")
    reference = shelf.path("two", write_chain(shelf.folder(), base, 1, ["a", "b"], size=0.01))
    asked = ask(shelf.registry.deployment, reference, Options(kind="merged"))
    with open_asked(shelf.registry.deployment, asked, measured="sample") as artifact:
        (file,) = [one for one in artifact.files.values() if one.header is not None]
        assert file.header is not None
        one, other = file.header.entries.values()
        file.read(one.start, one.stop)
        assert artifact.fidelity() is None
        file.read(other.start, other.stop)
        assert artifact.fidelity() is not None


def test_threads_do_not_change_a_figure(shelf: Shelf) -> None:
    base = shelf.base("threads", plain_base, shapes={"a.weight": (5000, 700), "b.weight": (3000, 900)}, dtype="BF16")
    path = write_chain(shelf.folder(), base, 2, ["a", "b"], size=0.01)
    reference = shelf.path("threads", path)
    every: tuple[MeasuredRows, ...] = ("sample", "full")
    for rows in every:
        one = measured(shelf, reference, rows=rows, lanes=1)[0]
        assert one == measured(shelf, reference, rows=rows, lanes=2)[0]


def test_measuring_changes_no_byte(shelf: Shelf) -> None:
    base = shelf.base("bytes", plain_base, shapes={"a.weight": (2000, 700)}, dtype="BF16")
    reference = shelf.path("bytes", write_chain(shelf.folder(), base, 2, ["a"], size=0.01))
    assert measured(shelf, reference, rows="full")[1] == shelf.read_merged(reference)


def test_what_was_not_made_has_no_figures(shelf: Shelf) -> None:
    base = shelf.base("parts", plain_base, shapes={"a.weight": (5000, 700)}, dtype="BF16")
    reference = shelf.path("parts", write_chain(shelf.folder(), base, 1, ["a"], size=0.01))
    asked = ask(shelf.registry.deployment, reference, Options(kind="merged"))
    with open_asked(shelf.registry.deployment, asked, measured="sample") as artifact:
        artifact.file("model.safetensors").read(0, 4096)
        assert artifact.fidelity() is None
        artifact.measure()
        assert artifact.fidelity() == measured(shelf, reference)[0]


def test_a_delta_of_zero_has_no_figures(shelf: Shelf) -> None:
    base = shelf.base("zeros", plain_base, shapes={"a.weight": (64, 40)}, dtype="BF16")
    reference = shelf.path("zeros", [write_adapter(shelf.folder(), base, ["a"], fill="zero")])
    found, _ = measured(shelf, reference)
    assert (found.relative_error, found.unchanged_share, found.surviving_share) == (None, None, None)
