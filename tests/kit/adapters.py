"""Adapters written by hand in the exact layout of PEFT 0.21: config JSON and safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from tests.kit.bases import Base, Module
from tests.kit.floats import Array
from tests.kit.reference import ROOT, scaling_of
from tests.kit.tensor_files import RawTensor, read_model, write_tensors

Fill = Literal["normal", "positive", "aligned", "zero"]

DEFAULTS: Final[dict[str, Any]] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": "somewhere/base",
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "lora_ga_config": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "monteclora_config": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 8,
    "rank_pattern": {},
    "revision": None,
    "target_modules": [],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}
"""``adapter_config.json`` as PEFT 0.21.2 writes it for a plain LoRA."""


def write_adapter(
    folder: Path,
    base: Base,
    targets: Iterable[str] = (),
    *,
    r: int = 4,
    alpha: float = 8,
    rslora: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    dtype: str = "F32",
    seed: int = 0,
    fill: Fill = "normal",
    size: float | None = None,
    copies: Sequence[Path] | None = None,
    config: Mapping[str, Any] | None = None,
    modules: Iterable[str] | None = None,
) -> Path:
    """Write an adapter on modules of ``base`` and return its folder.

    Args:
        folder: Where; made if absent.
        base: Gives names and shapes.
        targets: Leaf names or full names, and ``target_modules`` of the config. None given: all linear
            modules by their full names (see `linear_names`).
        r: Default rank.
        alpha: Default alpha.
        rslora: Scaling alpha / sqrt(r).
        rank_pattern: As in PEFT; patterns are matched by PEFT's rule.
        alpha_pattern: As in PEFT.
        dtype: Of all factors.
        seed: Other seeds give other values.
        fill: ``normal``: A as PEFT draws it, B normal. ``positive``: all factors positive, so that no error cancels.
            ``aligned``: positive, and the same for every rank, so that rounding errors repeat in one direction.
            ``zero``: B is zero, as before training.
        size: Norm of each delta as a share of the norm of its weight (by scaling B). None: as drawn.
        copies: Adapter folders of the parents: whole embeddings are saved too (``base_layer.weight``), as PEFT does
            once an embedding is a target. Their values are the composed parents', rounded to the base's dtype.
        config: Config fields set at last, or left out with the value ``...``.
        modules: The modules that get tensors, when not all that ``targets`` names.
    """
    names = list(targets) or linear_names(base)
    written: dict[str, Any] = {
        **DEFAULTS,
        "r": r,
        "lora_alpha": alpha,
        "use_rslora": rslora,
        "rank_pattern": dict(rank_pattern or {}),
        "alpha_pattern": dict(alpha_pattern or {}),
        "target_modules": names,
        "task_type": "CAUSAL_LM" if base.architecture in ("LlamaForCausalLM", "GPT2LMHeadModel") else None,
    }
    weights = {name: raw.values for name, raw in read_model(base.folder).items()} if size is not None else {}
    tensors: dict[str, RawTensor] = {}
    for number, module in enumerate(base.named(*(modules if modules is not None else names))):
        rank, scaling = scaling_of(written, module.name)
        a, b = _factors(module, rank, np.random.default_rng([seed, number, rank]), fill)
        if size is not None:
            norm = float(np.linalg.norm(scaling * (b @ a)))
            b = b * (size * float(np.linalg.norm(weights[module.tensor])) / norm)
        tail_a, tail_b = (
            ("lora_embedding_A", "lora_embedding_B")
            if module.kind == "embedding"
            else ("lora_A.weight", "lora_B.weight")
        )
        tensors[f"{ROOT}{module.name}.{tail_a}"] = RawTensor.of(a, dtype)
        tensors[f"{ROOT}{module.name}.{tail_b}"] = RawTensor.of(b, dtype)
    if copies is not None:
        merged = base.reference(copies)
        for module in base.named(*names):
            if module.kind == "embedding" or module.name == "lm_head":
                one = merged[module.tensor]
                copied = RawTensor.of(one.rounded(), one.base.dtype)
                tensors[f"{ROOT}{module.name}.base_layer.weight"] = copied
    if any(module.kind == "conv1d" for module in base.named(*names)):
        written["fan_in_fan_out"] = True
    for field, value in (config or {}).items():
        if value is ...:
            written.pop(field)
        else:
            written[field] = value
    write_tensors(folder / "adapter_model.safetensors", dict(sorted(tensors.items())))
    (folder / "adapter_config.json").write_text(json.dumps(written, indent=2, sort_keys=True))
    return folder


def write_chain(root: Path, base: Base, depth: int, targets: Iterable[str] = (), **options: Any) -> list[Path]:
    """``depth`` adapters ``root/1`` ... on the same targets, each with its own seed; options as `write_adapter`."""
    seed = int(options.pop("seed", 0))
    names = list(targets)
    return [
        write_adapter(root / str(number), base, names, seed=1000 * seed + number, **options)
        for number in range(1, depth + 1)
    ]


def linear_names(base: Base) -> list[str]:
    """Full names of all modules but embeddings and the output embedding, as ``all-linear`` means them."""
    return [name for name, module in base.modules.items() if module.kind != "embedding" and name != "lm_head"]


def _factors(module: Module, rank: int, generator: np.random.Generator, fill: Fill) -> tuple[Array, Array]:
    out_features, in_features = module.oriented
    if fill == "aligned":
        a, b = generator.uniform(0.1, 1.0, (1, in_features)), generator.uniform(0.1, 1.0, (out_features, 1))
        return np.repeat(a, rank, axis=0), np.repeat(b, rank, axis=1)
    if fill == "positive":
        return generator.uniform(0.1, 1.0, (rank, in_features)), generator.uniform(0.1, 1.0, (out_features, rank))
    a = generator.standard_normal((rank, in_features)) / math.sqrt(in_features)
    if fill == "zero":
        return a, np.zeros((out_features, rank))
    return a, generator.standard_normal((out_features, rank)) * 0.1
