"""The kernel: a slot's values after its steps, against the same in numpy's float64, on grids of several blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry, read_header
from registry.files.source import NOWHERE, FileSource
from registry.tensors.arithmetic import kernel
from registry.tensors.checkpoint.factors import Held
from registry.tensors.path.slot_values import SlotValues, column_squares, row_norms
from registry.tensors.path.steps import Add, BoundPair, Replace, Rescale, SetRows, Step
from registry.tensors.table.slots import Slot
from tests.kit import RawTensor, write_tensors

ROWS, COLUMNS, RANK = 70, 24, 3
Array = np.ndarray


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 rows, so that 70 rows are five blocks, the last one short."""
    monkeypatch.setattr(kernel, "MAX_ROWS", 16)


@pytest.fixture
def numbers() -> np.random.Generator:
    return np.random.default_rng(7)


class Shelf:
    """Tensors in a file of their own, by name."""

    def __init__(self, folder: Path, arrays: dict[str, Array]) -> None:
        path = folder / "numbers.safetensors"
        write_tensors(path, {name: RawTensor.of(values, "F32") for name, values in arrays.items()})
        self.source = FileSource(path)
        self._entries = read_header(self.source, what="numbers", error=InvalidAdapterError).entries

    def entry(self, name: str) -> TensorEntry:
        return self._entries[name]

    def close(self) -> None:
        self.source.close()


Move = tuple[str, Array, Array | tuple[int, ...] | None]
"""What a step does: ("add", A, B), ("set", new rows, which), ("scale", magnitudes, None), ("replace", rows, None)."""


@pytest.fixture
def shelves(tmp_path: Path) -> Iterator[list[Shelf]]:
    opened: list[Shelf] = []
    yield opened
    for shelf in opened:
        shelf.close()


def _steps(moves: list[Move], folder: Path, shelves: list[Shelf]) -> list[Step]:
    arrays = {str(at): first for at, (kind, first, _) in enumerate(moves) if kind != "add"}
    shelf = Shelf(folder, arrays) if arrays else None
    steps: list[Step] = []
    for at, (kind, first, second) in enumerate(moves):
        if kind == "add":
            assert isinstance(second, np.ndarray)
            steps.append(Add(at, BoundPair(Held(torch.tensor(first)), Held(torch.tensor(second)), 0.5, NOWHERE)))
            continue
        assert shelf is not None
        entry = shelf.entry(str(at))
        if kind == "set":
            assert isinstance(second, tuple)
            steps.append(SetRows(at, entry, shelf.source, second))
        elif kind == "scale":
            steps.append(Rescale(at, entry, shelf.source))
        else:
            steps.append(Replace(at, entry, shelf.source, first.shape[1]))
    if shelf is not None:
        shelves.append(shelf)
    return steps


def _expected(weight: Array, moves: list[Move], *, transposed: bool) -> Array:
    """The same in float64; numbers as a float32 file holds them."""
    now = weight.astype(np.float64)
    for kind, first, second in moves:
        if kind == "add":
            delta = 0.5 * (np.asarray(second, np.float64) @ first.astype(np.float64))
            now = now + (delta.T if transposed else delta)
            continue
        held = first.astype(np.float32).astype(np.float64)
        if kind == "replace":
            now = held
        elif kind == "set":
            now[list(second or ())] = held
        else:
            norms = np.linalg.norm(now, axis=0 if transposed else 1)
            now = now * (held / norms if transposed else (held / norms)[:, None])
    return now


def _values(weight: Array, steps: list[Step], *, transposed: bool) -> SlotValues:
    stored = torch.tensor(weight)
    slot = Slot("w", 0, ROWS, COLUMNS, transposed)
    return SlotValues(slot, lambda start, stop: stored[start:stop], steps, torch.float32)


def _all(values: SlotValues) -> Array:
    found: Array = torch.cat([values.block(index) for index in range(values.blocks)]).double().numpy()
    return found


