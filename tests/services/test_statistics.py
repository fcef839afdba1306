"""Statistics of paths: every figure against a dense singular value decomposition of what the reference says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from registry.errors import NotFoundError, UsageError
from registry.schemas.statistics import DeltaStatistics, Figures, ModuleStatistics
from tests.kit import Base, llama_base, read_pairs, read_tensors, write_adapter, write_chain, write_tensors
from tests.kit.dense import deltas
from tests.kit.floats import Array
from tests.kit.shelf import Shelf, published
from tests.kit.tensor_files import RawTensor
from tests.kit.variants import MAKERS, VARIANTS

ADDED = [
    (kind, name)
    for kind, recipes in VARIANTS.items()
    for name, recipe in recipes.items()
    if not recipe.dora and not recipe.replaced and not recipe.tokens and recipe.bias == "none"
]
"""Variants that only add products."""
QUICK = {next(one for one in ADDED if one[0] == kind) for kind in VARIANTS} | {
    ("llama", "patterns"), ("tied llama", "kept"), ("gpt2", "lora bias"), ("mixtral", "one of each")
}  # fmt: skip
TRIED = [pytest.param(*one, id="-".join(one), marks=[] if one in QUICK else pytest.mark.slow) for one in ADDED]


def expected(matrices: Sequence[Array]) -> dict[str, float]:
    """The figures of docs/statistics.md, from dense matrices."""
    spectra = [np.linalg.svd(matrix, compute_uv=False) for matrix in matrices]
    energies = np.array([np.sum(values**2) for values in spectra])
    total = float(np.sum(energies))
    each = np.zeros(max(len(values) for values in spectra))
    for values in spectra:
        each[: len(values)] += values**2
    held = np.cumsum(each) / total
    found = {
        "energy": total,
        "frobenius": math.sqrt(total),
        "spectral": float(max(values[0] for values in spectra)),
        "stable_rank": float(np.sum([np.sum(values**2) / values[0] ** 2 * np.sum(values**2) / total
                                     for values in spectra if values[0] > 0])),
    }  # fmt: skip
    effective = 0.0
    for values, energy in zip(spectra, energies, strict=True):
        shares = values[values > 1e-12 * values[0]] ** 2 / energy if energy else np.array([1.0])
        effective += float(energy / total * np.exp(-np.sum(shares * np.log(shares))))
    found["effective_rank"] = effective
    for percent in (90, 95, 99):
        found[f"rank{percent}"] = int(np.argmax(held >= percent / 100 - 1e-12)) + 1
    return found


def check(figures: Figures, matrices: Sequence[Array], scale: float) -> None:
    """``scale``: norm of the largest link, as links may cancel."""
    for name, value in expected(matrices).items():
        if name == "energy":
            assert figures.energy == pytest.approx(value, abs=1e-9 * scale**2), name
        elif name in ("frobenius", "spectral"):
            assert getattr(figures, name) == pytest.approx(value, abs=1e-10 * scale), name
        else:
            assert getattr(figures, name) == pytest.approx(value, rel=1e-8), name


def module_of(parameter: str, statistics: DeltaStatistics) -> ModuleStatistics:
    """The module whose weight, or the parameter of experts or the bias, that has this name."""
    by_name = {module.module: module for module in statistics.modules}
    for name in (parameter, parameter.rpartition(".")[0]):
        if name in by_name:
            return by_name[name]
    raise AssertionError(f"{parameter} is not among {sorted(by_name)}")


def check_relative(module: ModuleStatistics, weight: Array) -> None:
    """To the weights that it changes: of experts, of those that have factors."""
    assert module.relative_frobenius is not None
    assert module.relative_spectral is not None
    parts = [weight[one.expert] for one in module.experts] if module.experts else [weight]
    norm = math.hypot(*(float(np.linalg.norm(part)) for part in parts))
    assert module.relative_frobenius * norm == pytest.approx(module.frobenius, rel=1e-10)
    assert module.relative_spectral * norm == pytest.approx(module.spectral, rel=1e-10)


def check_all(statistics: DeltaStatistics, dense: Mapping[str, list[Array]], scale: float, base: Base) -> None:
    weights = base.simulate([]).state.views
    changed = {module_of(parameter, statistics).module for parameter in dense}
    assert [module for module in statistics.modules if module.module not in changed and module.energy] == []
    for parameter, matrices in dense.items():
        module = module_of(parameter, statistics)
        check(module, matrices, scale)
        check_relative(module, weights[parameter].values)
        if len(matrices) > 1:
            assert [one.expert for one in module.experts] == [n for n, one in enumerate(matrices) if np.any(one)]
            for one in module.experts:
                check(one, [matrices[one.expert]], scale)
    every = [matrix for matrices in dense.values() for matrix in matrices]
    check(statistics, every, scale)
    assert math.fsum(module.energy for module in statistics.modules) == pytest.approx(statistics.energy)
    for groups in (statistics.kinds, statistics.depths):
        assert math.fsum(group.share for group in groups) == pytest.approx(1)
        assert sum(group.modules for group in groups) == len(statistics.modules)
    assert statistics.energy_by_rank[-1] == pytest.approx(1)
    assert list(statistics.energy_by_rank) == sorted(statistics.energy_by_rank)
    for percent in (90, 95, 99):
        cap = getattr(statistics, f"rank{percent}")
        assert statistics.energy_by_rank[cap - 1] >= percent / 100 - 1e-12


def largest(dense: Mapping[str, list[Array]]) -> float:
    return max((float(np.linalg.norm(matrix)) for matrices in dense.values() for matrix in matrices), default=0.0)


@pytest.mark.long_but(
    "plain",
    "llama-patterns",
    "tied llama-kept",
    "tied llama-both",
    "gpt2-lora bias",
    "mixtral-fused",
    "mixtral-each expert",
    "mixtral-one of each",
    "gpt_oss-fused",
    "attention-fixed peft",
    "declared-linear",
    "declared-experts",
)
@pytest.mark.parametrize(("kind", "name"), TRIED)
def test_links_and_their_path_are_what_dense_matrices_say(shelf: Shelf, kind: str, name: str) -> None:
    """A plain link, then the variant: each alone, and both together."""
    plain = next(iter(VARIANTS[kind].values()))
    base, path, ref = published(shelf, kind, [plain, VARIANTS[kind][name]])
    found = shelf.registry.stats(ref)
    scale = 0.0
    for number, link in enumerate(found.links):
        dense = deltas(base, path[:number], path[: number + 1])
        scale = max(scale, largest(dense))
        check_all(link.delta, dense, largest(dense), base)
    check_all(found.path, deltas(base, [], path), scale, base)
    assert found.path.others == ()
    assert shelf.registry.stats(ref) == found  # as it is kept


def test_zero_negated_and_repeated_links(shelf: Shelf) -> None:
    base = shelf.base("llama", MAKERS["llama"])
    one = write_adapter(shelf.folder(), base, ["q_proj"], r=4, alpha=8, seed=7)
    negated = write_adapter(shelf.folder(), base, ["q_proj"], r=4, alpha=-8, seed=7)
    nothing = write_adapter(shelf.folder(), base, ["q_proj"], r=4, fill="zero")
    link = shelf.registry.stats(shelf.path("llama", [one])).path
    twice = shelf.registry.stats(shelf.path("llama", [one, one])).path
    assert twice.frobenius == pytest.approx(2 * link.frobenius, rel=1e-12)
    assert twice.rank == 8
    for name in ("stable_rank", "effective_rank", "rank90", "rank95", "rank99"):
        assert getattr(twice, name) == pytest.approx(getattr(link, name), rel=1e-10)
    back = shelf.registry.stats(shelf.path("llama", [one, negated])).path
    assert back.frobenius <= 1e-10 * link.frobenius
    unchanged = shelf.registry.stats(shelf.path("llama", [nothing]))
    zero = unchanged.path
    assert [zero.frobenius, zero.spectral, zero.stable_rank, zero.effective_rank] == [0, 0, 0, 0]
    assert [zero.rank90, zero.rank95, zero.rank99] == [0, 0, 0]
    assert zero.energy_by_rank == ()
    assert all(module.rank == 4 and module.energy == 0 for module in zero.modules)
    assert [group.share for group in zero.kinds] == [0]


def test_a_path_of_one_link_is_that_link(shelf: Shelf) -> None:
    for name in ("dora", "plain", "new linear", "tokens"):
        _, _, ref = published(shelf, "llama", [VARIANTS["llama"][name]])
        found = shelf.registry.stats(ref)
        assert [link.delta for link in found.links] == [found.path]


def test_what_is_no_product_is_named(shelf: Shelf) -> None:
    """DoRA's added part is measured and marked; what comes after a rescaling, and what is replaced, is listed."""
    recipes = VARIANTS["llama"]
    _, path, ref = published(shelf, "llama", [recipes["dora"]])
    dora = shelf.registry.stats(ref).path
    pairs = read_pairs(path[0])
    assert {module.module for module in dora.modules} == set(pairs)
    for module in dora.modules:
        assert module.scaled
        check(module, [pairs[module.module].delta], float(np.linalg.norm(pairs[module.module].delta)))
    assert dora.others == ()

    _, path, ref = published(shelf, "llama", [recipes["dora"], recipes["plain"]])
    found = shelf.registry.stats(ref)
    both = {name for name in read_pairs(path[0]) if name in read_pairs(path[1])}
    assert {one.name for one in found.path.others} == both
    assert {one.how for one in found.path.others} == {"rescaled and added to"}
    assert {module.module for module in found.path.modules} == set(read_pairs(path[1])) ^ both | (
        set(read_pairs(path[0])) - both
    )
    assert found.links[1].delta.others == ()  # alone it only adds

    _, _, ref = published(shelf, "llama", [recipes["new norm"]])
    others = shelf.registry.stats(ref).path.others
    assert {(one.name, one.how) for one in others} == {
        ("model.norm.weight", "replaced"),
        *((f"model.layers.{n}.input_layernorm.weight", "replaced") for n in range(2)),
    }
    _, _, ref = published(shelf, "llama", [recipes["tokens"]])
    assert [(one.name, one.how) for one in shelf.registry.stats(ref).path.others] == [
        ("model.embed_tokens", "rows replaced")
    ]


