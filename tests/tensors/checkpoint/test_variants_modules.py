"""Pairs on everything that is no plain linear module: convolutions, attentions, experts, blocks, tied weights."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
import torch

from registry.files.header import TensorEntry
from registry.files.source import BytesSource
from registry.tensors.checkpoint.adapter import LoraPair, Twin
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from tests.tensors.checkpoint.adapter_headers import (
    C1,
    CONV,
    EMBED,
    EXPERTS,
    GATE,
    GROUPED,
    HEAD,
    LEAD,
    MHA,
    OLD,
    POINT,
    TABLE,
    TIED,
    Q,
    check,
    embedding,
    named,
    pair,
    refused,
)


def with_target(module: str, table: TargetTable = TABLE, **fields: Any) -> TargetTable:
    return replace(table, targets={**table.targets, module: replace(table.targets[module], **fields)})


def kernel(module: str, *shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return named(module, lora_A__weight=shapes[0], lora_B__weight=shapes[1])


class TestConvolution:
    def test_kernels_and_points(self) -> None:
        found = check({**kernel(CONV, (2, 4, 3), (5, 2, 1)), **kernel(POINT, (2, 4, 1, 1), (5, 2, 1, 1))})
        assert {name: one.rank for name, one in found.pairs.items()} == {CONV: 2, POINT: 2}
        assert found.pairs[CONV].a_matrix.shape == (2, 12)
        assert found.pairs[CONV].b_matrix.shape == (5, 2)

    def test_what_the_files_do_not_tell_is_told(self) -> None:
        assert f"'{CONV}'" in check(kernel(CONV, (2, 4, 3), (5, 2, 1)), target_modules=["conv"]).notices[0]
        assert not check(kernel(POINT, (2, 4, 1, 1), (5, 2, 1, 1)), target_modules=["point"]).notices
        table = with_target(CONV, geometry={"groups": 1, "dilation": [1], "padding_mode": "zeros"})
        assert not check(kernel(CONV, (2, 4, 3), (5, 2, 1)), table=table, target_modules=["conv"]).notices

    @pytest.mark.parametrize("a", [(2, 4), (2, 5, 3), (2, 4, 5), (2, 4, 3, 1)])
    def test_a_kernel_of_another_shape(self, a: tuple[int, ...]) -> None:
        assert "(rank, 4, 3)" in refused("shape_mismatch", kernel(CONV, a, (5, 2, 1)))

    @pytest.mark.parametrize("b", [(5, 2), (6, 2, 1), (5, 2, 3), (5, 2, 1, 1)])
    def test_a_second_kernel_of_another_shape(self, b: tuple[int, ...]) -> None:
        assert "(5, rank, 1)" in refused("shape_mismatch", kernel(CONV, (2, 4, 3), b))

    def test_ranks(self) -> None:
        refused("rank_mismatch", kernel(CONV, (2, 4, 3), (5, 3, 1)))
        refused("rank_mismatch", kernel(CONV, (3, 4, 3), (5, 3, 1)))

    def test_groups_seen_in_the_tensors_or_declared(self) -> None:
        assert "2 groups" in refused("not_mergeable", kernel(GROUPED, (2, 4, 3), (4, 1, 1)))
        declared = with_target(GROUPED, geometry={"groups": 2})
        assert "2 groups" in refused("not_mergeable", kernel(GROUPED, (2, 4, 3), (4, 1, 1)), table=declared)

    @pytest.mark.parametrize("geometry", [{"dilation": [2]}, {"dilation": 2}, {"padding_mode": "circular"}])
    def test_dilation_and_padding_mode(self, geometry: dict[str, Any]) -> None:
        table = with_target(CONV, geometry=geometry)
        message = refused("not_mergeable", kernel(CONV, (2, 4, 3), (5, 2, 1)), table=table)
        assert CONV in message
        assert next(iter(geometry)).replace("_", " ") in message

    def test_a_point_has_no_dilation(self) -> None:
        table = with_target(POINT, geometry={"dilation": [2, 2], "padding_mode": "zeros"})
        assert check(kernel(POINT, (2, 4, 1, 1), (5, 2, 1, 1)), table=table).rank == 2


ATTENTION = {**pair(MHA, 6, 18), **pair(f"{MHA}.base_layer.out_proj", 6, 6)}


class TestAttention:
    @pytest.mark.parametrize(
        ("version", "times"), [("0.17.0", 2), ("0.21.2", 2), ("0.21.2.dev0", 2), ("0.21.3", 1), ("1.0", 1)]
    )
    def test_both_pairs_have_the_scale_of_the_module(self, version: str, times: int) -> None:
        found = check(
            ATTENTION, peft_version=version, target_modules=["mha"], alpha_pattern={"mha": 6, "out_proj": 100}
        )
        assert {name: one.scaling for name, one in found.pairs.items()} == {MHA: 3.0, f"{MHA}.out_proj": 3.0 * times}
        assert ("twice" in " ".join(found.notices)) is (times == 2)

    @pytest.mark.parametrize("version", [None, "unknown", "0.21.3.dev0"])
    def test_the_version_has_to_be_known(self, version: str | None) -> None:
        assert "peft_version" in refused("bad_config", ATTENTION, peft_version=version)

    def test_one_pair_of_the_two(self) -> None:
        refused("incomplete_pair", pair(MHA, 6, 18), peft_version="0.21.2")
        refused("unknown_target", pair(f"{MHA}.base_layer.out_proj", 6, 6), peft_version="0.21.2")

    def test_shapes_and_ranks(self) -> None:
        refused("shape_mismatch", {**ATTENTION, **pair(MHA, 6, 6)}, peft_version="0.21.2")
        refused("rank_mismatch", {**ATTENTION, **pair(MHA, 6, 18, 3)}, peft_version="0.21.2")

    def test_a_pair_that_the_forward_never_uses_does_not_count(self) -> None:
        found = check({**pair(Q, 6, 8), **pair(f"{MHA}.out_proj", 6, 6)}, target_modules=["q_proj", "out_proj"],
                      modules_to_save=[])  # fmt: skip
        assert list(found.pairs) == [Q]
        assert "is ignored" in found.notices[0]

    def test_a_bias_that_peft_never_applies(self) -> None:
        refused("not_mergeable", ATTENTION, peft_version="0.21.2", lora_bias=True)


def experts(down: int = 2, gate_up: int = 2) -> dict[str, tuple[int, ...]]:
    return {**pair(f"{EXPERTS}.base_layer", 6, 10, 3 * gate_up), **pair(EXPERTS, 5, 6, 3 * down)}


BOTH = ["experts.down_proj", "mlp.experts.gate_up_proj"]


class TestParameters:
    def test_the_parameter_that_was_registered_first_is_innermost(self) -> None:
        found = check(experts(), target_parameters=BOTH)
        assert {name: (one.parameter, one.a.shape, one.rank) for name, one in found.pairs.items()} == {
            f"{EXPERTS}.down_proj": ("down_proj", (6, 5), 2),
            f"{EXPERTS}.gate_up_proj": ("gate_up_proj", (6, 6), 2),
        }
        assert all(one.fused is not None and not one.turned for one in found.pairs.values())
        assert found.notices == ()

    def test_scales_are_those_of_the_parameter_s_path(self) -> None:
        found = check(
            experts(3, 1),
            target_parameters=BOTH,
            rank_pattern={"experts.down_proj": 3, "gate_up_proj": 1, "experts": 9},
            alpha_pattern={r"mlp\.experts\.gate_up_proj": 5},
        )
        assert [(one.rank, one.alpha) for one in found.pairs.values()] == [(3, 8), (1, 5)]

    def test_one_parameter_of_the_two(self) -> None:
        shapes = pair(EXPERTS, 6, 10, 6)
        assert list(check(shapes, target_parameters=["gate_up_proj"]).pairs) == [f"{EXPERTS}.gate_up_proj"]
        assert "gate_up_proj" in refused("incomplete_adapter", shapes, target_parameters=BOTH)
        refused("incomplete_adapter", experts(), target_parameters=["gate_up_proj"])
        refused("incomplete_adapter", pair(Q, 6, 8), target_parameters=["gate_up_proj"])
        refused("unsupported_layout", shapes)
        refused("shape_mismatch", pair(EXPERTS, 6, 10, 6), target_parameters=["down_proj"])

    def test_ranks_are_a_share_of_the_rows(self) -> None:
        refused("rank_mismatch", pair(EXPERTS, 5, 6, 9), target_parameters=["down_proj"])
        refused("shape_mismatch", pair(EXPERTS, 5, 6, 4), target_parameters=["down_proj"])

    def test_a_parameter_of_two_dimensions_is_one_matrix(self) -> None:
        found = check({**pair(GATE, 6, 3), **pair(Q, 6, 8)}, target_parameters=["gate.weight", "q_proj.weight"],
                      alpha_pattern={"gate.weight": 2})  # fmt: skip
        assert [(name, one.parameter, one.scaling) for name, one in found.pairs.items()] == [
            (f"{Q}.weight", "weight", 4.0),
            (f"{GATE}.weight", "weight", 1.0),
        ]
        refused("unsupported_layout", pair(C1, 18, 6), target_parameters=["c_attn.weight"])
        refused("shape_mismatch", pair(GATE, 3, 6), target_parameters=["gate.weight"])

    def test_parameters_of_two_and_three_dimensions_in_one_module(self) -> None:
        bias = FileParameter(f"{EXPERTS}.gate_up_bias", (3, 10))
        table = replace(TABLE, parameters={**TABLE.parameters, f"{EXPERTS}.gate_up_bias": bias})
        shapes = {
            **pair(f"{EXPERTS}.base_layer.base_layer", 6, 10, 6), **pair(f"{EXPERTS}.base_layer", 10, 3),
            **pair(EXPERTS, 5, 6, 6),
        }  # fmt: skip
        found = check(shapes, table=table, target_parameters=[*BOTH, "gate_up_bias"])
        assert {name: one.a.name.count("base_layer") for name, one in found.pairs.items()} == {
            f"{EXPERTS}.gate_up_proj": 2,
            f"{EXPERTS}.gate_up_bias": 1,
            f"{EXPERTS}.down_proj": 0,
        }
        alike = replace(table, parameters={**TABLE.parameters, f"{EXPERTS}.a": FileParameter("a", (3, 10)),
                                           f"{EXPERTS}.b": FileParameter("b", (3, 10))})  # fmt: skip
        two = {**pair(f"{EXPERTS}.base_layer", 10, 3), **pair(EXPERTS, 10, 3)}
        assert "2 ways" in refused("unsupported_layout", two, table=alike, target_parameters=["experts.a", "experts.b"])

    def test_in_and_out_taken_for_each_other(self) -> None:
        shapes = pair(EXPERTS, 6, 5, 6)
        found = check(shapes, target_parameters=["down_proj"], peft_version="0.18.1")
        assert found.pairs[f"{EXPERTS}.down_proj"].turned

    @pytest.mark.parametrize("version", [None, "0.17.0", "0.18.1", "0.19.0"])
    def test_square_experts_of_a_version_that_could_be_wrong(self, version: str | None) -> None:
        message = refused("unsupported_layout", pair(EXPERTS, 6, 6, 6), table=self.square(),
                          target_parameters=["down_proj"], peft_version=version)  # fmt: skip
        assert "both sides" in message

    @pytest.mark.parametrize("version", ["0.19.1", "0.21.2"])
    def test_square_experts(self, version: str) -> None:
        found = check(pair(EXPERTS, 6, 6, 6), table=self.square(), target_parameters=["down_proj"],
                      peft_version=version)  # fmt: skip
        assert not found.pairs[f"{EXPERTS}.down_proj"].turned

    @staticmethod
    def square() -> TargetTable:
        pieces = tuple(Piece("down", expert, (0, 6), matrix=expert) for expert in range(3))
        return with_target(EXPERTS, fused=(FusedParameter("down_proj", 3, 6, 6, False, pieces),))

    def test_experts_that_the_files_keep_in_another_form(self) -> None:
        bare = tuple(replace(one, pieces=()) for one in TABLE.targets[EXPERTS].fused)
        table = with_target(EXPERTS, fused=bare)
        refused("unsupported_layout", experts(), table=table, target_parameters=BOTH)


@pytest.mark.parametrize("turned", [False, True])
def test_factors_of_experts_by_value(turned: bool) -> None:
    count, rank, out, inputs = 3, 2, 4, 5
    sides = (inputs, out) if turned else (out, inputs)
    a = torch.randn(count * rank, sides[1])
    b = torch.randn(sides[0], rank * count)
    # PEFT's ParamWrapper.get_delta_weight
    delta = torch.einsum("ore,eri->eoi", b.reshape(sides[0], rank, count), a.reshape(count, rank, sides[1]))
    if turned:
        delta = delta.transpose(1, 2)
    data = b"".join(struct.pack(f"<{one.numel()}f", *one.flatten().tolist()) for one in (a, b))
    entry_a = TensorEntry("a", "F32", tuple(a.shape), 0, 4 * a.numel())
    entry_b = TensorEntry("b", "F32", tuple(b.shape), 4 * a.numel(), len(data))
    fused = FusedParameter("w", count, out, inputs, False)
    one = LoraPair("x.w", Target("x", TargetKind.EXPERTS, None, (3, 4, 5)), entry_a, entry_b, rank, 1.0, 1.0,
                   fused=fused, parameter="w", turned=turned)  # fmt: skip
    source = BytesSource(data, "a file")
    for expert in range(count):
        for part in ((0, out), (1, 3)):
            left, right = one.expert_matrices(Piece("t", expert, part))
            assert left.shape == (rank, inputs)
            assert right.shape == (part[1] - part[0], rank)
            product = right.read(source, 0, right.shape[0]) @ left.read(source, 0, rank)
            torch.testing.assert_close(product, delta[expert, part[0] : part[1]])
            torch.testing.assert_close(right.read(source, 1, 2), right.read(source, 0, 2)[1:])


class TestExpertsByFile:
    def test_each_is_a_pair_on_its_piece(self) -> None:
        shapes = {**pair(f"{OLD}.0.w1", 6, 5), **pair(f"{OLD}.0.w3", 6, 5), **pair(f"{OLD}.2.w2", 5, 6)}
        found = check(shapes, target_modules=[], alpha_pattern={"2.w2": 3})
        assert {name: (one.piece.out, one.piece.expert, one.scaling) for name, one in found.pairs.items() if one.piece}
        w3, w2 = found.pairs[f"{OLD}.0.w3"], found.pairs[f"{OLD}.2.w2"]
        assert w3.piece is not None
        assert w2.fused is not None
        assert (w3.piece.out, w3.target.module, w2.fused.name, w2.scaling) == ((5, 10), EXPERTS, "down_proj", 1.5)

    def test_a_targeted_expert_is_missing(self) -> None:
        every = {**pair(f"{OLD}.0.w2", 5, 6), **pair(f"{OLD}.1.w2", 5, 6), **pair(f"{OLD}.2.w2", 5, 6)}
        assert len(check(every, target_modules=["w2"]).pairs) == 3
        del every[f"{LEAD}{OLD}.1.w2.lora_A.weight"], every[f"{LEAD}{OLD}.1.w2.lora_B.weight"]
        assert f"{OLD}.1.w2" in refused("incomplete_adapter", every, target_modules=["w2"])

    def test_shapes_are_those_of_the_piece(self) -> None:
        assert f"'{OLD}.0.w1'" in refused("shape_mismatch", pair(f"{OLD}.0.w1", 6, 10))
        refused("unknown_target", pair(f"{OLD}.3.w1", 6, 5))

    def test_the_router_beside_them(self) -> None:
        found = check({**pair(GATE, 6, 3), **pair(f"{OLD}.0.w2", 5, 6)}, target_modules=["gate"])
        assert found.pairs[f"{GATE}.weight"].parameter == "weight"


class TestBlocks:
    BLOCKS = {"target_modules_bd_a": ["o_"], "target_modules_bd_b": ["q_proj"], "nblocks": 2}  # noqa: RUF012 (read only)

    def test_the_factor_that_is_kept_as_blocks(self) -> None:
        b = named(Q, lora_A__weight=(2, 6), lora_B__weight=(8, 1))
        found = check(b, use_bdlora=self.BLOCKS).pairs[Q]
        assert (found.rank, found.blocks_a, found.blocks_b, found.b_matrix.shape) == (2, 1, 2, (8, 2))
        a = named(Q, lora_A__weight=(2, 3), lora_B__weight=(8, 2))
        found = check(a, use_bdlora={"target_modules_bd_a": ["attn"], "nblocks": 2}).pairs[Q]
        assert (found.rank, found.blocks_a, found.blocks_b, found.a_matrix.shape) == (2, 2, 1, (2, 6))

    def test_what_peft_could_not_have_made(self) -> None:
        refused("shape_mismatch", pair(Q, 6, 8), use_bdlora={"target_modules_bd_a": ["q_proj"], "nblocks": 2})
        refused("rank_mismatch", pair(Q, 6, 8), use_bdlora=self.BLOCKS)
        refused("bad_config", pair(Q, 6, 8), use_bdlora={"nblocks": 2})
        refused("bad_config", pair(Q, 6, 8), use_bdlora={"target_modules_bd_a": ["q"], "target_modules_bd_b": ["attn"]})
        refused("bad_config", pair(C1, 6, 18), use_bdlora={"target_modules_bd_a": ["c_attn"]})
        refused("bad_config", kernel(CONV, (2, 4, 3), (5, 2, 1)), use_bdlora={"target_modules_bd_a": ["conv"]})
        rows = named(Q, lora_A__weight=(3, 2), lora_B__weight=(8, 3))
        refused("shape_mismatch", rows, r=3, use_bdlora={"target_modules_bd_a": ["q_proj"], "nblocks": 2})

    def test_modules_that_are_named_nowhere_are_plain(self) -> None:
        found = check(pair(Q, 6, 8), use_bdlora={"nblocks": 2, "match_strict": False}).pairs[Q]
        assert (found.blocks_a, found.blocks_b) == (1, 1)


TWO_SIDES = {**embedding(EMBED, 40, 6), **pair(HEAD, 6, 40)}


class TestTies:
    def test_one_side_alone_comes_apart(self) -> None:
        for shapes in (embedding(EMBED, 40, 6), pair(HEAD, 6, 40)):
            found = check(shapes, table=TIED, target_modules=["embed_tokens", "lm_head"], layers_to_transform=None)
            (one,) = found.pairs.values()
            assert not one.tied
            assert "are untied" in found.notices[0]

    def test_two_sides_that_were_trained_apart(self) -> None:
        found = check(TWO_SIDES, table=TIED, target_modules=["embed_tokens", "lm_head"])
        assert [one.tied for one in found.pairs.values()] == [False, False]

    def test_two_sides_that_were_trained_as_one(self) -> None:
        found = check(TWO_SIDES, table=TIED, ensure_weight_tying=True, target_modules=["model.embed_tokens"])
        assert [(name, one.tied) for name, one in found.pairs.items()] == [(EMBED, True)]
        lead = LEAD + EMBED
        assert [(twin.first.name, twin.second.name, twin.transposed) for twin in found.twins] == [
            (f"{lead}.lora_embedding_A", f"{LEAD}{HEAD}.lora_B.weight", True),
            (f"{lead}.lora_embedding_B", f"{LEAD}{HEAD}.lora_A.weight", True),
        ]
        assert found.notices == ()

    def test_values_of_two_sides_that_were_trained_as_one(self) -> None:
        shapes = {**pair(Q, 6, 8), **named(EMBED, weight=(40, 6)), **named(HEAD, weight=(40, 6))}
        found = check(shapes, table=TIED, ensure_weight_tying=True, modules_to_save=["model.embed_tokens"])
        assert [(name, one.tied) for name, one in found.values.items()] == [(f"{EMBED}.weight", True)]
        assert [type(twin) for twin in found.twins] == [Twin]
        assert not found.copies

    def test_one_side_of_what_should_be_one(self) -> None:
        refused("tied_partial", embedding(EMBED, 40, 6), table=TIED, ensure_weight_tying=True)
        shapes = {**pair(Q, 6, 8), **named(EMBED, weight=(40, 6))}
        refused("tied_partial", shapes, table=TIED, ensure_weight_tying=True, modules_to_save=["embed_tokens"])

    def test_two_sides_of_different_scale_are_not_one(self) -> None:
        refused("tied_partial", TWO_SIDES, table=TIED, ensure_weight_tying=True, alpha_pattern={"lm_head": 3})

    def test_magnitudes_keep_the_sides_apart(self) -> None:
        shapes = {**TWO_SIDES, **named(EMBED, lora_magnitude_vector=(6,)), **named(HEAD, lora_magnitude_vector=(40,))}
        found = check(shapes, table=TIED, ensure_weight_tying=True, use_dora=True)
        assert (sorted(found.pairs), found.twins) == ([HEAD, EMBED], ())

    def test_nothing_to_tie(self) -> None:
        found = check(TWO_SIDES, ensure_weight_tying=True, target_modules=["embed_tokens", "lm_head"])
        assert (sorted(found.pairs), found.notices) == ([HEAD, EMBED], ())
