"""The base's tensors as matrices: where slots start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from registry.tensors.arithmetic.rounding import sum_dtype
from registry.tensors.factors.matrices import read_rows
from registry.tensors.factors.slots import Slot
from registry.tensors.files.dtypes import FLOATS
from registry.tensors.files.header import TensorEntry
from registry.tensors.files.source import ByteSource
from registry.tensors.path.kept_factors import KeptFactors
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import MatrixRows, SlotValues


@dataclass(frozen=True)
class BaseTensors:
    """Every tensor of a base model, and the open file that holds it."""

    tensors: Mapping[str, tuple[ByteSource, TensorEntry]]

    def entry(self, tensor: str) -> TensorEntry:
        """What a tensor is, and its place in its file."""
        return self.tensors[tensor][1]

    def rows(self, slot: Slot) -> MatrixRows:
        """Reader of a slot's stored rows, in the dtype that the base keeps them in; nobody may change what it gives."""
        source, entry = self.tensors[slot.tensor]

        def read(start: int, stop: int) -> torch.Tensor:
            first, last = slot.first + start, slot.first + stop
            return read_rows(source, entry, first, last, columns=slot.columns, shared=True)

        return read

    def values(
        self,
        program: Program,
        out_dtype: torch.dtype,
        *,
        kept: KeptFactors | None = None,
        merge_products: bool = True,
    ) -> SlotValues:
        """The values of a program's slot, in float64 where the base or the output is float64, else in float32."""
        origin: MatrixRows = _no_rows
        dtypes = [out_dtype]
        if program.origin is not None:
            origin = self.rows(program.origin)
            dtypes.append(FLOATS[self.entry(program.origin.tensor).dtype])
        return SlotValues(program.slot, origin, program.steps, sum_dtype(*dtypes), kept, merge_products=merge_products)


def _no_rows(start: int, stop: int) -> torch.Tensor:
    raise AssertionError(f"rows {start} to {stop} of a tensor that the base lacks: it starts with a replacement")
