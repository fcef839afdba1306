"""Operations of transformers' loader followed on names, against the operations themselves run on numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import core_model_loading as loading

from registry.tensors.table.conversions import pieces_of
from registry.tensors.table.parameters import Piece

OUT, IN = 4, 6


def follow(
    operations: list[Any],
    sources: list[list[str]],
    files: dict[str, torch.Tensor],
    shape: tuple[int, ...],
    turned: bool,
) -> tuple[Piece, ...]:
    plain = [[type(operation).__name__, dict(vars(operation))] for operation in operations]
    conversion = json.loads(json.dumps({"targets": ["x.w"], "sources": sources, "operations": plain}))
    shapes = {name: tuple(tensor.shape) for name, tensor in files.items()}
    return pieces_of(conversion, "x.w", shape, shapes, transposed=turned)


def run(operations: list[Any], sources: list[list[str]], files: dict[str, torch.Tensor]) -> torch.Tensor:
    """As `WeightConverter.convert` calls them."""
    patterns = [f"p{number}" for number in range(len(sources))]
    values: dict[str, Any] = {
        pattern: [files[name] for name in names] for pattern, names in zip(patterns, sources, strict=True)
    }
    for operation in operations:
        values = operation.convert(values, source_patterns=patterns, target_patterns=["x.w"])
    made = next(iter(values.values()))
    result: torch.Tensor = made[0] if isinstance(made, list) else made
    return result


def assembled(pieces: tuple[Piece, ...], files: dict[str, torch.Tensor], made: torch.Tensor, turned: bool) -> Any:
    oriented = torch.full_like(made.transpose(1, 2) if turned else made, -1)
    for piece in pieces:
        tensor = files[piece.tensor]
        matrix = tensor if tensor.dim() == 2 else tensor[piece.matrix]
        oriented[piece.expert, piece.out[0] : piece.out[1]] = matrix.T if piece.transposed else matrix
    return oriented.transpose(1, 2) if turned else oriented


def numbered(names: list[str], shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Tensors of which no two elements are equal."""
    size = torch.Size(shape).numel()
    return {name: torch.arange(size).reshape(shape) + size * number for number, name in enumerate(names)}


CHAINS: list[list[Any]] = [
    [loading.MergeModulelist(0)],
    [loading.MergeModulelist(0), loading.Concatenate(1)],
    [loading.MergeModulelist(0), loading.Concatenate(2)],
    [loading.MergeModulelist(0), loading.Concatenate(0)],
    [loading.MergeModulelist(0), loading.Concatenate(-1), loading.Transpose(1, 2)],
    [loading.MergeModulelist(0), loading.Concatenate(1), loading.Transpose(2, 1)],
    [loading.MergeModulelist(0), loading.Concatenate(1), loading.Transpose(0, 1)],
    [loading.MergeModulelist(0), loading.Concatenate(1), loading.Interleave(1)],
    [loading.MergeModulelist(1), loading.Concatenate(1)],
    [loading.Concatenate(0)],
    [loading.Concatenate(1)],
    [loading.Transpose(1, 2)],
    [loading.Transpose(-1, -2)],
    [loading.Interleave(dim=1)],
    [loading.Chunk(dim=1)],
]


@settings(deadline=None, max_examples=200)
@given(
    operations=st.sampled_from(CHAINS),
    patterns=st.integers(1, 3),
    experts=st.integers(1, 3),
    deep=st.booleans(),
    turned=st.booleans(),
)
def test_what_is_followed_is_what_the_operations_do(
    operations: list[Any], patterns: int, experts: int, deep: bool, turned: bool
) -> None:
    sources = [[f"{pattern}.{expert}" for expert in range(1 if deep else experts)] for pattern in range(patterns)]
    files = numbered([name for names in sources for name in names], (experts, OUT, IN) if deep else (OUT, IN))
    try:
        made = run(operations, sources, files)
    except (ValueError, RuntimeError, IndexError, TypeError, AttributeError):
        return  # no model can be loaded so
    pieces = follow(operations, sources, files, tuple(made.shape), turned)
    if pieces:
        assert torch.equal(assembled(pieces, files, made, turned), made)


@pytest.mark.parametrize(
    ("operations", "turned", "followed"),
    [
        ([loading.MergeModulelist(0), loading.Concatenate(1)], False, True),
        ([loading.MergeModulelist(0), loading.Concatenate(2)], True, True),
        ([loading.MergeModulelist(0), loading.Concatenate(1), loading.Transpose(1, 2)], True, True),
        # an expert's rows would be strips of several tensors side by side
        ([loading.MergeModulelist(0), loading.Concatenate(2)], False, False),
        ([loading.MergeModulelist(0), loading.Concatenate(1), loading.Interleave(1)], False, False),
        ([loading.MergeModulelist(1), loading.Concatenate(1)], False, False),
    ],
)
def test_which_chains_are_followed(operations: list[Any], turned: bool, followed: bool) -> None:
    sources = [["g.0", "g.1"], ["u.0", "u.1"]]
    files = numbered([name for names in sources for name in names], (OUT, IN))
    made = run(operations, sources, files)
    pieces = follow(operations, sources, files, tuple(made.shape), turned)
    assert bool(pieces) is followed
    if followed:
        assert torch.equal(assembled(pieces, files, made, turned), made)


def test_a_parameter_of_another_shape_has_no_pieces() -> None:
    """An expert is missing in the files: the loader would refuse them."""
    files = numbered(["d.0", "d.1"], (OUT, IN))
    assert follow([loading.MergeModulelist(0)], [["d.0", "d.1"]], files, (3, OUT, IN), False) == ()
    assert follow([loading.MergeModulelist(0)], [["d.0", "d.1"], []], files, (2, OUT, IN), False) == ()
    assert follow([], [["d.0", "d.1"]], files, (2, OUT, IN), False) == ()


def test_unequal_experts_have_no_pieces() -> None:
    files = {"d.0": torch.zeros(OUT, IN), "d.1": torch.zeros(OUT, IN + 1)}
    assert follow([loading.MergeModulelist(0)], [["d.0", "d.1"]], files, (2, OUT, IN), False) == ()
