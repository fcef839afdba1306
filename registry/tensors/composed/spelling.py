"""The tensors of a composed adapter and their names, spelled as its links and PEFT spell them.

A model without a head names the modules of the same base without the base model prefix (``layers.0.fc`` and
``model.layers.0.fc``), and PEFT finds none of an adapter's modules under the other name. The table knows the names of
one class alone, which need not be the class that was trained.

PEFT names what a wrapper holds behind ``base_layer``. Each tensor is made by blocks of rows when it is read: token rows
as their last writer left them, and fused parameters of experts that a path replaces from where the files keep them. A
replacement is retained only if files and running model have the same orientation (`registry.tensors.path.programs`), so
the pieces one after another are the rows of the parameter, seen as (experts * rows, columns).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch

from registry.files.header import TensorEntry, write_header
from registry.files.source import ByteSource, read_range
from registry.tensors.arithmetic.dtypes import TORCH
from registry.tensors.arithmetic.kernel import block_rows, rounded
from registry.tensors.artifacts.artifact import ArtifactFile, Buffer, Region, bytes_region
from registry.tensors.artifacts.merged import as_buffer, overflow
from registry.tensors.composed.forms import Forms
from registry.tensors.path.programs import BoundLink, Program
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import SetRows
from registry.tensors.table.parameters import FusedParameter
from registry.tensors.table.slots import as_matrix
from registry.tensors.table.targets import TargetTable

WEIGHTS: Final = "adapter_model.safetensors"
LEAD: Final = "base_model.model."

Rows = Callable[[int, int], torch.Tensor]
"""Rows start to stop of a tensor that is seen as a matrix, in the precision of sums."""


@dataclass(frozen=True)
class AdapterTensor:
    """One tensor: its name, its shape, and any rows of it; rows are requested on the grid of its blocks."""

    name: str
    shape: tuple[int, ...]
    rows: Rows
    columns: int | None = None  # of the matrix as which it is seen; None: as `as_matrix` sees its shape
    dtype: str | None = None  # of what is written unchanged: whole numbers, an alpha; None: that of the file

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns) as which `rows` gives it."""
        if self.columns is None:
            return as_matrix(self.shape)
        return math.prod(self.shape) // self.columns, self.columns


