"""adapter_config.json of a composed adapter: the scale-1 normal form.

``lora_alpha == r``, ``use_rslora = false``, and per-module ranks and alphas that are equal, so that alpha / r is 1 for
readers that honour the patterns and for those that ignore them (PEFT's ``LoraLayer.update_layer``; vLLM scales with one
alpha / r). Patterns and names are full paths, anchored, so that none can match another module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

CONFIG: Final = "adapter_config.json"


@dataclass(frozen=True)
class ComposedNames:
    """What the adapter adapts, by full names."""

    ranks: Mapping[str, int]  # module or parameter -> rank
    modules: Sequence[str]  # target_modules
    parameters: Sequence[str] = ()  # target_parameters
    saved: Sequence[str] = ()  # modules_to_save
    tokens: Mapping[str, Sequence[int]] = field(default_factory=dict)  # trainable_token_indices
    bias: str = "none"
    dora: bool = False
    conv1d: bool = False
    tied: bool = False
    dated: bool = False  # only the version tells how PEFT reads a part of it: applied twice, or in and out alike

    def spelled(self, spelling: Callable[[str], str]) -> ComposedNames:
        """The same with every name spelled as it says."""
        return replace(
            self,
            ranks=dict(sorted((spelling(name), rank) for name, rank in self.ranks.items())),
            modules=[spelling(name) for name in self.modules],
            parameters=[spelling(name) for name in self.parameters],
            saved=[spelling(name) for name in self.saved],
            tokens={spelling(name): rows for name, rows in self.tokens.items()},
        )


@dataclass(frozen=True)
class BaseRepo:
    """The model that a composed adapter belongs on, as the Hub views spell it: a repo id, and a commit of it."""

    id: str
    revision: str


def composed_config(
    names: ComposedNames, others: Collection[str], base_repo: BaseRepo | None, hints: Mapping[str, Any]
) -> bytes:
    """The file's bytes.

    Args:
        names: what the adapter adapts.
        others: the base's modules that it does not adapt.
        base_repo: what the config calls the model that the adapter belongs on.
        hints: fields that do not change the maths (``task_type``, ``auto_mapping``), from the youngest link.
    """
    rank = max(names.ranks.values())
    # A pattern is a regex that PEFT matches as (.*\.)?(key)$; anchored full names can't match another module.
    pattern = {"^" + re.escape(name): own for name, own in names.ranks.items() if own != rank}
    document = {
        "peft_type": "LORA",
        "task_type": hints.get("task_type"),
        "auto_mapping": hints.get("auto_mapping"),
        "base_model_name_or_path": None if base_repo is None else base_repo.id,
        "revision": None if base_repo is None else base_repo.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "use_rslora": False,
        "use_dora": names.dora,
        "lora_dropout": 0.0,
        "bias": names.bias,
        "init_lora_weights": True,
        "fan_in_fan_out": names.conv1d,
        "modules_to_save": list(names.saved) or None,
        "target_modules": _target_modules(names.modules, others),
    }
    if names.parameters:
        document["target_parameters"] = list(names.parameters)
    if names.tokens:
        document["trainable_token_indices"] = {module: list(rows) for module, rows in names.tokens.items()}
    if names.tied:
        document["ensure_weight_tying"] = True
    if names.dated:
        document["peft_version"] = "0.21.2"
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode("utf-8")


def _target_modules(modules: Sequence[str], others: Collection[str]) -> list[str] | str:
    """Full names; as a regex where a name is also the end of another module's name, which PEFT would match too."""
    if any(other.endswith("." + module) for other in others for module in modules):
        return "(" + "|".join(re.escape(module) for module in modules) + ")"
    return list(modules)
