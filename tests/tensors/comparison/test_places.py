"""Which rows a comparison looks at: also those beside what candidates change, in one tensor with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from registry.errors import InvalidBaseError
from registry.files.header import read_header
from registry.files.source import NOWHERE, FileSource
from registry.tensors.checkpoint.factors import Held
from registry.tensors.comparison.candidates import Candidate, Region, regions
from registry.tensors.comparison.compare import compare
from registry.tensors.comparison.verdict import Limit, Verdict
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import PathPrograms, Program
from registry.tensors.path.steps import Add, BoundPair
from registry.tensors.table.parameters import Run
from registry.tensors.table.slots import Slot
from registry.tensors.table.targets import TargetTable
from tests.kit import RawTensor, write_tensors
from tests.kit.floats import round_once

Array = np.ndarray
TABLE = TargetTable({}, "made by hand")
SHAPES = {"experts": (3, 4, 6), "qkv": (12, 5), "bias": (12,), "alone": (2, 3)}


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as files:
        yield files


def held(folder: Path, arrays: dict[str, Array], opened: ExitStack, dtype: str = "F32") -> BaseTensors:
    folder.mkdir()
    write_tensors(folder / "model.safetensors", {name: RawTensor.of(one, dtype) for name, one in arrays.items()})
    source = opened.enter_context(FileSource(folder / "model.safetensors"))
    entries = read_header(source, what="model", error=InvalidBaseError).entries
    return BaseTensors({name: (source, entry) for name, entry in entries.items()})


def weights() -> dict[str, Array]:
    random = np.random.default_rng(3)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def changing(*slots: Slot) -> Candidate:
    """A path that adds one to every element of these slots."""
    programs = {}
    for slot in slots:
        a, b = torch.ones(1, slot.in_features), torch.ones(slot.out_features, 1)
        pair = BoundPair(Held(a), Held(b), 1.0, NOWHERE)
        programs[slot] = Program(slot, (Add(0, pair),), slot)
    return Candidate("net/changed@1", PathPrograms(programs))


MANY = [Slot(f"t{number:02}", 0, 2, 3) for number in range(12)]


def test_candidates_that_differ_where_the_limit_did_not_come_to_are_told_apart(
    tmp_path: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tensors are looked at within the limit; the candidates differ in the last one alone."""
    monkeypatch.setattr("registry.tensors.comparison.compare._at_once", lambda: 2)
    values = {slot.tensor: np.full((2, 3), 0.5, np.float32) for slot in MANY} | weights()
    base = held(tmp_path / "base", values, opened)
    one = changing(*MANY[:-1])
    other = Candidate("net/changed@2", PathPrograms({**one.programs.programs, **changing(MANY[-1]).programs.programs}))
    for slot in MANY:
        values[slot.tensor] += 1
    limit = Limit(bytes=1, seconds=0.0)
    found = compare([one, other], base, held(tmp_path / "merged", values, opened), TABLE, limit=limit)
    assert found.fitting == (other.name,)
    assert not found.complete  # what no candidate changes was not looked at


def spans(found: list[Region], tensor: str) -> list[tuple[int, int, int]]:
    return sorted((one.slot.first, one.slot.rows, one.slot.columns) for one in found if one.slot.tensor == tensor)


SECOND_EXPERT = Slot("experts", 4, 4, 6)
KEYS = Slot("qkv", 4, 4, 5)
VALUES_REORDERED = Slot("qkv", 0, 4, 5, runs=(Run("qkv", 8, 4, (2, 2)),))
MIDDLE_OF_BIAS = Slot("bias", 4, 4, 1)