def test_since_an_ancestor(shelf: Shelf) -> None:
    base, path, ref = published(shelf, "llama", [VARIANTS["llama"][name] for name in ("plain", "rslora", "patterns")])
    first = shelf.registry.resolve(ref).lineage[1].reference
    found = shelf.registry.stats(ref, since=first)
    assert (found.since, len(found.links)) == (first, 2)
    dense = deltas(base, path[:1], path)
    check_all(found.path, dense, largest(dense), base)
    with pytest.raises(UsageError, match="is not an ancestor of"):
        shelf.registry.stats(first, since=ref)
    with pytest.raises(UsageError, match="is a base model, which no link has changed yet"):
        shelf.registry.stats("llama")
    for nothing in ("llama/nothing", "nothing", "nothing/at-all"):
        with pytest.raises(NotFoundError):
            shelf.registry.stats(nothing)


def test_depths_and_kinds(shelf: Shelf) -> None:
    base = shelf.base("llama", MAKERS["llama"])
    adapter = write_adapter(shelf.folder(), base, ["q_proj", "down_proj", "lm_head"], r=2, seed=3)
    found = shelf.registry.stats(shelf.path("llama", [adapter])).path
    assert [(group.name, group.modules) for group in found.depths] == [("0", 2), ("1", 2), ("none", 1)]
    assert [(group.name, group.modules) for group in found.kinds] == [
        ("lm_head", 1), ("mlp.down_proj", 2), ("self_attn.q_proj", 2)
    ]  # fmt: skip