def _moves(numbers: np.random.Generator, plan: str, *, transposed: bool) -> list[Move]:
    """One move a letter: a(dd), s(et rows), m(agnitude), r(eplace)."""
    out, into = (COLUMNS, ROWS) if transposed else (ROWS, COLUMNS)
    moves: list[Move] = []
    for letter in plan:
        if letter == "a":
            moves.append(("add", numbers.normal(size=(RANK, into)).astype(np.float32),
                          numbers.normal(size=(out, RANK)).astype(np.float32)))  # fmt: skip
        elif letter == "s":
            moves.append(("set", numbers.normal(size=(4, COLUMNS)), (69, 3, 16, 15)))
        elif letter == "m":
            moves.append(("scale", numbers.normal(size=out) + 3, None))
        else:
            moves.append(("replace", numbers.normal(size=(ROWS, COLUMNS)), None))
    return moves


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("plan", ["", "a", "aaa", "am", "amam", "aamsa", "sam", "rsa", "ramama", "ms", "mm"])
def test_values_after_any_steps(
    numbers: np.random.Generator, tmp_path: Path, shelves: list[Shelf], plan: str, transposed: bool
) -> None:
    weight = numbers.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    moves = _moves(numbers, plan, transposed=transposed)
    steps = _steps(moves, tmp_path, shelves)
    values = _values(weight, steps, transposed=transposed)
    assert values.blocks == 5
    expected = _expected(weight, moves, transposed=transposed)
    assert np.allclose(_all(values), expected, rtol=2e-5, atol=2e-5)
    again = _values(weight, steps, transposed=transposed)
    for index in (4, 0, 2):  # in any order, the same bits
        assert torch.equal(again.block(index), values.block(index))


@pytest.mark.parametrize("transposed", [False, True])
def test_rescalings_give_the_factors_and_the_last_norms(
    numbers: np.random.Generator, tmp_path: Path, shelves: list[Shelf], transposed: bool
) -> None:
    weight = numbers.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    moves = _moves(numbers, "amama", transposed=transposed)
    values = _values(weight, _steps(moves, tmp_path, shelves), transposed=transposed)
    factors, norms = values.rescalings()
    axis = 0 if transposed else 1
    for number, stop in enumerate((1, 3)):
        before = np.linalg.norm(_expected(weight, moves[:stop], transposed=transposed), axis=axis)
        assert np.allclose(factors[number], moves[stop][1] / before, rtol=1e-5)
    assert np.allclose(norms, np.linalg.norm(_expected(weight, moves, transposed=transposed), axis=axis), rtol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_feature_without_a_direction_is_refused(
    numbers: np.random.Generator, tmp_path: Path, shelves: list[Shelf], transposed: bool
) -> None:
    weight = numbers.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    if transposed:
        weight[:, 5] = 0
    else:
        weight[5] = 0
    steps = _steps(_moves(numbers, "m", transposed=transposed), tmp_path, shelves)
    values = _values(weight, steps, transposed=transposed)
    with pytest.raises(InvalidAdapterError, match="output feature 5") as refused:
        values.block(0)
    assert refused.value.code == "zero_norm"


def test_a_zero_magnitude_is_a_zero_feature(numbers: np.random.Generator, tmp_path: Path, shelves: list[Shelf]) -> None:
    weight = numbers.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    moves = _moves(numbers, "ama", transposed=False)
    moves[1][1][9] = 0
    found = _all(_values(weight, _steps(moves, tmp_path, shelves), transposed=False))
    assert np.isfinite(found).all()
    assert np.allclose(found, _expected(weight, moves, transposed=False), rtol=2e-5, atol=2e-5)


def test_trace_shows_every_step(numbers: np.random.Generator, tmp_path: Path, shelves: list[Shelf]) -> None:
    weight = numbers.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    moves = _moves(numbers, "aams", transposed=False)
    stored = torch.tensor(weight)
    steps = _steps(moves, tmp_path, shelves)
    values = SlotValues(
        Slot("w", 0, ROWS, COLUMNS), lambda a, b: stored[a:b], steps, torch.float64, merge_products=False
    )
    for number, (_, now) in enumerate(values.trace(1)):
        assert np.allclose(now, _expected(weight, moves[:number], transposed=False)[16:32], atol=1e-9)
    assert number == 4


@pytest.mark.parametrize("columns", [1, 127, 128, 129, 1000, 5632])
def test_norms_are_right_to_the_last_bits(columns: int) -> None:
    values = torch.randn(33, columns, generator=torch.Generator().manual_seed(columns))
    exact = values.double().square().sum(1).sqrt()
    assert ((row_norms(values) - exact).abs() <= 2e-7 * exact).all()
    assert torch.allclose(column_squares(values), values.double().square().sum(0), rtol=1e-12)


@pytest.mark.parametrize("scale", [2.0, 0.25, 1.5, 1 / 3, 16 / 3, 1e-3])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16, torch.float64])
def test_b_is_scaled_with_one_rounding(scale: float, kept: torch.dtype) -> None:
    b = torch.randn(64, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(kept)
    pair = BoundPair(Held(torch.ones(8, 1)), Held(b), scale, NOWHERE)
    found = pair.b_rows(0, 64, torch.float32)
    exact = [np.float32(float(value) * scale) for value in b.double().flatten()]
    assert found.flatten().tolist() == [float(value) for value in exact]
