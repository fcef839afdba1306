"""The base model as it was while an adapter was trained on it in 4 bits: quantised as bitsandbytes does it.

It is a model like any other to what reads it: the same files, headers and names. What a quantised module multiplied
with is dequant(Q(W)), rounded once to the dtype that the base is stored in: what bitsandbytes hands to the product. The
head, tied weights, embeddings, norms, experts in three dimensions and what the training left out stay as they are.

Weights are quantised and made numbers again from the definition alone, in float32 throughout. A block of consecutive
elements of the flat weight (out, in) is divided by its largest magnitude and each element takes the nearest of 16
values; *double quantisation* keeps these magnitudes in 8 bits, less their mean, by the nearest of 256 values (Dettmers
and others, arXiv:2305.14314 and 2110.02861). Codes and scales are bit for bit those of the library's own torch code;
its kernels take a neighbouring value of the 256 in less than a percent of the blocks. The mean is the exact one,
rounded once, so that no thread count has a part in it.

Memory is bounded by the requested range; double quantisation keeps a float32 for each block of the weight.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import torch

from registry.errors import UsageError
from registry.files.header import ModelWeights, TensorEntry
from registry.files.source import ByteSource, JoinedSource
from registry.schemas.artifacts import FourBits, FourBitType
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.kernel import round_into
from registry.tensors.table.targets import Target, TargetKind, TargetTable

NESTED_BLOCK: Final = 256
STEP: Final = 1 << 20
"""Elements that are read at once where a whole weight is; a multiple of every block size."""

_KEPT: Final = 8  # weights with the scales of all of their blocks, 6 % of the bytes of a weight in 16 bits
_LEAST: Final = 1e-38  # what a block of zeros is divided by
_NF4: Final = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4: Final = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, 0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0)
_CODES: Final[dict[FourBitType, tuple[float, ...]]] = {"nf4": _NF4, "fp4": _FP4}  # up to a factor
_EXPONENTS: Final = 7  # of the dynamic map


@lru_cache(maxsize=2)
def values_of(kind: FourBitType) -> torch.Tensor:
    """What the 16 codes mean, by code; shape (16,), float32."""
    found = torch.tensor(_CODES[kind], dtype=torch.float32)
    return found / found.max()


@lru_cache(maxsize=1)
def dynamic_map() -> torch.Tensor:
    """What the 256 codes of a magnitude mean, in order: shape (256,), float32 (arXiv:2110.02861, section 2.2)."""
    found = [0.0, 1.0]
    for exponent in range(_EXPONENTS):
        edges = _edges_of(2**exponent + 1)
        means = (edges[:-1] + edges[1:]) / 2.0 * torch.tensor(10.0 ** (exponent - _EXPONENTS + 1), dtype=torch.float32)
        found += [*means.tolist(), *(-means).tolist()]
    return torch.tensor(sorted(found), dtype=torch.float32)


def _edges_of(count: int) -> torch.Tensor:
    """So many numbers from 0.1 to 1, each rounded once from the nearer end."""
    low, high = torch.tensor([0.1, 1.0], dtype=torch.float32)
    step = ((high - low) / (count - 1)).to(torch.float64)
    at = torch.arange(count, dtype=torch.float64)
    up, down = low.to(torch.float64) + step * at, high.to(torch.float64) - step * (count - 1 - at)
    return torch.where(at < count // 2, up, down).to(torch.float32)


class Scaled(NamedTuple):
    """Elements in [-1, 1], and the largest magnitude of each block that they were divided by."""

    elements: torch.Tensor
    magnitudes: torch.Tensor


def scaled(flat: torch.Tensor, block: int) -> Scaled:
    """Divide float32 elements by the largest magnitude of their block, the last of which may be short."""
    full = flat.numel() - flat.numel() % block
    blocks = flat[:full].view(-1, block)
    magnitudes = blocks.abs().amax(dim=1)
    elements = (blocks * (1.0 / magnitudes.clamp(min=_LEAST)).unsqueeze(1)).clamp(-1, 1).view(-1)
    if full == flat.numel():
        return Scaled(elements, magnitudes)
    last = flat[full:].abs().max().clamp(min=_LEAST)
    rest = (flat[full:] / last).clamp(-1, 1)  # the library divides here, and multiplies by the reciprocal above
    return Scaled(torch.cat([elements, rest]), torch.cat([magnitudes, last.unsqueeze(0)]))


@lru_cache(maxsize=2)
def _in_order(kind: FourBitType) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The midpoints between the values, the values in order, and their codes."""
    values, codes = torch.sort(values_of(kind), stable=True)
    return (values[:-1] + values[1:]) / 2, values, codes


