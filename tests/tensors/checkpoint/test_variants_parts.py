"""What stands beside a pair or without one: magnitudes, biases, saved modules, token rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from registry.tensors.table.parameters import FileParameter
from tests.tensors.checkpoint.adapter_headers import (
    C1,
    CONV,
    EMBED,
    EXPERTS,
    GATE,
    HEAD,
    LEAD,
    MHA,
    NORM,
    POINT,
    TABLE,
    TIED,
    Q,
    V,
    check,
    embedding,
    named,
    pair,
    refused,
)

KERNEL = named(CONV, lora_A__weight=(2, 4, 3), lora_B__weight=(5, 2, 1))


class TestDora:
    @pytest.mark.parametrize("tail", ["lora_magnitude_vector", "lora_magnitude_vector__weight"])
    def test_every_kind_of_module_has_its_shape(self, tail: str) -> None:
        found = check(
            {
                **pair(Q, 6, 8), **named(Q, **{tail: (8,)}),
                **pair(C1, 6, 18), **named(C1, **{tail: (18,)}),
                **embedding(EMBED, 40, 6), **named(EMBED, **{tail: (6,)}),
                **KERNEL, **named(CONV, **{tail: (1, 5, 1)}),
            },
            use_dora=True,
        )  # fmt: skip
        assert {name: one.magnitude.shape for name, one in found.pairs.items() if one.magnitude} == {
            Q: (8,),
            C1: (18,),
            EMBED: (6,),
            CONV: (1, 5, 1),
        }
        assert found.parameters == sum(one.a.elements + one.b.elements for one in found.pairs.values()) + 37

    @pytest.mark.parametrize("shape", [(6,), (8, 2), (2, 4), (1, 1)])
    def test_a_magnitude_of_another_shape(self, shape: tuple[int, ...]) -> None:
        message = refused("shape_mismatch", {**pair(Q, 6, 8), **named(Q, lora_magnitude_vector=shape)}, use_dora=True)
        assert "8 output features" in message

    def test_flag_and_magnitudes_go_together_on_every_pair(self) -> None:
        magnitude = named(Q, lora_magnitude_vector=(8,))
        refused("dora_incomplete", pair(Q, 6, 8), use_dora=True)
        refused("dora_incomplete", {**pair(Q, 6, 8), **magnitude})
        refused("dora_incomplete", {**pair(Q, 6, 8), **pair(V, 6, 4), **magnitude}, use_dora=True)
        refused("dora_incomplete", magnitude, use_dora=True)

    def test_modules_and_settings_for_which_peft_has_none(self) -> None:
        mha = {**pair(MHA, 6, 18), **pair(f"{MHA}.base_layer.out_proj", 6, 6)}
        assert "no DoRA" in refused("bad_config", mha, use_dora=True, peft_version="0.21.2")
        experts = {**pair(EXPERTS, 5, 6, 6)}
        assert "no DoRA" in refused("bad_config", experts, use_dora=True, target_parameters=["experts.down_proj"])
        refused("bad_config", pair(Q, 6, 8), use_dora=True, use_bdlora={"nblocks": 2, "match_strict": False})
        both = {**pair(Q, 6, 8), **named(Q, lora_magnitude_vector=(8,), lora_B__bias=(8,))}
        refused("bad_config", both, use_dora=True, lora_bias=True)


class TestAddedBias:
    def test_it_is_of_the_pair(self) -> None:
        found = check(
            {**pair(Q, 6, 8), **named(Q, lora_B__bias=(8,)), **KERNEL, **named(CONV, lora_B__bias=(5,))}, lora_bias=True
        )
        assert {name: one.bias.shape for name, one in found.pairs.items() if one.bias} == {Q: (8,), CONV: (5,)}
        assert not found.values

    def test_the_base_needs_a_bias_to_add_to(self) -> None:
        message = refused("not_mergeable", {**pair(V, 6, 4), **named(V, lora_B__bias=(4,))}, lora_bias=True)
        assert f"bias of '{V}'" in message

    def test_it_goes_with_its_field(self) -> None:
        refused("incomplete_pair", pair(Q, 6, 8), lora_bias=True)
        refused("unexpected_tensor", {**pair(Q, 6, 8), **named(Q, lora_B__bias=(8,))})
        refused("shape_mismatch", {**pair(Q, 6, 8), **named(Q, lora_B__bias=(6,))}, lora_bias=True)

    @pytest.mark.parametrize("shapes", [embedding(EMBED, 40, 6), pair(EXPERTS, 5, 6, 6)])
    def test_where_peft_has_none(self, shapes: Any) -> None:
        refused("not_mergeable", shapes, lora_bias=True, target_parameters=["experts.down_proj"])


class TestTrainedBias:
    def test_of_adapted_modules(self) -> None:
        found = check({**pair(Q, 6, 8), **pair(V, 6, 4), **named(Q, base_layer__bias=(8,))}, bias="lora_only")
        assert [(value.parameter, value.entry.name) for value in found.values.values()] == [
            (f"{Q}.bias", f"{LEAD}{Q}.base_layer.bias")
        ]

    def test_it_can_stand_beside_one_that_is_added(self) -> None:
        shapes = {**pair(Q, 6, 8), **named(Q, base_layer__bias=(8,), lora_B__bias=(8,))}
        found = check(shapes, bias="lora_only", lora_bias=True)
        assert list(found.values) == [f"{Q}.bias"]
        assert found.pairs[Q].bias is not None

    def test_of_the_whole_model(self) -> None:
        rest = {**named(C1, bias=(18,)), **named(CONV, bias=(5,)), **named(NORM, bias=(6,))}
        mha = named(f"{MHA}.out_proj", bias=(6,))
        shapes = {**pair(Q, 6, 8), **named(Q, base_layer__bias=(8,)), **rest, **mha}
        assert sorted(check(shapes, bias="all").values) == sorted(
            f"{name}.bias" for name in (Q, C1, CONV, NORM, f"{MHA}.out_proj")
        )
        del shapes[f"{LEAD}{NORM}.bias"]
        assert f"'{NORM}.bias'" in refused("incomplete_adapter", shapes, bias="all")

    def test_what_older_versions_call_a_bias(self) -> None:
        position = {f"{NORM}_bias.weight": FileParameter("position", (4, 2)), f"{MHA}.in_proj_bias": FileParameter(
            f"{MHA}.in_proj_bias", (18,))}  # fmt: skip
        table = replace(TABLE, parameters={**{name: held for name, held in TABLE.parameters.items()
                        if not name.endswith(".bias")}, **position})  # fmt: skip
        mha = {**pair(MHA, 6, 18), **pair(f"{MHA}.base_layer.out_proj", 6, 6)}
        shapes = {**mha, **named(f"{NORM}_bias", weight=(4, 2)), **named(f"{MHA}.base_layer", in_proj_bias=(18,))}
        found = check(shapes, table=table, bias="all", peft_version="0.20.0")
        assert sorted(found.values) == sorted(position)
        del shapes[f"{LEAD}{NORM}_bias.weight"]
        refused("incomplete_adapter", shapes, table=table, bias="all", peft_version="0.20.0")
        assert list(check(shapes, table=table, bias="all", peft_version="0.21.0").values) == [f"{MHA}.in_proj_bias"]

    def test_biases_that_older_versions_do_not_save(self) -> None:
        message = refused("incomplete_adapter", pair(Q, 6, 8), bias="lora_only", peft_version="0.20.0")
        assert "does not save them" in message

    def test_one_that_is_missing_or_has_no_place(self) -> None:
        assert f"'{Q}.bias'" in refused("incomplete_adapter", pair(Q, 6, 8), bias="lora_only")
        refused("unexpected_tensor", {**pair(Q, 6, 8), **named(Q, base_layer__bias=(8,))})
        refused("unexpected_tensor", {**pair(Q, 6, 8), **named(NORM, bias=(6,))})
        refused("unknown_target", {**pair(V, 6, 4), **named(V, base_layer__bias=(4,))}, bias="lora_only")
        refused("shape_mismatch", {**pair(Q, 6, 8), **named(Q, base_layer__bias=(6,))}, bias="lora_only")


HEADS = named(HEAD, weight=(40, 6))


class TestSavedModules:
    def test_a_module_by_name_or_end_of_a_path(self) -> None:
        shapes = {**pair(Q, 6, 8), **HEADS, **named(NORM, weight=(6,), bias=(6,))}
        found = check(shapes, modules_to_save=["head", "0.norm"])
        assert list(found.values) == [f"{HEAD}.weight", f"{NORM}.bias", f"{NORM}.weight"]
        assert not found.copies

    def test_a_headless_spelling_means_the_same_parameter(self) -> None:
        shapes = {**pair(Q, 6, 8), **named(NORM.removeprefix("model."), weight=(6,), bias=(6,))}
        assert list(check(shapes, modules_to_save=["norm"]).values) == [f"{NORM}.bias", f"{NORM}.weight"]

    def test_a_parameter_of_it_is_missing(self) -> None:
        shapes = {**pair(Q, 6, 8), **named(NORM, weight=(6,))}
        assert f"'{NORM}.bias'" in refused("incomplete_adapter", shapes, modules_to_save=["norm"])
        refused("incomplete_adapter", pair(Q, 6, 8), modules_to_save=["norm"])
        refused("incomplete_adapter", pair(Q, 6, 8), modules_to_save=["lm_head"], task_type="CAUSAL_LM")

    def test_a_parameter_is_missing_where_the_trained_class_is_not_known(self) -> None:
        with_bias = replace(TABLE, parameters={**TABLE.parameters, f"{HEAD}.bias": FileParameter("b", (40,))})
        half = {**pair(Q, 6, 8), **HEADS}
        assert f"'{HEAD}.bias'" in refused("incomplete_adapter", half, table=with_bias, modules_to_save=["lm_head"])
        whole = {**half, **named(HEAD, bias=(40,))}
        assert len(check(whole, table=with_bias, modules_to_save=["lm_head"]).values) == 2

    def test_a_head_that_the_base_lacks_is_new(self) -> None:
        shapes = {**pair(Q, 6, 8), **named("score.dense", weight=(3, 6), bias=(3,))}
        assert list(check(shapes, modules_to_save=["score"]).values) == ["score.dense.bias", "score.dense.weight"]
        refused("unexpected_tensor", shapes)

    @pytest.mark.parametrize(
        ("task", "head"), [("SEQ_CLS", "score"), ("TOKEN_CLS", "classifier"), ("QUESTION_ANS", "qa_outputs")]
    )
    def test_heads_that_peft_saves_for_a_task(self, task: str, head: str) -> None:
        shapes = {**pair(Q, 6, 8), **named(head, weight=(3, 6))}
        assert list(check(shapes, task_type=task).values) == [f"{head}.weight"]

    @pytest.mark.parametrize("tail", ["model.layers.7.norm", f"{NORM}.inner"])
    def test_a_new_part_of_what_the_base_has_is_a_mistake(self, tail: str) -> None:
        shapes = {**pair(Q, 6, 8), **named(NORM, weight=(6,), bias=(6,)), **named(tail, weight=(6,))}
        refused("unknown_target", shapes, modules_to_save=["norm"])

    def test_another_shape(self) -> None:
        shapes = {**pair(Q, 6, 8), **named(HEAD, weight=(42, 6))}
        assert "was resized" in refused("shape_mismatch", shapes, modules_to_save=["lm_head"])

    def test_no_pair_in_a_module_that_was_saved_whole(self) -> None:
        refused("bad_config", {**pair(HEAD, 6, 40), **HEADS}, modules_to_save=["lm_head"])
        shapes = {**pair(f"{NORM}", 6, 6), **named(NORM, weight=(6,), bias=(6,))}
        refused("unknown_target", {**shapes, **pair(f"{NORM}.in", 6, 6)}, modules_to_save=["norm"])

    def test_experts_that_were_trained_whole(self) -> None:
        shapes = {**pair(Q, 6, 8), **named(EXPERTS, gate_up_proj=(3, 10, 6), down_proj=(3, 6, 5))}
        assert list(check(shapes, modules_to_save=["experts"]).values) == [
            f"{EXPERTS}.down_proj",
            f"{EXPERTS}.gate_up_proj",
        ]
        refused("shape_mismatch", {**shapes, **named(EXPERTS, down_proj=(3, 5, 6))}, modules_to_save=["experts"])

    def test_an_attention_that_was_trained_whole(self) -> None:
        shapes = {
            **pair(Q, 6, 8), **named(MHA, in_proj_weight=(18, 6)), **named(f"{MHA}.out_proj", weight=(6, 6), bias=(6,)),
        }  # fmt: skip
        assert len(check(shapes, modules_to_save=["mha"]).values) == 3

    def test_the_wrapper_s_own_biases_are_doubles(self) -> None:
        kept = {**pair(Q, 6, 8), **named(Q, base_layer__bias=(8,)), **named(C1, bias=(18,)), **named(CONV, bias=(5,)),
                **named(f"{MHA}.out_proj", bias=(6,)), **named(NORM, weight=(6,), bias=(6,))}  # fmt: skip
        doubles = named(NORM, modules_to_save__bias=(6,), original_module__bias=(6,))
        found = check({**kept, **doubles}, modules_to_save=["norm"], bias="all")
        assert f"{NORM}.bias" in found.values
        assert [(twin.first.name, twin.second.name) for twin in found.twins] == [
            (f"{LEAD}{NORM}.bias", f"{LEAD}{NORM}.modules_to_save.bias")
        ]
        refused("unexpected_tensor", {**pair(Q, 6, 8), **named(NORM, weight=(6,), bias=(6,)), **doubles},
                modules_to_save=["norm"])  # fmt: skip

    def test_the_count_of_batches_does_not_matter(self) -> None:
        counter = named(NORM, num_batches_tracked=())
        shapes = {**pair(Q, 6, 8), **named(NORM, weight=(6,), bias=(6,)), **counter}
        assert len(check(shapes, modules_to_save=["norm"]).values) == 2
        refused("unexpected_tensor", {**pair(Q, 6, 8), **counter})


ROWS = {"token_adapter__trainable_tokens_delta": (2, 6)}


class TestTokenRows:
    @pytest.mark.parametrize("indices", [[5, 7], {"embed_tokens": [5, 7]}, {"d_tokens": [5, 7]}])
    def test_rows_and_their_tokens(self, indices: Any) -> None:
        found = check({**pair(Q, 6, 8), **named(EMBED, **ROWS)}, trainable_token_indices=indices)
        assert {name: (rows.tokens, rows.tied) for name, rows in found.tokens.items()} == {EMBED: ((5, 7), False)}

    def test_without_any_pair(self) -> None:
        found = check(named(EMBED, **ROWS), trainable_token_indices=[5, 7], target_modules="dummy-target-modules")
        assert (found.rank, found.parameters) == (0, 12)
        refused("incomplete_adapter", named(EMBED, **ROWS), trainable_token_indices=[5, 7])

    @pytest.mark.parametrize("indices", [[5, 40], [-1, 3]])
    def test_tokens_that_the_base_lacks(self, indices: list[int]) -> None:
        refused("bad_token_index", {**pair(Q, 6, 8), **named(EMBED, **ROWS)}, trainable_token_indices=indices)

    @pytest.mark.parametrize("indices", [[5], [5, 7, 9]])
    def test_as_many_rows_as_tokens(self, indices: list[int]) -> None:
        refused("shape_mismatch", {**pair(Q, 6, 8), **named(EMBED, **ROWS)}, trainable_token_indices=indices)

    def test_rows_without_tokens_and_tokens_without_rows(self) -> None:
        refused("unexpected_tensor", {**pair(Q, 6, 8), **named(EMBED, **ROWS)})
        refused("incomplete_adapter", pair(Q, 6, 8), trainable_token_indices=[5, 7])
        shapes = {**pair(Q, 6, 8), **named(EMBED, **ROWS)}
        refused("unexpected_tensor", shapes, trainable_token_indices={"lm_head": [5, 7]})
        refused("incomplete_adapter", shapes, trainable_token_indices={"embed_tokens": [5, 7], "lm_head": [5, 7]})
        refused("unexpected_tensor", shapes, trainable_token_indices={"embed_tokens": [5, 7], "tokens": [6, 7]})

    def test_not_beside_a_pair_on_the_same_module(self) -> None:
        shapes = {**embedding(EMBED, 40, 6), **named(EMBED, **ROWS)}
        refused("bad_config", shapes, trainable_token_indices=[5, 7])

    @pytest.mark.parametrize("module", [C1, CONV, POINT, GATE])
    def test_only_where_there_are_rows_of_tokens(self, module: str) -> None:
        shape = (2, *TABLE.targets[module].shape[1:])
        shapes = {**pair(Q, 6, 8), **named(module, token_adapter__trainable_tokens_delta=shape)}
        refused("unsupported_layout", shapes, trainable_token_indices={module: [1, 2]})

    def test_a_head_that_shares_the_weight_follows(self) -> None:
        shapes = {**pair(Q, 6, 8), **named(EMBED, **ROWS)}
        one = check(shapes, table=TIED, trainable_token_indices={"embed_tokens": [5, 7], "lm_head": [5, 7]})
        assert (list(one.tokens), one.tokens[EMBED].tied, one.twins) == ([EMBED], True, ())
        both = check({**shapes, **named(HEAD, **ROWS)}, table=TIED,
                     trainable_token_indices={"embed_tokens": [5, 7], "lm_head": [5, 7]})  # fmt: skip
        assert (list(both.tokens), both.tokens[EMBED].tied, len(both.twins)) == ([EMBED], True, 1)

    def test_a_head_with_rows_of_its_own_comes_apart(self) -> None:
        shapes = {**pair(Q, 6, 8), **named(EMBED, **ROWS), **named(HEAD, **ROWS)}
        found = check(shapes, table=TIED, trainable_token_indices={"embed_tokens": [5, 7], "lm_head": [5, 8]})
        assert {name: rows.tied for name, rows in found.tokens.items()} == {EMBED: False, HEAD: False}
        assert "are untied" in found.notices[0]
        alone = check({**pair(Q, 6, 8), **named(HEAD, **ROWS)}, table=TIED, trainable_token_indices={"lm_head": [5, 8]})
        assert (list(alone.tokens), alone.tokens[HEAD].tied) == ([HEAD], False)

    def test_a_copy_under_the_wrapper(self) -> None:
        shapes = {**pair(Q, 6, 8), **named(EMBED, **ROWS, token_adapter__base_layer__weight=(40, 6))}
        assert list(check(shapes, trainable_token_indices=[5, 7]).copies) == [EMBED]


def test_what_the_files_do_not_keep_as_it_is_can_not_be_replaced() -> None:
    bare = replace(TABLE.targets[EXPERTS], fused=tuple(replace(one, pieces=()) for one in TABLE.targets[EXPERTS].fused))
    table = replace(TABLE, targets={**TABLE.targets, EXPERTS: bare})
    shapes = {**pair(Q, 6, 8), **named(EXPERTS, gate_up_proj=(3, 10, 6), down_proj=(3, 6, 5))}
    refused("unsupported_layout", shapes, table=table, modules_to_save=["experts"])
