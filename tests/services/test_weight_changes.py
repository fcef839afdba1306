"""Factors and dense changes of modules, against a naive float64 reference that shares no code with the core."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import NotFoundError, RetractedError, UnavailableError, UsageError
from registry.operations.registry import Registry
from tests.kit import Base, read_pairs, write_adapter, write_chain
from tests.kit.floats import Array
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.serving import ServedRegistry, open_http
from tests.kit.shelf import Shelf, published
from tests.kit.variants import MAKERS, VARIANTS

EVERY = [(kind, name) for kind, recipes in VARIANTS.items() for name in recipes]
QUICK = {next(one for one in EVERY if one[0] == kind) for kind in VARIANTS} | {
    ("llama", "dora"), ("llama", "tokens"), ("llama", "dora embedding"), ("llama", "new linear"),
    ("gpt2", "dora positions"), ("gpt2", "lora bias"), ("tied llama", "kept"), ("tied llama", "dora head"),
    ("mixtral", "one of each"),
}  # fmt: skip
TRIED = [pytest.param(*one, id="-".join(one), marks=[] if one in QUICK else pytest.mark.long) for one in EVERY]


def changes(base: Base, before: Sequence[Path], after: Sequence[Path]) -> dict[tuple[str, int | None], Array]:
    """What was changed, by parameter and expert, as the running model has it; of tied sides once."""
    old, new = (base.simulate(path).state for path in (before, after))
    found: dict[tuple[str, int | None], Array] = {}
    for name, view in new.views.items():
        change = view.values - old.views[name].values
        if name in new.tied or not np.any(change):
            continue
        if name.rpartition(".")[0] in new.layout.experts and change.ndim == 3:
            found |= {(name, number): matrix for number, matrix in enumerate(change) if np.any(matrix)}
        else:
            found[name, None] = change
    return found


def named(registry: Registry, ref: str, since: str | None) -> set[str]:
    statistics = registry.stats(ref, since=since).path
    return {one.module for one in statistics.modules} | {one.name for one in statistics.others}


def is_close(found: torch.Tensor, expected: Array, scale: float) -> bool:
    """In the shape of the running model, or as out by in where that is stored as in by out, or a vector."""
    value = found.numpy()
    shapes = [expected, expected.T, expected.reshape(expected.shape[0], -1)]
    return any(value.shape == one.shape and np.abs(value - one).max() <= 1e-12 * scale for one in shapes)


@pytest.mark.parametrize(("kind", "name"), TRIED)
def test_what_a_path_changes_and_what_its_last_link_does(shelf: Shelf, kind: str, name: str) -> None:
    plain = next(iter(VARIANTS[kind].values()))
    base, path, ref = published(shelf, kind, [plain, VARIANTS[kind][name]])
    first = shelf.registry.resolve(ref).lineage[1].reference
    weights = base.simulate([]).state.views
    for since, before in ((None, path[:0]), (first, path[:1])):
        names = named(shelf.registry, ref, since)
        for (parameter, expert), expected in changes(base, before, path).items():
            module = parameter if parameter in names else parameter.rpartition(".")[0]
            found = shelf.registry.delta(ref, module, expert=expert, since=since)
            assert found.dtype is torch.float64
            scale = max(float(np.abs(expected).max()), float(np.abs(weights[parameter].values).max()))
            assert is_close(found, expected, scale), (parameter, expert)
            try:
                a, b = shelf.registry.factors(ref, module, expert=expert, since=since)
            except UsageError as refused:
                assert "has no factors. `delta` gives the dense change." in str(refused)  # noqa: PT017 - either is right
            else:
                assert a.dtype is b.dtype is torch.float64
                assert is_close((b @ a).reshape(found.shape), expected, scale)


def test_shapes_and_ranks(shelf: Shelf) -> None:
    """Oriented as out by in, convolutions in the shape of their weights; ranks of links add up."""
    for kind, module in (
        ("llama", "model.layers.0.mlp.down_proj"), ("gpt2", "transformer.h.0.attn.c_attn"), ("conv", "c2"),
    ):  # fmt: skip
        plain = next(iter(VARIANTS[kind].values()))
        base, path, ref = published(shelf, kind, [plain, plain])
        stored = base.simulate([]).state.views[f"{module}.weight"].values.shape
        a, b = shelf.registry.factors(ref, module)
        delta = shelf.registry.delta(ref, module)
        assert a.shape[0] == b.shape[1] == sum(read_pairs(one)[module].a.shape[0] for one in path)
        if kind == "gpt2":  # Conv1D is stored as (in, out)
            assert delta.shape == tuple(reversed(stored)) == (b.shape[0], a.shape[1])
        else:
            assert delta.shape == stored
            assert (b.shape[0], a.shape[1]) == (stored[0], int(np.prod(stored[1:])))


@settings(max_examples=20, deadline=None)
@given(
    rank=st.integers(1, 4), alpha=st.floats(-8, 8, allow_nan=False), dtype=st.sampled_from(["F64", "F32", "BF16"]),
    seed=st.integers(0, 100), rslora=st.booleans(),
)  # fmt: skip
def test_factors_are_those_of_the_file(
    shelf: Shelf, rank: int, alpha: float, dtype: str, seed: int, rslora: bool
) -> None:
    base = shelf.base("llama", MAKERS["llama"])
    recipe = Recipe(("v_proj",), r=rank, alpha=alpha, dtype=dtype, seed=seed, rslora=rslora)
    (folder,) = write_recipes(shelf.folder(), base, [recipe])
    ref = shelf.path("llama", [folder])
    for module, pair in read_pairs(folder).items():
        a, b = shelf.registry.factors(ref, module)
        assert np.array_equal(a.numpy(), pair.a)
        assert np.allclose(b.numpy(), pair.scaling * pair.b, rtol=1e-15, atol=0)


def test_what_is_no_product_has_no_factors(shelf: Shelf) -> None:
    recipes = VARIANTS["llama"]
    _, _, dora = published(shelf, "llama", [recipes["dora"], recipes["plain"]])
    first = shelf.registry.resolve(dora).lineage[1].reference
    module = "model.layers.0.self_attn.q_proj"
    with pytest.raises(UsageError, match=r"rescales its weight \(DoRA\): .* has no factors"):
        shelf.registry.factors(dora, module)
    a, _ = shelf.registry.factors(dora, module, since=first)  # the second link only adds
    assert a.shape[0] == 3
    _, _, ref = published(shelf, "llama", [recipes["new linear"]])
    with pytest.raises(UsageError, match="replaces values of it"):
        shelf.registry.factors(ref, module)
    with pytest.raises(UsageError, match=r"changes no module 'model.layers.0.self_attn.k_proj'; .* nearest are model"):
        shelf.registry.delta(ref, "model.layers.0.self_attn.k_proj")
    with pytest.raises(UsageError, match="has no experts; expert is 3"):
        shelf.registry.delta(ref, module, expert=3)
    with pytest.raises(UsageError, match="is not an ancestor of"):
        shelf.registry.factors(first, module, since=dora)
    for nothing in ("llama/nothing", "nothing/at-all"):
        with pytest.raises(NotFoundError):
            shelf.registry.factors(nothing, module)


def test_experts_are_named_by_number(shelf: Shelf) -> None:
    _, _, ref = published(shelf, "mixtral", [VARIANTS["mixtral"]["one of each"]])
    experts = next(one for one in shelf.registry.stats(ref).path.modules if one.experts)
    with pytest.raises(UsageError, match="has a matrix for each expert: 0, 1"):
        shelf.registry.factors(ref, experts.module)
    for one in experts.experts:
        a, b = shelf.registry.factors(ref, experts.module, expert=one.expert)
        assert float(torch.linalg.matrix_norm(b @ a)) == pytest.approx(one.frobenius, rel=1e-10)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedRegistry]:
    """With llama/one@1 and llama/one/two@1, of which the second is a DoRA."""
    root = tmp_path_factory.mktemp("http")
    opened = open_http(root)
    base = MAKERS["llama"](root / "base")
    opened.add_base("llama", base.folder)
    links = write_recipes(root / "links", base, [Recipe(("q_proj",), r=2), Recipe(("q_proj",), dora=True, seed=2)])
    opened.publish(links[0], "llama/one")
    opened.publish(links[1], "llama/one/two", parent="llama/one@1")
    yield opened
    opened.close()


MODULE = "model.layers.1.self_attn.q_proj"


def test_the_same_over_http(http: ServedRegistry) -> None:
    for ref, since in (("llama/one", None), ("llama/one/two", None), ("llama/one/two", "llama/one")):
        assert torch.equal(http.delta(ref, MODULE, since=since), http.local.delta(ref, MODULE, since=since))
    for ours, theirs in zip(http.factors("llama/one", MODULE), http.local.factors("llama/one", MODULE), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(UsageError, match="has no factors"):
        http.factors("llama/one/two", MODULE)


def test_a_retraction_holds_at_the_next_call(http: ServedRegistry) -> None:
    for registry in (http, http.local):
        registry.factors("llama/one", MODULE)
        http.local.retract("llama/one", reason="wrong")
        with pytest.raises(RetractedError):
            registry.factors("llama/one", MODULE)
        http.local.retract("llama/one", undo=True)
        registry.factors("llama/one", MODULE)


def test_a_client_without_torch_says_so(http: ServedRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_arithmetic", None)
    with pytest.raises(UnavailableError) as refused:
        http.factors("llama/one", MODULE)
    assert refused.value.code == "missing_package"


def test_module_after_module_opens_the_files_once(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    base = shelf.base("llama", MAKERS["llama"])
    ref = shelf.path("llama", write_chain(shelf.folder(), base, 2, ["q_proj", "v_proj"]))
    other = shelf.path("llama", [write_adapter(shelf.folder(), base, ["q_proj"], seed=9)])
    opened: list[str] = []
    blobs = shelf.registry.deployment.artifact_blobs
    real = type(blobs).open_blob

    def counted(self, blob):  # type: ignore[no-untyped-def]
        opened.append(blob.digest)
        return real(self, blob)

    monkeypatch.setattr(type(blobs), "open_blob", counted)
    modules = [f"model.layers.{layer}.self_attn.{kind}" for layer in (0, 1) for kind in ("q_proj", "v_proj")]
    for path, links in ((ref, 2), (other, 1)):
        opened.clear()
        for module in modules if path == ref else modules[::2]:
            shelf.registry.factors(path, module)
        assert len(opened) <= 1 + 2 * links  # the table, and of each link its configuration and its weights
