"""What a path does to each slot: what a replacement makes dead, where its rows begin, and which ties part."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.errors import ConflictError, InvalidAdapterError
from registry.files.source import NOWHERE
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.path.programs import BoundLink, PathPrograms, path_programs
from registry.tensors.path.steps import Add, Replace
from registry.tensors.table.parameters import FileParameter, Piece
from registry.tensors.table.slots import slot_of_parameter, slot_of_piece, slot_of_target
from registry.tensors.table.targets import TargetKind, TargetTable
from tests.tensors.checkpoint.adapter_headers import (
    EMBED,
    EXPERTS,
    GATE_UP,
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


def test_two_readings_of_one_tensor_are_no_path() -> None:
    """One of the adapters was trained on a model that keeps the weight the other way; a square one fits both."""
    square = replace(TABLE, targets={**TABLE.targets, Q: replace(TABLE.targets[Q], shape=(6, 6))})
    turned = replace(square, targets={**square.targets, Q: replace(square.targets[Q], kind=TargetKind.CONV1D)})
    straight, other = check(pair(Q, 6, 6), table=square), check(pair(Q, 6, 6), table=turned)
    for table in (square, turned):
        with pytest.raises(InvalidAdapterError, match="in two ways, one as") as refused:
            _programs(straight, other, table=table)
        assert refused.value.code == "lineage_mismatch"


@pytest.mark.parametrize("pieces", [GATE_UP.pieces, (replace(GATE_UP.pieces[0], transposed=True),)])
def test_experts_whose_pieces_are_turned_are_not_replaced(pieces: tuple[Piece, ...]) -> None:
    """Which rows of the value are whose can't be said of a part of a turned matrix."""
    fused = replace(GATE_UP, transposed=pieces is GATE_UP.pieces, pieces=pieces)
    experts = replace(TABLE.targets[EXPERTS], fused=(fused,))
    table = replace(TABLE, targets={**TABLE.targets, EXPERTS: experts})
    shape = (3, 6, 10) if fused.transposed else (3, 10, 6)
    whole = check({**pair(Q, 6, 8), **named(EXPERTS, gate_up_proj=shape)}, table=table, modules_to_save=["experts"])
    with pytest.raises(InvalidAdapterError, match="that the base's files keep transposed") as refused:
        _programs(whole, table=table)
    assert refused.value.code == "unsupported_layout"


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


OUT = "model.out.bias"
BIASED = replace(
    TIED,
    parameters={**TIED.parameters, OUT: FileParameter(OUT, (40,))},
    ties={f"{HEAD}.bias": OUT, f"{HEAD}.weight": f"{EMBED}.weight"},
)
"""The head has a bias that the flag ties to one of the model's own."""


def test_what_the_flag_ties_comes_apart_with_the_head() -> None:
    found = _programs(check(pair(HEAD, 6, 40), table=BIASED), table=BIASED)
    assert set(found.new) == {f"{HEAD}.weight", f"{HEAD}.bias"}
    assert (found.new[f"{HEAD}.bias"].shape, found.new[f"{HEAD}.bias"].beside) == ((40,), OUT)
    (follower,) = found.followers.values()
    assert (follower.slot.tensor, follower.steps) == (f"{HEAD}.bias", ())
    assert follower.origin == slot_of_parameter(BIASED.parameters[OUT])
    assert found.by_tensor()[f"{HEAD}.bias"] == [follower]
    assert follower.slot not in found.programs  # a composed adapter has one value for both


def test_a_follower_has_the_changes_of_what_it_was_tied_to() -> None:
    shapes = {**pair(Q, 6, 8), **named(HEAD, bias=(40,)), f"base_model.model.{Q}.base_layer.bias": (8,)}
    others = {name: (size,) for name, size in (("model.layers.0.c_attn", 18), ("model.layers.0.conv", 5))}
    shapes |= {f"base_model.model.{name}.bias": shape for name, shape in others.items()}
    shapes |= named("model.layers.0.norm", bias=(6,)) | named("model.layers.0.mha.out_proj", bias=(6,))
    shapes |= {f"base_model.model.{OUT}": (40,)}
    biases = check(shapes, table=BIASED, bias="all")
    (twin,) = biases.twins
    assert {twin.first.name, twin.second.name} == {f"base_model.model.{OUT}", f"base_model.model.{HEAD}.bias"}
    assert f"{HEAD}.bias" not in biases.values
    stays = _programs(biases, table=BIASED)
    assert not stays.new
    assert not stays.followers
    found = _programs(biases, check(pair(HEAD, 6, 40), table=BIASED), table=BIASED)
    (follower,) = found.followers.values()
    assert follower.steps == found.programs[slot_of_parameter(BIASED.parameters[OUT])].steps
    assert [(type(step), step.link) for step in follower.steps] == [(Replace, 0)]


def test_another_pair_that_the_flag_ties_can_part_too() -> None:
    other = replace(TABLE.targets[V], module="other", tensor=None, tie=V)
    targets = {**BIASED.targets, V: replace(TABLE.targets[V], tie="other"), "other": other}
    known = {**(BIASED.ties or {}), "other.weight": f"{V}.weight"}
    table = replace(BIASED, targets=targets, ties=known)
    found = _programs(check(pair(V, 6, 4), table=table), table=table)
    assert found.untied == (V, "other")
    assert set(found.new) == {"other.weight", f"{HEAD}.bias", f"{HEAD}.weight"}
    table = replace(table, ties=BIASED.ties)
    with pytest.raises(InvalidAdapterError, match="share one weight"):
        _programs(check(pair(V, 6, 4), table=table), table=table)


def test_what_can_t_be_written_apart_keeps_the_head_tied() -> None:
    table = replace(BIASED, ties={"other.weight": None})
    with pytest.raises(InvalidAdapterError, match=r"'other\.weight'") as refused:
        _programs(check(pair(HEAD, 6, 40), table=table), table=table)
    assert refused.value.code == "tied_partial"


def test_a_tie_that_the_files_deny_is_not_followed() -> None:
    table = replace(TIED, outdated=frozenset({HEAD}))
    rows = check(
        {**pair(Q, 6, 8), **named(EMBED, token_adapter__trainable_tokens_delta=(1, 6))},
        table=table,
        trainable_token_indices=[3],
    )
    with pytest.raises(ConflictError, match="registry base retable") as refused:
        _programs(rows, table=table)
    assert refused.value.code == "retable_needed"
    assert _programs(check(pair(HEAD, 6, 40), table=table), table=table).untied  # each has its own tensor anyway
