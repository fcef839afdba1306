"""Truncated adapters of every kind of path: their error is what is claimed, and no adapter of these ranks errs less.

Claims are judged by dense singular values in float64 (`tests.kit.spectra`) of what the independent reference makes of
the path, and of the fetched adapter.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.errors import InvalidAdapterError
from registry.folders.receipts import read_receipt
from registry.schemas import Fetched
from tests.kit import Base, RawTensor, plain_base, read_tensors, write_tensors
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf
from tests.kit.spectra import Spectra, wrong_claims
from tests.kit.variants import MAKERS, VARIANTS

PATHS: dict[str, tuple[str, tuple[str, ...]]] = {
    "one link": ("llama", ("plain",)),
    "three links": ("llama", ("plain", "rslora", "patterns")),
    "embedding and head": ("llama", ("embedding and head", "plain")),
    "negative and zero alpha": ("llama", ("negative alpha", "zero alpha")),
    "blocks": ("llama", ("blocks", "plain")),
    "narrow factors": ("llama", ("brain", "half")),
    "dora": ("llama", ("dora",)),
    "dora between": ("llama", ("plain", "dora", "patterns")),
    "dora twice": ("llama", ("dora of others", "dora", "rslora")),
    "dora embedding": ("llama", ("dora embedding", "plain")),
    "whole modules": ("llama", ("plain", "new norm", "new linear")),
    "tokens": ("llama", ("tokens", "plain", "other tokens")),
    "conv1d": ("gpt2", ("plain", "plain", "positions")),
    "conv1d dora": ("gpt2", ("plain", "dora", "dora positions")),
    "conv1d biases": ("gpt2", ("lora bias", "biases", "bias")),
    "convolutions": ("conv", ("plain", "some", "plain")),
    "convolutions dora": ("conv", ("some", "dora", "dora of some")),
    "attention": ("attention", ("plain", "ranks", "rslora")),
    "attention of a fixed peft": ("attention", ("fixed peft", "old peft")),
    "experts": ("mixtral", ("fused", "up only", "down only")),
    "experts of their own": ("mixtral", ("each expert", "one of each", "patterns")),
    "declared": ("declared", ("linear", "experts", "inner experts")),
    "declared dora": ("declared", ("linear", "dora")),
}
SLOW_PATHS = {
    "transposed experts": ("gpt_oss", ("fused", "up only", "down only")),
    "opt": ("opt", ("plain", "dora", "lora bias", "biases")),
    "tied embedding": ("tied llama", ("embedding", "plain")),
    "tied both": ("tied llama", ("kept", "plain", "kept")),
    "untied": ("tied llama", ("embedding", "head", "dora head")),
}
EVERY = [
    *(pytest.param(*path, id=name) for name, path in PATHS.items()),
    *(pytest.param(*path, id=name, marks=pytest.mark.slow) for name, path in SLOW_PATHS.items()),
]
BLOCKS = "blocks"
OPTIONS: list[dict[str, Any]] = [{"rank": 1}, {"rank": 3}, {"max_error": 0.2}, {"rank": 2, "max_error": 0.9}]


def _blocks(folder: Path) -> Base:
    """Matrices of several blocks of rows, one with a short last one, that are small for a dense decomposition."""
    return plain_base(folder, {"tall.weight": (9000, 20), "wide.weight": (20, 9001), "square.weight": (24, 24)})


class Published:
    """A path in the registry, and what is fetched of it."""

    def __init__(self, shelf: Shelf, kind: str, recipes: Sequence[Recipe | str]) -> None:
        name = kind.replace(" ", "-").replace("_", "-")
        self.shelf = shelf
        self.base: Base = shelf.base(name, _blocks if kind == BLOCKS else MAKERS[kind])
        drawn = [VARIANTS[kind][one] if isinstance(one, str) else one for one in recipes]
        self.path = write_recipes(
            shelf.folder(),
            self.base,
            [dataclasses.replace(one, seed=one.seed or number) for number, one in enumerate(drawn, 1)],
        )
        self.name = name
        self.references: list[str] = []
        self._spectra: dict[int, Spectra] = {}

    def publish(self) -> Published:
        self.references = self.shelf.publish(self.name, self.path)
        return self

    def fetch(self, **options: Any) -> tuple[Fetched, Path]:
        out = self.shelf.folder()
        return self.shelf.registry.fetch(self.references[-1], out, **options), out

    def wrong(self, fetched: Fetched, out: Path, since: int = 0, **options: Any) -> list[str]:
        """Claims that are wrong, in the answer and in the receipt."""
        assert fetched.truncation is not None
        report = read_receipt(out).truncation
        assert report == fetched.truncation
        spectra = self._spectra.setdefault(since, Spectra(self.base, self.path, since))
        return wrong_claims(fetched.truncation.model_dump(), spectra, out, **options)


def published(shelf: Shelf, kind: str, *recipes: Recipe | str) -> Published:
    return Published(shelf, kind, recipes).publish()


def adapted(out: Path) -> dict[str, RawTensor]:
    return read_tensors(out / "adapter_model.safetensors")


# --- the claims ---


@pytest.mark.long_but(
    "one link",
    "dora embedding",
    "conv1d dora",
    "experts",
    "convolutions dora",
    "tokens",
    "declared",
    "attention",
    "whole modules",
    "three links",
    "blocks",
    "negative and zero alpha",
)
@pytest.mark.parametrize(("kind", "names"), EVERY)
def test_the_error_is_what_is_claimed(shelf: Shelf, kind: str, names: tuple[str, ...]) -> None:
    path = published(shelf, kind, *names)
    for options in OPTIONS:
        fetched, out = path.fetch(**options)
        assert path.wrong(fetched, out) == []
        report = fetched.truncation
        assert report is not None
        assert (report.rank, report.max_error) == (options.get("rank"), options.get("max_error"))
        assert all(entry.rank_after <= options.get("rank", 99) for entry in report.modules)
        assert report.total.relative_frobenius <= options.get("max_error", 1)
        dora = json.loads((out / "adapter_config.json").read_text())["use_dora"]
        assert {entry.scaled for entry in report.modules} == {dora}
        assert dora == any("dora" in name or name == "half" for name in names)


@pytest.mark.long
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_path(shelf: Shelf, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(MAKERS)))
    names = data.draw(st.lists(st.sampled_from(sorted(VARIANTS[kind])), min_size=1, max_size=4))
    rank = data.draw(st.none() | st.integers(1, 9))
    max_error = data.draw(st.floats(0, 0.99)) if rank is None else None
    path = published(shelf, kind, *names)
    composed = _if_composable(path, rank=rank, max_error=max_error, uniform=data.draw(st.booleans()))
    assert composed is None or path.wrong(*composed) == []


def _if_composable(path: Published, **options: Any) -> tuple[Fetched, Path] | None:
    try:
        return path.fetch(**options)
    except InvalidAdapterError as refused:
        if refused.code != "not_composable":
            raise
        return None


@pytest.mark.parametrize(("dtype", "rounding"), [("bf16", 2**-7), ("fp16", 2**-10)])
def test_narrow_output_adds_its_rounding_only(shelf: Shelf, dtype: str, rounding: float) -> None:
    path = published(shelf, "llama", "plain", "rslora", "plain")
    wide, _ = path.fetch(rank=2)
    fetched, out = path.fetch(rank=2, dtype=dtype)
    assert fetched.truncation is not None
    assert wide.truncation is not None
    written = fetched.truncation.total.written
    assert written == pytest.approx(wide.truncation.total.relative_frobenius, rel=rounding)
    total = fetched.truncation.total.model_copy(update={"written": None})
    assert fetched.truncation.model_copy(update={"total": total}) == wide.truncation
    assert {tensor.dtype for tensor in adapted(out).values()} == {"BF16" if dtype == "bf16" else "F16"}
    assert path.wrong(fetched, out, rounding=rounding) == []


@pytest.mark.parametrize("names", [("plain", "patterns", "rslora"), ("dora", "patterns", "dora of others", "plain")])
def test_only_the_links_after_an_ancestor(shelf: Shelf, names: tuple[str, ...]) -> None:
    path = published(shelf, "llama", *names)
    for since in range(1, len(names)):
        fetched, out = path.fetch(rank=2, since=path.references[since - 1])
        assert path.wrong(fetched, out, since) == []


# --- DoRA ---


def _with_magnitudes(link: Path, factor: Sequence[float]) -> None:
    """Multiply the first magnitudes of each module of a DoRA adapter."""
    file = link / "adapter_model.safetensors"
    tensors = read_tensors(file)
    for key, tensor in tensors.items():
        if "lora_magnitude_vector" in key:
            values = tensor.values.copy()
            values.reshape(-1)[: len(factor)] *= factor
            tensors[key] = RawTensor.of(values, tensor.dtype)
    write_tensors(file, tensors)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "conv"])
@pytest.mark.parametrize("factor", [(-1, 2.0, -30.0), (0.0, -1.0, 0.0)])
def test_features_that_dora_turns_or_clears(shelf: Shelf, kind: str, factor: Sequence[float]) -> None:
    path = Published(shelf, kind, ("plain", "dora"))
    _with_magnitudes(path.path[-1], factor)
    path.publish()
    for options in OPTIONS[1:3]:
        fetched, out = path.fetch(**options)
        assert path.wrong(fetched, out) == []


def test_turned_features_that_are_adapted_again(shelf: Shelf) -> None:
    path = Published(shelf, "llama", ("plain", "dora", "plain", "dora of others"))
    _with_magnitudes(path.path[1], (-1, 5.0, 0.01))
    _with_magnitudes(path.path[3], (3.0, -1))
    path.publish()
    fetched, out = path.fetch(rank=2)
    assert path.wrong(fetched, out) == []


def test_cleared_features_that_are_adapted_again(shelf: Shelf) -> None:
    path = Published(shelf, "llama", ("dora", "plain"))
    _with_magnitudes(path.path[0], (0.0,))
    path.publish()
    out = shelf.folder()
    with pytest.raises(InvalidAdapterError, match="merged") as refused:
        shelf.registry.fetch(path.references[-1], out, rank=2)
    assert refused.value.code == "not_composable"
    assert not out.exists()


# --- what is not truncated ---


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", ("tokens", "plain", "other tokens")),
        ("llama", ("plain", "new norm", "new linear", "plain")),
        ("llama", ("new head", "embedding and head")),
        ("gpt2", ("biases", "lora bias", "new norm")),
        ("conv", ("lora bias", "new conv", "some")),
    ],
)
def test_absolute_parts_stay(shelf: Shelf, kind: str, names: tuple[str, ...]) -> None:
    path = published(shelf, kind, *names)
    (_, whole), (fetched, out) = path.fetch(), path.fetch(rank=1)
    assert fetched.truncation is not None
    before, after = adapted(whole), adapted(out)
    assert before.keys() == after.keys()
    absolute = {key for key in before if ".lora_" not in key}
    assert absolute
    assert {key for key in absolute if before[key] != after[key]} == set()
    saved = json.loads((out / "adapter_config.json").read_text())["modules_to_save"] or []
    assert not {entry.module for entry in fetched.truncation.modules} & set(saved)


def test_replaced_modules_are_not_in_the_report(shelf: Shelf) -> None:
    path = published(shelf, "llama", Recipe(("v_proj",)), Recipe(("model.layers.0.mlp.up_proj",), replaced=("v_proj",)))
    fetched, out = path.fetch(rank=1)
    assert fetched.truncation is not None
    assert [entry.module for entry in fetched.truncation.modules] == ["model.layers.0.mlp.up_proj"]
    assert path.wrong(fetched, out) == []


# --- deltas of a low rank ---


def test_zero_deltas_keep_one_rank_of_zeros(shelf: Shelf) -> None:
    path = published(shelf, "llama", Recipe(("q_proj",), alpha=0, r=3))
    for options in ({"rank": 2}, {"max_error": 0.0}, {"max_error": 0.5}):
        fetched, out = path.fetch(**options)
        assert fetched.truncation is not None
        assert {entry.rank_after for entry in fetched.truncation.modules} == {1}
        assert fetched.truncation.total.relative_frobenius == fetched.truncation.total.relative_spectral == 0
        assert set(fetched.truncation.enough_for.values()) == {1}
        assert all(not tensor.values.any() for key, tensor in adapted(out).items() if "lora_A" in key)


@pytest.mark.parametrize(
    ("kind", "targets", "parameters"),
    [("llama", ("q_proj", "down_proj"), ()), ("mixtral", ("q_proj",), ("mlp.experts.gate_up_proj",))],
)
def test_links_that_say_the_same_keep_their_own_rank(
    shelf: Shelf, kind: str, targets: tuple[str, ...], parameters: tuple[str, ...]
) -> None:
    one = Recipe(targets, parameters, r=3, seed=5)
    path = published(shelf, kind, one, dataclasses.replace(one, alpha=7))
    fetched, out = path.fetch(rank=9)
    assert fetched.truncation is not None
    assert {(entry.rank_before, entry.rank_after) for entry in fetched.truncation.modules} == {(6, 3)}
    assert path.wrong(fetched, out) == []


def test_links_that_undo_each_other(shelf: Shelf) -> None:
    one = Recipe(("q_proj",), r=3, seed=5)
    other = Recipe(("q_proj", "k_proj"), r=2, seed=6)
    path = published(shelf, "llama", one, other, dataclasses.replace(one, alpha=-one.alpha))
    fetched, out = path.fetch(rank=8)
    assert fetched.truncation is not None
    assert {(entry.rank_before, entry.rank_after) for entry in fetched.truncation.modules} == {(8, 2), (2, 2)}
    assert path.wrong(fetched, out) == []
    nothing = published(shelf, "llama", one, dataclasses.replace(one, alpha=-one.alpha))
    fetched, out = nothing.fetch(rank=8)
    assert fetched.truncation is not None
    assert {entry.rank_after for entry in fetched.truncation.modules} == {1}
    assert nothing.wrong(fetched, out) == []


def test_ranks_that_pass_the_matrix(shelf: Shelf) -> None:
    """The composed pair of such a path is the identity and the delta; truncation starts from the links' factors."""
    path = published(shelf, "llama", *[Recipe(("k_proj", "q_proj"), r=7)] * 3)
    fetched, out = path.fetch(rank=5)
    assert fetched.truncation is not None
    ranks = {entry.module.rpartition(".")[2]: entry.rank_before for entry in fetched.truncation.modules}
    assert ranks == {"k_proj": 8, "q_proj": 16}
    assert path.wrong(fetched, out) == []


