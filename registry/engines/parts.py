"""Takes an adapter apart by what engines treat differently: from its configuration and its header, without a value."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from registry.engines.rules import Part
from registry.images.outgoing import Component, clip_module, comfy_names, is_t5

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_LEAD: Final = "base_model.model."
_LENGTH: Final = 8  # bytes before a safetensors header, which hold its length
_PAIR: Final = (".lora_A.weight", ".lora_B.weight")
_EMBEDDING: Final = (".lora_embedding_A", ".lora_embedding_B")
_INNER: Final = ".base_layer"
_WEIGHT: Final = ".weight"
_INDEXER: Final = "indexer"
_HEAD: Final = "lm_head"


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
    components: Sequence[Component] | None = None  # of an image model; None: it is none


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
    found |= _of_model(base, found["modules"] | found["convolutions"])
    return _parts(rank, found)


def parts_of_changes(changes: Mapping[Part, Collection[str]], rank: int, base: BaseFacts) -> Parts:
    """The same of a path that no adapter of PEFT equals, by what it changes.

    Args:
        changes: part -> names of modules or parameters; ``not_low_rank`` are those that no such adapter holds.
        rank: the largest; 0: there are no pairs.
        base: what is known of the base model.
    """
    modules = [name for part in ("modules", "convolutions", "not_low_rank") for name in changes.get(part, ())]
    return _parts(rank, {**changes, **_of_model(base, modules)})


def _parts(rank: int, found: Mapping[Part, Collection[str]]) -> Parts:
    return Parts(rank, {part: tuple(sorted(modules)) for part, modules in found.items() if modules})


def _of_model(base: BaseFacts, modules: Collection[str]) -> dict[Part, set[str]]:
    """What the model is that the adapter goes on and, of an image model, which component the adapter changes."""
    if base.components is None:
        return {"language": {base.model_type}} if base.model_type else {}
    changed: dict[Part, set[str]] = {part: set() for part in ("clip", "t5", "encoders", "unnamed", "denoisers")}
    families = {one.family.name if one.family else "not known" for one in base.components if one.is_denoiser}
    denoisers = []
    for component in base.components:
        mine = {module for module in component.modules if component.lead + module in modules}
        named = comfy_names(component, numbered=True)
        changed["unnamed"] |= {component.lead + module for module in mine if module not in named}
        if component.is_denoiser:
            denoisers += [component.name] if mine else []
            continue
        for module in mine:
            part: Part = "clip" if clip_module(module) else "t5" if is_t5(module) else "encoders"
            changed[part].add(component.lead + module)
    changed["denoisers"] = set(denoisers) if len(denoisers) > 1 else set()
    changed["unnamed"] -= changed["encoders"]
    return {"image": families, "family": families, **changed}


def _of_config(config: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[Part, set[str]]:
    biases = {name for name in shapes if name.endswith("bias")} if config["bias"] != "none" else set()
    saved = set(config["modules_to_save"] or ())
    holders = {name.rpartition(".")[0] for name in shapes if any(name.startswith(f"{one}.") for one in saved)}
    return {
        "dora": {name.partition(".lora_magnitude_vector")[0] for name in shapes if ".lora_magnitude_vector" in name},
        # of a head that consists of several modules, those; of one whose tensors another name has, itself
        "replaced": {one for one in saved if not any(_is_in(held, one) for held in holders)} | holders,
        "biases": {name.replace(_INNER, "") for name in biases},
        "tokens": set(config.get("trainable_token_indices") or ()),
        "pattern": {"target_modules"} if isinstance(config["target_modules"], str) else set(),
    }


def _of_pairs(config: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[Part, set[str]]:
    first = {name.removesuffix(_PAIR[0]): shape for name, shape in shapes.items() if name.endswith(_PAIR[0])}
    named = set(config.get("target_parameters") or ())
    matrices = {name for name in named if _is_matrix(name, named, first, config)}
    experts = named - matrices
    parents = [name.rpartition(".")[0] for name in experts]
    holders = set(parents)
    pairs = {name: len(shape) for name, shape in first.items()}
    attention = {name.partition(_INNER)[0] for name in pairs if _INNER in name} - holders
    plain = {name: rank for name, rank in pairs.items() if name.partition(_INNER)[0] not in attention | holders}
    convolutions = {name for name, dimensions in plain.items() if dimensions > 2}
    linear = set(plain) - convolutions
    turned = bool(config["fan_in_fan_out"])
    parameters = {name.removesuffix(_WEIGHT) for name in matrices}
    indexer = {name for name in linear if name.rpartition(".")[0].rpartition(".")[2] == _INDEXER}
    return {
        "experts": experts,
        "half_experts": {name for name in holders if parents.count(name) == 1},
        "attention": attention,
        "convolutions": convolutions,
        "embeddings": {name.removesuffix(_EMBEDDING[0]) for name in shapes if name.endswith(_EMBEDDING[0])},
        "conv1d": linear - parameters if turned else set(),
        "modules": (parameters if turned else linear) - indexer,
        "head": {name for name in linear if name.rpartition(".")[2] == _HEAD},
        "parameters": parameters,
        "indexer": indexer,
    }


def _is_matrix(
    parameter: str, named: Collection[str], first: Mapping[str, Sequence[int]], config: Mapping[str, Any]
) -> bool:
    """Whether a parameter of ``target_parameters`` is the weight of an ordinary linear module.

    Its A, then, is called like that of the module and has its rank alone, where that of experts has one for each of
    them (PEFT's ``ParamWrapper``). ``first`` has the shapes of all A by module.
    """
    module, _, leaf = parameter.rpartition(".")
    if f".{leaf}" != _WEIGHT or module not in first or any(f"{module}{_INNER}" in one for one in first):
        return False
    if any(one != parameter and one.rpartition(".")[0] == module for one in named):
        return False
    return first[module][0] == int(config["rank_pattern"].get(f"^{re.escape(parameter)}", config["r"]))


def _is_in(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")
