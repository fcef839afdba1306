"""Copies of whole embeddings, which PEFT saves once one is a target, show the parent that an adapter was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from registry.errors import InvalidAdapterError
from tests.kit import (
    Base,
    RawTensor,
    llama_base,
    read_tensors,
    round_once,
    used_bound,
    write_adapter,
    write_chain,
    write_tensors,
)
from tests.kit.floats import Array
from tests.kit.kinds_of_bases import conv_base
from tests.kit.peers import load_model, train_adapter
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.shelf import Shelf

WEIGHTS = "adapter_model.safetensors"
EMBEDDING = "model.embed_tokens.weight"
COPY = "base_model.model.model.embed_tokens.base_layer.weight"
TARGETS = ["embed_tokens", "lm_head", "q_proj"]
DTYPES = ["F32", "BF16", "F16"]


def _base(shelf: Shelf, dtype: str) -> tuple[str, Base]:
    name = f"llama-{dtype.lower()}"
    return name, shelf.base(name, llama_base, dtype=dtype)


def _with_copy(adapter: Path, values: Array, dtype: str) -> Path:
    tensors = read_tensors(adapter / WEIGHTS)
    write_tensors(adapter / WEIGHTS, tensors | {COPY: RawTensor.of(values, dtype)})
    return adapter


def _refused(shelf: Shelf, child: Path, path: str) -> InvalidAdapterError:
    before = shelf.registry.search().revisions
    with pytest.raises(InvalidAdapterError) as refused:
        shelf.registry.publish(child, path)
    assert shelf.registry.search().revisions == before
    return refused.value


def _under(reference: str, name: str) -> str:
    return f"{reference.partition('@')[0]}/{name}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [0, 1, 4])
def test_copies_of_the_composed_parent_are_accepted(shelf: Shelf, dtype: str, depth: int) -> None:
    name, base = _base(shelf, dtype)
    parents = write_chain(shelf.folder(), base, depth, TARGETS, r=3)
    child = write_adapter(shelf.folder(), base, TARGETS, copies=parents, seed=9)
    assert COPY in read_tensors(child / WEIGHTS)
    assert used_bound(base.reference([*parents, child]), shelf.merged(shelf.path(name, [*parents, child]))) <= 1


@pytest.mark.slow_on("BF16")
@pytest.mark.slow_on("0.01")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0.01, 0.3])
def test_a_parent_merged_step_by_step_in_the_bases_dtype_is_accepted(shelf: Shelf, dtype: str, size: float) -> None:
    """Each step rounds what is there by then, which can be larger than both the base weight and the end."""
    name, base = _base(shelf, dtype)
    for seed in range(4):
        parents = write_chain(shelf.folder(), base, 6, TARGETS, r=3, size=size, seed=seed)
        weight = base.reference([])[EMBEDDING].values
        steps = weight
        for parent in parents:
            steps = round_once(steps + base.reference([parent])[EMBEDDING].values - weight, dtype)
        child = _with_copy(write_adapter(shelf.folder(), base, TARGETS), steps, dtype)
        assert shelf.path(name, [*parents, child])


@pytest.mark.parametrize("b_scale", [0.03, 0.1])
def test_a_path_that_peft_trained_and_merged_in_bf16_is_accepted(shelf: Shelf, b_scale: float) -> None:
    """PEFT rounds each delta too, before it adds it."""
    name, base = _base(shelf, "BF16")
    model, path = load_model(base.folder, torch.bfloat16), []
    for number in range(5):
        path.append(shelf.folder())
        options: dict[str, Any] = {"r": 4, "target_modules": ["embed_tokens", "q_proj"]}
        model = train_adapter(path[-1], model, seed=number, b_scale=b_scale, **options).to(torch.bfloat16)
    assert COPY in read_tensors(path[-1] / WEIGHTS)
    assert shelf.path(name, path)


def test_copies_in_a_wider_or_narrower_dtype_are_accepted(shelf: Shelf) -> None:
    for base_dtype, copy_dtype in (("BF16", "F32"), ("F32", "BF16"), ("F32", "F16")):
        name, base = _base(shelf, base_dtype)
        parents = write_chain(shelf.folder(), base, 2, TARGETS, r=3)
        values = base.reference(parents)[EMBEDDING].rounded()
        child = _with_copy(write_adapter(shelf.folder(), base, TARGETS), values, copy_dtype)
        assert shelf.path(name, [*parents, child])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shown", [0, 1, 3])
def test_copies_of_another_parent_are_refused(shelf: Shelf, dtype: str, shown: int) -> None:
    """The child was trained on the base, on the grandparent, or on a sibling's child."""
    name, base = _base(shelf, dtype)
    parents = write_chain(shelf.folder(), base, 2, TARGETS, r=3)
    others = [*parents, write_adapter(shelf.folder(), base, TARGETS, seed=77)]
    child = write_adapter(shelf.folder(), base, TARGETS, copies=others[:shown])
    problem = _refused(shelf, child, _under(shelf.path(name, parents), "wrong"))
    assert problem.code == "lineage_mismatch"
    assert COPY in str(problem) or "lm_head" in str(problem)


