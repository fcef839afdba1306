"""A target table that another registry made, held against the base's tensors: any part of it may be the wrong one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from registry.errors import InvalidBaseError
from registry.services.bases.add_remote import check_table
from registry.tensors.table.targets import TargetTable
from tests.tensors.checkpoint.adapter_headers import EMBED, EXPERTS, GATE_UP, HEAD, NORM, TABLE, TIED, Q

TENSOR, EXPERT, FIRST, STOP, MATRIX, TURNED = range(6)
"""What a document says of a piece."""
BIAS, OTHER = f"{Q}.bias", f"{HEAD}.other"
TIES = replace(TABLE, ties={OTHER: BIAS, f"{NORM}.old": None}, apart={f"{EMBED}": HEAD})


def shapes_of(table: TargetTable) -> dict[str, tuple[str, tuple[int, ...]]]:
    found = {held.tensor: ("F32", held.shape) for held in table.parameters.values()}
    for fused in table.targets[EXPERTS].fused:
        rows = fused.out_features // (len(fused.pieces) // fused.experts)
        found |= {piece.tensor: ("F32", (rows, fused.in_features)) for piece in fused.pieces}
    return found


def document_of(table: TargetTable) -> Any:
    return json.loads(json.dumps(table.to_document()))


def refused(change: Callable[[Any], None], table: TargetTable = TABLE) -> str:
    document = document_of(table)
    change(document)
    with pytest.raises(InvalidBaseError, match="can't be used") as caught:
        check_table(document, shapes_of(table))
    assert caught.value.code == "bad_declaration"
    return str(caught.value)


@pytest.mark.parametrize("table", [TABLE, TIED, TIES], ids=["plain", "tied", "ties of parameters"])
def test_a_table_that_fits_is_taken(table: TargetTable) -> None:
    """Also with pieces of experts that begin after the first row of their parameter."""
    assert {piece.out for piece in GATE_UP.pieces} == {(0, 5), (5, 10)}
    assert check_table(document_of(table), shapes_of(table)) == table


@pytest.mark.parametrize("at", [0, -1], ids=["first piece", "last piece"])
@pytest.mark.parametrize("parameter", [0, -1], ids=["first parameter", "last parameter"])
@pytest.mark.parametrize(
    "fields",
    [
        {TENSOR: "none"},
        {TENSOR: BIAS},
        {EXPERT: 3},
        {EXPERT: -1},
        {FIRST: 7, STOP: 12},
        {FIRST: -2, STOP: 3},
        {FIRST: 2, STOP: 2},
        {FIRST: 0, STOP: 4},
        {MATRIX: 1},
        {MATRIX: -1},
        {TURNED: True},
    ],
    ids=str,
)
def test_a_piece_that_is_not_in_its_tensor(at: int, parameter: int, fields: dict[int, Any]) -> None:
    def change(document: Any) -> None:
        piece = document["targets"][EXPERTS]["fused"][parameter]["pieces"][at]
        for place, value in fields.items():
            piece[place] = value

    assert "a piece that is not in its tensor" in refused(change)


@pytest.mark.parametrize("module", [HEAD, Q])
@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"shape": []}, "has an invalid shape"),
        ({"shape": [0, 6]}, "has an invalid shape"),
        ({"shape": [6, 6]}, "is not a tensor of that shape"),
        ({"tensor": "none"}, "is not a tensor of that shape"),
        ({"tie": "none"}, "is tied to a module that does not exist"),
    ],
)
def test_a_module_that_does_not_fit(module: str, fields: dict[str, Any], why: str) -> None:
    told = refused(lambda document: document["targets"][module].update(fields))
    assert why in told
    assert repr(module) in told


@pytest.mark.parametrize("parameter", [f"{Q}.weight", f"{NORM}.weight"])
@pytest.mark.parametrize("held", [["none", 8, 6], [BIAS, 9], ["lm_head.weight", 40]])
def test_a_parameter_that_does_not_fit(parameter: str, held: list[Any]) -> None:
    assert f"{parameter!r} is not a tensor of that shape" in refused(
        lambda document: document["parameters"].update({parameter: held})
    )


@pytest.mark.parametrize(
    ("part", "said", "why"),
    [
        ("ties", {OTHER: "none"}, "tied to one that does not exist"),
        ("ties", {BIAS: BIAS}, "tied to one that does not exist"),
        ("apart", {"none": HEAD}, "distinguished from a module that does not exist"),
        ("apart", {HEAD: "none"}, "distinguished from a module that does not exist"),
    ],
)
def test_another_name_for_what_is_not_there(part: str, said: dict[str, str], why: str) -> None:
    """After one that is there."""
    assert why in refused(lambda document: document[part].update(said), TIES)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda document: document.update(format=0), "its format is 0"),
        (lambda document: document.pop("targets"), "it is malformed"),
        (lambda document: document["targets"][Q].update(kind="none"), "it is malformed"),
        (lambda document: document.update(more=1), "it has parts that this version does not support"),
        (lambda document: document["targets"][Q].update(more=1), "it has parts that this version does not support"),
    ],
)
def test_what_is_no_table_of_this_version(change: Callable[[Any], None], why: str) -> None:
    assert why in refused(change)
