"""What a file says twice, and the layouts that PEFT multiplies in another way than it means: neither is taken.

Tensors that stand for one weight hold the same numbers, or the adapter is refused.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.errors import InvalidAdapterError
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.tensors.checkpoint.adapter import Twin
from registry.tensors.checkpoint.coverage import check_twins
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.table.targets import TargetTable
from tests.kit import RawTensor, write_tensors
from tests.kit.floats import Array
from tests.tensors.checkpoint.adapter_headers import (
    EMBED,
    EXPERTS,
    GATE_UP,
    HEAD,
    LEAD,
    NORM,
    TABLE,
    TIED,
    Q,
    Shapes,
    V,
    check,
    embedding,
    entries,
    named,
    pair,
    refused,
)

SHORT = {name: name.removeprefix("model.") for name in (Q, EMBED, NORM)}
"""Names without the prefix of the base model, as adapters of a bare model have them."""
ROWS = "token_adapter__trainable_tokens_delta"
TOKENS = {"trainable_token_indices": {"embed_tokens": [1, 2]}}


@pytest.mark.parametrize(
    ("shapes", "fields", "why"),
    [
        ({**pair(Q, 6, 8), **pair(SHORT[Q], 6, 8)}, {}, "are the same module of the base model"),
        (
            {**pair(V, 6, 4), **named(NORM, weight=(6,), bias=(6,)), **named(SHORT[NORM], weight=(6,), bias=(6,))},
            {"modules_to_save": ["norm"]},
            f"are the same parameter '{NORM}.bias'",
        ),
        (
            {**pair(Q, 6, 8), **named(Q, base_layer__bias=(8,), bias=(8,))},
            {"bias": "all"},
            f"are the same parameter '{Q}.bias'",
        ),
        (
            {**named(EMBED, **{ROWS: (2, 6)}), **named(SHORT[EMBED], **{ROWS: (2, 6)})},
            TOKENS,
            "names a module that another tensor names too",
        ),
        (
            {
                **embedding(EMBED, 40, 6),
                **named(EMBED, base_layer__weight=(40, 6)),
                **named(SHORT[EMBED], base_layer__weight=(40, 6)),
            },
            {},
            "are copies of the same weight",
        ),
    ],
    ids=["pair", "value", "bias", "token rows", "copy"],
)
def test_two_tensors_for_one_thing(shapes: Shapes, fields: dict[str, Any], why: str) -> None:
    assert why in refused("unexpected_tensor", shapes, **fields)


def test_two_counters_for_one_thing() -> None:
    """Whole numbers, which have to be those of the base."""
    counted = {f"{LEAD}{name}.{leaf}": (6,) for name in (NORM, SHORT[NORM]) for leaf in ("weight", "bias")}
    tensors = {**entries(pair(V, 6, 4)), **entries(counted, "I64")}
    document = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 8,
        "target_modules": ["none_such"],
        "modules_to_save": ["norm"],
    }
    with pytest.raises(InvalidAdapterError, match=f"are the same parameter '{NORM}.bias'") as caught:
        read_checkpoint(parse_config(json.dumps(document).encode()), tensors, TABLE)
    assert caught.value.code == "unexpected_tensor"


ONE_EXPERT: TargetTable = replace(
    TABLE,
    targets={
        **TABLE.targets,
        EXPERTS: replace(
            TABLE.targets[EXPERTS],
            fused=(
                replace(
                    GATE_UP,
                    experts=1,
                    transposed=True,
                    pieces=tuple(replace(piece, transposed=True) for piece in GATE_UP.pieces[:2]),
                ),
            ),
        ),
    },
)


@pytest.mark.parametrize("sizes", [(6, 10), (10, 6)], ids=["as it is", "in and out taken for each other"])
def test_one_expert_that_is_stored_as_in_out(sizes: tuple[int, int]) -> None:
    """PEFT multiplies it in the wrong order."""
    why = refused("unsupported_layout", pair(EXPERTS, *sizes), table=ONE_EXPERT, target_parameters=["gate_up_proj"])
    assert "has one expert and is stored as (in, out)" in why


def test_a_parameter_that_is_tied_has_no_pair_of_its_own() -> None:
    fields: dict[str, Any] = {"table": TIED, "target_parameters": ["lm_head.weight"]}
    assert "shares its weight with another module" in refused("unsupported_layout", pair(HEAD, 6, 40), **fields)
    assert list(check(pair(HEAD, 6, 40), target_parameters=["lm_head.weight"]).pairs) == [f"{HEAD}.weight"]


@pytest.mark.parametrize(
    ("side", "rank", "shapes"),
    [
        ("a", 2, named(Q, lora_A__weight=(2, 2), lora_B__weight=(8, 2))),
        ("b", 3, named(Q, lora_A__weight=(3, 6), lora_B__weight=(8, 1))),
    ],
)
def test_blocks_that_do_not_divide_a_factor(side: str, rank: int, shapes: Shapes) -> None:
    blocks = {f"target_modules_bd_{side}": ["q_proj"], "nblocks": 3, "match_strict": False}
    assert "which are not 3 blocks of one height" in refused("shape_mismatch", shapes, use_bdlora=blocks, r=rank)


def _check(folder: Path, first: Array, second: Array, *, transposed: bool = False) -> None:
    path = folder / "twins.safetensors"
    write_tensors(path, {"one": RawTensor.of(first, "BF16"), "other": RawTensor.of(second, "F32")})
    with FileSource(path) as source:
        entries = read_header(source, what="twins", error=InvalidAdapterError).entries
        twin = Twin(entries["one"], entries["other"], transposed=transposed)
        check_twins(replace(check(pair(Q, 6, 8)), twins=(twin,)), source)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(3, 2), (3, 3), (5000, 2)])  # more rows than are compared at once
def test_the_same_numbers_in_any_dtype(tmp_path: Path, shape: tuple[int, int], transposed: bool) -> None:
    numbers = np.random.default_rng(1).integers(-9, 9, shape).astype(np.float64)
    other = (numbers.T if transposed else numbers).copy()
    _check(tmp_path, numbers, other, transposed=transposed)
    other[-1, -1] += 1
    with pytest.raises(InvalidAdapterError, match="'one' and 'other'") as refused:
        _check(tmp_path, numbers, other, transposed=transposed)
    assert refused.value.code == "tied_partial"


def test_a_square_that_is_not_transposed(tmp_path: Path) -> None:
    numbers = np.arange(9.0).reshape(3, 3)
    with pytest.raises(InvalidAdapterError, match="different numbers"):
        _check(tmp_path, numbers, numbers, transposed=True)
