"""Which tensors fit a base model, and what its target table is once its vocabulary has grown."""

from __future__ import annotations

from typing import Any

import pytest

from registry.errors import InvalidAdapterError
from registry.tensors.exact.fit import Shapes, check_fit, grown_table, vocabulary_tensors
from registry.tensors.table.parameters import FileParameter
from registry.tensors.table.targets import Target, TargetKind, TargetTable

EMBEDDING = "embed.weight"
TABLE = TargetTable(
    targets={
        "embed": Target("embed", TargetKind.EMBEDDING, EMBEDDING, (40, 8), tie="head"),
        "head": Target("head", TargetKind.LINEAR, None, (40, 8), tie="embed"),
        "proj": Target("proj", TargetKind.LINEAR, "proj.weight", (40, 8)),
    },
    source="transformers 5.24.0",
    parameters={
        EMBEDDING: FileParameter(EMBEDDING, (40, 8)),
        "head.bias": FileParameter("head.bias", (40,)),
        "proj.weight": FileParameter("proj.weight", (40, 8)),
    },
    output_module="head",
)
BASE: Shapes = {
    EMBEDDING: ("BF16", (40, 8)),
    "head.bias": ("BF16", (40,)),
    "proj.weight": ("BF16", (40, 8)),
    "steps": ("I64", (1,)),
}
GROWN: Shapes = {EMBEDDING: ("BF16", (43, 8)), "head.bias": ("BF16", (43,))}


def _check(found: Shapes, **config: Any) -> None:
    check_fit(found, BASE, TABLE, config)


@pytest.mark.parametrize(
    ("found", "config", "code"),
    [
        ({"other": ("BF16", (1,))}, {}, "unknown_target"),
        ({"steps": ("I32", (1,))}, {}, "bad_dtype"),
        ({"proj.weight": ("I32", (40, 8))}, {}, "bad_dtype"),
        ({"proj.weight": ("BF16", (43, 8))}, {"vocab_size": 43}, "shape_mismatch"),
        ({EMBEDDING: ("BF16", (39, 8))}, {"vocab_size": 39}, "shape_mismatch"),
        ({EMBEDDING: ("BF16", (641, 8))}, {"vocab_size": 641}, "shape_mismatch"),
        ({EMBEDDING: ("BF16", (43, 9))}, {"vocab_size": 43}, "shape_mismatch"),
        ({EMBEDDING: ("BF16", (43, 8))}, {"vocab_size": 43}, "shape_mismatch"),
        (GROWN, {"vocab_size": 40}, "bad_config"),
        (GROWN, {}, "bad_config"),
    ],
)
def test_what_does_not_fit_is_refused(found: Shapes, config: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidAdapterError) as refused:
        _check(found, **config)
    assert refused.value.code == code


def test_what_fits() -> None:
    _check({"proj.weight": ("F32", (40, 8))})
    _check(GROWN, vocab_size=43)
    _check(GROWN, text_config={"vocab_size": 43})


def test_a_grown_table_has_the_new_rows_on_both_sides_of_a_tie() -> None:
    assert vocabulary_tensors(TABLE) == {EMBEDDING, "head.bias"}
    grown = grown_table(TABLE, {name: shape for name, (_, shape) in GROWN.items()})
    assert {name: target.shape for name, target in grown.targets.items()} == {
        "embed": (43, 8),
        "head": (43, 8),
        "proj": (40, 8),
    }
    assert grown.parameters["head.bias"].shape == (43,)
    assert grown_table(TABLE, {}) is TABLE
