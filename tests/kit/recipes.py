"""Adapters of every variant, written by hand from a recipe, in the exact layout of PEFT 0.21.

A recipe is a value: tests draw recipes, and a failing one can be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.kit import products
from tests.kit.adapters import DEFAULTS
from tests.kit.bases import Base, Module
from tests.kit.expert_factors import join_a, join_b, nested_names
from tests.kit.floats import Array
from tests.kit.reference import ROOT, scaling_of
from tests.kit.simulate import simulate
from tests.kit.tensor_files import RawTensor, write_tensors


@dataclass(frozen=True)
class Recipe:
    """What an adapter trains. Module names are leaf names or full names."""

    targets: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()  # target_parameters: mlp.experts.gate_up_proj
    r: int = 2
    alpha: float = 4
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    product: str = ""  # of `tests.kit.products.FORMS`: no pair
    dora: bool = False
    lora_bias: bool = False
    bias: str = "none"  # lora_only, all
    replaced: tuple[str, ...] = ()  # modules_to_save
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # embedding -> rows
    tokens_as_list: bool = False
    blocks_a: tuple[str, ...] = ()  # BD-LoRA
    blocks_b: tuple[str, ...] = ()
    blocks: int = 2
    ensure_tied: bool = False  # ensure_weight_tying
    copies: bool = False  # whole embeddings saved beside their pair
    dtype: str = "F32"
    seed: int = 0
    scale: float = 1.0  # of B: how large the deltas are
    peft_version: str = "0.21.2"
    config: Mapping[str, Any] = field(default_factory=dict)  # further fields; ... leaves one out

    def document(self, base: Base) -> dict[str, Any]:
        """``adapter_config.json``."""
        tokens: Any = {name: list(rows) for name, rows in self.tokens.items()} or None
        if self.tokens_as_list and tokens:
            (tokens,) = tokens.values()
        causal = (base.architecture or "").endswith(("CausalLM", "LMHeadModel"))
        blocks = {
            "match_strict": False,
            "nblocks": self.blocks,
            "target_modules_bd_a": list(self.blocks_a) or None,
            "target_modules_bd_b": list(self.blocks_b) or None,
        }
        # PEFT takes a tied head out of both lists
        kept = set(_heads(base)) if self.ensure_tied else set()
        found = {
            **DEFAULTS,
            "alpha_pattern": dict(self.alpha_pattern),
            "bias": self.bias,
            "ensure_weight_tying": self.ensure_tied,
            "lora_alpha": self.alpha,
            "lora_bias": self.lora_bias,
            "modules_to_save": [name for name in self.replaced if name not in kept] or None,
            "peft_version": self.peft_version,
            "r": self.r,
            "rank_pattern": dict(self.rank_pattern),
            "target_modules": [name for name in self.targets if name not in kept],
            "target_parameters": list(self.parameters) or None,
            "task_type": "CAUSAL_LM" if causal else None,
            "trainable_token_indices": tokens,
            "use_bdlora": blocks if self.blocks_a or self.blocks_b else None,
            "use_dora": self.dora,
            "use_rslora": self.rslora,
            "fan_in_fan_out": any(module_of(base, name).kind == "conv1d" for name in named(base, self.targets)),
        }
        if self.product:
            found = products.document(self.product, found)
        found |= self.config
        return {name: value for name, value in found.items() if value is not ...}


def named(base: Base, names: Iterable[str]) -> list[str]:
    """Full names of the modules with these leaf names or full names: those of `Base.modules`, a tied head, norms."""
    names = list(names)
    others = sorted({name.rpartition(".")[0] for name in base.layout.parameters} - set(base.modules))
    return [name for name in (*base.modules, *others) if name in names or name.rpartition(".")[2] in names]


def module_of(base: Base, name: str) -> Module:
    """A module by its full name."""
    if name in base.modules:
        return base.modules[name]
    shape = base.layout.parameters[f"{name}.weight"].shape
    return Module(name, f"{name}.weight", "linear", shape)


def _heads(base: Base) -> list[str]:
    return [name.removesuffix(".weight") for name in base.layout.ties]


def write_recipe(folder: Path, base: Base, recipe: Recipe, parents: Sequence[Path] = ()) -> Path:
    """Write the adapter and return its folder; ``parents`` are needed for copies of whole embeddings only."""
    config = recipe.document(base)
    writer = _Writer(base, recipe, config)
    writer.fill()
    if recipe.copies:
        writer.copy(parents)
    write_tensors(folder / "adapter_model.safetensors", dict(sorted(writer.tensors.items())))
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    return folder


def write_recipes(root: Path, base: Base, recipes: Sequence[Recipe]) -> list[Path]:
    """A path of adapters ``root/1`` ..., each with its own seed."""
    path: list[Path] = []
    for number, recipe in enumerate(recipes, 1):
        path.append(write_recipe(root / str(number), base, recipe, path.copy()))
    return path


class _Writer:
    """The tensors of one adapter."""

    def __init__(self, base: Base, recipe: Recipe, config: Mapping[str, Any]) -> None:
        self._base, self._recipe, self._config = base, recipe, config
        self._random = np.random.default_rng([recipe.seed, 77])
        self._state = simulate(base.folder, [], base.layout).state
        self.tensors: dict[str, RawTensor] = {}

    def _put(self, key: str, values: Array) -> None:
        self.tensors[ROOT + key] = RawTensor.of(values, self._recipe.dtype)

    def _normal(self, *shape: int) -> Array:
        return self._random.standard_normal(shape)

    def fill(self) -> None:
        for name in named(self._base, self._recipe.targets):
            module = module_of(self._base, name)
            if module.kind == "attention":
                self._attention(module)
            else:
                self._pair(module)
        self._experts()
        self._values()
        tokens = self._recipe.tokens
        for name, rows in tokens.items():
            (full,) = named(self._base, [name])
            if full in _heads(self._base) and len(tokens) > 1 and len(set(tokens.values())) == 1:
                continue  # PEFT keeps the rows of the embedding for both
            width = self._state.views[f"{full}.weight"].values.shape[1]
            self._put(f"{full}.token_adapter.trainable_tokens_delta", self._normal(len(rows), width) * 0.1)

    def _factors(self, out_features: int, in_features: int, rank: int) -> tuple[Array, Array]:
        a = self._normal(rank, in_features) / math.sqrt(in_features)
        return a, self._normal(out_features, rank) * 0.1 * self._recipe.scale

    def _pair(self, module: Module) -> None:
        recipe, (out_features, in_features) = self._recipe, module.oriented
        rank, _ = scaling_of({"lora_alpha": recipe.alpha, **self._config}, module.name)
        a, b = self._factors(out_features, in_features, rank)
        stem = module.name
        if recipe.product:
            scale = math.sqrt(0.1 * recipe.scale)
            for part, values in products.parts_of(recipe.product, module.shape, rank, self._normal, scale).items():
                self._put(f"{stem}.{part}", values)
            return
        tied_head = recipe.ensure_tied and stem in _heads(self._base)
        if tied_head:  # PEFT keeps the embedding's pair once more, in the form of the head
            (holder,) = self._base.layout.ties.values()
            other = ROOT + holder.removesuffix(".weight")
            a = self.tensors[f"{other}.lora_embedding_B"].values.T
            b = self.tensors[f"{other}.lora_embedding_A"].values.T
        if module.kind == "embedding":
            self._put(f"{stem}.lora_embedding_A", a)
            self._put(f"{stem}.lora_embedding_B", b)
        elif module.kind == "conv":
            kernel = module.shape[2:]
            self._put(f"{stem}.lora_A.weight", a.reshape(rank, module.shape[1], *kernel))
            self._put(f"{stem}.lora_B.weight", b.reshape(out_features, rank, *[1] * len(kernel)))
        else:
            if any(pattern in stem for pattern in recipe.blocks_a):
                a = a[:, : in_features // recipe.blocks]
            elif any(pattern in stem for pattern in recipe.blocks_b):
                b = b[:, : rank // recipe.blocks]
            self._put(f"{stem}.lora_A.weight", a)
            self._put(f"{stem}.lora_B.weight", b)
        if recipe.lora_bias and module.kind != "embedding":
            self._put(f"{stem}.lora_B.bias", self._normal(out_features) * 0.1)
        if recipe.dora:
            self._put(f"{stem}.lora_magnitude_vector", self._magnitude(module))

    def _magnitude(self, module: Module) -> Array:
        """About the norms of the base's weight, as after some training."""
        parameter = f"{module.name}.weight"
        view = self._state.views[parameter]
        norms = view.norms(rows=module.kind not in ("embedding", "conv1d"))
        drawn: Array = norms.reshape(-1) * (1.0 + 0.2 * self._normal(norms.size))
        if module.kind == "conv":
            return drawn.reshape(1, -1, *[1] * (len(module.shape) - 2))
        return drawn

    def _attention(self, module: Module) -> None:
        out_features, in_features = module.oriented
        rank, _ = scaling_of(self._config, module.name)
        for stem, rows in ((module.name, out_features), (f"{module.name}.base_layer.out_proj", in_features)):
            a, b = self._factors(rows, in_features, rank)
            self._put(f"{stem}.lora_A.weight", a)
            self._put(f"{stem}.lora_B.weight", b)

    def _experts(self) -> None:
        layout = self._base.layout
        for module, registered in layout.experts.items():
            targeted = [
                one.rpartition(".")[2]
                for one in self._recipe.parameters
                if f"{module}.{one.rpartition('.')[2]}".endswith(f".{one}") or one.startswith(module)
            ]
            for depth, leaf in nested_names(registered, targeted).items():
                experts, first, second = layout.parameters[f"{module}.{leaf}"].shape
                rows, columns = (second, first) if layout.experts_transposed else (first, second)
                rank, _ = scaling_of(self._config, f"{module}.{leaf}")
                pairs = [self._factors(rows, columns, rank) for _ in range(experts)]
                stem = module + ".base_layer" * depth
                self._put(f"{stem}.lora_A.weight", join_a([a for a, _ in pairs]))
                self._put(f"{stem}.lora_B.weight", join_b([b for _, b in pairs]))

    def _values(self) -> None:
        recipe, views = self._recipe, self._state.views
        targeted = set(named(self._base, recipe.targets))
        replaced = named(self._base, recipe.replaced)
        for parameter in sorted(views):
            module, _, leaf = parameter.rpartition(".")
            shape = views[parameter].values.shape
            if module in replaced:
                self._put(parameter, self._normal(*shape) * 0.1)
            elif leaf == "bias" and (recipe.bias == "all" or (recipe.bias == "lora_only" and module in targeted)):
                key = f"{module}.base_layer.bias" if module in targeted else parameter
                self._put(key, self._normal(*shape) * 0.1)
        if recipe.ensure_tied:
            for name, holder in self._base.layout.ties.items():
                if ROOT + holder in self.tensors:
                    self.tensors[ROOT + name] = self.tensors[ROOT + holder]

    def copy(self, parents: Sequence[Path]) -> None:
        """Whole weights of targeted embeddings and of a targeted head: PEFT saves them from a materialised parent."""
        views = simulate(self._base.folder, parents, self._base.layout).state.views
        names = named(self._base, self._recipe.targets)
        for name in names:
            if module_of(self._base, name).kind == "embedding" or name == "lm_head":
                dtype = self._state.files[module_of(self._base, name).tensor].dtype
                self.tensors[f"{ROOT}{name}.base_layer.weight"] = RawTensor.of(views[f"{name}.weight"].values, dtype)
