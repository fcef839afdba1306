"""The base's tensors as matrices: where slots start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch

from registry.files.header import TensorEntry
from registry.files.source import ByteSource
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.kernel import sum_dtype
from registry.tensors.checkpoint.factors import read_rows
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import KeptFactors, MatrixRows, SlotValues
from registry.tensors.path.steps import Add, gathered
from registry.tensors.quantised.source import decoded_in
from registry.tensors.table.parameters import Run
from registry.tensors.table.slots import Slot


@dataclass(frozen=True)
class BaseTensors:
    """Every tensor of a base model, and the open file that holds it."""

    tensors: Mapping[str, tuple[ByteSource, TensorEntry]]

    def entry(self, tensor: str) -> TensorEntry:
        """What a tensor is, and its place in its file."""
        return self.tensors[tensor][1]

    def rows(self, slot: Slot) -> MatrixRows:
        """Reader of a slot's stored rows, in its `exact_dtype`; nobody may change what it gives."""

        def of_run(run: Run, start: int, stop: int) -> torch.Tensor:
            source, entry = self.tensors[run.tensor]
            return read_rows(source, entry, run.first + start, run.first + stop, columns=slot.columns, shared=True)

        def read(start: int, stop: int) -> torch.Tensor:
            return gathered(slot.places, of_run, start, stop)

        return read

    def dtype(self, slot: Slot) -> torch.dtype:
        """That which the base's files give the rows of a slot; the widest where they lie in several tensors."""
        found = [FLOATS[self.entry(run.tensor).dtype] for run in slot.places]
        return reduce(torch.promote_types, found)

    def exact_dtype(self, slot: Slot) -> torch.dtype:
        """That of what `rows` reads, which holds its values exactly: wider than `dtype` where a base is quantised."""
        return reduce(torch.promote_types, (self._exact_dtype(run.tensor) for run in slot.places))

    def _exact_dtype(self, tensor: str) -> torch.dtype:
        source, entry = self.tensors[tensor]
        decoded = decoded_in(source, entry.name)
        return FLOATS[entry.dtype] if decoded is None else decoded.dtype

    def holds_whole(self, slot: Slot) -> bool:
        """Whether a slot is a whole tensor of the files."""
        held = self.tensors.get(slot.tensor)
        return held is not None and len(slot.places) == 1 and slot.rows * slot.columns == held[1].elements

    def size(self, tensor: str) -> int:
        """Bytes of a tensor."""
        entry = self.entry(tensor)
        return entry.stop - entry.start

    def values(
        self,
        program: Program,
        out_dtype: torch.dtype,
        *,
        kept: KeptFactors | None = None,
        merge_products: bool = True,
        rows_a_block: int | None = None,
    ) -> SlotValues:
        """The values of a program's slot, in float64 where the base or the output is float64, else in float32.

        So they are where factors are computed in float64: what is written then is one rounding of these.

        Quantised weights that only float64 holds are summed in it for an output in float32; for one in 16 bits they are
        rounded to odd into float32 first, which leaves its rounding what it would be.
        """
        origin: MatrixRows = _no_rows
        dtypes = [out_dtype]
        if any(isinstance(step, Add) and step.pair.is_computed for step in program.steps):
            dtypes.append(torch.float64)
        if program.origin is not None:
            origin = self.rows(program.origin)
            dtypes.append(self.dtype(program.origin))
            if out_dtype is torch.float32:
                dtypes.append(self.exact_dtype(program.origin))
        return SlotValues(
            program.slot,
            origin,
            program.steps,
            sum_dtype(*dtypes),
            kept,
            merge_products=merge_products,
            rows_a_block=rows_a_block,
            beside=lambda one: self.values(Program(one.slot, one.steps, one.origin), out_dtype),
        )


def _no_rows(start: int, stop: int) -> torch.Tensor:
    raise AssertionError(f"rows {start} to {stop} of a tensor that the base lacks: it starts with a replacement")
