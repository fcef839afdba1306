"""From facts to a table, and from names to a table: the rules, without any model code."""

from __future__ import annotations

from typing import Any

import pytest

from registry.errors import InvalidBaseError
from registry.tensors.table.built import table_from_facts
from registry.tensors.table.declaration import table_from_names
from registry.tensors.table.targets import Target, TargetKind


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "source": "transformers 5.0.0",
        "architecture": "Net",
        "named": True,
        "model_type": "net",
        "prefix": "net",
        "output_module": "head",
        "modules": [
            ["net.a", "linear", {}, [["weight", [4, 3]], ["bias", [4]]]],
            ["net.e", "embedding", {}, [["weight", [7, 3]]]],
            ["head", "linear", {}, [["weight", [7, 3]]]],
            ["net.norm", "unknown", {}, [["weight", [3]]]],
        ],
        "direct": {"a.weight": "net.a.weight", "a.bias": "net.a.bias", "e.weight": "net.e.weight"},
        "conversions": [],
        "ties": [["net.e.weight", "head.weight"]],
        "flag_ties": [["net.e.weight", "head.weight"]],
        "renamed": [],
    } | changes


TENSORS = {"a.weight": ("F32", (4, 3)), "a.bias": ("F32", (4,)), "e.weight": ("F32", (7, 3))}


def test_facts_become_targets() -> None:
    table = table_from_facts(facts(), TENSORS)
    assert dict(table.targets) == {
        "head": Target("head", TargetKind.LINEAR, None, (7, 3), tie="net.e"),
        "net.a": Target("net.a", TargetKind.LINEAR, "a.weight", (4, 3)),
        "net.e": Target("net.e", TargetKind.EMBEDDING, "e.weight", (7, 3), tie="head"),
    }
    assert (table.source, table.prefix, table.output_module) == ("transformers 5.0.0", "net", "head")
    assert table.knows_kinds


def test_two_tensors_for_one_weight() -> None:
    both = facts(direct=facts()["direct"] | {"net.a.weight": "net.a.weight"})
    with pytest.raises(
        InvalidBaseError, match=r"a\.weight and net\.a\.weight are both net\.a\.weight of Net"
    ) as caught:
        table_from_facts(both, TENSORS | {"net.a.weight": ("F32", (4, 3))})
    assert caught.value.code == "architecture"


def test_weights_of_another_model() -> None:
    with pytest.raises(
        InvalidBaseError, match=r"None of the 3 tensors .* \(for example a\.bias\) belongs to Net"
    ) as caught:
        table_from_facts(facts(direct={}), TENSORS)
    assert caught.value.code == "architecture"


def test_tensors_that_nothing_explains_are_named_and_integers_are_not() -> None:
    more = {"x.weight": ("BF16", (2, 2)), "y.weight": ("F32", (3,)), "position_ids": ("I64", (1, 512))}
    assert table_from_facts(facts(), TENSORS | more).notices == (
        "2 tensors in the files not explained by Net (for example x.weight; 7 numbers in all): copied as is.",
    )


@pytest.mark.parametrize(("tensor", "shape"), [("a.weight", (3, 4)), ("a.bias", (3,)), ("e.weight", (7, 3, 1))])
def test_another_shape(tensor: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidBaseError, match=tensor) as caught:
        table_from_facts(facts(), TENSORS | {tensor: ("F32", shape)})
    assert caught.value.code == "shape_mismatch"
    assert str(list(shape)) in str(caught.value)
    assert str(list(TENSORS[tensor][1])) in str(caught.value)


def test_a_weight_that_is_computed_from_tensors_is_never_one_tensor() -> None:
    # a is also there by name: what is computed wins, because the loader converts it
    table = table_from_facts(
        facts(
            conversions=[
                {"targets": ["net.a.weight"], "sources": [["qkv.weight"]], "operations": [["Chunk", {"dim": 0}]]}
            ]
        ),
        TENSORS | {"qkv.weight": ("F32", (9, 9))},
    )
    assert table.targets["net.a"] == Target("net.a", TargetKind.UNKNOWN, None, (4, 3), unfollowed=("Chunk",))
    assert set(table.parameters) == {"net.a.bias", "net.e.weight"}


def test_a_tie_that_the_files_do_not_hold_is_left_out() -> None:
    direct = {"a.weight": "net.a.weight", "a.bias": "net.a.bias"}
    table = table_from_facts(facts(direct=direct), {name: TENSORS[name] for name in direct})
    assert set(table.targets) == {"net.a"}
    assert table.notices == (
        "2 modules of Net with no weights in the files (for example head): no adapter can change them.",
    )


def test_ties_that_touch_are_one_group() -> None:
    table = table_from_facts(
        facts(ties=[["net.e.weight", "x.weight"], ["head.weight", "net.e.weight"], ["free.weight", "other.weight"]]),
        TENSORS,
    )
    assert table.targets["head"].tie == "net.e"
    assert table.targets["net.e"].tie == "head"


def test_attention_is_its_in_projection() -> None:
    modules = [
        ["net.t", "attention", {}, [["in_proj_weight", [9, 3]], ["in_proj_bias", [9]]]],
        ["net.t.out_proj", "linear", {}, [["weight", [3, 3]]]],
    ]
    direct = {"t.in_proj_weight": "net.t.in_proj_weight", "t.out_proj.weight": "net.t.out_proj.weight"}
    table = table_from_facts(
        facts(modules=modules, direct=direct, ties=[]),
        {"t.in_proj_weight": ("F32", (9, 3)), "t.out_proj.weight": ("F32", (3, 3))},
    )
    assert table.targets["net.t"] == Target("net.t", TargetKind.ATTENTION, "t.in_proj_weight", (9, 3))


def test_names_alone() -> None:
    table = table_from_names(
        {
            "b.1.weight": ("F32", (4, 3)),
            "b.0.weight": ("F16", (8, 2, 5)),
            "norm.weight": ("F32", (4,)),
            "weight": ("F32", (2, 2)),
            "b.1.bias": ("F32", (4,)),
            "token_table.weight": ("F32", (9, 4)),
        }
    )
    assert dict(table.targets) == {
        "b.0": Target("b.0", TargetKind.CONV, "b.0.weight", (8, 2, 5), geometry={"kernel": [5]}),
        "b.1": Target("b.1", TargetKind.LINEAR, "b.1.weight", (4, 3)),
        "token_table": Target("token_table", TargetKind.LINEAR, "token_table.weight", (9, 4)),
    }
    assert table.notices == (
        "Every 2-D weight is taken as (out, in), because transformers does not know this architecture.",
    )
    assert not table.knows_kinds


def test_only_a_reading_of_a_name_can_be_read_otherwise() -> None:
    assert Target("t", TargetKind.LINEAR, "t.weight", (9, 4)).as_embedding().kind is TargetKind.EMBEDDING
    with pytest.raises(ValueError, match="conv"):
        Target("t", TargetKind.CONV, "t.weight", (9, 4, 3)).as_embedding()
