"""What is known of a full fine-tune from its configuration and its index: whether it fits its base model."""

from __future__ import annotations

from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.source import ByteSource
from registry.files.strict_json import MAX_SETTINGS, parse
from registry.folders.scan import EXACT_WEIGHTS, MODEL_CONFIG
from registry.services.lineage import Blobs, LoadedPath, read_document, target_table
from registry.tensors.checkpoint.adapter import Checkpoint, LoraAdapterConfig
from registry.tensors.exact.file_format import ExactIndex, read_index
from registry.tensors.exact.fit import check_fit, shapes_in
from registry.transfer.index import plain_of

MAX_CONFIG: Final = 8 << 20


def exact_config(data: bytes) -> LoraAdapterConfig:
    """The model's config.json in the place of an adapter's configuration: it says nothing about pairs.

    Raises:
        InvalidAdapterError: ``bad_config``.
    """
    document = parse(
        data,
        what=MODEL_CONFIG,
        limit=MAX_CONFIG,
        error=InvalidAdapterError,
        code="bad_config",
        brackets=MAX_SETTINGS,
    )
    if not isinstance(document, dict):
        raise InvalidAdapterError(f"{MODEL_CONFIG} is not a JSON object.", code="bad_config")
    if document.get("quantization_config"):
        raise InvalidAdapterError(
            f"{MODEL_CONFIG} says that the model is quantised (quantization_config): publish the weights that it was "
            "quantised from.",
            code="bad_config",
        )
    return LoraAdapterConfig(document=document, r=0, lora_alpha=0)


def as_checkpoint(config: LoraAdapterConfig) -> Checkpoint:
    """What a full fine-tune does as an adapter: nothing."""
    return Checkpoint(config, pairs={}, values={}, tokens={}, copies={}, notices=())


def fitting_index(blobs: Blobs, parent: LoadedPath, weights: ByteSource, config: LoraAdapterConfig) -> ExactIndex:
    """The index of an exact file, which fits the base model of its parent.

    Raises:
        InvalidAdapterError: ``bad_exact``, ``quantised_base``, or what `registry.tensors.exact.fit.check_fit` raises.
    """
    index = read_index(weights, what=EXACT_WEIGHTS, error=InvalidAdapterError)
    found = {name: (entry.dtype, entry.shape) for name, entry in index.entries.items()}
    document = read_document(blobs, parent.base.index)
    if plain_of(document) is not None:
        raise InvalidAdapterError(
            f"{parent.base.name} is a quantised base model, and a full fine-tune is kept as what differs from the "
            "bytes of an unquantised one. Add the model that it was made from and publish under that, or publish what "
            "training changed as an adapter: --full --rank N.",
            code="quantised_base",
        )
    base = shapes_in(document)
    check_fit(found, base, target_table(blobs, parent.base), config.document)
    return index
