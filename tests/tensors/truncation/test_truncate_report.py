"""The report of truncation: what it claims is what the truncated pairs show."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from registry.digest import canonical_json
from registry.tensors.composed.truncated import report
from registry.tensors.truncation.rank_choice import ModuleSpectrum, choose_ranks, relative_error
from registry.tensors.truncation.truncate import Decomposition, decompose

SHAPES = {"q": (24, 32), "k": (8, 32), "down": (16, 48)}
RANK = 12


@pytest.fixture(scope="module")
def factors() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = {}
    for number, (name, (out, inside)) in enumerate(SHAPES.items(), start=1):
        sizes = 0.7 ** torch.arange(RANK)
        b = torch.randn(out, RANK, generator=generator) * sizes / number
        made[name] = b, torch.randn(RANK, inside, generator=generator)
    return made


@pytest.fixture(scope="module")
def found(factors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, Decomposition]:
    return {name: decompose(b, a) for name, (b, a) in factors.items()}


@pytest.fixture(scope="module")
def modules(found: dict[str, Decomposition]) -> list[ModuleSpectrum]:
    return [ModuleSpectrum(name, RANK, sum(SHAPES[name]), (one.singular_values,)) for name, one in found.items()]


@pytest.mark.parametrize(("rank", "max_error"), [(4, None), (None, 0.1), (9, 0.05)])
def test_claims_are_what_the_pairs_show(
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]],
    found: dict[str, Decomposition],
    modules: list[ModuleSpectrum],
    rank: int | None,
    max_error: float | None,
) -> None:
    ranks = choose_ranks(modules, rank=rank, max_error=max_error)
    made = report(modules, ranks, rank=rank, max_error=max_error)
    assert [entry.module for entry in made.modules] == sorted(SHAPES)
    deltas, rests = [], []
    for entry in made.modules:
        b, a = factors[entry.module]
        kept = found[entry.module].keep(entry.rank_after)
        delta = (b.double() @ a.double()).numpy()
        rest = delta - (kept.b_rows(b) @ kept.a_rows(a)).numpy()
        assert (entry.rank_before, entry.rank_after) == (RANK, ranks[entry.module])
        assert entry.energy == pytest.approx(np.linalg.norm(delta) ** 2, rel=1e-9)
        assert entry.discarded == pytest.approx(np.linalg.norm(rest) ** 2, rel=1e-9, abs=1e-20)
        assert entry.relative_frobenius == pytest.approx(
            np.linalg.norm(rest) / np.linalg.norm(delta), rel=1e-9, abs=1e-12
        )
        assert entry.relative_spectral == pytest.approx(
            np.linalg.norm(rest, 2) / np.linalg.norm(delta, 2), rel=1e-9, abs=1e-12
        )
        deltas.append(delta)
        rests.append(rest)
    norm = math.hypot(*(float(np.linalg.norm(delta)) for delta in deltas))
    error = math.hypot(*(float(np.linalg.norm(rest)) for rest in rests))
    assert made.total.energy == pytest.approx(norm**2)
    assert made.total.discarded == pytest.approx(error**2)
    assert made.total.relative_frobenius == pytest.approx(error / norm) == relative_error(modules, ranks)
    assert made.total.relative_spectral == pytest.approx(
        max(np.linalg.norm(rest, 2) for rest in rests) / max(np.linalg.norm(delta, 2) for delta in deltas)
    )
    assert made.total.parameters_before == RANK * sum(sum(shape) for shape in SHAPES.values())
    assert made.total.parameters_after == sum(ranks[name] * sum(shape) for name, shape in SHAPES.items())


def test_says_which_rank_would_have_been_enough(modules: list[ModuleSpectrum]) -> None:
    made = report(modules, choose_ranks(modules, rank=2), rank=2)
    assert list(made.enough_for) == ["0.01", "0.05", "0.1"]
    for error, enough in made.enough_for.items():
        assert report(modules, choose_ranks(modules, rank=enough)).total.relative_frobenius <= float(error)
        assert report(modules, choose_ranks(modules, rank=enough - 1)).total.relative_frobenius > float(error)


def test_document_is_canonical_json(modules: list[ModuleSpectrum]) -> None:
    made = report(modules, choose_ranks(modules, max_error=0.1), max_error=0.1, scaled=frozenset({"k"}))
    document = json.loads(canonical_json(made.model_dump(mode="json")))
    assert set(document) == {"rank", "max_error", "modules", "total", "enough_for"}
    assert (document["rank"], document["max_error"]) == (None, 0.1)
    assert document["enough_for"].keys() == {"0.01", "0.05", "0.1"}
    assert [entry["scaled"] for entry in document["modules"]] == [False, True, False]
    assert set(document["modules"][0]) == {
        "module",
        "rank_before",
        "rank_after",
        "energy",
        "discarded",
        "relative_frobenius",
        "relative_spectral",
        "scaled",
    }


def test_nothing_lost_and_nothing_there() -> None:
    zero = ModuleSpectrum("zero", 8, 10, ((),))
    made = report([zero], choose_ranks([zero], rank=4), rank=4)
    assert made.total.relative_frobenius == made.total.relative_spectral == made.total.discarded == 0
    assert made.modules[0].rank_after == 1
    assert made.enough_for == {"0.01": 1, "0.05": 1, "0.1": 1}
    whole = ModuleSpectrum("whole", 2, 10, ((3.0, 1.0),))
    assert report([whole], choose_ranks([whole])).total.discarded == 0
    assert report([], {}).modules == ()
