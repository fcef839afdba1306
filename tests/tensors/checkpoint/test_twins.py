"""Tensors that stand for one weight hold the same numbers, or the adapter is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.tensors.checkpoint.adapter import Twin
from registry.tensors.checkpoint.coverage import check_twins
from tests.kit import RawTensor, write_tensors
from tests.kit.floats import Array
from tests.tensors.checkpoint.adapter_headers import Q, check, pair


def _check(folder: Path, first: Array, second: Array, *, transposed: bool = False) -> None:
    path = folder / "twins.safetensors"
    write_tensors(path, {"one": RawTensor.of(first, "BF16"), "other": RawTensor.of(second, "F32")})
    with FileSource(path) as source:
        entries = read_header(source, what="twins", error=InvalidAdapterError).entries
        twin = Twin(entries["one"], entries["other"], transposed=transposed)
        check_twins(replace(check(pair(Q, 6, 8)), twins=(twin,)), source)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(3, 2), (3, 3), (5000, 2)])  # more rows than are compared at once
def test_the_same_numbers_in_any_dtype(tmp_path: Path, shape: tuple[int, int], transposed: bool) -> None:
    numbers = np.random.default_rng(1).integers(-9, 9, shape).astype(np.float64)
    other = (numbers.T if transposed else numbers).copy()
    _check(tmp_path, numbers, other, transposed=transposed)
    other[-1, -1] += 1
    with pytest.raises(InvalidAdapterError, match="'one' and 'other'") as refused:
        _check(tmp_path, numbers, other, transposed=transposed)
    assert refused.value.code == "tied_partial"


def test_a_square_that_is_not_transposed(tmp_path: Path) -> None:
    numbers = np.arange(9.0).reshape(3, 3)
    with pytest.raises(InvalidAdapterError, match="different numbers"):
        _check(tmp_path, numbers, numbers, transposed=True)
