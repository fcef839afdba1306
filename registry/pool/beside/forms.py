"""How modules of a running model multiply by their weights, and which of them treat the rows of a batch apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final

import torch
from torch import nn

_SOME_TOKENS: Final = re.compile(r"(^|\.)experts\.")  # modules of one expert get the tokens that are sent there
_RELATIVE: Final = re.compile("relat|rel_|distance|bias")  # embeddings of pairs of positions have no rows
_CONVS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Form(Enum):
    """How a module multiplies by its weight."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    CONV = "convolution"


def form_of(module: nn.Module) -> Form | None:
    """The form of a module; None where its class does something of its own with the weight."""
    kind = type(module)
    if isinstance(module, nn.Linear) and kind.forward is nn.Linear.forward:
        return Form.LINEAR
    if is_conv1d(module):
        return Form.LINEAR
    if isinstance(module, nn.Embedding) and module.max_norm is None:
        known = kind.forward is nn.Embedding.forward or is_scaled(kind)
        return Form.EMBEDDING if known else None
    if isinstance(module, _CONVS) and not isinstance(module, nn.modules.conv._ConvTransposeNd):
        plain = kind in _CONVS and module.groups == 1 and module.padding_mode == "zeros"
        return Form.CONV if plain else None
    return None


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' ``Conv1D``, a linear module whose weight is stored as (in, out)."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def is_scaled(kind: type[nn.Module]) -> bool:
    """Whether a class of embeddings multiplies what it looks up with its ``embed_scale``."""
    return kind.__name__.endswith("ScaledWordEmbedding") and kind.__module__.startswith("transformers.models.")


def is_by_row(name: str, module: nn.Module, inputs: Iterable[object]) -> bool:
    """Whether each row of the output comes from the same row of the inputs alone, and these are rows of the batch."""
    if any(True for one in module.children() if any(True for _ in one.parameters())) or _SOME_TOKENS.search(name):
        return False
    first, *others = (one for one in inputs if isinstance(one, torch.Tensor))
    if any(one.dim() and one.shape[0] not in (1, first.shape[0]) for one in others):
        return False
    if isinstance(module, nn.Embedding):
        return not _RELATIVE.search(name.rpartition(".")[2])
    if isinstance(module, _CONVS):
        return first.dim() == len(module.kernel_size) + 2
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return not module.training
    kind = type(module)
    experts = kind.__name__.endswith("Experts") and kind.__module__.startswith("transformers.models.")
    known = isinstance(module, nn.Linear | nn.LayerNorm | nn.GroupNorm) or is_conv1d(module)
    return known or kind.__name__.endswith("Norm") or experts


def rows_elsewhere(model: nn.Module) -> str | None:
    """A module that keeps the rows of a batch in another dimension than the first; None: there is none."""
    for name, module in model.named_modules():
        if getattr(module, "batch_first", True) is False:
            return f"{name!r} ({type(module).__name__}, batch_first=False)"
    return None
