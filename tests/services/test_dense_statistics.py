"""Dense statistics: figures, ratios of magnitudes and cosines against dense matrices of the naive reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from registry.errors import NotAllowedError, UsageError
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.schemas.statistics import DenseMatrix, DenseStatistics, Figures
from registry.services.local import LocalRegistry
from registry.tensors.analysis import dense
from registry.tensors.path import slot_values
from tests.kit import Base, plain_base, read_pairs, read_tensors, write_adapter, write_chain
from tests.kit.floats import Array
from tests.kit.serving import open_http
from tests.kit.shelf import Shelf, published
from tests.kit.variants import MAKERS, VARIANTS
from tests.services.test_statistics import expected
from tests.services.test_weight_changes import EVERY, changes

QUICK = {
    ("llama", "dora"), ("llama", "tokens"), ("llama", "new linear"), ("llama", "new norm"), ("gpt2", "dora positions"),
    ("tied llama", "dora head"), ("conv", next(iter(VARIANTS["conv"]))), ("mixtral", "one of each"),
}  # fmt: skip
TRIED = [pytest.param(*one, id="-".join(one), marks=[] if one in QUICK else pytest.mark.long) for one in EVERY]


def as_rows(values: Array) -> Array:
    """A matrix; a vector is a column."""
    return values.reshape(values.shape[0], -1)


def cosines(before: Array, after: Array) -> Array:
    """Of the first left singular vectors after, the largest absolute cosine with any before."""

    def left(matrix: Array) -> Array:
        vectors, values, _ = np.linalg.svd(matrix, full_matrices=False)
        kept: Array = vectors[:, values > 1e-14 * max(matrix.shape) * values[0]]
        return kept

    found: Array = np.abs(left(before).T @ left(after)[:, : dense.VECTORS]).max(axis=0)
    return found


def check(found: Figures, matrices: list[Array], size: float) -> None:
    for name, value in expected(matrices).items():
        tolerance = 1e-12 * (size**2 if name == "energy" else size)
        assert getattr(found, name) == pytest.approx(value, rel=1e-8, abs=tolerance), name


def find(statistics: DenseStatistics, parameter: str, expert: int | None) -> DenseMatrix:
    found = {one.module: one for one in statistics.matrices if one.expert == expert}
    return found[parameter] if parameter in found else found[parameter.rpartition(".")[0]]


@pytest.mark.parametrize(("kind", "name"), TRIED)
def test_every_change_is_what_dense_matrices_say(shelf: Shelf, kind: str, name: str) -> None:
    plain = next(iter(VARIANTS[kind].values()))
    base, path, ref = published(shelf, kind, [plain, VARIANTS[kind][name]])
    first = shelf.registry.resolve(ref).lineage[1].reference
    for since, before in ((None, path[:0]), (first, path[:1])):
        statistics = shelf.registry.dense_stats(ref, since=since)
        old, new = (base.simulate(one).state.views for one in (before, path))
        dense_changes = changes(base, before, path)
        sizes = {}
        for (parameter, expert), change in dense_changes.items():
            values = [views[parameter].values for views in (old, new)]
            was, became = (as_rows(one if expert is None else one[expert]) for one in values)
            found = find(statistics, parameter, expert)
            sizes[parameter] = float(np.linalg.norm(became))
            check(found, [as_rows(change)], sizes[parameter])
            # which way it multiplies is tried in test_weight_changes
            delta = as_rows(shelf.registry.delta(ref, found.module, expert=expert, since=since).numpy())
            if delta.shape != was.shape or not np.allclose(delta, as_rows(change), atol=1e-12 * sizes[parameter]):
                was, became = was.T, became.T
            if min(was.shape) > 1:
                assert found.cosines == pytest.approx(tuple(cosines(was, became)), abs=1e-7), found.module
                assert found.intruders == sum(one < 0.5 for one in found.cosines)
        check(statistics, [one.reshape(one.shape[0], -1) for one in dense_changes.values()], max(sizes.values()))
        assert statistics.intruders == sum(one.intruders for one in statistics.matrices)
        unchanged = [one for one in statistics.matrices if one.energy > 1e-20]
        assert len(unchanged) <= len(dense_changes)


def test_ratios_of_magnitudes(shelf: Shelf) -> None:
    base, path, ref = published(shelf, "llama", [VARIANTS["llama"]["plain"], VARIANTS["llama"]["dora"]])
    found = {one.module: one for one in shelf.registry.dense_stats(ref).matrices}
    weights = base.simulate(path[:1]).state.views
    tensors = read_tensors(path[1] / "adapter_model.safetensors")
    for module, pair in read_pairs(path[1]).items():
        (magnitude,) = (one.values for name, one in tensors.items() if f"{module}.lora_magnitude_vector" in name)
        ratios = magnitude.ravel() / np.linalg.norm(weights[f"{module}.weight"].values + pair.delta, axis=1)
        (link,) = found[module].magnitudes
        assert link.link == 2
        assert [link.least, link.mean, link.most] == pytest.approx(
            [ratios.min(), ratios.mean(), ratios.max()], rel=1e-12
        )
        assert not found[module].added
    others = [one for name, one in found.items() if name not in read_pairs(path[1])]
    assert others
    assert all(one.magnitudes == () and one.added for one in others)


def test_an_intruder_is_found(shelf: Shelf, tmp_path: Path) -> None:
    """A large direction that is none of the base's: a sum of many of its left singular vectors."""
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    shelf.registry.add_base("net", base.folder)
    loud = write_adapter(tmp_path / "loud", base, ["a", "b"], r=1, alpha=4000, seed=3)
    quiet = write_adapter(tmp_path / "quiet", base, ["a", "b"], r=1, alpha=1e-6, seed=3)
    loud_ref, quiet_ref = (shelf.registry.publish(one, f"net/{one.name}").revision.reference for one in (loud, quiet))
    for one in shelf.registry.dense_stats(quiet_ref).matrices:
        assert one.intruders == 0
        assert min(one.cosines) == pytest.approx(1)
    statistics = shelf.registry.dense_stats(loud_ref)
    weights = base.simulate([]).state.views
    for one in statistics.matrices:
        left = np.linalg.svd(weights[f"{one.module}.weight"].values, full_matrices=False)[0]
        direction = read_pairs(loud)[one.module].b[:, 0]
        direction = direction / np.linalg.norm(direction)
        assert one.cosines[0] == pytest.approx(np.abs(left.T @ direction).max(), abs=1e-3)
    assert statistics.intruders >= 1


