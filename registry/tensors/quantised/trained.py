"""The base model as it was while an adapter was trained on it in 4 bits: linear modules quantised, and made numbers.

It is a model like any other to what reads it: the same files, headers and names. What a quantised module multiplied
with is dequant(Q(W)), rounded once to the dtype that the base is stored in: what bitsandbytes hands to the product. The
head, tied weights, embeddings, norms, experts in three dimensions and what the training left out stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from registry.errors import UsageError
from registry.files.header import TensorEntry
from registry.files.model_weights import ModelWeights
from registry.files.source import ByteSource, JoinedSource
from registry.schemas.artifacts import FourBits
from registry.tensors.arithmetic.rounding import round_into
from registry.tensors.elements.dtypes import FLOATS
from registry.tensors.quantised.nf4 import STEP, FourBitWeight, Recent
from registry.tensors.table.targets import Target, TargetKind, TargetTable


def quantised_modules(table: TargetTable, how: FourBits) -> Iterator[Target]:
    """The linear modules of a base model that a training quantises: not the head, nor what is tied or skipped."""
    for module, target in table.targets.items():
        linear = target.kind in (TargetKind.LINEAR, TargetKind.CONV1D)
        tied = target.tie is not None or len(table.tie_group(module)) > 1
        if linear and not tied and module != table.output_module and not _skipped(module, how.skip):
            yield target


def _skipped(module: str, skip: tuple[str, ...]) -> bool:
    """As transformers matches names: from the start up to a dot, or at the end."""
    return any(module == name or module.startswith(f"{name}.") or module.endswith(name) for name in skip)


def trained_weights(weights: ModelWeights, table: TargetTable, how: FourBits) -> ModelWeights:
    """The weights of a base model as they were in training.

    Raises:
        UsageError: it is not known which modules are linear, or one is not kept as the matrix that is quantised.
    """
    wanted = {_matrix(target, table): target.module for target in quantised_modules(table, how)}
    recent = Recent()
    found = dict(weights.tensors)
    made = dict(weights.made)
    for path, header in weights.headers.items():
        if not wanted.keys() & header.entries.keys():
            continue
        joined = JoinedSource(path)
        first = weights.tensors[next(iter(header.entries))][0]
        joined.add(first, 0, header.size)
        for name, entry in header.entries.items():
            source = weights.tensors[name][0]
            if name in wanted:
                joined.add(TrainedTensor(source, entry, how, recent), 0, entry.stop - entry.start)
            else:
                joined.add(source, entry.start, entry.stop - entry.start)
        made[path] = joined
        found.update({name: (joined, entry) for name, entry in header.entries.items()})
    return ModelWeights(weights.headers, found, made)


def _matrix(target: Target, table: TargetTable) -> str:
    """The tensor that is a module's weight, (out, in) as it is quantised."""
    what = f"{target.module!r} was quantised in training"
    if not table.knows_kind(target):
        raise UsageError(
            f"--onto trained needs to know which modules are linear, and {target.module!r} may be an embedding: the "
            "table of the base model was made from its tensors' names. `registry base retable` makes it from its code."
        )
    if target.kind is not TargetKind.LINEAR or target.tensor is None:
        raise UsageError(
            f"{what}, and the files of the base model don't hold its weight as one matrix (out, in), so --onto trained "
            "can't make it: leave the option out."
        )
    return target.tensor


def weight_of(source: ByteSource, entry: TensorEntry, how: FourBits, recent: Recent | None = None) -> FourBitWeight:
    """A stored matrix as it was in training."""
    dtype = FLOATS[entry.dtype]

    def read(first: int, last: int) -> torch.Tensor:
        data = torch.empty(last - first, dtype=dtype)
        source.read_into(entry.start + first * dtype.itemsize, data.view(torch.uint8).numpy().data)
        return data.to(torch.float32)

    return FourBitWeight(how, (entry.stop - entry.start) // dtype.itemsize, read, recent)


class TrainedTensor:
    """The bytes of a tensor as it was in training, in the dtype that it is stored in."""

    def __init__(self, source: ByteSource, entry: TensorEntry, how: FourBits, recent: Recent) -> None:
        self._weight = weight_of(source, entry, how, recent)
        self._dtype = FLOATS[entry.dtype]
        self.size = entry.stop - entry.start

    def read_into(self, offset: int, buffer: memoryview) -> None:
        item, stop = self._dtype.itemsize, offset + len(buffer)
        for first in range(offset // item, -(-stop // item), STEP):
            last = min(first + STEP, -(-stop // item))
            values = torch.empty(last - first, dtype=self._dtype)
            round_into(values, self._weight.values(first, last))
            data = values.view(torch.uint8).numpy().data
            start, end = max(offset, first * item), min(stop, last * item)
            buffer[start - offset : end - offset] = data[start - first * item : end - first * item]


def matrices_of(table: TargetTable, how: FourBits) -> dict[str, str]:
    """The tensors of the modules that a training quantises, by module: those that the files hold as one matrix."""
    return {
        target.module: target.tensor
        for target in quantised_modules(table, how)
        if target.kind is TargetKind.LINEAR and target.tensor is not None and table.knows_kind(target)
    }


def energy_of_error(weights: ModelWeights, tensor: str, how: FourBits) -> float:
    """The energy of what quantising changes of a tensor, which is read once in order, twice if its scales are, too."""
    return weight_of(*weights.tensors[tensor], how).error()
