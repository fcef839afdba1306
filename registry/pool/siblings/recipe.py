"""What is trained: a LoraConfig of PEFT or its fields, read by the rules for adapters that are published.

What would mix the rows of siblings, or draw numbers that depend on which others are there: refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from registry.errors import InvalidAdapterError, RegistryError, UsageError
from registry.files.strict_json import shown
from registry.pool.beside.forms import rows_elsewhere
from registry.tensors.checkpoint.adapter import LoraAdapterConfig
from registry.tensors.checkpoint.field_rules import says_something
from registry.tensors.checkpoint.reading import parse_config


class Mixing:
    """The modules of a model that are looked at before each call for rows of siblings."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._elsewhere = rows_elsewhere(model)
        self._norms = [(name, one) for name, one in model.named_modules() if isinstance(one, _BatchNorm)]
        self._dropouts = [(name, one, field) for name, one in model.named_modules() for field in _dropouts(one)]
        self._checkpointed = [
            (name, one) for name, one in model.named_modules() if hasattr(one, "gradient_checkpointing")
        ]

    def check(self) -> None:
        """Refuse the model as it is set now.

        Raises:
            UsageError: ``unsupported_model``, naming what mixes rows.
        """
        reason = next(self._reasons(), None)
        if reason is not None:
            raise UsageError(f"Siblings can't be trained: {reason}.", code="unsupported_model")

    def _reasons(self) -> Iterator[str]:
        if getattr(getattr(self._model, "config", None), "output_router_logits", False):
            yield "output_router_logits is on, whose balance loss is over the tokens of all rows: set it to False"
        if self._elsewhere is not None:
            yield f"{self._elsewhere} keeps the rows of a batch in another dimension than the first"
        for name, module in self._norms:
            if module.training:
                yield f"{name!r} is a batch norm in training mode, which mixes all rows: call .eval() of it"
        for name, module, field in self._dropouts:
            dropped = getattr(module, field, 0.0)
            if module.training and isinstance(dropped, float) and dropped > 0:
                yield (
                    f"the model's own dropout is on ({name}.{field} is {dropped:g}), and what it drops for one sibling "
                    "would depend on the others: set it to 0 in the model's configuration, or call model.eval()"
                )
        for name, module in self._checkpointed:
            if module.training and module.gradient_checkpointing:
                yield (
                    f"gradient checkpointing is on ({name or 'the model'}), which calls modules again when nobody "
                    "knows whose rows these are: switch it off"
                )


def _dropouts(module: nn.Module) -> Iterator[str]:
    """Attributes of a module that say how much of something is dropped."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        yield "p"
        return
    for name, value in vars(module).items():
        if "drop" in name and isinstance(value, float):
            yield name


_TRAINED: Final = frozenset(
    {"peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "lora_dropout", "init_lora_weights", "fan_in_fan_out"}
    | {"rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
    | {"modules_to_save", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
    | {"inference_mode", "runtime_config"}
)
"""Fields that are understood here."""
_WITHOUT_EFFECT: Final = frozenset({"megatron_core", "qalora_group_size"})
"""Fields that have a value by default, and mean nothing while others are not set."""


@dataclass(frozen=True)
class Recipe:
    """One sibling, as it is to be trained."""

    path: str
    config: LoraAdapterConfig
    initial: bool | str  # True, False or "gaussian"
    dropout: float


def read_recipe(path: str, given: object) -> Recipe:
    """Read what a sibling was given: a ``peft.LoraConfig``, or the fields of adapter_config.json.

    Raises:
        UsageError: it is neither.
        InvalidAdapterError: a field is unknown, malformed, or of a kind of LoRA that is not trained here.
    """
    document = _document(path, given)
    try:
        config = parse_config(json.dumps(document).encode())
    except RegistryError as problem:
        raise type(problem)(f"{path}: {problem}", code=problem.code) from None
    if config.document.get("bias") not in (None, "none"):
        raise _unsupported(path, "bias", config.document["bias"])
    for name, value in config.document.items():
        if name not in _TRAINED | _WITHOUT_EFFECT | {"bias"} and says_something(value):
            raise _unsupported(path, name, value)
    initial = config.values.get("init_lora_weights", True)
    if initial not in (True, False, "gaussian"):
        raise _unsupported(path, "init_lora_weights", initial)
    if config.target_modules is None:
        raise UsageError(
            f"{path}: target_modules is not set. Name the modules, as the configuration is saved with them."
        )
    dropout = float(config.document.get("lora_dropout") or 0.0)
    if not 0 <= dropout < 1:
        raise UsageError(f"{path}: lora_dropout is {dropout:g}, and a number from 0 to below 1 is expected.")
    return Recipe(path, config, initial, dropout)


def _document(path: str, given: object) -> dict[str, Any]:
    to_dict = getattr(given, "to_dict", None)
    fields = to_dict() if callable(to_dict) else given
    if not isinstance(fields, Mapping):
        raise UsageError(f"{path}: a peft.LoraConfig or a dictionary of its fields is expected, not {shown(given)}.")
    return {"peft_type": "LORA", **{str(name): _plain(value) for name, value in fields.items()}}


def _plain(value: Any) -> Any:
    """A value as JSON has it: sets in order, enums by their values."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _unsupported(path: str, field: str, value: object) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"{path}: {field} is {shown(value)}, which siblings are not trained with: LoRA, rsLoRA and DoRA of linear "
        "modules and embeddings are, and whole modules of modules_to_save. Leave it out, or train it with PEFT.",
        code="not_supported_yet",
    )
