"""The folder of a trained sibling: what PEFT writes, and the receipt that pins the revision it was trained on.

The receipt lies in a folder below, named as that revision, and the configuration says that the adapter was trained on
it: so `publish` finds the parent as for an adapter that was trained on a fetched model, wherever the folder is copied.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from registry.folders.local_files import telling_unwritable
from registry.folders.output import absolute, may_fill
from registry.folders.receipts import write_receipt
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RECEIPT
from registry.folders.staging import put_in_place, staged_folder
from registry.pool.beside.forms import is_conv1d
from registry.pool.checked_base import PoolRegistry
from registry.pool.siblings.recipe import Recipe
from registry.schemas import Dtype, Options
from registry.schemas.receipt import Receipt
from registry.services.artifacts.load import described
from registry.services.artifacts.plan import make_plan
from registry.services.local_merge import path_of
from registry.tensors.artifacts.artifact import Artifact
from registry.tensors.checkpoint.coverage import saved_names
from registry.transfer.receipt_check import receipt_of

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
