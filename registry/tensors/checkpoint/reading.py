"""A PEFT LoRA checkpoint held against the base model that it belongs to.

From names, dtypes and shapes alone: no weight is read. Each variant of LoRA folds its tensors into the normal form of
`registry.tensors.checkpoint.adapter`, in the order of the table; whatever is left has no place and is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.tensors.checkpoint.adapter import Checkpoint, LoraPair, NewValue, TokenRows, Twin
from registry.tensors.checkpoint.adapter_config import LoraAdapterConfig
from registry.tensors.checkpoint.coverage import check_coverage
from registry.tensors.checkpoint.parts import sort_parts
from registry.tensors.checkpoint.untargeted import untargeted_notice, untargeted_pairs
from registry.tensors.checkpoint.variants.draft import Draft
from registry.tensors.checkpoint.variants.table import VARIANTS
from registry.tensors.table.targets import TargetTable

__all__ = ["Checkpoint", "LoraPair", "NewValue", "TokenRows", "Twin", "read_checkpoint"]

NO_PAIRS = "dummy-target-modules"
"""What target_modules is when an adapter has no pairs on purpose (PEFT's ``DUMMY_TARGET_MODULES``)."""


def read_checkpoint(config: LoraAdapterConfig, tensors: Mapping[str, TensorEntry], table: TargetTable) -> Checkpoint:
    """Check an adapter's tensors against its configuration and its base.

    Args:
        config: the adapter's configuration.
        tensors: the tensors of adapter_model.safetensors by name.
        table: the target table of the base model.

    Returns:
        What the adapter does to its base, and notices for people. That `Checkpoint.copies` equal the composed parent,
        and each of `Checkpoint.twins` the other, is for the caller to check, and so is whether an adapter may have
        `Checkpoint.untargeted` pairs.

    Raises:
        InvalidAdapterError: naming the tensor, module or field; the code says which rule it was.
    """
    parts, whole = sort_parts(tensors, table.targets)
    draft = Draft(config, table, parts, whole, [])
    for variant in VARIANTS:
        if variant.fold is not None:
            variant.fold(draft)
    _check_something(draft)
    for variant in VARIANTS:
        if variant.finish is not None:
            variant.finish(draft)
    draft.notices += draft.scales.notices()
    draft.notices += check_coverage(config, table, draft.adapted, draft.budget)
    asked = {name: pair for name, pair in draft.asked.items() if pair.target.module not in draft.implied}
    untargeted = untargeted_pairs(config, table, asked, draft.budget)
    if untargeted:
        draft.notices.append(untargeted_notice(untargeted))
    return replace(draft.checkpoint(), untargeted=tuple(untargeted))


def _check_something(draft: Draft) -> None:
    if draft.pairs or (draft.config.target_modules == NO_PAIRS and (draft.values or draft.tokens)):
        return
    raise InvalidAdapterError(
        "The adapter contains no LoRA pair, so there is nothing to add to the base. Save the adapter again.",
        code="incomplete_adapter",
    )
