"""A small base with a module of every kind, and adapters on it as headers alone: what the tests of variants share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from registry.errors import RegistryError
from registry.files.header import TensorEntry
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece
from registry.tensors.table.targets import TENSOR_NAMES, Target, TargetKind, TargetTable

LEAD = "base_model.model."
Q, V = "model.layers.0.attn.q_proj", "model.layers.0.attn.v_proj"
C1 = "model.layers.0.c_attn"
EMBED, HEAD = "model.embed_tokens", "lm_head"
CONV, POINT, GROUPED = "model.layers.0.conv", "model.layers.0.point", "model.layers.0.grouped"
MHA = "model.layers.0.mha"
EXPERTS, GATE = "model.layers.0.mlp.experts", "model.layers.0.mlp.gate"
OLD = "model.layers.0.block_sparse_moe.experts"
ODD = "model.layers.0.odd"
NORM = "model.layers.0.norm"

LINEAR_SHAPES: dict[str, tuple[TargetKind, tuple[int, ...]]] = {
    Q: (TargetKind.LINEAR, (8, 6)),
    V: (TargetKind.LINEAR, (4, 6)),
    C1: (TargetKind.CONV1D, (6, 18)),
    EMBED: (TargetKind.EMBEDDING, (40, 6)),
    HEAD: (TargetKind.LINEAR, (40, 6)),
    CONV: (TargetKind.CONV, (5, 4, 3)),
    POINT: (TargetKind.CONV, (5, 4, 1, 1)),
    GROUPED: (TargetKind.CONV, (4, 2, 3)),
    f"{MHA}.out_proj": (TargetKind.LINEAR, (6, 6)),
    GATE: (TargetKind.UNKNOWN, (3, 6)),
    ODD: (TargetKind.UNKNOWN, (4, 6)),
}
BIASES = {Q: 8, C1: 18, CONV: 5, f"{MHA}.out_proj": 6, NORM: 6}


def _pieces(count: int, out: int, names: tuple[str, ...]) -> tuple[Piece, ...]:
    size = out // len(names)
    return tuple(
        Piece(f"{OLD}.{expert}.{name}.weight", expert, (place * size, (place + 1) * size))
        for expert in range(count)
        for place, name in enumerate(names)
    )


GATE_UP = FusedParameter("gate_up_proj", 3, 10, 6, False, _pieces(3, 10, ("w1", "w3")))
DOWN = FusedParameter("down_proj", 3, 6, 5, False, _pieces(3, 6, ("w2",)))


def _table() -> TargetTable:
    targets = {name: Target(name, kind, f"{name}.weight", shape) for name, (kind, shape) in LINEAR_SHAPES.items()}
    targets[MHA] = Target(MHA, TargetKind.ATTENTION, f"{MHA}.in_proj_weight", (18, 6))
    targets[EXPERTS] = Target(EXPERTS, TargetKind.EXPERTS, None, (3, 10, 6), fused=(GATE_UP, DOWN))
    parameters = {
        f"{name}.weight": FileParameter(f"{name}.weight", shape) for name, (_, shape) in LINEAR_SHAPES.items()
    }
    parameters[f"{MHA}.in_proj_weight"] = FileParameter(f"{MHA}.in_proj_weight", (18, 6))
    parameters |= {f"{name}.bias": FileParameter(f"{name}.bias", (size,)) for name, size in BIASES.items()}
    parameters[f"{NORM}.weight"] = FileParameter(f"{NORM}.weight", (6,))
    return TargetTable(
        targets,
        source="transformers 5",
        parameters=parameters,
        architecture="LlamaForCausalLM",
        prefix="model",
        output_module=HEAD,
    )


TABLE = _table()

NAMES_ONLY = replace(
    TABLE,
    source=TENSOR_NAMES,
    prefix="",
    targets={name: Target(name, TargetKind.LINEAR, f"{name}.weight", LINEAR_SHAPES[name][1]) for name in (Q, V, EMBED)},
)
"""The same net, known by the names of its tensors alone."""

TIED = replace(
    TABLE,
    targets={
        **TABLE.targets,
        EMBED: replace(TABLE.targets[EMBED], tie=HEAD),
        HEAD: replace(TABLE.targets[HEAD], tie=EMBED, tensor=None),
    },
    parameters={name: held for name, held in TABLE.parameters.items() if name != f"{HEAD}.weight"},
)
"""The same net with one weight for embedding and head, which the files keep under the name of the embedding."""

Shapes = Mapping[str, tuple[int, ...]]


def entries(shapes: Shapes, dtype: str = "F32") -> dict[str, TensorEntry]:
    """Tensors of those names and shapes, one after another in a file."""
    found, at = {}, 64
    for name, shape in shapes.items():
        stop = at + 4 * math.prod(shape)
        found[name] = TensorEntry(name, dtype, shape, at, stop)
        at = stop
    return found


def named(module: str, **tails: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Tensors of one module by their tails, two underscores for a dot."""
    return {f"{LEAD}{module}.{tail.replace('__', '.')}": shape for tail, shape in tails.items()}


def pair(module: str, inputs: int, outputs: int, rank: int = 2) -> dict[str, tuple[int, ...]]:
    """A pair of a linear module."""
    return named(module, lora_A__weight=(rank, inputs), lora_B__weight=(outputs, rank))


def embedding(module: str, vocabulary: int, features: int, rank: int = 2) -> dict[str, tuple[int, ...]]:
    """A pair of an embedding."""
    return named(module, lora_embedding_A=(rank, vocabulary), lora_embedding_B=(features, rank))


def check(shapes: Shapes, *, table: TargetTable = TABLE, dtype: str = "F32", **fields: Any) -> Checkpoint:
    """Read an adapter of rank 2 and alpha 8; ``fields`` are of its configuration."""
    document = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["none_such"], **fields}
    return read_checkpoint(parse_config(json.dumps(document).encode()), entries(shapes, dtype), table)


def refused(code: str, shapes: Shapes, **fields: Any) -> str:
    """The sentence by which an adapter is refused."""
    with pytest.raises(RegistryError) as caught:
        check(shapes, **fields)
    assert caught.value.code == code, caught.value
    return str(caught.value)
