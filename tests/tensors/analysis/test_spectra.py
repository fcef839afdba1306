"""Figures of spectra: what they are by definition, and what holds whatever the values are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.tensors.analysis.statistics import (
    SHARES,
    effective_rank,
    energy_by_rank,
    figures,
    in_order_of_layers,
    layers_of,
    place_of,
    stable_rank,
)
from registry.tensors.truncation.rank_choice import ModuleSpectrum, enough_rank

VALUES = st.lists(st.floats(1e-6, 1e6), max_size=12).map(lambda values: tuple(sorted(values, reverse=True)))
SPECTRA = st.lists(VALUES, min_size=1, max_size=5)


def test_by_hand() -> None:
    found = figures([(2.0, 1.0, 1.0)], 4, 12.0)
    shares = np.array([4, 1, 1]) / 6
    assert found["energy"] == 6
    assert found["frobenius"] == pytest.approx(math.sqrt(6))
    assert found["stable_rank"] == pytest.approx(1.5)
    assert found["effective_rank"] == pytest.approx(math.exp(-np.sum(shares * np.log(shares))))
    assert [found[name] for name in SHARES] == [3, 3, 3]
    assert found["relative_frobenius"] == pytest.approx(math.sqrt(6) / 12)
    assert found["relative_spectral"] == pytest.approx(2 / 12)
    assert energy_by_rank([(2.0, 1.0, 1.0)]) == pytest.approx((4 / 6, 5 / 6, 1))


def test_equal_values_have_their_number_as_every_rank() -> None:
    values = (3.0,) * 7
    assert stable_rank(values) == pytest.approx(7)
    assert effective_rank(values) == pytest.approx(7)
    assert figures([values], 7, None)["rank99"] == 7
    assert figures([values], 7, None)["relative_frobenius"] is None


def test_nothing_is_zero() -> None:
    for spectra in ([], [()], [(), ()]):
        found = figures(spectra, 4, 0.0)
        assert {name: value for name, value in found.items() if value} == {"rank": 4}
        assert energy_by_rank(spectra) == ()


@given(SPECTRA)
def test_what_always_holds(spectra: list[tuple[float, ...]]) -> None:
    found, most = figures(spectra, 12, 1.0), max(map(len, spectra))
    assert found["spectral"] <= found["frobenius"] * (1 + 1e-12)
    assert found["stable_rank"] <= found["effective_rank"] * (1 + 1e-9)
    assert found["effective_rank"] <= most * (1 + 1e-12)
    assert found["rank90"] <= found["rank95"] <= found["rank99"] <= most
    if not any(spectra):
        return
    held = energy_by_rank(spectra)
    assert list(held) == sorted(held)
    assert held[-1] == 1
    # the same number as truncation gives for that error
    modules = [ModuleSpectrum(str(n), len(values), 1, (values,)) for n, values in enumerate(spectra)]
    for name, share in SHARES.items():
        enough = enough_rank(modules, math.sqrt(1 - share))
        assert enough is not None
        assert abs(found[name] - enough) <= _ties(held, share)


def _ties(held: tuple[float, ...], share: float) -> int:
    """Ranks whose energy is the share up to rounding, where two sums may disagree."""
    return sum(abs(value - share) < 1e-9 for value in held)


@given(VALUES, st.floats(1e-3, 1e3))
def test_scaling_changes_norms_alone(values: tuple[float, ...], factor: float) -> None:
    one, other = figures([values], 12, None), figures([[value * factor for value in values]], 12, None)
    assert other["frobenius"] == pytest.approx(factor * one["frobenius"], rel=1e-9)
    for name in ("stable_rank", "effective_rank"):
        assert other[name] == pytest.approx(one[name], rel=1e-9)


@pytest.mark.parametrize(
    ("module", "place"),
    [
        ("model.layers.12.self_attn.q_proj", (12, "self_attn.q_proj")),
        ("model.layers.3.mlp.experts.gate_up_proj", (3, "mlp.experts.gate_up_proj")),
        ("transformer.h.0.attn.c_attn", (0, "attn.c_attn")),
        ("lm_head", (None, "lm_head")),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.2.attn1.to_q", (1, "attn1.to_q")),
        ("unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj", (0, "ff.net.0.proj")),
        ("transformer.single_transformer_blocks.7.proj_mlp", (7, "proj_mlp")),
        ("classifier.2", (None, "classifier.2")),
    ],
)
def test_depth_and_kind(module: str, place: tuple[int | None, str]) -> None:
    assert place_of(module) == place


def test_layers_have_the_name_of_their_stack_where_there_are_several() -> None:
    assert layers_of(["model.layers.2.q", "model.layers.10.q", "head"])("model.layers.2.q") == "2"
    several = ["down_blocks.10.to_q", "down_blocks.2.to_q", "mid_block.attentions.0.to_q", "conv_in"]
    names = [layers_of(several)(module) for module in several]
    assert names == ["down_blocks.10", "down_blocks.2", "mid_block.attentions.0", "none"]
    assert sorted(names, key=in_order_of_layers) == [
        "down_blocks.2",
        "down_blocks.10",
        "mid_block.attentions.0",
        "none",
    ]
