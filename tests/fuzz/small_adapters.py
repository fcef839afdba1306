"""Adapters for fuzzing against one small base that has a module of every kind: names of tensors with their shapes."""

from __future__ import annotations

import math
from typing import Any, Final

from hypothesis import strategies as st

from registry.files.header import TensorEntry
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece
from registry.tensors.table.targets import Target, TargetKind, TargetTable

WIDTH: Final = 4


def _table() -> TargetTable:
    def one(module: str, kind: TargetKind, shape: tuple[int, ...], **more: object) -> Target:
        return Target(module, kind, f"{module}.weight", shape, **more)  # type: ignore[arg-type] # fields of each kind

    pieces = tuple(Piece("model.layers.0.experts.w", expert, (0, WIDTH), expert) for expert in range(2))
    fused = FusedParameter("gate_up_proj", 2, WIDTH, WIDTH, transposed=False, pieces=pieces)
    found = [
        one("model.layers.0.q_proj", TargetKind.LINEAR, (WIDTH, WIDTH)),
        one("model.layers.0.v_proj", TargetKind.LINEAR, (WIDTH, WIDTH)),
        one("model.layers.1.q_proj", TargetKind.LINEAR, (WIDTH, WIDTH)),
        one("model.layers.0.c_attn", TargetKind.CONV1D, (WIDTH, WIDTH)),
        one("model.embed_tokens", TargetKind.EMBEDDING, (8, WIDTH), tie="lm_head"),
        Target("lm_head", TargetKind.LINEAR, None, (8, WIDTH), tie="model.embed_tokens"),
        one("model.conv", TargetKind.CONV, (WIDTH, WIDTH, 1), geometry={"kernel": [1], "groups": 1}),
        Target("model.attn", TargetKind.ATTENTION, "model.attn.in_proj_weight", (3 * WIDTH, WIDTH)),
        one("model.attn.out_proj", TargetKind.LINEAR, (WIDTH, WIDTH)),
        Target("model.layers.0.experts", TargetKind.EXPERTS, None, (2, WIDTH, WIDTH), fused=(fused,)),
        one("model.odd", TargetKind.UNKNOWN, (WIDTH, WIDTH)),
    ]
    parameters = {target.tensor: FileParameter(target.tensor, target.shape) for target in found if target.tensor}
    parameters |= {f"{target.module}.bias": FileParameter(f"{target.module}.bias", (WIDTH,)) for target in found[:3]}
    parameters["model.norm.weight"] = FileParameter("model.norm.weight", (WIDTH,))
    return TargetTable(
        {target.module: target for target in found}, "transformers 5.0.0", parameters, "LlamaForCausalLM", "llama",
        "model", "lm_head",
    )  # fmt: skip


TABLE: Final = _table()
Tensors = dict[str, TensorEntry]
MODULES: Final = (
    *TABLE.targets,
    "layers.0.q_proj",
    "model.norm",
    "model.layers.0.experts.base_layer",
    "score",
    "model",
)
TAILS: Final = (
    "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector",
    "lora_magnitude_vector.weight", "base_layer.weight", "base_layer.bias", "token_adapter.trainable_tokens_delta",
    "lora_velora_embed", "lora_monteclora_sampler.std_prior", "lora_diag", "weight", "bias", "lora_A.default.weight",
    "modules_to_save.weight", "original_module.weight", "in_proj_weight", "gate_up_proj", "lora_E", "p", "",
)  # fmt: skip


def entry(name: str, shape: tuple[int, ...], dtype: str = "F32") -> TensorEntry:
    """A tensor of no bytes: headers are all that is read."""
    return TensorEntry(name, dtype, shape, 0, 4 * math.prod(shape))


def pair(module: str, rank: int = 2) -> dict[str, TensorEntry]:
    """The pair of a linear module."""
    lead = f"base_model.model.{module}.lora_"
    names = {f"{lead}A.weight": (rank, WIDTH), f"{lead}B.weight": (WIDTH, rank)}
    return {name: entry(name, shape) for name, shape in names.items()}


_SIZES = st.sampled_from([0, 1, 2, 2, 3, WIDTH, WIDTH, WIDTH, 8, 12])


