"""Targets whose weights are runs of rows: what a table says of them, and that other tables say nothing new."""

from __future__ import annotations

import json
from typing import Any

import pytest

from registry.errors import InvalidAdapterError, InvalidBaseError, RegistryError
from registry.services.bases.add_remote import check_table
from registry.tensors.checkpoint.fit import as_folded, check_followed, resolve
from registry.tensors.table.built import table_from_facts
from registry.tensors.table.parameters import FileParameter, Run
from registry.tensors.table.slots import Slot, slot_of_parameter, slot_of_target
from registry.tensors.table.targets import Target, TargetKind, TargetTable

CHUNK = ["Chunk", {"dim": 0, "num_shards_attribute": None}]
MODULES = [
    ["net.q", "linear", {}, [["weight", [4, 3]], ["bias", [4]]]],
    ["net.k", "linear", {}, [["weight", [4, 3]], ["bias", [4]]]],
    ["net.up", "linear", {}, [["weight", [5, 3]]]],
    ["net.e", "embedding", {}, [["weight", [7, 3]]]],
    ["head", "linear", {}, [["weight", [7, 3]]]],
]
TENSORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "qk.weight": ("F32", (8, 3)),
    "qk.bias": ("F32", (8,)),
    "a.weight": ("BF16", (2, 3)),
    "b.weight": ("F32", (3, 3)),
    "e.weight": ("F32", (7, 3)),
}


def conversion(targets: list[str], sources: list[str], *operations: Any) -> dict[str, Any]:
    return {
        "targets": targets,
        "target_keys": targets,
        "sources": [[name] for name in sources],
        "source_keys": sources,
        "operations": list(operations),
    }


def facts(*conversions: dict[str, Any], **changes: Any) -> dict[str, Any]:
    cuts = [
        conversion(["net.q.weight", "net.k.weight"], ["qk.weight"], CHUNK),
        conversion(["net.q.bias", "net.k.bias"], ["qk.bias"], CHUNK),
        conversion(["net.up.weight"], ["a.weight", "b.weight"], ["Concatenate", {"dim": 0}]),
    ]
    return {
        "source": "transformers 5.0.0",
        "architecture": "Net",
        "named": True,
        "model_type": "net",
        "prefix": "net",
        "output_module": "head",
        "modules": MODULES,
        "direct": {"e.weight": "net.e.weight"},
        "conversions": list(conversions) or cuts,
        "ties": [["net.e.weight", "head.weight"]],
        "flag_ties": [["net.e.weight", "head.weight"]],
        "renamed": [],
    } | changes


TABLE = table_from_facts(facts(), TENSORS)


def test_targets_are_runs_of_rows() -> None:
    assert TABLE.targets["net.k"] == Target("net.k", TargetKind.LINEAR, None, (4, 3), runs=(Run("qk.weight", 4, 4),))
    assert TABLE.targets["net.up"].runs == (Run("a.weight", 0, 2), Run("b.weight", 0, 3))
    assert TABLE.parameters["net.k.bias"] == FileParameter("net.k.bias", (4,), (Run("qk.bias", 4, 4),))
    assert TABLE.notices == ()
    assert TABLE.find_parameter("q.bias") == ("net.q.bias", TABLE.parameters["net.q.bias"])
    assert TABLE.find_file_module("qk") is None


def test_slots_of_runs() -> None:
    """One run in the order of the file is rows of its tensor; several are a slot of their own."""
    assert slot_of_target(TABLE.targets["net.k"]) == Slot("qk.weight", 4, 4, 3)
    assert slot_of_parameter(TABLE.parameters["net.k.bias"]) == Slot("qk.bias", 4, 4, 1)
    slot = slot_of_target(TABLE.targets["net.up"])
    assert slot == Slot("a.weight and b.weight", 0, 5, 3, runs=TABLE.targets["net.up"].runs)
    assert slot == slot_of_parameter(TABLE.parameters["net.up.weight"])


def test_the_document_is_read_again() -> None:
    document = json.loads(json.dumps(TABLE.to_document()))
    again = TargetTable.from_document(document)
    assert again == TABLE
    assert again.digest == TABLE.digest
    assert check_table(document, TENSORS) == TABLE


def test_a_table_that_says_nothing_new_keeps_its_document() -> None:
    """Bases that were added before the runs were known have the same table, digest and plans when added today."""
    direct = {name: f"net.{name}" for name in ("q.weight", "q.bias", "e.weight")}
    tensors = {"q.weight": ("F32", (4, 3)), "q.bias": ("F32", (4,)), "e.weight": ("F32", (7, 3))}
    plain = table_from_facts(facts(direct=direct, conversions=[], modules=[*MODULES[:1], *MODULES[3:]]), tensors)
    assert check_table(json.loads(json.dumps(plain.to_document())), tensors) == plain
    assert plain.digest == "sha256:4c0430d841ad0a0c1d970846e57541000956a5b17308b90e8d17778736082026"


