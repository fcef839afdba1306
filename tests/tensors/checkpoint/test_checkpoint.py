"""A checkpoint against its base: values for what is right, the code and the name for what is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import RegistryError
from registry.tensors.table.targets import TargetKind
from tests.tensors.checkpoint.adapter_headers import (
    C1,
    EMBED,
    EXPERTS,
    HEAD,
    LEAD,
    NAMES_ONLY,
    ODD,
    TABLE,
    TIED,
    Q,
    V,
    check,
    embedding,
    pair,
    refused,
)


def test_pairs_of_every_kind_with_their_scales() -> None:
    found = check(
        {**pair(V, 6, 4), **pair(Q, 6, 8, 3), **pair(C1, 6, 18), **embedding(EMBED, 40, 6)},
        rank_pattern={"q_proj": 3},
        alpha_pattern={"attn.v_proj": 5},
        target_modules=["q_proj", "v_proj", "c_attn", "embed_tokens"],
    )
    assert list(found.pairs) == sorted([Q, V, C1, EMBED])
    assert {name: (one.rank, one.alpha, one.scaling) for name, one in found.pairs.items()} == {
        Q: (3, 8, 8 / 3),
        V: (2, 5, 2.5),
        C1: (2, 8, 4.0),
        EMBED: (2, 8, 4.0),
    }
    assert found.pairs[Q].a.shape == (3, 6)
    assert found.pairs[EMBED].b.name == f"{LEAD}{EMBED}.lora_embedding_B"
    assert (found.rank, found.notices) == (3, ())
    assert found.parameters == (3 * 6 + 8 * 3) + (2 * 6 + 4 * 2) + (2 * 6 + 18 * 2) + (2 * 40 + 6 * 2)


def test_rslora_divides_by_the_root_of_the_modules_own_rank() -> None:
    found = check(pair(Q, 6, 8, 9), use_rslora=True, rank_pattern={"q_proj": 9}, target_modules=["q_proj"])
    assert found.pairs[Q].scaling == 8 / 3


def test_a_headless_name_means_the_same_module() -> None:
    found = check(
        pair("layers.0.attn.q_proj", 6, 8), target_modules=["q_proj"], rank_pattern={"^layers.0.attn.q_proj": 2}
    )
    assert list(found.pairs) == [Q]


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_float_dtypes(dtype: str) -> None:
    assert check(pair(Q, 6, 8), dtype=dtype).rank == 2


@pytest.mark.parametrize("dtype", ["I32", "U8", "F8_E4M3", "BOOL"])
def test_other_dtypes(dtype: str) -> None:
    assert f"has dtype {dtype}" in refused("bad_dtype", pair(Q, 6, 8), dtype=dtype)


def test_half_a_pair() -> None:
    shapes = pair(Q, 6, 8)
    del shapes[f"{LEAD}{Q}.lora_B.weight"]
    assert f"'{Q}' has lora_A.weight but no lora_B.weight" in refused("incomplete_pair", shapes)
    refused("incomplete_pair", {f"{LEAD}{EMBED}.lora_embedding_B": (6, 2)})


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 6), ()])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    assert "lora_A.weight" in refused("empty_tensor", {**pair(Q, 6, 8), f"{LEAD}{Q}.lora_A.weight": shape})


def test_a_module_that_the_base_lacks_with_the_nearest() -> None:
    message = refused("unknown_target", pair("model.layers.7.attn.q_proj", 6, 8))
    assert "'model.layers.7.attn.q_proj'" in message
    assert f"nearest module is '{Q}'" in message
    refused("unknown_target", {f"{LEAD}model.x.base_layer.weight": (2, 2), **pair(Q, 6, 8)})


def test_two_names_for_one_module() -> None:
    assert "same module" in refused("unexpected_tensor", {**pair(Q, 6, 8), **pair(Q.removeprefix("model."), 6, 8)})


@pytest.mark.parametrize(
    ("shapes", "tensor", "expected"),
    [
        (pair(Q, 7, 8), "lora_A", "(rank, 6)"),
        (pair(Q, 6, 9), "lora_B", "(8, rank)"),
        (pair(C1, 18, 6), "lora_A", "(rank, 6)"),
        (embedding(EMBED, 41, 6), "lora_embedding_A", "(rank, 40)"),
        ({**pair(Q, 6, 8), f"{LEAD}{Q}.lora_A.weight": (2, 6, 1, 1)}, "lora_A", "(rank, 6)"),
    ],
)
def test_shapes(shapes: dict[str, tuple[int, ...]], tensor: str, expected: str) -> None:
    message = refused("shape_mismatch", shapes)
    assert tensor in message
    assert f"expected {expected}" in message


def test_factors_for_the_transposed_weight_get_a_hint() -> None:
    assert "fit the transposed weight" in refused("shape_mismatch", pair(Q, 8, 6), table=NAMES_ONLY)


def test_factors_of_another_kind_of_module() -> None:
    refused("shape_mismatch", pair(EMBED, 6, 40))
    refused("shape_mismatch", embedding(Q, 8, 6))


def test_a_table_from_names_takes_the_adapters_word_for_an_embedding() -> None:
    found = check(embedding(EMBED, 40, 6), table=NAMES_ONLY)
    assert found.pairs[EMBED].target.kind is TargetKind.EMBEDDING
    assert (found.pairs[EMBED].target.in_features, found.pairs[EMBED].target.out_features) == (40, 6)
    refused("shape_mismatch", embedding(EMBED, 41, 6), table=NAMES_ONLY)
    refused("unexpected_tensor", {**embedding(EMBED, 40, 6), **pair(EMBED, 6, 40)}, table=NAMES_ONLY)


def test_ranks() -> None:
    assert "has rank 2, but adapter_config.json gives 8" in refused("rank_mismatch", pair(Q, 6, 8), r=8)
    message = refused("rank_mismatch", pair(Q, 6, 8), rank_pattern={"q_proj": 4})
    assert "(rank_pattern 'q_proj')" in message
    broken = {**pair(Q, 6, 8), f"{LEAD}{Q}.lora_B.weight": (8, 3)}
    assert "rank 2 in A and 3 in B" in refused("rank_mismatch", broken)


@pytest.mark.parametrize("module", [ODD, EXPERTS])
def test_kinds_that_no_pair_can_be_laid_over(module: str) -> None:
    assert f"'{module}'" in refused("unsupported_layout", pair(module, 6, 4))


def test_a_weight_that_the_files_keep_in_another_form() -> None:
    table = replace(TABLE, targets={**TABLE.targets, Q: replace(TABLE.targets[Q], tensor=None)})
    assert "not one tensor" in refused("unsupported_layout", pair(Q, 6, 8), table=table)


def test_a_module_by_the_name_that_the_files_have() -> None:
    table = replace(
        TABLE,
        targets={**TABLE.targets, Q: replace(TABLE.targets[Q], tensor="old.q.weight")},
        parameters={**TABLE.parameters, f"{Q}.weight": replace(TABLE.parameters[f"{Q}.weight"], tensor="old.q.weight")},
    )
    assert list(check(pair("old.q", 6, 8), table=table).pairs) == [Q]


def test_copies_of_whole_embeddings() -> None:
    found = check(
        {
            **embedding(EMBED, 40, 6),
            f"{LEAD}{EMBED}.base_layer.weight": (40, 6),
            f"{LEAD}{HEAD}.weight": (40, 6),
        }
    )
    assert {name: entry.name for name, entry in found.copies.items()} == {
        HEAD: f"{LEAD}{HEAD}.weight",
        EMBED: f"{LEAD}{EMBED}.base_layer.weight",
    }
    assert list(found.pairs) == [EMBED]


@pytest.mark.parametrize("module", [EMBED, HEAD])
def test_copies_of_tied_embeddings(module: str) -> None:
    shapes = {**embedding(EMBED, 40, 6), f"{LEAD}{module}.base_layer.weight": (40, 6)}
    assert list(check(shapes, table=TIED).copies) == [module]


def test_the_bias_of_an_output_embedding_comes_with_its_copy() -> None:
    held = replace(TABLE.parameters[f"{Q}.bias"], tensor=f"{HEAD}.bias", shape=(40,))
    table = replace(TABLE, parameters={**TABLE.parameters, f"{HEAD}.bias": held})
    bias = {f"{LEAD}{HEAD}.base_layer.bias": (40,)}
    found = check({**pair(HEAD, 6, 40), f"{LEAD}{HEAD}.base_layer.weight": (40, 6), **bias}, table=table)
    assert (list(found.copies), list(found.values)) == ([HEAD], [f"{HEAD}.bias"])
    refused("unexpected_tensor", {**pair(HEAD, 6, 40), **bias}, table=table)
    whole = {f"{LEAD}{HEAD}.weight": (40, 6), f"{LEAD}{HEAD}.bias": (40,)}
    found = check({**pair(Q, 6, 8), **whole}, table=table)
    assert (list(found.copies), list(found.values)) == ([HEAD], [f"{HEAD}.bias"])


def test_a_resized_vocabulary() -> None:
    assert "vocabulary was resized" in refused("shape_mismatch", {**pair(Q, 6, 8), f"{LEAD}{HEAD}.weight": (42, 6)})
    refused("shape_mismatch", {**embedding(EMBED, 40, 6), f"{LEAD}{EMBED}.base_layer.weight": (42, 6)})


@pytest.mark.parametrize(
    ("code", "tail"),
    [
        ("unexpected_tensor", f"{Q}.weight"),
        ("unexpected_tensor", f"{Q}.bias"),
        ("unexpected_tensor", "model.norm.weight"),
        ("unexpected_tensor", "model.layers.0.foo.weight"),
        ("unexpected_tensor", f"{Q}.lora_B.bias"),
        ("unexpected_tensor", f"{EMBED}.token_adapter.trainable_tokens_delta"),
        ("unexpected_tensor", f"{Q}.lora_velora_embed"),
        ("unexpected_tensor", f"{Q}.lora_A.default.weight"),
        ("unexpected_tensor", f"{HEAD}.base_layer.bias"),
        ("unexpected_tensor", f"{HEAD}.modules_to_save.bias"),
        ("base_shifting_init", f"{Q}.lora_diag"),
    ],
)
def test_tensors_without_a_place(code: str, tail: str) -> None:
    assert tail in refused(code, {**pair(Q, 6, 8), LEAD + tail: (4, 6)})


def test_tensors_that_only_training_uses() -> None:
    found = check({**pair(Q, 6, 8), f"{LEAD}{Q}.lora_velora_embed": (6,)}, velora_config={"num_groups": 2})
    assert list(found.pairs) == [Q]
    assert "only used in training" in found.notices[0]


def test_an_adapter_without_pairs() -> None:
    refused("incomplete_adapter", {})
    refused("incomplete_adapter", {}, target_modules="dummy-target-modules")
    refused("incomplete_adapter", {f"{LEAD}{HEAD}.weight": (40, 6)})


def test_patterns_that_disagree_are_told() -> None:
    found = check(
        pair(V, 6, 4), alpha_pattern={"layers.0.attn.v_proj": 40, "v_proj": 2, "roj": 1}, target_modules=["v_proj"]
    )
    assert found.pairs[V].alpha == 40
    assert found.notices[0].startswith("ambiguous_pattern: 'layers.0.attn.v_proj' and 'v_proj' of alpha_pattern")
    assert found.notices[1] == "'roj' of alpha_pattern matches no module of the adapter."
    agreeing = check(pair(V, 6, 4), alpha_pattern={"attn.v_proj": 2, "v_proj": 2}, target_modules=["v_proj"])
    assert agreeing.notices == ()


KEYS = st.sampled_from(
    [*pair(Q, 6, 8), *pair(V, 6, 4), *embedding(EMBED, 40, 6), f"{LEAD}{HEAD}.weight",
     f"{LEAD}{EMBED}.base_layer.weight",
     f"{LEAD}{Q}.lora_magnitude_vector", f"{LEAD}{Q}.lora_B.bias", f"{LEAD}layers.0.attn.q_proj.lora_A.weight"]
)  # fmt: skip


@settings(deadline=None)
@given(
    st.dictionaries(KEYS | st.text("lora_AB.weight", max_size=30).map(LEAD.__add__),
                    st.lists(st.sampled_from([0, 1, 2, 4, 6, 8, 40]), max_size=3).map(tuple), max_size=8),
    st.sampled_from(["F32", "BF16", "I8"]),
    st.booleans(),
)  # fmt: skip
def test_any_tensors_are_read_or_refused(shapes: dict[str, tuple[int, ...]], dtype: str, use_dora: bool) -> None:
    try:
        found = check(shapes, dtype=dtype, use_dora=use_dora)
    except RegistryError:
        return
    for one in found.pairs.values():
        assert one.a.shape == (2, one.target.in_features)
        assert one.b.shape == (one.target.out_features, 2)