@st.composite
def adapters(draw: st.DrawFn) -> Tensors:
    """Tensors of a few modules: whole pairs, and parts of any sort, size and dtype beside them."""
    found: dict[str, TensorEntry] = {}
    for module in draw(st.lists(st.sampled_from(["model.layers.0.q_proj", "model.layers.1.q_proj"]), max_size=2)):
        found |= pair(module)
    for _ in range(draw(st.integers(0, 4))):
        module = draw(st.sampled_from(MODULES))
        tail = draw(st.sampled_from(TAILS))
        name = f"base_model.model.{module}.{tail}"
        shape = draw(
            st.lists(_SIZES, max_size=3).map(tuple) | st.sampled_from([(2, WIDTH), (WIDTH, 2), (WIDTH,), (8, WIDTH)])
        )
        found[name] = entry(name, shape, draw(st.sampled_from(["F32", "F32", "BF16", "I64", "U8"])))
        if tail == "lora_A.weight" and draw(st.booleans()):
            other = name.replace("lora_A", "lora_B")
            found[other] = entry(other, draw(st.sampled_from([(WIDTH, 2), (8, 2), (12, 2), (WIDTH, 4), (WIDTH, 2, 1)])))
    return found


def _tensors(module: str, **shapes: tuple[int, ...]) -> Tensors:
    names = {f"base_model.model.{module}.{tail.replace('__', '.')}": shape for tail, shape in shapes.items()}
    return {name: entry(name, shape) for name, shape in names.items()}


def _both(**shapes: tuple[int, ...]) -> Tensors:
    return _tensors(_Q, **shapes) | _tensors("model.layers.1.q_proj", **shapes)


_Q: Final = "model.layers.0.q_proj"
FEATURES: Final[tuple[tuple[dict[str, Any], Tensors], ...]] = (
    ({"target_modules": ["q_proj", "c_attn"]}, pair("model.layers.0.c_attn")),
    (
        {"target_modules": ["q_proj", "conv"]},
        _tensors("model.conv", lora_A__weight=(2, 4, 1), lora_B__weight=(4, 2, 1)),
    ),
    (
        {"target_modules": ["q_proj", "embed_tokens"]},
        _tensors("model.embed_tokens", lora_embedding_A=(2, 8), lora_embedding_B=(4, 2), base_layer__weight=(8, 4)),
    ),
    (
        {"target_modules": ["q_proj", "attn"]},
        _tensors("model.attn", lora_A__weight=(2, 4), lora_B__weight=(12, 2))
        | _tensors("model.attn.base_layer.out_proj", lora_A__weight=(2, 4), lora_B__weight=(4, 2)),
    ),
    (
        {"target_parameters": ["experts.gate_up_proj"]},
        _tensors("model.layers.0.experts", lora_A__weight=(4, 4), lora_B__weight=(4, 4)),
    ),
    ({"use_dora": True}, _both(lora_magnitude_vector=(4,))),
    ({"lora_bias": True}, _both(lora_B__bias=(4,))),
    ({"bias": "lora_only"}, _both(base_layer__bias=(4,))),
    ({"bias": "all"}, _both(base_layer__bias=(4,)) | _tensors("model.layers.0.v_proj", bias=(4,))),
    ({"modules_to_save": ["norm"]}, _tensors("model.norm", weight=(4,))),
    ({"modules_to_save": ["score"]}, _tensors("score", weight=(3, 4))),
    (
        {"trainable_token_indices": [1, 5]},
        _tensors("model.embed_tokens", token_adapter__trainable_tokens_delta=(2, 4)),
    ),
    ({"rank_pattern": {"layers.0.q_proj": 2}, "alpha_pattern": {"q_proj": 3, "layers.1.q_proj": 5}}, {}),
    ({"use_rslora": True}, {}),
    (
        {"use_bdlora": {"target_modules_bd_a": ["q_proj"], "target_modules_bd_b": [], "nblocks": 2}},
        _both(lora_A__weight=(2, 2)),
    ),
    ({"ensure_weight_tying": True}, {}),
)
"""Variants: what each adds to the configuration and to the tensors of an adapter of two linear modules."""


@st.composite
def variants(draw: st.DrawFn) -> tuple[dict[str, Any], Tensors]:
    """Configuration fields and tensors that belong together, with up to two faults among the tensors."""
    fields: dict[str, Any] = {}
    tensors = pair(_Q) | pair("model.layers.1.q_proj")
    for more, held in draw(st.lists(st.sampled_from(FEATURES), max_size=3)):
        fields |= more
        tensors |= held
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        name = draw(st.sampled_from(sorted(tensors)))
        found = tensors.pop(name)
        match draw(st.integers(0, 3)):
            case 1:
                tensors[name] = entry(name, draw(st.permutations(found.shape).map(tuple)))
            case 2:
                tensors[name] = entry(name, (*found.shape[:-1], draw(_SIZES)))
            case 3:
                tail = draw(st.sampled_from(TAILS))
                name = f"{name.rpartition('.lora_')[0] or name}.{tail}"
                tensors[name] = entry(name, found.shape)
    return fields, tensors