@pytest.mark.parametrize("size", [0.02, 1.0])
def test_one_wrong_element_is_enough(shelf: Shelf, size: float) -> None:
    name, base = _base(shelf, "BF16")
    parents = write_chain(shelf.folder(), base, 2, TARGETS, r=3)
    values = base.reference(parents)[EMBEDDING].rounded()
    row, column = np.unravel_index(np.argmax(np.abs(values)), values.shape)
    values[row, column] *= 1 + 2 * size
    child = _with_copy(write_adapter(shelf.folder(), base, TARGETS), values, "BF16")
    problem = _refused(shelf, child, _under(shelf.path(name, parents), "wrong"))
    assert problem.code == "lineage_mismatch"
    assert f"({row}, {column})" in str(problem)


@pytest.mark.parametrize("wrong", [COPY, "base_model.model.lm_head.base_layer.weight"])
def test_each_of_several_copies_has_to_be_the_parents(shelf: Shelf, wrong: str) -> None:
    name, base = _base(shelf, "F32")
    child = write_adapter(shelf.folder(), base, ["embed_tokens", "lm_head"], copies=[])
    tensors = read_tensors(child / WEIGHTS)
    assert sum(one.endswith("base_layer.weight") for one in tensors) == 2
    tensors[wrong] = RawTensor.of(tensors[wrong].values + 1, "F32")
    write_tensors(child / WEIGHTS, tensors)
    problem = _refused(shelf, child, f"{name}/wrong")
    assert problem.code == "lineage_mismatch"
    assert wrong in str(problem)


def test_a_copy_that_is_no_number_is_refused(shelf: Shelf) -> None:
    name, base = _base(shelf, "F32")
    values = base.reference([])[EMBEDDING].values.copy()
    values[3, 3] = np.nan
    child = _with_copy(write_adapter(shelf.folder(), base, TARGETS), values, "F32")
    assert _refused(shelf, child, f"{name}/nan").code in {"non_finite", "lineage_mismatch"}


def test_a_copy_with_another_vocabulary_is_refused(shelf: Shelf) -> None:
    name, base = _base(shelf, "F32")
    values = base.reference([])[EMBEDDING].values
    child = _with_copy(write_adapter(shelf.folder(), base, TARGETS), np.vstack([values, values[:2]]), "F32")
    assert _refused(shelf, child, f"{name}/larger").code == "shape_mismatch"


def test_a_double_with_other_numbers_is_refused(shelf: Shelf) -> None:
    """With bias="all" PEFT writes the bias of a module that it saves whole twice."""
    base = shelf.base("conv", conv_base)
    child = write_recipe(shelf.folder(), base, Recipe(("c1",), bias="all", replaced=("c2",)))
    tensors = read_tensors(child / WEIGHTS)
    bias = tensors["base_model.model.c2.bias"].values
    double = "base_model.model.c2.modules_to_save.bias"
    write_tensors(child / WEIGHTS, tensors | {double: RawTensor.of(bias + 1, "F32")})
    assert _refused(shelf, child, "conv/wrong").code == "tied_partial"
    write_tensors(child / WEIGHTS, tensors | {double: RawTensor.of(bias, "F32")})
    assert shelf.path("conv", [child])
