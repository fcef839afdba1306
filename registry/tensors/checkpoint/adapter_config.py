"""What an adapter's configuration says about its weights, once every field has been read by its rule."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(.*)", re.DOTALL)
_FINAL: Final = re.compile(r"(?:\.?post\d+)?(?:[@+].*)?", re.DOTALL)


@dataclass(frozen=True, order=True)
class PeftVersion:
    """A version of PEFT; ``(0, 21, 3, False)`` is a development state before 0.21.3."""

    major: int
    minor: int
    patch: int
    final: bool = True

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}{'' if self.final else '.dev0'}"


@dataclass(frozen=True)
class LoraAdapterConfig:
    """What adapter_config.json says about the weights.

    ``document`` is the file as it is, keys in file order: the order of patterns carries meaning. ``values`` has what
    the rule of each field made of it.
    """

    document: Mapping[str, Any]
    r: int
    lora_alpha: float
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    target_modules: tuple[str, ...] | str | None = None  # a string is a regular expression or "all-linear"
    exclude_modules: tuple[str, ...] | str | None = None
    layers_to_transform: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    target_parameters: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    base_model_name_or_path: str | None = None
    revision: str | None = None
    task_type: str | None = None
    peft_version: str | None = None
    trained_class: str | None = None  # class of the model that was trained, where PEFT recorded it
    values: Mapping[str, Any] = field(default_factory=dict)

    def scaling(self, rank: int, alpha: float) -> float:
        """Factor of B A for a module: alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023)."""
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    @property
    def version(self) -> PeftVersion | None:
        """The version of PEFT that wrote the adapter; None where it is not told or can't be read."""
        found = _VERSION.fullmatch(self.peft_version or "")
        if found is None:
            return None
        return PeftVersion(int(found[1]), int(found[2]), int(found[3] or 0), _FINAL.fullmatch(found[4]) is not None)
