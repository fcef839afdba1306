"""Tensors that PEFT saves twice, such as those of two modules that share a weight: both must hold the same numbers."""

from __future__ import annotations

from typing import Final

import torch

from registry.errors import InvalidAdapterError
from registry.files.source import ByteSource
from registry.tensors.checkpoint.adapter import Checkpoint, Twin
from registry.tensors.factors.matrices import read_rows
from registry.tensors.factors.slots import as_matrix

_STEP: Final = 4096


def check_twins(checkpoint: Checkpoint, source: ByteSource) -> None:
    """Compare every tensor with its twin.

    Raises:
        InvalidAdapterError: ``tied_partial``, naming both.
    """
    for twin in checkpoint.twins:
        if not _equal(twin, source):
            raise InvalidAdapterError(
                f"The tensors {twin.first.name!r} and {twin.second.name!r} are the same weight, but contain different "
                "numbers. Save the adapter again.",
                code="tied_partial",
            )


def _equal(twin: Twin, source: ByteSource) -> bool:
    rows, _ = as_matrix(twin.second.shape)
    whole = read_rows(source, twin.first, 0, twin.first.shape[0]).T if twin.transposed else None
    for start in range(0, rows, _STEP):
        stop = min(start + _STEP, rows)
        first = read_rows(source, twin.first, start, stop) if whole is None else whole[start:stop]
        if not torch.equal(first.double(), read_rows(source, twin.second, start, stop).double()):
            return False
    return True
