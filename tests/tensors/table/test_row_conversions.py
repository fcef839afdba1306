"""Operations that cut, join and reorder rows, followed on names, against the operations themselves run on numbers."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import core_model_loading as loading

from registry.tensors.table.architecture_facts import _options
from registry.tensors.table.conversions import run_problem, runs_of
from registry.tensors.table.parameters import Run

IN = 3
Shape = tuple[int, ...]


class Model:
    """What operations ask of a model: the shapes of its parameters."""

    def __init__(self, shapes: dict[str, Shape], heads: int) -> None:
        self.shapes = shapes
        self.config = SimpleNamespace(num_attention_heads=heads, vision=SimpleNamespace(num_attention_heads=2 * heads))
        self.config.get_text_config = lambda: SimpleNamespace(unpadded_vocab_size=next(iter(shapes.values()))[0])

    def get_parameter(self, name: str) -> torch.Tensor:
        return torch.empty(self.shapes[name])


def convert(
    operations: list[Any],
    sources: dict[str, list[str]],
    files: dict[str, torch.Tensor],
    targets: list[str],
    model: Model,
) -> dict[str, torch.Tensor]:
    """What `WeightConverter.convert` gives, by target."""
    values: dict[str, Any] = {key: [files[name] for name in names] for key, names in sources.items() if names}
    for operation in operations:
        values = operation.convert(
            values,
            source_patterns=list(sources),
            target_patterns=targets,
            full_layer_name=targets[0],
            model=model,
            config=model.config,
        )
    return {key: value[0] if isinstance(value, list) else value for key, value in values.items()}


def follow(
    operations: list[Any],
    sources: dict[str, list[str]],
    files: dict[str, torch.Tensor],
    targets: list[str],
    model: Model,
    target: str,
) -> tuple[Run, ...]:
    conversion = {
        "targets": targets,
        "target_keys": targets,
        "sources": list(sources.values()),
        "source_keys": list(sources),
        "operations": [[type(one).__name__, _options(one, model.config)] for one in operations],
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in files.items()}
    return runs_of(json.loads(json.dumps(conversion)), target, model.shapes, shapes)


def assembled(runs: tuple[Run, ...], files: dict[str, torch.Tensor]) -> torch.Tensor:
    """The parameter, row by row."""
    rows = [files[run.tensor][run.first + run.stored(row)] for run in runs for row in range(run.rows)]
    return torch.stack(rows)


def numbered(shapes: dict[str, Shape]) -> dict[str, torch.Tensor]:
    """Tensors of which no two elements are equal."""
    found, first = {}, 0
    for name, shape in shapes.items():
        size = torch.Size(shape).numel()
        found[name] = torch.arange(first, first + size).reshape(shape)
        first += size
    return found


ROPE = loading.PermuteForRope
ONE_TO_MANY: list[list[Any]] = [
    [loading.Chunk(dim=0)],
    [loading.Split(dim=0)],
    [loading.Chunk(dim=0), ROPE(permute_layer_names=["q", "k"])],
    [loading.Chunk(dim=0), ROPE("vision", ["q"])],
    [loading.Split(dim=0), ROPE(inverse=True, permute_layer_names=["k"])],
    [ROPE(), loading.Chunk(dim=0)],
    [loading.Interleave(dim=0), loading.Chunk(dim=0)],
    [loading.Chunk(dim=1)],
]


@settings(deadline=None, max_examples=120)
@given(
    operations=st.sampled_from(ONE_TO_MANY),
    sizes=st.lists(st.sampled_from([4, 8, 12]), min_size=2, max_size=3),
    vector=st.booleans(),
    even=st.booleans(),
)
def test_a_tensor_that_is_cut(operations: list[Any], sizes: list[int], vector: bool, even: bool) -> None:
    sizes = [sizes[0]] * len(sizes) if even else sizes
    targets = ["q", "k", "v"][: len(sizes)]
    rest: Shape = () if vector else (IN,)
    model = Model({name: (size, *rest) for name, size in zip(targets, sizes, strict=True)}, heads=2)
    files = numbered({"qkv": (sum(sizes), *rest)})
    try:
        made = convert(operations, {"w": ["qkv"]}, files, targets, model)
    except (ValueError, RuntimeError, IndexError):
        made = {}  # no model can be loaded so
    for target in targets:
        runs = follow(operations, {"w": ["qkv"]}, files, targets, model, target)
        if runs:
            assert torch.equal(assembled(runs, files), made[target])


@settings(deadline=None, max_examples=60)
@given(counts=st.lists(st.integers(0, 2), min_size=1, max_size=3), rows=st.integers(1, 4), vector=st.booleans())
def test_tensors_that_are_joined(counts: list[int], rows: int, vector: bool) -> None:
    rest: Shape = () if vector else (IN, 2)
    sources = {f"p{at}": [f"t{at}.{number}" for number in range(count)] for at, count in enumerate(counts)}
    names = [name for found in sources.values() for name in found]
    files = numbered({name: (rows + at, *rest) for at, name in enumerate(names)})
    model = Model({"w": (sum(tensor.shape[0] for tensor in files.values()), *rest)}, heads=2)
    runs = follow([loading.Concatenate(dim=0)], sources, files, ["w"], model, "w")
    if not names:
        assert runs == ()
        return
    made = convert([loading.Concatenate(dim=0)], sources, files, ["w"], model)["w"]
    assert torch.equal(assembled(runs, files), made)


@pytest.mark.parametrize(
    ("operations", "followed"),
    [
        ([loading.Chunk(dim=0)], True),
        ([loading.Chunk(dim=-2)], True),
        ([loading.Split(dim=0)], True),
        ([loading.Chunk(dim=0), ROPE(permute_layer_names=["q", "k"])], True),
        ([loading.Chunk(dim=1)], False),
        ([loading.Interleave(dim=0), loading.Chunk(dim=0)], False),  # every second row
        ([loading.Transpose(0, 1), loading.Chunk(dim=0)], False),
    ],
)
def test_which_cuts_are_followed(operations: list[Any], followed: bool) -> None:
    model = Model(dict.fromkeys(("q", "k", "v"), (8, 24)), heads=2)
    files = numbered({"qkv": (24, 24)})
    for target in "qkv":
        assert bool(follow(operations, {"w": ["qkv"]}, files, ["q", "k", "v"], model, target)) is followed


@pytest.mark.parametrize("inverse", [False, True])
def test_the_order_of_rotary_embeddings(inverse: bool) -> None:
    model, files = Model({"q": (24, IN)}, heads=2), numbered({"wq": (24, IN)})
    (run,) = follow([ROPE(inverse=inverse)], {"w": ["wq"]}, files, ["q"], model, "q")
    made = convert([ROPE(inverse=inverse)], {"w": ["wq"]}, files, ["q"], model)["q"]
    assert torch.equal(assembled((run,), files), made)
    assert not torch.equal(made, files["wq"])
    assert [run.meant(run.stored(row)) for row in range(24)] == list(range(24))


def test_a_padded_vocabulary() -> None:
    model, files = Model({"head": (5, IN)}, heads=1), numbered({"lm_head": (8, IN)})
    made = convert([loading.Inkling2UnpadVocab()], {"w": ["lm_head"]}, files, ["head"], model)["head"]
    runs = follow([loading.Inkling2UnpadVocab()], {"w": ["lm_head"]}, files, ["head"], model, "head")
    assert runs == (Run("lm_head", 0, 5),)
    assert torch.equal(assembled(runs, files), made.to(files["lm_head"].dtype))


def test_a_parameter_of_another_shape_has_no_runs() -> None:
    """The loader would report a mismatch."""
    files = numbered({"qkv": (24, IN)})
    model = Model({"q": (8, IN), "k": (8, IN), "v": (8, IN + 1)}, heads=2)
    assert [bool(follow([loading.Chunk(0)], {"w": ["qkv"]}, files, ["q", "k", "v"], model, one)) for one in "qkv"] == [
        True, True, False,
    ]  # fmt: skip
    assert follow([], {"w": ["qkv"]}, files, ["q"], model, "q") == ()
    assert follow([loading.Chunk(0)], {"w": ["qkv", "qkv"]}, files, ["q", "k", "v"], model, "q") == ()


@pytest.mark.parametrize(
    ("runs", "shape"),
    [
        ((Run("t", 0, 7),), (6, IN)),
        ((Run("t", 19, 6),), (6, IN)),
        ((Run("t", -1, 6),), (6, IN)),
        ((Run("t", 0, 6),), (6, IN + 1)),
        ((Run("t", 0, 6, (4, 2)),), (6, IN)),
        ((Run("t", 0, 6, (0, 2)),), (6, IN)),
        ((Run("u", 0, 6),), (6, IN)),
        ((Run("t", 0, 0),), (0, IN)),
        ((), ()),
    ],
)
def test_runs_of_a_stranger(runs: tuple[Run, ...], shape: Shape) -> None:
    assert run_problem(runs, shape, {"t": (24, IN)}) is not None
    assert run_problem((Run("t", 4, 6, (3, 2)),), (6, IN), {"t": (24, IN)}) is None