def test_rows_between_changed_ones_are_regions_of_their_own(tmp_path: Path, opened: ExitStack) -> None:
    base = held(tmp_path / "base", weights(), opened)
    entries = {name: entry for name, (_, entry) in base.tensors.items()}
    one, other = changing(SECOND_EXPERT, MIDDLE_OF_BIAS, KEYS), changing(VALUES_REORDERED)
    found = regions([one, other], base, entries, TABLE)
    assert spans(found, "experts") == [(0, 4, 6), (4, 4, 6), (8, 4, 6)]
    assert spans(found, "bias") == [(0, 4, 1), (4, 4, 1), (8, 4, 1)]
    assert spans(found, "qkv") == [(0, 4, 5), (0, 4, 5), (4, 4, 5)]  # the reordered rows count from their own first
    assert spans(found, "alone") == [(0, 2, 3)]
    left = [one for one in found if len(set(one.programs)) == 1]
    assert {(one.slot.tensor, one.slot.first) for one in left} == {
        ("experts", 0), ("experts", 8), ("bias", 0), ("bias", 8), ("qkv", 0), ("alone", 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tensor", "row", "slot"),
    [("experts", 0, SECOND_EXPERT), ("experts", 2, SECOND_EXPERT), ("qkv", 2, KEYS), ("bias", 9, MIDDLE_OF_BIAS)],
)
def test_another_merge_beside_what_a_path_changes_is_noticed(
    tmp_path: Path, opened: ExitStack, tensor: str, row: int, slot: Slot
) -> None:
    """A merge into the first or third expert, where the path changes the second one, and likewise in rows."""
    candidate = changing(slot)
    base = held(tmp_path / "base", weights(), opened)
    merged = weights()
    merged[tensor].reshape(-1, slot.columns)[slot.first : slot.first + slot.rows] += 1
    honest = compare([candidate], base, held(tmp_path / "merged", merged, opened), TABLE)
    assert honest.fitting == (candidate.name,)
    merged[tensor][row] += 0.05
    foreign = compare([candidate], base, held(tmp_path / "foreign", merged, opened), TABLE)
    assert (foreign.fitting, foreign.nearest.tensor) == ((), tensor)


def test_numbers_of_the_base_that_are_not_finite_are_those_of_its_merges_too(tmp_path: Path, opened: ExitStack) -> None:
    """Rows that nothing uses may hold anything."""
    candidate, odd = changing(SECOND_EXPERT), weights()
    odd["alone"][0], odd["qkv"][-1], odd["experts"][0, 1, 2] = np.nan, -np.inf, np.inf
    base = held(tmp_path / "base", odd, opened)
    odd["experts"][1] += 1
    assert compare([candidate], base, held(tmp_path / "merged", odd, opened), TABLE).fitting == (candidate.name,)
    odd["alone"][0, 1] = 0.5
    found = compare([candidate], base, held(tmp_path / "other", odd, opened), TABLE)
    assert (found.fitting, found.nearest.tensor) == ((), "alone")


def test_elements_that_round_otherwise_are_measured_alone(
    tmp_path: Path, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another machine's sums turn by a unit fits; one more unit of one element does not, and is told."""
    random = np.random.default_rng(5)
    own = round_once(random.standard_normal((96, 64)) * 0.02, "BF16")
    weights: dict[str, Array] = {"w": own, "alone": np.ones((4, 4))}
    base = held(tmp_path / "base", weights, opened, "BF16")
    slot = Slot("w", 0, 96, 64)
    a, b = (torch.from_numpy(random.standard_normal(shape) * 0.05).float() for shape in ((3, 64), (96, 3)))
    program = Program(slot, (Add(0, BoundPair(Held(a), Held(b), 1.3, NOWHERE)),), slot)
    candidate = Candidate("net/a@1", PathPrograms({slot: program}))
    exact: Array = own + 1.3 * (b.double() @ a.double()).numpy()
    merged = round_once(exact, "BF16")
    spacing = np.spacing(np.abs(merged).astype(np.float32)).astype(np.float64) * 2**16
    turned = merged.copy()
    turned[::9, 7] += np.where(exact > merged, 1, -1)[::9, 7] * spacing[::9, 7]  # the other neighbour
    wrong = turned.copy()
    wrong[50, 3] += 3 * spacing[50, 3]

    def looked(name: str, values: Array) -> Verdict:
        found = held(tmp_path / name, weights | {"w": values}, opened, "BF16")
        return compare([candidate], base, found, TABLE, whole=True)

    verdicts = {name: looked(name, values) for name, values in (("at", merged), ("turned", turned), ("off", wrong))}
    assert [one.fitting for one in verdicts.values()] == [(candidate.name,), (candidate.name,), ()]
    assert (verdicts["at"].residual, verdicts["at"].exact, verdicts["turned"].exact) == (0, True, False)
    off = verdicts["off"].nearest
    assert (off.tensor, off.row, off.column) == ("w", 50, 3)
    units = ((turned - merged) / ((np.abs(own) + np.abs(exact - own)) * 2.0**-7))[::9, 7]
    assert verdicts["turned"].residual == pytest.approx(np.square(units).sum(), rel=1e-6)
    monkeypatch.setattr("registry.tensors.comparison.quick._FEW", -1.0)  # all of it is measured
    for name, values in (("turned-again", turned), ("off-again", wrong)):
        whole, few = looked(name, values), verdicts[name.removesuffix("-again")]
        assert (whole.fitting, whole.nearest.row, whole.nearest.column) == (
            few.fitting, few.nearest.row, few.nearest.column,
        )  # fmt: skip
        assert whole.units == pytest.approx(few.units)
        assert whole.residual == pytest.approx(few.residual)
