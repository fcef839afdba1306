"""Directions, and the texts that hold them."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest
import torch

from registry.errors import UsageError
from registry.pool.routing.vectors import centroid, directions, from_text, to_text
from registry.schemas.texts import check_annotations


@pytest.mark.parametrize("size", [2, 384, 1024, 3745])
def test_cosines_survive_the_text(size: int) -> None:
    chance = np.random.default_rng(size)
    vectors = chance.standard_normal((3, size)) * np.array([[1e-4], [1.0], [1e4]])
    right = vectors / np.sqrt((vectors**2).sum(1, keepdims=True))
    found = directions(vectors, 3)
    np.testing.assert_allclose(found.numpy(), right, rtol=1e-12)
    texts = [to_text(one) for one in found]
    assert check_annotations({str(place): text for place, text in enumerate(texts)})
    kept = torch.stack([from_text(text) for text in texts]).numpy()
    assert np.abs(kept @ right.T - right @ right.T).max() < 0.0005
    with pytest.raises(UsageError, match="annotation holds"):
        to_text(torch.ones(3746) / math.sqrt(3746))


def test_the_text_is_half_precision_in_base64() -> None:
    text = to_text(torch.tensor([0.6, -0.8]))
    assert text == "f16:2:" + base64.b64encode(np.array([0.6, -0.8], "<f2").tobytes()).decode()


def test_a_centroid_is_the_mean_of_directions_not_of_lengths() -> None:
    found = centroid(directions([[1000.0, 0.0], [0.0, 1.0]], 2))
    np.testing.assert_allclose(found.numpy(), [math.sqrt(0.5)] * 2)
    for rows in ([[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [-2.0, 1e-5]]):
        with pytest.raises(UsageError, match="cancel"):
            centroid(directions(rows, 2))
    with pytest.raises(UsageError, match="at least one"):
        centroid(torch.zeros(0, 3))


@pytest.mark.parametrize(
    ("embeddings", "said"),
    [
        ([[1.0, 2.0]], r"shape \(1, 2\) for 2 examples"),
        ([1.0, 2.0], "shape"),
        ([[], []], "shape"),
        ([[1.0], [1.0, 2.0]], "no matrix"),
        ("text", "no matrix"),
        (None, "no matrix"),
        ([[1.0, 0.0], [0.0, 0.0]], "example 1 has no direction"),
        ([[math.nan, 0.0], [0.0, 1.0]], "example 0 has no direction"),
        ([[1.0, math.inf], [0.0, 1.0]], "example 0 has no direction"),
    ],
)
def test_other_embeddings_are_refused(embeddings: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        directions(embeddings, 2)


def test_16_bit_embeddings_with_gradients_are_taken() -> None:
    found = directions(torch.ones(2, 4, dtype=torch.bfloat16, requires_grad=True), 2)
    assert (found.dtype, found.requires_grad, float(found[0, 0])) == (torch.float64, False, 0.5)


def _text(values: list[float]) -> str:
    return base64.b64encode(np.array(values, "<f2").tobytes()).decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "form"),
        ("[0.5, 0.5]", "form"),
        (f"f32:2:{_text([1, 0])}", "form"),
        (f"f16:0:{_text([1])}", "form"),
        (f"f16:2:{_text([1, 0])}\n", "form"),
        ("f16:2:AAAAA", "base64"),
        (f"f16:3:{_text([1, 0])}", "says 3 numbers and holds 2"),
        ("f16:2:AAA=", "holds 1"),
        (f"f16:2:{_text([0, 0])}", "zero, or not finite"),
        (f"f16:2:{_text([math.inf, 0])}", "zero, or not finite"),
        (f"f16:2:{_text([math.nan, 0])}", "zero, or not finite"),
    ],
)
def test_other_texts_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_text(text)