def codes_of(elements: torch.Tensor, kind: FourBitType) -> torch.Tensor:
    """The codes of elements in [-1, 1]: that of the nearest value, and of the lower one in the middle; int64."""
    middles, _, codes = _in_order(kind)
    return codes[torch.bucketize(elements, middles)]


class Nested(NamedTuple):
    """Magnitudes in 8 bits."""

    codes: torch.Tensor
    magnitudes: torch.Tensor  # of blocks of the magnitudes
    offset: torch.Tensor


def nested(magnitudes: torch.Tensor, offset: torch.Tensor | None = None) -> Nested:
    """Quantise magnitudes; ``offset`` is subtracted, which is their mean unless given."""
    if offset is None:
        offset = torch.tensor(_mean(magnitudes), dtype=torch.float32)
    values = dynamic_map()
    elements, outer = scaled(magnitudes - offset, NESTED_BLOCK)
    return Nested(torch.bucketize(elements, (values[:-1] + values[1:]) / 2), outer, offset)


def _mean(magnitudes: torch.Tensor) -> float:
    try:
        return math.fsum(magnitudes.tolist()) / magnitudes.numel()
    except (OverflowError, ValueError):  # infinity, or both: no weight of these is a number then
        return math.nan


def unnested(found: Nested) -> torch.Tensor:
    """The magnitudes that 8 bits mean."""
    values = dynamic_map()[found.codes]
    return values * found.magnitudes.repeat_interleave(NESTED_BLOCK)[: values.numel()] + found.offset


Read = Callable[[int, int], torch.Tensor]
"""Elements from one number to before another one of a flat weight, float32."""


class Recent:
    """Which weights keep the scales of all of their blocks: the last few that were read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._weights: OrderedDict[FourBitWeight, None] = OrderedDict()

    def keep(self, weight: FourBitWeight) -> None:
        """Keep those of this one, and let the oldest forget its own."""
        with self._lock:
            self._weights[weight] = None
            self._weights.move_to_end(weight)
            old = self._weights.popitem(last=False)[0] if len(self._weights) > _KEPT else None
        if old is not None:
            old.forget()


class FourBitWeight:
    """A weight as it is while a model is trained on it in 4 bits. Thread-safe.

    Args:
        how: the quantisation.
        elements: of the weight.
        read: reads them as they are stored, as float32.
        recent: bounds how many weights keep their scales. None: nothing does.
    """

    def __init__(self, how: FourBits, elements: int, read: Read, recent: Recent | None = None) -> None:
        self._how = how
        self._elements = elements
        self._read = read
        self._recent = recent
        self._lock = threading.Lock()
        self._kept: torch.Tensor | None = None

    def values(self, first: int, last: int) -> torch.Tensor:
        """Elements ``first`` to before ``last`` of the flat weight, float32; whole blocks are read for them."""
        block = self._how.block
        start, stop = first - first % block, min(self._elements, last + -last % block)
        return self._quantised(self._read(start, stop), start)[first - start : last - start]

    def error(self) -> float:
        """The sum of the squares of what quantising changed; no finite number where the weight has none."""
        energy = 0.0
        for start in range(0, self._elements, STEP):
            stored = self._read(start, min(start + STEP, self._elements))
            wrong = stored.to(torch.float64) - self._quantised(stored, start).to(torch.float64)
            energy += torch.dot(wrong, wrong).item()
        return energy

    def _quantised(self, stored: torch.Tensor, start: int) -> torch.Tensor:
        block = self._how.block
        middles, values, _ = _in_order(self._how.type)
        elements, magnitudes = scaled(stored, block)
        if self._how.double:
            magnitudes = self._magnitudes()[start // block : start // block + magnitudes.numel()]
        found = values[torch.bucketize(elements, middles)]
        full = found.numel() - found.numel() % block
        found[:full].view(-1, block).mul_(magnitudes[: full // block].unsqueeze(1))
        if full < found.numel():
            found[full:] *= magnitudes[-1]
        return found

    def _magnitudes(self) -> torch.Tensor:
        """Those of all blocks by way of 8 bits: their mean needs all of them."""
        with self._lock:
            if self._kept is None:
                parts = [
                    scaled(self._read(start, min(start + STEP, self._elements)), self._how.block).magnitudes
                    for start in range(0, self._elements, STEP)
                ]
                self._kept = unnested(nested(torch.cat(parts)))
            found = self._kept
        if self._recent is not None:  # without the lock: it takes that of another weight
            self._recent.keep(self)
        return found

    def forget(self) -> None:
        """Let the scales of all blocks go; they are computed again when needed."""
        with self._lock:
            self._kept = None


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
        UsageError: it is not known which modules are linear, or one is not stored as the matrix that is quantised.
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
