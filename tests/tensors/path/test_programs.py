"""What a path does to each slot: what a replacement makes dead, where its rows begin, and which ties part."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.errors import InvalidAdapterError
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.factors.slots import slot_of_piece, slot_of_target
from registry.tensors.files.source import NOWHERE
from registry.tensors.path.programs import BoundLink, PathPrograms, path_programs
from registry.tensors.path.steps import Add, Replace
from registry.tensors.table.targets import TargetTable
from tests.tensors.checkpoint.adapter_headers import (
    EMBED,
    EXPERTS,
    HEAD,
    TABLE,
    TIED,
    Q,
    V,
    check,
    embedding,
    named,
    pair,
)


def _programs(*checkpoints: Checkpoint, table: TargetTable = TABLE) -> PathPrograms:
    return path_programs([BoundLink(one, NOWHERE) for one in checkpoints], table)


def test_a_replacement_drops_what_was_before_it_and_is_added_to() -> None:
    whole = check({**pair(V, 6, 4), **named(Q, weight=(8, 6), bias=(8,))}, modules_to_save=["q_proj"])
    found = _programs(check(pair(Q, 6, 8)), whole, check(pair(Q, 6, 8))).programs
    steps = found[slot_of_target(TABLE.targets[Q])].steps
    assert [(type(step), step.link) for step in steps] == [(Replace, 1), (Add, 2)]


def test_each_expert_is_replaced_by_its_own_rows() -> None:
    shapes = {**pair(Q, 6, 8), **named(EXPERTS, gate_up_proj=(3, 10, 6), down_proj=(3, 6, 5))}
    found = _programs(check(shapes, modules_to_save=["experts"])).programs
    for fused in TABLE.targets[EXPERTS].fused:
        for piece in fused.pieces:
            (step,) = found[slot_of_piece(piece, fused)].steps
            assert isinstance(step, Replace)
            assert (step.first, step.columns) == (
                piece.expert * fused.out_features + piece.out[0],
                fused.in_features,
            )


@pytest.mark.parametrize("module", [EMBED, HEAD])
def test_a_change_of_one_side_of_a_tie_is_of_that_side_alone(module: str) -> None:
    shapes = embedding(EMBED, 40, 6) if module == EMBED else pair(HEAD, 6, 40)
    found = _programs(check(shapes, table=TIED), table=TIED)
    assert set(found.untied) == {EMBED, HEAD}
    assert list(found.new) == [f"{HEAD}.weight"]
    counts = {name: len(found.programs[slot].steps) for name in (EMBED, HEAD)
              if (slot := slot_of_target(TIED.targets[name])) in found.programs}  # fmt: skip
    assert counts.pop(module) == 1
    assert not any(counts.values())


def test_only_an_embedding_and_the_head_of_the_model_can_part() -> None:
    table = replace(TIED, output_module=None)
    with pytest.raises(InvalidAdapterError, match="share one weight") as refused:
        _programs(check(pair(HEAD, 6, 40), table=table), table=table)
    assert refused.value.code == "tied_partial"
