"""What no single PEFT adapter is: each part of a path is looked at, not the first one alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from registry.errors import InvalidAdapterError
from registry.files.source import NOWHERE, BytesSource
from registry.tensors.checkpoint.adapter import Checkpoint, NewValue
from registry.tensors.composed.forms import Forms, forms_of
from registry.tensors.composed.spelling import rows_of, stored_value, token_tensor
from registry.tensors.path.programs import BoundLink, path_programs
from registry.tensors.table.parameters import FileParameter
from registry.tensors.table.slots import slot_of_target
from registry.tensors.table.targets import TargetTable
from tests.tensors.checkpoint.adapter_headers import (
    EMBED,
    EXPERTS,
    HEAD,
    MHA,
    ODD,
    TABLE,
    Q,
    V,
    check,
    entries,
    named,
    pair,
)

SINKS = ("lm_head.sink", "model.sink", "model.layers.0.attn.sink", "model.layers.0.mlp.sink")
HELD = replace(TABLE, parameters={**TABLE.parameters, **{name: FileParameter(name, (3,)) for name in SINKS}})
"""The net with a parameter of their own in modules that have others inside, as `embeddings.cls_token` is one."""
EMBEDDED = {f"base_model.model.{EMBED}.token_adapter.trainable_tokens_delta": (2, 6)}
ATTENDED = {**pair(MHA, 6, 18), **pair(f"{MHA}.base_layer.out_proj", 6, 6)}
FUSED = {
    **named(f"{EXPERTS}.base_layer", lora_A__weight=(6, 6), lora_B__weight=(10, 6)),
    **named(EXPERTS, lora_A__weight=(6, 5), lora_B__weight=(6, 6)),
}


def sorted_out(*links: Checkpoint, table: TargetTable = HELD) -> Forms:
    bound = [BoundLink(link, NOWHERE) for link in links]
    return forms_of(bound, 0, path_programs(bound, table), table)


def refused(*links: Checkpoint) -> str:
    with pytest.raises(InvalidAdapterError) as caught:
        sorted_out(*links)
    assert caught.value.code == "not_composable"
    return str(caught.value)


def with_value(parameter: str) -> Checkpoint:
    """A link that replaces this parameter alone, whose module has to be saved whole for it."""
    (entry,) = entries({parameter: (3,)}).values()
    return replace(check(pair(V, 6, 4)), pairs={}, values={parameter: NewValue(entry, parameter)})


PAIRS = {**pair(HEAD, 6, 40), **pair(Q, 6, 8)}


@pytest.mark.parametrize(
    ("shapes", "fields", "sink", "inside"),
    [
        (PAIRS, {}, "lm_head.sink", HEAD),
        (PAIRS, {}, "model.layers.0.attn.sink", Q),
        ({**pair(HEAD, 6, 40), **FUSED}, {"target_parameters": ["gate_up_proj", "down_proj"]}, SINKS[3], EXPERTS),
        ({**pair(HEAD, 6, 40), **EMBEDDED}, {"trainable_token_indices": {"embed_tokens": [1, 2]}}, "model.sink", EMBED),
    ],
    ids=["the first pair", "the second pair", "experts", "token rows"],
)
def test_nothing_is_adapted_inside_a_module_that_is_saved_whole(
    shapes: Mapping[str, tuple[int, ...]], fields: dict[str, Any], sink: str, inside: str
) -> None:
    """PEFT takes the one and drops the other, without a word."""
    adapted, replaced = check(shapes, table=HELD, **fields), with_value(sink)
    for links in ((adapted, replaced), (replaced, adapted)):
        assert f"replaces a module that has {inside!r} in it, and adapts that" in refused(*links)


def test_what_lies_beside_a_module_that_is_saved_whole_is_adapted() -> None:
    found = sorted_out(check(pair(HEAD, 6, 40), table=HELD), with_value("model.layers.0.attn.sink"))
    assert found.saved_modules == {"model.layers.0.attn"}
    assert [target.module for target, _ in found.pairs] == [HEAD]


@pytest.mark.parametrize(
    ("shapes", "fields", "module"),
    [
        (ATTENDED, {"peft_version": "0.21.2"}, MHA),
        (FUSED, {"target_parameters": ["gate_up_proj", "down_proj"]}, EXPERTS),
        (named(ODD, lora_A__weight=(2, 6), lora_B__weight=(4, 2)), {"target_parameters": ["odd.weight"]}, ODD),
    ],
    ids=["attention", "experts", "a parameter"],
)
def test_what_peft_has_no_dora_of_is_refused_beside_one(
    shapes: Mapping[str, tuple[int, ...]], fields: dict[str, Any], module: str
) -> None:
    """Also as the last of several modules."""
    magnitudes = named(Q, lora_magnitude_vector=(8,)) | named(HEAD, lora_magnitude_vector=(40,))
    dora = check({**PAIRS, **magnitudes}, table=HELD, use_dora=True)
    assert repr(module) in refused(dora, check(shapes, table=HELD, **fields))


def test_any_rows_of_a_composed_tensor_are_those_rows() -> None:
    """Token rows of two links, the later of which has one of them too, and whole numbers as the base has them."""
    links: list[BoundLink] = []
    made: dict[int, torch.Tensor] = {}
    for tokens in ((1, 5, 9), (5, 7)):
        values = torch.arange(6.0 * len(tokens)).view(-1, 6) + 100 * len(tokens)
        shapes = {f"base_model.model.{EMBED}.token_adapter.trainable_tokens_delta": tuple(values.shape)}
        shapes |= pair(Q, 6, 8)
        link = check(shapes, trainable_token_indices={"embed_tokens": list(tokens)})
        links.append(BoundLink(link, BytesSource(bytes(64) + values.numpy().tobytes(), "the link")))
        made |= dict(zip(tokens, values, strict=True))
    program = path_programs(links, TABLE).programs[slot_of_target(TABLE.targets[EMBED])]
    rows = rows_of(program, 0)
    assert list(rows) == [1, 5, 7, 9]
    wanted = torch.stack([made[token] for token in rows])
    indices = torch.arange(24).view(4, 6)
    (entry,) = entries({"indices": (4, 6)}, "I64").values()
    stored = replace(entry, stop=entry.start + 4 * 6 * 8)
    source = BytesSource(bytes(64) + indices.numpy().tobytes(), "the base")
    for tensor, values in ((token_tensor(EMBED, rows), wanted), (stored_value("x", source, stored), indices)):
        assert tensor.shape == (4, 6)
        for start in range(4):
            for stop in range(start + 1, 5):
                assert torch.equal(tensor.rows(start, stop), values[start:stop])
