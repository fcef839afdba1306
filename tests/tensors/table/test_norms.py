"""Norms of slots from the energies of rows: rows of several tensors, in other orders, pieces of experts, ties."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from registry.tensors.arithmetic.streamed import RowEnergies
from registry.tensors.path.programs import origin_of
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece, Run
from registry.tensors.table.slots import Slot, norms_of_slots, slot_of_parameter, slot_of_piece, slot_of_target
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from tests.kit.floats import Array

VALUES: Mapping[str, Array] = {
    name: np.random.default_rng(number).standard_normal(shape)
    for number, (name, shape) in enumerate(
        {
            "qkv": (24, 4), "more": (6, 4), "conv": (3, 2, 5), "in_out": (4, 7), "experts": (3, 4, 5),
            "single": (6, 4), "embed": (10, 4), "bias": (24,), "gain": (4,),
        }.items()
    )
}  # fmt: skip
GROUPS = Run("qkv", 8, 8, (2, 2))
RUNS = (GROUPS, Run("more", 2, 3))


def energies(**changed: Array) -> dict[str, RowEnergies]:
    return {
        name: RowEnergies(int(np.prod(values.shape[1:])), (values.reshape(len(values), -1) ** 2).sum(1))
        for name, values in {**VALUES, **changed}.items()
    }


def linear(module: str, tensor: str | None, shape: tuple[int, ...], **options: object) -> Target:
    return Target(module, TargetKind.LINEAR, tensor, shape, **options)  # type: ignore[arg-type]


FUSED = FusedParameter(
    "down", 4, 5, 4, transposed=False,
    pieces=(
        *(Piece("experts", number, (0, 5), number, transposed=True) for number in range(3)),
        Piece("single", 3, (0, 6), 0),
    ),
)  # fmt: skip
TABLE = TargetTable(
    targets={
        "joined": linear("joined", None, (11, 4), runs=RUNS),
        "first": linear("first", None, (8, 4), runs=(Run("qkv", 0, 8),)),
        "conv": Target("conv", TargetKind.CONV, "conv", (3, 2, 5)),
        "turned": Target("turned", TargetKind.CONV1D, "in_out", (4, 7)),
        "embed": Target("embed", TargetKind.EMBEDDING, "embed", (10, 4), tie="head"),
        "head": linear("head", None, (10, 4), tie="embed"),
        "mlp": Target("mlp", TargetKind.EXPERTS, None, (4, 5, 4), fused=(FUSED,)),
        "unknown": Target("unknown", TargetKind.UNKNOWN, None, (2, 2)),
    },
    source="made",
    parameters={
        "joined.bias": FileParameter("joined.bias", (8,), (Run("bias", 8, 8),)),
        "norm.weight": FileParameter("gain", (4,)),
        "steps": FileParameter("steps", (1,)),  # whole numbers
    },
)


def norm(values: Array) -> float:
    return float(np.linalg.norm(values))


def test_each_slot_has_the_norm_of_its_rows() -> None:
    found = norms_of_slots(TABLE, energies())
    targets = TABLE.targets
    expected = {
        slot_of_target(targets["joined"]): norm(np.concatenate([VALUES["qkv"][8:16], VALUES["more"][2:5]])),
        slot_of_target(targets["first"]): norm(VALUES["qkv"][:8]),
        slot_of_target(targets["conv"]): norm(VALUES["conv"]),
        slot_of_target(targets["turned"]): norm(VALUES["in_out"]),
        slot_of_target(targets["embed"]): norm(VALUES["embed"]),
        **{slot_of_piece(FUSED.pieces[n], FUSED): norm(VALUES["experts"][n]) for n in range(3)},
        slot_of_piece(FUSED.pieces[3], FUSED): norm(VALUES["single"]),
        slot_of_parameter(TABLE.parameters["joined.bias"]): norm(VALUES["bias"][8:16]),
        slot_of_parameter(TABLE.parameters["norm.weight"]): norm(VALUES["gain"]),
    }
    assert found == pytest.approx(expected, rel=1e-14)


def test_a_tied_module_is_found_by_the_slot_that_holds_its_weight() -> None:
    origin = origin_of(slot_of_target(TABLE.targets["head"]), TABLE)
    assert norms_of_slots(TABLE, energies())[origin] == pytest.approx(norm(VALUES["embed"]), rel=1e-14)


def test_which_way_a_slot_multiplies_does_not_matter() -> None:
    assert Slot("in_out", 0, 4, 7) in norms_of_slots(TABLE, energies())


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_is_not_finite_is_left_out_and_nothing_else(bad: float) -> None:
    spoilt = VALUES["qkv"].copy()
    spoilt[9, 1] = bad
    found, whole = norms_of_slots(TABLE, energies(qkv=spoilt)), norms_of_slots(TABLE, energies())
    assert whole.keys() - found.keys() == {slot_of_target(TABLE.targets["joined"])}
    assert all(whole[slot] == value for slot, value in found.items())
