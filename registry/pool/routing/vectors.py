"""Directions in a space of embeddings, and the text of an annotation that holds one."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

import numpy as np
import torch

from registry.errors import UsageError
from registry.schemas.texts import MAX_TEXT

_FORM: Final = re.compile(r"f16:([1-9][0-9]{0,5}):([A-Za-z0-9+/]+={0,2})")
_MOST: Final = (MAX_TEXT - len("f16:99999:")) // 4 * 3 // 2
"""Numbers that fit into an annotation."""


def directions(embeddings: Any, count: int) -> torch.Tensor:
    """Embeddings as directions, ``(rows, numbers)`` of length 1 in float64 on the CPU.

    Raises:
        UsageError: they are not ``count`` rows of finite numbers, or one of them is zero and has no direction.
    """
    try:
        given = embeddings if isinstance(embeddings, torch.Tensor) else np.asarray(embeddings)
        found: torch.Tensor = torch.as_tensor(given).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError("The embedding gave no matrix of numbers, one row for each example.") from None
    if found.dim() != 2 or found.shape[0] != count or not found.shape[1]:
        raise UsageError(f"The embedding gave the shape {tuple(found.shape)} for {count} examples, not a row for each.")
    lengths = found.norm(dim=1, keepdim=True)
    for row in (~torch.isfinite(lengths) | (lengths == 0)).flatten().nonzero().flatten().tolist():
        raise UsageError(f"The embedding of example {row} has no direction: it is zero, or not finite.")
    return found.div(lengths)


def centroid(found: torch.Tensor) -> torch.Tensor:
    """The direction of the mean of directions ``(rows, numbers)``.

    Raises:
        UsageError: there are none, or they cancel each other out.
    """
    if not len(found):
        raise UsageError("A centroid needs at least one example.")
    mean = found.mean(dim=0)
    length = float(mean.norm())
    if length < 1e-3:  # what is left is rounding, or chance
        raise UsageError("The embeddings of the examples cancel each other out, so that their mean has no direction.")
    return mean / length


def to_text(direction: torch.Tensor) -> str:
    """A direction as the text of an annotation: ``f16:``, how many numbers, ``:``, base64 of them, little-endian.

    Half precision moves a cosine by less than 0.0005, and makes half the text.

    Raises:
        UsageError: an annotation can't hold as many numbers.
    """
    if len(direction) > _MOST:
        raise UsageError(f"The embedding has {len(direction)} numbers, and an annotation holds {_MOST}; shorten it.")
    data = direction.to(torch.float16).numpy().astype("<f2").tobytes()
    return f"f16:{len(direction)}:{base64.b64encode(data).decode()}"


def from_text(text: str) -> torch.Tensor:
    """The direction in a text, of length 1 in float64.

    Raises:
        ValueError: with what is wrong with the text.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError("it has another form than f16:COUNT:BASE64")
    try:
        data = base64.b64decode(form[2], validate=True)
    except binascii.Error:
        raise ValueError("its base64 is damaged") from None
    if len(data) != 2 * int(form[1]):
        raise ValueError(f"it says {form[1]} numbers and holds {len(data) / 2:g}")
    found: torch.Tensor = torch.from_numpy(np.frombuffer(data, "<f2").astype(np.float64))
    length = found.norm()
    if not torch.isfinite(length) or length == 0:
        raise ValueError("its numbers are zero, or not finite")
    return found.div(length)