def test_a_tied_weight_has_no_runs() -> None:
    """What is done to one side of a tie has to reach the other."""
    made = conversion(["head.weight"], ["a.weight"], ["Concatenate", {"dim": 0}])
    table = table_from_facts(facts(made), TENSORS | {"a.weight": ("F32", (7, 3))})
    assert table.targets["head"].runs == ()
    assert "head.weight" not in table.parameters


def test_what_is_made_twice_or_is_there_as_it_is_has_no_runs() -> None:
    cut = conversion(["net.q.weight", "net.k.weight"], ["qk.weight"], CHUNK)
    again = conversion(["net.q.weight"], ["b.weight"], ["Concatenate", {"dim": 0}])
    table = table_from_facts(facts(cut, again), TENSORS | {"b.weight": ("F32", (4, 3))})
    assert table.targets["net.q"].kind is TargetKind.UNKNOWN
    assert table.targets["net.k"].runs
    there = {"e.weight": "net.e.weight", "k": "net.k.weight"}
    table = table_from_facts(facts(cut, direct=there), TENSORS | {"k": ("F32", (4, 3))})
    assert table.targets["net.k"].kind is TargetKind.UNKNOWN
    assert table.targets["net.q"].runs


def test_rows_of_integers_are_not_followed() -> None:
    table = table_from_facts(facts(), TENSORS | {"qk.weight": ("U8", (8, 3))})
    assert table.targets["net.q"].unfollowed == ("Chunk",)


def refusal(table: TargetTable, module: str, code: str) -> str:
    with pytest.raises(RegistryError) as told:
        as_folded(module, table.targets[module], embedding=False, table=table)
    assert told.value.code == code
    with pytest.raises(RegistryError, match=module):
        check_followed(module, table)  # of its bias
    return str(told.value)


def test_what_is_not_followed_says_what_helps() -> None:
    turned = conversion(["net.q.weight", "net.k.weight"], ["qk.weight"], ["Interleave", {"dim": 0}], CHUNK)
    table = table_from_facts(facts(turned), TENSORS)
    assert "(Interleave, Chunk)" in refusal(table, "net.q", "unsupported_layout")
    assert "save_original_format=False" in refusal(table, "net.q", "unsupported_layout")
    assert TargetTable.from_document(json.loads(json.dumps(table.to_document()))) == table


def test_a_table_from_before_runs_were_followed_says_what_helps() -> None:
    """As earlier programs wrote it: of unknown kind, and without its parameters."""
    document = json.loads(json.dumps(TABLE.to_document()))
    del document["runs"]
    for name in ("net.q", "net.k", "net.up"):
        document["targets"][name]["kind"] = "unknown"
    old = TargetTable.from_document(document)
    assert "registry base retable" in refusal(old, "net.q", "retable_needed")
    assert "registry base retable" in refusal(old, "net.up", "retable_needed")


def test_a_module_of_the_files_names_what_is_made_of_it() -> None:
    with pytest.raises(
        InvalidAdapterError, match=r"'qk' in the files; transformers makes net\.q, net\.k from it"
    ) as told:
        resolve("qk", TABLE)
    assert told.value.code == "unknown_target"
    assert TABLE.made_from("b") == ("net.up",)
    assert TABLE.made_from("e") == ()


def test_arithmetic_of_its_own_is_told_apart() -> None:
    odd = [["net.q", "unknown", {}, [["weight", [4, 3]]]], *MODULES[3:]]
    direct = {"q.weight": "net.q.weight", "e.weight": "net.e.weight"}
    table = table_from_facts(
        facts(direct=direct, conversions=[], modules=odd), {**TENSORS, "q.weight": ("F32", (4, 3))}
    )
    with pytest.raises(InvalidAdapterError, match="multiplies in a way that is not known"):
        as_folded("net.q", table.targets["net.q"], embedding=False, table=table)


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ([["qk.weight", 6, 4, 1, 1]], "not in its tensors"),
        ([["qk.weight", 2, 4, 1, 1]], "two parameters"),
        ([["qk.weight", 4, 3, 1, 1]], "more or fewer rows"),
        ([["qk.weight", 4, 4, 4, 2]], "an invalid run of rows"),
        ([["e.weight", 0, 4, 1, 1]], "two parameters"),
        ([["qk.weight", 4, 4, 1]], "malformed"),
    ],
)
def test_a_stranger_s_table_with_other_rows(runs: list[Any], why: str) -> None:
    document = json.loads(json.dumps(TABLE.to_document()))
    document["runs"]["net.k.weight"] = [[4, 3], *runs]
    with pytest.raises(InvalidBaseError, match=why):
        check_table(document, TENSORS)