def whole_value(name: str, shape: tuple[int, ...], values: SlotValues) -> AdapterTensor:
    """A tensor that holds all the values of a slot."""

    def rows(start: int, stop: int) -> torch.Tensor:
        block = values.block(start // values.rows_a_block)
        if block.shape[0] != stop - start:
            raise AssertionError("values are read on the grid of their blocks")
        return block

    return AdapterTensor(name, shape, rows)


def stored_value(name: str, source: ByteSource, entry: TensorEntry) -> AdapterTensor:
    """Whole numbers as the base has them: indices, masks, counts."""
    columns, dtype = as_matrix(entry.shape)[1], TORCH[entry.dtype]
    row = columns * dtype.itemsize

    def rows(start: int, stop: int) -> torch.Tensor:
        data = read_range(source, entry.start + start * row, entry.start + stop * row)
        return torch.frombuffer(data, dtype=dtype).view(stop - start, columns)

    return AdapterTensor(name, entry.shape, rows, dtype=entry.dtype)


def turned(tensor: AdapterTensor, name: str) -> AdapterTensor:
    """The transpose of a matrix, under another name, number for number."""
    rows, columns = tensor.matrix

    def read(start: int, stop: int) -> torch.Tensor:
        step = block_rows(rows, columns)
        parts = [tensor.rows(first, min(first + step, rows))[:, start:stop] for first in range(0, rows, step)]
        return torch.cat(parts).T.contiguous()

    return AdapterTensor(name, (columns, rows), read)


def weights_file(
    tensors: Sequence[AdapterTensor],
    dtype: str,
    path: str = WEIGHTS,
    metadata: Mapping[str, str] = MappingProxyType({"format": "pt"}),
) -> ArtifactFile:
    """A file with these tensors, by name, weights all in one dtype (``F32``)."""
    in_order = sorted(tensors, key=lambda tensor: tensor.name)
    listed = ((tensor.name, tensor.dtype or dtype, tensor.shape) for tensor in in_order)
    lead, header = write_header(listed, metadata)
    regions = [bytes_region(0, lead)]
    for tensor in in_order:
        entry = header.entries[tensor.name]
        regions.append(tensor_region(tensor, entry.start, entry.dtype))
    return ArtifactFile(path, regions, header)


def tensor_region(tensor: AdapterTensor, start: int, dtype: str) -> Region:
    """The numbers of a tensor from byte ``start`` of a file on, in a dtype (``F32``)."""
    rows, columns = tensor.matrix
    step, row_bytes = block_rows(rows, columns), columns * TORCH[dtype].itemsize
    return Region(start, start + rows * row_bytes, step * row_bytes, _maker(tensor, step, TORCH[dtype]))


def _maker(tensor: AdapterTensor, step: int, dtype: torch.dtype) -> Callable[[int], Buffer]:
    rows, _ = tensor.matrix

    def make(index: int) -> Buffer:
        found = tensor.rows(index * step, min((index + 1) * step, rows))
        values = found if tensor.dtype else rounded(found, dtype)
        if values is None:
            raise overflow(tensor.name, dtype, found)
        return as_buffer(values)

    return make


class WrappedNames:
    """Names in the adapter's file of modules and parameters of the base, once all is sorted into forms."""

    def __init__(self, forms: Forms, table: TargetTable) -> None:
        self._forms = forms
        # each parameter that is adapted by its name gets a wrapper of its own
        by_name = [path.rpartition(".")[0] for path in forms.named.values()]
        by_module = [target.module for target, _ in forms.pairs if target.module not in forms.named]
        self._wrappers = Counter(by_name + by_module)
        self._wrappers.update({module: len(adapted) for module, adapted in forms.experts.items()})
        # also around the other side of a tie
        self._tokens = {side for module in forms.tokens for side in table.tie_group(module)}

    def path(self, module: str) -> str:
        """A module's path through the wrappers of those that it is in."""
        found, start = "", 0
        for at in (at for at, letter in enumerate(module) if letter == "."):
            found += module[start:at] + ".base_layer" * self._wrappers[module[:at]]
            start = at
        return found + module[start:]

    def parameter(self, name: str) -> str:
        """The name of the tensor that holds a whole parameter."""
        module, _, leaf = name.rpartition(".")
        inside = self._around(module) if self._forms.is_bias(name) else ""  # what is saved whole is not adapted
        return f"{LEAD}{self.path(module)}{inside}.{leaf}" if module else LEAD + leaf

    def _around(self, module: str) -> str:
        if module in self._tokens:
            return ".token_adapter.base_layer"
        return ".base_layer" * self._wrappers[module]


def whole_experts(name: str, fused: FusedParameter, pieces: Sequence[SlotValues]) -> AdapterTensor:
    """The whole parameter.

    Args:
        name: of the tensor.
        fused: the parameter.
        pieces: the values of its pieces, by expert, then by output feature.
    """
    sizes = (fused.out_features, fused.in_features)
    shape = (fused.experts, *(reversed(sizes) if fused.transposed else sizes))

    def rows(start: int, stop: int) -> torch.Tensor:
        parts, at = [], 0
        for values in pieces:
            first, last = max(start, at), min(stop, at + values.slot.rows)
            if first < last:
                parts.append(_slot_rows(values, first - at, last - at))
            at += values.slot.rows
        return torch.cat(parts)

    return AdapterTensor(name, shape, rows, columns=shape[2])


def _slot_rows(values: SlotValues, start: int, stop: int) -> torch.Tensor:
    """Any rows of a slot, cut out of whole blocks of its grid."""
    step = values.rows_a_block
    first = start // step
    blocks = torch.cat([values.block(index) for index in range(first, -(-stop // step))])
    return blocks[start - first * step : stop - first * step]


def rows_of(program: Program, since: int) -> dict[int, tuple[SetRows, int]]:
    """Token -> where its row is; the last writer wins."""
    found: dict[int, tuple[SetRows, int]] = {}
    for step in program.since(since):
        if isinstance(step, SetRows):
            found.update({row: (step, at) for at, row in enumerate(step.rows)})
    return dict(sorted(found.items()))


def token_tensor(module: str, rows: Mapping[int, tuple[SetRows, int]]) -> AdapterTensor:
    """The tensor of a module's token rows, as PEFT names it."""
    columns = next(iter(rows.values()))[0].entry.shape[1]

    def read(start: int, stop: int) -> torch.Tensor:
        wanted = list(rows.values())[start:stop]
        whole = {step.link: step.read() for step, _ in wanted}
        wide = torch.float64 if any(values.dtype is torch.float64 for values in whole.values()) else torch.float32
        return torch.stack([whole[step.link][at].to(wide) for step, at in wanted])

    return AdapterTensor(f"{LEAD}{module}.token_adapter.trainable_tokens_delta", (len(rows), columns), read)


Spelling = Callable[[str], str]


def spelling_of(links: Sequence[BoundLink], names: Collection[str], table: TargetTable) -> Spelling:
    """Turns the table's name of a module or a tensor into the one that the links have.

    Args:
        links: those that the adapter holds, root first; the youngest that shows the difference decides.
        names: all names that are to be spelled. Where a model without a head can't have one of them (``lm_head``), the
            adapter is one of the model with a head.
        table: the base's target table.
    """
    lead = f"{table.prefix}."
    told = (found for link in reversed(links) if (found := _told(link, lead)) is not None)
    by = next(told, 0) if table.prefix else 0
    if by < 0 and all(name.startswith(lead) for name in names):
        return lambda name: name.removeprefix(lead)
    if by > 0:
        # a head that the base lacks lies outside the prefix
        roots = {name.partition(".")[0] for name in (*table.targets, *table.parameters)}
        return lambda name: lead + name if name.partition(".")[0] in roots else name
    return lambda name: name


def _told(link: BoundLink, lead: str) -> int | None:
    """1: the link has the prefix before the table's names, -1: it lacks it, 0: neither; None: it can't be seen."""
    for name, spelled in _names(link):
        for found, by in ((name, 0), (lead + name, 1), (name.removeprefix(lead), -1)):
            if spelled == found or spelled.startswith(f"{found}."):
                return by
    return None


def _names(link: BoundLink) -> Iterator[tuple[str, str]]:
    """The table's name of what a link changes, and the name of the tensor that does it."""
    checkpoint = link.checkpoint
    for pair in checkpoint.pairs.values():
        yield pair.target.module, pair.a.name.removeprefix(LEAD)
    for rows in checkpoint.tokens.values():
        yield rows.target.module, rows.entry.name.removeprefix(LEAD)
    for value in checkpoint.values.values():
        yield value.parameter.rpartition(".")[0], value.entry.name.removeprefix(LEAD)