def test_no_byte_of_the_base_is_read(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    base = shelf.base("llama", llama_base)
    ref = shelf.path("llama", write_chain(shelf.folder(), base, 2, ["q_proj"]))
    for file in shelf.registry.show("llama").files:
        if file.path.endswith(".safetensors"):
            (stored,) = (tmp_path / "registry" / "blobs").rglob(f"{file.digest.removeprefix('sha256:')}*")
            stored.unlink()
    assert shelf.registry.stats(ref).path.rank == 8
    shelf.close()


def test_factors_in_every_dtype(shelf: Shelf) -> None:
    """As exact as the file: nothing is rounded to the dtype of sums."""
    base = shelf.base("llama", MAKERS["llama"])
    for dtype in ("F64", "F32", "F16", "BF16"):
        path = [write_adapter(shelf.folder(), base, ["q_proj"], r=3, alpha=7, dtype=dtype, seed=n) for n in (1, 2)]
        dense = deltas(base, [], path)
        check_all(shelf.registry.stats(shelf.path("llama", path)).path, dense, largest(dense), base)


def test_extreme_factors(shelf: Shelf) -> None:
    """Far apart links, and values whose squares are near the ends of float64."""
    base = shelf.base("llama", MAKERS["llama"])
    for down, up in ((1e-60, 1e-60), (1e120, 1e-120)):
        large, small = (write_adapter(shelf.folder(), base, ["q_proj"], dtype="F64", seed=n) for n in (1, 2))
        tensors = read_tensors(large / "adapter_model.safetensors")
        scaled = {
            name: RawTensor.of(one.values * (down if "lora_A" in name else up), "F64") for name, one in tensors.items()
        }
        write_tensors(large / "adapter_model.safetensors", scaled)
        found = shelf.registry.stats(shelf.path("llama", [large, small]))
        for link, adapter in zip(found.links, (large, small), strict=True):
            norms = [float(np.linalg.norm(pair.delta)) for pair in read_pairs(adapter).values()]
            assert link.delta.frobenius == pytest.approx(math.hypot(*norms), rel=1e-10)
