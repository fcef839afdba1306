"""How an adapter is trained, by PEFT's configuration, and the folder that it is saved to.

The folder has what PEFT writes, and the receipt that pins the revision it was trained on. The receipt lies in a folder
below, named as that revision, and the configuration names it as what the adapter was trained on: so `publish` finds the
parent as for an adapter that was trained on a fetched model, wherever the folder is copied.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from registry.errors import InvalidAdapterError, RegistryError, UsageError
from registry.files.strict_json import shown
from registry.folders.local_files import telling_unwritable
from registry.folders.output import absolute, may_fill
from registry.folders.receipts import write_receipt
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RECEIPT
from registry.folders.staging import put_in_place, staged_folder
from registry.pool.checked_base import PoolRegistry
from registry.pool.weight_readers import is_conv1d, rows_elsewhere
from registry.schemas import Dtype, Options
from registry.schemas.receipt import Receipt
from registry.tensors.artifacts.artifact import Artifact
from registry.tensors.checkpoint.adapter import LoraAdapterConfig
from registry.tensors.checkpoint.coverage import saved_names
from registry.tensors.checkpoint.field_rules import says_something
from registry.tensors.checkpoint.reading import parse_config
from registry.tensors.lineage.plan import described, make_plan
from registry.tensors.lineage.received_bundles import path_of
from registry.transfer.receipt_check import receipt_of


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
    """Attributes of a module that hold a dropout probability."""
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
    if config.document["peft_type"] != "LORA":
        raise _unsupported(path, "peft_type", config.document["peft_type"])
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


_DTYPES: Final[dict[torch.dtype, Dtype]] = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def receipt_of_merged(registry: PoolRegistry, reference: str, model: torch.nn.Module) -> Receipt:
    """The receipt of a merged model that is in memory: it has no files, and the dtype that most weights are in.

    Raises:
        NotFoundError, RetractedError: the revision may not be used any more.
    """
    path = path_of(registry.bundle(reference))
    counts: Counter[torch.dtype] = Counter()
    for one in model.parameters():
        counts[one.dtype] += one.numel()
    dtype = _DTYPES.get(max(counts, key=counts.__getitem__))
    artifact = Artifact(make_plan(path, None, Options(kind="merged", dtype=dtype)), ())
    return receipt_of(described(path, None, artifact), (), registry.url)


def configuration(recipe: Recipe, model: torch.nn.Module, modules: Mapping[str, torch.nn.Module]) -> dict[str, Any]:
    """adapter_config.json as PEFT writes it after training, without the model that it was trained on."""
    config = recipe.config
    saved = list(dict.fromkeys(saved_names(config)))
    last = list(modules.values())[-1]
    document = {
        **config.document,
        "inference_mode": True,
        "fan_in_fan_out": is_conv1d(last),
        "modules_to_save": saved or None,
        "target_modules": _target_modules(config.target_modules, modules),
    }
    if document.get("task_type") is None:
        kind = type(model)
        document["auto_mapping"] = {"base_model_class": kind.__name__, "parent_library": kind.__module__}
    return document


def _target_modules(said: tuple[str, ...] | str | None, modules: Mapping[str, torch.nn.Module]) -> list[str] | str:
    """As it was said; PEFT writes what its shorthand for all linear modules stands for."""
    if isinstance(said, str):
        return list(modules) if said.lower() == "all-linear" else said
    return list(said or modules)


def write_folder(out: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], parent: Receipt) -> Path:
    """Write the folder, which appears when it is complete.

    Raises:
        ConflictError: ``folder_taken``: it holds something else.
        NotAllowedError, UnavailableError: the file system refused; nothing is left behind.
    """
    place = absolute(out)
    may_fill(place, force=False)
    document = {**config, "base_model_name_or_path": parent.reference}
    with telling_unwritable(place), staged_folder(place) as staging:
        text = json.dumps(document, indent=2, sort_keys=True)
        (staging / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")
        save_file(dict(tensors), staging / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        trained_on = staging / parent.reference
        trained_on.mkdir(parents=True)
        (trained_on / RECEIPT).write_bytes(write_receipt(parent))
        put_in_place(staging, place, replace=False)
    return place