@pytest.mark.parametrize(("kind", "name"), [("llama", "dora"), ("gpt2", "dora"), ("mixtral", "one of each")])
def test_blocks_of_a_few_rows_are_what_whole_ones_are(
    shelf: Shelf, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of tests are one block each; those of usual models are many."""
    plain = next(iter(VARIANTS[kind].values()))
    _, _, ref = published(shelf, kind, [plain, VARIANTS[kind][name]])
    first = shelf.registry.resolve(ref).lineage[1].reference
    whole = shelf.registry.dense_stats(ref, since=first)  # of no whole path, so it is not kept
    shapes = {shelf.registry.delta(ref, one.module, expert=one.expert, since=first).shape for one in whole.matrices}
    assert max(rows for rows, _ in shapes) > 10
    monkeypatch.setattr(slot_values, "block_rows", lambda rows, columns: 5)
    blocks = shelf.registry.dense_stats(ref, since=first)
    for one, other in zip(whole.matrices, blocks.matrices, strict=True):
        assert other.frobenius == pytest.approx(one.frobenius, rel=1e-10)
        assert other.spectral == pytest.approx(one.spectral, rel=1e-10)
        assert other.cosines == pytest.approx(one.cosines, abs=1e-8)
        for ours, theirs in zip(other.magnitudes, one.magnitudes, strict=True):
            assert ours.model_dump() == pytest.approx(theirs.model_dump())


@pytest.fixture(params=["embedded", "http"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    if request.param == "embedded":
        opened: Registry = LocalRegistry.open(tmp_path / "registry", create=True, cache_folder=tmp_path / "cache")
    else:
        opened = open_http(tmp_path)
    yield opened
    opened.close()


def test_kept_with_the_revision(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base: Base = MAKERS["llama"](tmp_path / "base")
    registry.add_base("llama", base.folder)
    one, two = write_chain(tmp_path, base, 2, ["q_proj"], r=2)
    registry.publish(one, "llama/one")
    registry.publish(two, "llama/one/two")
    computed: list[str] = []
    real = dense.dense_statistics

    def counted(changed, norms, progress):  # type: ignore[no-untyped-def]
        computed.append("once more")
        return real(changed, norms, progress)

    monkeypatch.setattr(dense, "dense_statistics", counted)
    first = registry.dense_stats("llama/one/two")
    assert registry.dense_stats("llama/one/two@1") == first
    assert len(computed) == 1
    (module, *_) = first.matrices
    assert module.relative_frobenius == pytest.approx(
        module.frobenius / np.linalg.norm(base.simulate([]).state.views[f"{module.module}.weight"].values)
    )
    assert len(first.to_pandas()) == len(first.matrices) == 2
    registry.rename("llama/one", "uno")
    assert registry.dense_stats("llama/uno/two") == first.model_copy(update={"reference": "llama/uno/two@1"})
    assert len(computed) == 1
    registry.dense_stats("llama/uno/two", since="llama/uno")
    assert len(computed) == 2
    assert registry.stats("llama/uno/two").path.frobenius == pytest.approx(first.frobenius)
    with pytest.raises(UsageError, match="is a base model, which no link has changed yet"):
        registry.dense_stats("llama")


def test_it_is_for_writers(shelf: Shelf) -> None:
    base = shelf.base("llama", MAKERS["llama"])
    ref = shelf.path("llama", [write_adapter(shelf.folder(), base, ["q_proj"])])
    for role in ("reader", "writer"):
        rights = Rights(role, (TreePath("llama"),))
        acting = shelf.registry.with_principal(Principal(role, rights))
        if role == "writer":
            assert acting.dense_stats(ref).matrices
        else:
            with pytest.raises(NotAllowedError):
                acting.dense_stats(ref)
