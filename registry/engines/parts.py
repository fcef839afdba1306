"""Takes an adapter apart by what engines treat differently: from its configuration and its header, without a value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from registry.engines.rules import Part

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_LEAD: Final = "base_model.model."
_LENGTH: Final = 8  # bytes before a safetensors header, which say how long it is
_PAIR: Final = (".lora_A.weight", ".lora_B.weight")
_EMBEDDING: Final = (".lora_embedding_A", ".lora_embedding_B")
_INNER: Final = ".base_layer"


class _File(Protocol):
    def read(self, start: int = 0, stop: int | None = None) -> bytes: ...


class AdapterFiles(Protocol):
    """A composed adapter, wherever it is computed: its files by name."""

    def file(self, path: str) -> _File:
        """The file of that name."""


@dataclass(frozen=True)
class BaseFacts:
    """What a base model has to do with whether an adapter of it loads."""

    model_type: str | None = None  # None: not known
    ties: Mapping[str, Sequence[str]] = field(default_factory=dict)  # module -> the modules that share its weight


NOTHING: Final = BaseFacts()


@dataclass(frozen=True)
class Parts:
    """What an adapter has."""

    rank: int  # the largest
    modules: Mapping[Part, tuple[str, ...]]  # part -> names of the modules or parameters, without those it has not


def parts_of(adapter: AdapterFiles, base: BaseFacts) -> Parts:
    """Take a composed adapter apart."""
    config = json.loads(adapter.file(CONFIG).read())
    weights = adapter.file(WEIGHTS)
    size = int.from_bytes(weights.read(0, _LENGTH), "little")
    header = json.loads(weights.read(_LENGTH, _LENGTH + size))
    shapes = {name.removeprefix(_LEAD): one["shape"] for name, one in header.items() if name != "__metadata__"}
    rank = max([int(config["r"]), *map(int, config["rank_pattern"].values())])
    found = {**_of_config(config, shapes), **_of_pairs(config, shapes)}
    tokens = config.get("trainable_token_indices") or {}
    found["tied_tokens"] = {one for one in tokens if set(base.ties.get(one, ())) - set(tokens)}
    return Parts(rank, {part: tuple(sorted(modules)) for part, modules in found.items() if modules})


def _of_config(config: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[Part, set[str]]:
    biases = {name for name in shapes if name.endswith("bias")} if config["bias"] != "none" else set()
    return {
        "dora": {name.partition(".lora_magnitude_vector")[0] for name in shapes if ".lora_magnitude_vector" in name},
        "replaced": set(config["modules_to_save"] or ()),
        "biases": {name.replace(_INNER, "") for name in biases},
        "tokens": set(config.get("trainable_token_indices") or ()),
        "pattern": {"target_modules"} if isinstance(config["target_modules"], str) else set(),
    }


def _of_pairs(config: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[Part, set[str]]:
    experts = set(config.get("target_parameters") or ())
    parents = [name.rpartition(".")[0] for name in experts]
    holders = set(parents)
    pairs = {name.removesuffix(_PAIR[0]): len(shape) for name, shape in shapes.items() if name.endswith(_PAIR[0])}
    attention = {name.partition(_INNER)[0] for name in pairs if _INNER in name} - holders
    plain = {name: rank for name, rank in pairs.items() if name.partition(_INNER)[0] not in attention | holders}
    convolutions = {name for name, dimensions in plain.items() if dimensions > 2}
    linear = set(plain) - convolutions
    turned = bool(config["fan_in_fan_out"])
    return {
        "experts": experts,
        "half_experts": {name for name in holders if parents.count(name) == 1},
        "attention": attention,
        "convolutions": convolutions,
        "embeddings": {name.removesuffix(_EMBEDDING[0]) for name in shapes if name.endswith(_EMBEDDING[0])},
        "conv1d": linear if turned else set(),
        "modules": set() if turned else linear,
    }