@pytest.mark.parametrize("dora", [False, True])
def test_matrices_of_many_blocks(shelf: Shelf, dora: bool) -> None:
    names = ("tall", "wide", "square")
    path = published(shelf, BLOCKS, Recipe(names, r=5), Recipe(names, r=4, dora=dora), Recipe(names[:2], r=20))
    assert path.wrong(*path.fetch(rank=6)) == []


def test_experts_that_only_some_links_adapt(shelf: Shelf) -> None:
    expert = "model.layers.0.block_sparse_moe.experts.1.w3"
    path = published(shelf, "mixtral", Recipe((expert,), r=3), Recipe((expert.replace("1.w3", "2.w1"),), r=1))
    for options in OPTIONS:
        assert path.wrong(*path.fetch(**options)) == []
    _, out = path.fetch(rank=1)
    factors = adapted(out)
    (key_a,) = (key for key in factors if "lora_A" in key)
    assert not factors[key_a].values[:1].any()  # expert 0 has no delta


def test_large_deltas(shelf: Shelf) -> None:
    path = published(shelf, "llama", Recipe(("q_proj", "v_proj"), r=4, scale=1e6), Recipe(("q_proj",), scale=1e7))
    fetched, out = path.fetch(rank=2)
    assert path.wrong(fetched, out) == []


def test_small_deltas(shelf: Shelf) -> None:
    """Too small beside the base's weights for the dense judge: the same claims as those of the delta scaled up."""
    reports = []
    for scale in (1.0, 2.0**-60):
        path = published(shelf, "llama", Recipe(("q_proj", "v_proj"), r=4, scale=scale))
        fetched, _ = path.fetch(rank=2)
        assert fetched.truncation is not None
        reports.append(fetched.truncation)
    large, small = reports
    assert small.total.energy == pytest.approx(large.total.energy * 2.0**-120, rel=1e-6)
    for one, other in zip(large.modules, small.modules, strict=True):
        assert other.relative_frobenius == pytest.approx(one.relative_frobenius, rel=1e-6)
        assert other.relative_spectral == pytest.approx(one.relative_spectral, rel=1e-6)
