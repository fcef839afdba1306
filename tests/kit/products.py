"""LoHa and LoKr: adapters as PEFT 0.21 saves them, by hand, and what they add to a weight, in float64.

It shares no code with `registry`, and uses neither torch nor PEFT. Sources: PEFT's ``tuners/loha/layer.py`` and
``tuners/lokr/layer.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from tests.kit.floats import Array

FORMS: Final = ("loha", "lokr", "lokr of pairs", "lokr whole")
"""A LoHa; a LoKr with w1 whole and w2 a pair, of two pairs, and of two whole matrices."""
PARTS: Final = (
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
)
_OF_A_LORA: Final = frozenset(
    {"lora_alpha", "lora_bias", "lora_dropout", "use_rslora", "use_dora", "use_qalora", "use_bdlora", "bias"}
    | {"init_lora_weights", "fan_in_fan_out", "trainable_token_indices", "target_parameters", "ensure_weight_tying"}
    | {"qalora_group_size", "megatron_core", "megatron_config", "loftq_config", "layer_replication", "eva_config"}
    | {"alora_invocation_tokens", "arrow_config", "corda_config", "kasa_config", "lora_ga_config", "velora_config"}
    | {"monteclora_config"}
)


def document(form: str, of_lora: Mapping[str, Any]) -> dict[str, Any]:
    """``adapter_config.json`` of a LoRA as that of a product."""
    kept = {name: value for name, value in of_lora.items() if name not in _OF_A_LORA}
    own: dict[str, Any] = {"alpha": of_lora["lora_alpha"], "init_weights": True, "rank_dropout": 0.0}
    own |= {"module_dropout": 0.0, "use_effective_conv2d": True}
    if form != "loha":
        own |= {"decompose_both": form == "lokr of pairs", "decompose_factor": -1, "rank_dropout_scale": False}
    return {**kept, **own, "peft_type": "LOHA" if form == "loha" else "LOKR"}


def parts_of(
    form: str, shape: tuple[int, ...], rank: int, normal: Callable[..., Array], scale: float
) -> dict[str, Array]:
    """The tensors of a module with a weight of that shape; convolutions of a kernel above 1 have cores."""
    (rows, columns), kernel = shape[:2], shape[2:]
    cored = any(size > 1 for size in kernel) and form != "lokr whole"
    inner = columns if cored else math.prod(shape[1:])
    if form == "loha":
        sides = {"a": (rank, rows) if cored else (rows, rank), "b": (rank, inner)}
        found = {f"hada_w{n}_{side}": normal(*size) * scale for n in (1, 2) for side, size in sides.items()}
        return found | ({f"hada_t{n}": normal(rank, rank, *kernel) for n in (1, 2)} if cored else {})
    (r1, r2), (c1, c2) = _split(rows), _split(columns)
    c2 = c2 if cored else c2 * inner // columns
    pair = form == "lokr of pairs"
    first = {"w1_a": (r1, rank), "w1_b": (rank, c1)} if pair else {"w1": (r1, c1)}
    second: dict[str, tuple[int, ...]] = {"w2_a": (rank, r2) if cored else (r2, rank), "w2_b": (rank, c2)}
    if form == "lokr whole":
        second = {"w2": (r2, c2 // math.prod(kernel), *kernel)}
    sizes: dict[str, tuple[int, ...]] = {**first, **second}
    sizes |= {"t2": (rank, rank, *kernel)} if cored else {}
    return {f"lokr_{part}": normal(*size) * scale for part, size in sizes.items()}


def _split(size: int) -> tuple[int, int]:
    """Two factors, as near to each other as they are; the smaller first, as LyCORIS' ``factorization``."""
    small = max(one for one in range(1, math.isqrt(size) + 1) if size % one == 0)
    return small, size // small


def delta(parts: Mapping[str, Array]) -> Array:
    """What the parts add before it is scaled, (out, in) or (out, in, kernel...) or flattened behind its rows."""
    if "hada_w1_a" in parts:
        first, second = (_half(parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"], parts.get(f"hada_t{n}")) for n in (1, 2))
        made: Array = first * second
        return made
    left = parts["lokr_w1"] if "lokr_w1" in parts else parts["lokr_w1_a"] @ parts["lokr_w1_b"]
    right = parts.get("lokr_w2")
    if right is None:
        right = _half(parts["lokr_w2_a"], parts["lokr_w2_b"], parts.get("lokr_t2"))
    left = left.reshape(*left.shape, *[1] * (right.ndim - 2))
    found: Array = np.kron(left, right).astype(np.float64)
    return found


def _half(a: Array, b: Array, core: Array | None) -> Array:
    if core is None:
        return a @ b
    found: Array = np.einsum("ij...,jr,ip->pr...", core, b, a)
    return found
