"""The loss of each sibling: the model's own loss function on that one's rows, so that means are over these alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import nn

from registry.errors import UsageError
from registry.pool.siblings.rows import Rows

Loss = Callable[[torch.Tensor, Any], torch.Tensor]
"""From the outputs and the labels of one sibling's rows."""

_OWN: Final = frozenset(
    {"ForCausalLM", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForImageClassification"}
)
"""Losses of transformers that are computed from logits and labels alone."""


def own_loss(model: nn.Module) -> Loss | None:
    """The model's own loss function; None: it has none that is known to need logits and labels alone."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "loss_function") or not _is_known(model):
        return None
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(config, "vocab_size", None) or getattr(text, "vocab_size", None)

    def loss(logits: torch.Tensor, labels: Any) -> torch.Tensor:
        # every loss function takes what it needs of these by name
        compute: Callable[..., object] = getattr(model, "loss_function")  # noqa: B009 - a property of transformers' models
        found = compute(logits=logits, pooled_logits=logits, labels=labels, config=config, vocab_size=size)
        return _scalar(found)

    return loss


def _is_known(model: nn.Module) -> bool:
    kind = getattr(model, "loss_type", None)
    if kind is not None:
        return kind in _OWN
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # GPT2LMHeadModel and its like, whose names don't say it
    return type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def losses_by_sibling(rows: Rows, outputs: object, labels: Any, loss: Loss) -> dict[str, torch.Tensor]:
    """The loss of each sibling that has rows in a batch.

    Args:
        rows: the batch.
        outputs: the logits, or what has them as ``logits`` or under that name.
        labels: a tensor, or tensors by name, with an entry a row.
        loss: from one sibling's outputs and labels to a number.

    Raises:
        UsageError: outputs or labels have another number of rows.
    """
    logits = outputs if isinstance(outputs, torch.Tensor) else _logits(outputs)
    parts = rows.by_name(_checked(rows, "The outputs", logits))
    if isinstance(labels, torch.Tensor):
        _checked(rows, "The labels", labels)
    said = rows.by_name(labels)
    return {name: _scalar(loss(parts[name], said[name])) for name in parts}


def _logits(outputs: object) -> torch.Tensor:
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if not isinstance(found, torch.Tensor):
        raise UsageError("The model's outputs have no logits: give siblings the tensor that its loss is computed from.")
    return found


def _checked(rows: Rows, what: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.shape[:1] != (rows.count,):
        raise UsageError(f"{what} are of the shape {list(tensor.shape)}, where {rows.count} rows are expected.")
    return tensor


def _scalar(found: object) -> torch.Tensor:
    if not isinstance(found, torch.Tensor) or found.numel() != 1:
        raise UsageError("A loss is expected to be one number for the rows of one sibling.")
    return found.reshape(())
