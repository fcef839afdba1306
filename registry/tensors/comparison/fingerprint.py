"""The fingerprint of a path: what it makes of a fixed sample of elements of its base model.

Exact values, rounded once to float32, of the tensors that the path changes. What one link adds is the difference of its
fingerprint and that of the path above it, so a merge that went step by step can be replayed from fingerprints alone.

A link that replaces tensors begins anew: its fingerprint has the values of all that it replaces in the base model, and
those of the links below it have only what these change in the model that it is.

The sample is two runs of elements of every float tensor, at places that are hashed from its name and its shape, so that
it is the same for everybody and nothing is read to choose it. The elements only strike candidates out (`.narrowing`);
what is proven is proven by whole tensors (`.compare`). Whether two adapters do the same, whatever their files are, is
compared number by number (`same_link`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch

from registry.files.header import TensorEntry
from registry.files.source import ByteSource
from registry.images.expressions import ComputedEntry
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.checkpoint.adapter import AddedValue, Diagonal, LoraPair, NewValue, TokenRows
from registry.tensors.checkpoint.computed import Computed
from registry.tensors.checkpoint.factors import read_rows
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, PathPrograms, Program
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.path.steps import PlacedRun

_SAID_ELSEWHERE: Final = frozenset({"alpha", "names"})  # the scaling has it; other spellings of one name


def same_link(one: BoundLink, other: BoundLink) -> bool:
    """Whether two adapters on one base model have the same factors and values, number by number, and scalings.

    Copies of the base's weights don't count: they do nothing.
    """
    ours, theirs = one.checkpoint, other.checkpoint
    found = (
        (ours.pairs, theirs.pairs),
        (ours.values, theirs.values),
        (ours.tokens, theirs.tokens),
        (ours.added, theirs.added),
        (ours.diagonals, theirs.diagonals),
    )
    return all(_same_parts(first, one.source, second, other.source) for first, second in found)


def adds_nothing(one: BoundLink) -> bool:
    """Whether an adapter leaves a model as it is, in real numbers: it was never trained, or is all zeros."""
    found = one.checkpoint
    beside = [added.entry for added in found.added.values()]
    beside += [diagonal.entry for diagonal in found.diagonals.values()]
    if found.values or found.tokens or any(_flat(one.source, entry).any() for entry in beside):
        return False
    return all(_is_zero(pair, one.source) for pair in found.pairs.values())


def _is_zero(pair: LoraPair, source: ByteSource) -> bool:
    if pair.magnitude is not None or (pair.bias is not None and _flat(source, pair.bias).any()):
        return False
    return pair.scaling == 0 or any(not _flat(source, entry).any() for entry in pair.stored)


_Part = LoraPair | NewValue | TokenRows | AddedValue | Diagonal


def _same_parts(ours: Mapping[str, _Part], source: ByteSource, theirs: Mapping[str, _Part], other: ByteSource) -> bool:
    return ours.keys() == theirs.keys() and all(_same(one, source, theirs[name], other) for name, one in ours.items())


def _same(one: _Part, source: ByteSource, other: _Part, there: ByteSource) -> bool:
    for field in fields(one):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(ours, TensorEntry) and isinstance(theirs, TensorEntry):
            if ours.shape != theirs.shape or not torch.equal(_flat(source, ours), _flat(there, theirs)):
                return False
        elif field.name not in _SAID_ELSEWHERE and ours != theirs:
            return False
    return True


def _flat(source: ByteSource, entry: TensorEntry) -> torch.Tensor:
    if isinstance(entry, ComputedEntry):
        return Computed(entry).read(source, 0, entry.shape[0]).flatten()
    return read_rows(source, entry, 0, 1, columns=entry.elements).to(torch.float64)


Array = np.ndarray[Any, Any]
_MOST: Final = 64  # elements of one tensor
_LEAST: Final = 4
_ALL: Final = 1 << 14  # elements of a model, where its tensors are not so many that the least of each are more


@dataclass(frozen=True)
class TensorSample:
    """The elements of one tensor: runs of ``length``, which begin at ``starts`` (counted in the flat tensor)."""

    tensor: str
    starts: tuple[int, ...]
    length: int
    of: int  # elements of the whole tensor

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return len(self.starts) * self.length

    @property
    def offsets(self) -> list[int]:
        """Where each of its elements is in the flat tensor."""
        return [start + at for start in self.starts for at in range(self.length)]


@dataclass(frozen=True)
class BaseSample:
    """The elements of a base model that stand for it, one vector of ``elements`` numbers, tensor by tensor."""

    tensors: tuple[TensorSample, ...]

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where the elements of each tensor are in the vector."""
        found, at = {}, 0
        for chosen in self.tensors:
            found[chosen.tensor] = slice(at, at + chosen.elements)
            at += chosen.elements
        return found

    @cached_property
    def elements(self) -> int:
        """The number of elements."""
        return sum(chosen.elements for chosen in self.tensors)

    @cached_property
    def owners(self) -> torch.Tensor:
        """The number of the chosen that each element belongs to."""
        counts = torch.tensor([chosen.elements for chosen in self.tensors], dtype=torch.int64)
        return torch.repeat_interleave(torch.arange(len(self.tensors)), counts)

    @cached_property
    def stands_for(self) -> torch.Tensor:
        """How many elements of its tensor each one stands for."""
        counts = torch.tensor([chosen.of / chosen.elements for chosen in self.tensors], dtype=torch.float32)
        return counts[self.owners]

    @cached_property
    def _starts(self) -> Array:
        return np.cumsum([0, *(chosen.elements for chosen in self.tensors)])[:-1]

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over the elements of each chosen, of rows of values."""
        sums: Array = np.add.reduceat(values.numpy(), self._starts, axis=1)
        return torch.from_numpy(sums)

    @cached_property
    def _of_some(self) -> dict[bytes, torch.Tensor]:
        return {}

    def elements_of(self, numbers: bytes) -> torch.Tensor:
        """Where the elements of some sample are, given by their numbers (uint32, least byte first), rising."""
        if numbers not in self._of_some:
            changed = torch.zeros(len(self.tensors), dtype=torch.bool)
            changed[torch.from_numpy(np.frombuffer(numbers, "<u4").astype(np.int64))] = True
            self._of_some[numbers] = changed[self.owners].nonzero().flatten()
        return self._of_some[numbers]

    @cached_property
    def digest(self) -> bytes:
        """Eight bytes that identify the elements."""
        text = "\n".join(f"{chosen.tensor} {chosen.starts} {chosen.length}" for chosen in self.tensors)
        return hashlib.sha256(text.encode()).digest()[:8]

    @cached_property
    def replaced_digest(self) -> bytes:
        """The same, of what replaces the base's own elements: versions that only know what adds leave that alone."""
        return hashlib.sha256(b"replaced " + self.digest).digest()[:8]


def base_sample(entries: Mapping[str, TensorEntry]) -> BaseSample:
    """The elements that stand for a base model, by the headers of its files."""
    held = {name: entry for name, entry in sorted(entries.items()) if entry.dtype in FLOATS and entry.elements}
    each = max(_LEAST, min(_MOST, _ALL // max(1, len(held))))
    return BaseSample(tuple(_tensor_sample(entry, each) for entry in held.values()))


def _tensor_sample(entry: TensorEntry, elements: int) -> TensorSample:
    if entry.elements <= elements:
        return TensorSample(entry.name, (0,), entry.elements, entry.elements)
    length, half = elements // 2, entry.elements // 2
    drawn = hashlib.sha256(f"{entry.name} {list(entry.shape)}".encode()).digest()
    first, second = (int.from_bytes(drawn[at : at + 8], "big") for at in (0, 8))
    starts = first % (half - length + 1), half + second % (entry.elements - half - length + 1)
    return TensorSample(entry.name, starts, length, entry.elements)


@dataclass(frozen=True)
class SampledValues:
    """The values of some weights at the elements of a sample."""

    values: torch.Tensor  # float64, a vector as in `BaseSample`; NaN if the tensor is missing
    dtypes: Sequence[torch.dtype | None]  # as each tensor is stored; None: it is missing


def sample_values(sample: BaseSample, tensors: Mapping[str, tuple[ByteSource, TensorEntry]]) -> SampledValues:
    """Read some weights, given by the names of the base's files, where these stand for the base.

    A tensor may have grown by rows at its end: the base's elements are where they were.
    """
    values = torch.full((sample.elements,), torch.nan, dtype=torch.float64)
    dtypes: list[torch.dtype | None] = []
    for chosen in sample.tensors:
        if chosen.tensor not in tensors or tensors[chosen.tensor][1].dtype not in FLOATS:
            dtypes.append(None)
            continue
        source, entry = tensors[chosen.tensor]
        dtype = FLOATS[entry.dtype]
        found = torch.empty(chosen.elements, dtype=dtype)
        room = found.view(torch.uint8).numpy().data
        for number, start in enumerate(chosen.starts):
            size = chosen.length * dtype.itemsize
            source.read_into(entry.start + start * dtype.itemsize, room[number * size : (number + 1) * size])
        values[sample.slices[chosen.tensor]] = found.to(torch.float64)
        dtypes.append(dtype)
    return SampledValues(values, dtypes)


def fingerprint(programs: PathPrograms, base: BaseTensors, sample: BaseSample, values: torch.Tensor) -> bytes:
    """The fingerprint of a path whose links add, as it is stored.

    It is the digest of the sample, the number of changed tensors, their numbers (uint32), and their values (float32),
    all with the least byte first.

    Args:
        programs: of the path.
        base: the model that its links go on.
        sample: the elements that stand for the base model.
        values: that model's values of them, in float64; anything for tensors that the path does not change.

    Raises:
        InvalidAdapterError: ``zero_norm``, a DoRA link divides by it.
    """
    placed = programs.placed()
    found = values.clone()
    for chosen in sample.tensors:
        if chosen.tensor in placed:
            part = found[sample.slices[chosen.tensor]]
            part.copy_(_values(chosen, part, base, placed[chosen.tensor]))
    return sample.digest + _packed(sample, found, placed)


def replaced_fingerprint(sample: BaseSample, values: torch.Tensor, replaced: Collection[str]) -> bytes:
    """The fingerprint of a link that replaces some tensors of the base model; ``values`` as for `fingerprint`."""
    return sample.replaced_digest + _packed(sample, values, replaced)


def _packed(sample: BaseSample, values: torch.Tensor, tensors: Collection[str]) -> bytes:
    numbers = [number for number, chosen in enumerate(sample.tensors) if chosen.tensor in tensors]
    parts = [values[sample.slices[sample.tensors[number].tensor]] for number in numbers]
    head = np.array([len(numbers), *numbers], "<u4").tobytes()
    return head + (torch.cat(parts).to(torch.float32).numpy().astype("<f4").tobytes() if parts else b"")


def is_of(kept: bytes, sample: BaseSample) -> bool:
    """Whether a fingerprint was made of these elements."""
    return kept[:8] in (sample.digest, sample.replaced_digest)


def replaces(kept: bytes, sample: BaseSample) -> bool:
    """Whether a fingerprint is of a link that replaces tensors of the base model, whatever is above it."""
    return kept[:8] == sample.replaced_digest


def unpacked(kept: bytes, sample: BaseSample, base: torch.Tensor) -> torch.Tensor | None:
    """The values of a path in float32, those of the ``base`` where the path changes nothing.

    None: it was made of other elements.
    """
    if not is_of(kept, sample):
        return None
    count = int(np.frombuffer(kept, "<u4", 1, 8)[0])
    values = torch.from_numpy(np.frombuffer(kept, "<f4", offset=12 + 4 * count).astype(np.float32))
    return base.index_copy(0, sample.elements_of(kept[12 : 12 + 4 * count]), values)


def _values(
    chosen: TensorSample, before: torch.Tensor, base: BaseTensors, placed: Sequence[tuple[PlacedRun, Program]]
) -> torch.Tensor:
    """What a path makes of the elements of one tensor, in float64; rows that no program changes stay as ``before``."""
    found = before.clone()
    rows: dict[tuple[int, int], torch.Tensor] = {}
    readers = [base.values(program, torch.float64, rows_a_block=1) for _, program in placed]
    for at, offset in enumerate(chosen.offsets):
        for number, (place, program) in enumerate(placed):
            stored, column = divmod(offset, program.slot.columns)
            if not place.run.first <= stored < place.run.first + place.run.rows:
                continue
            row = place.at + place.run.meant(stored - place.run.first)
            if (number, row) not in rows:
                rows[number, row] = readers[number].block(row)[0].clone()
            found[at] = rows[number, row][column]
    return found


def added(programs: PathPrograms, base: BaseTensors, sample: BaseSample) -> SampledValues:
    """What one adapter adds to the elements that stand for a base model, whatever they are; nothing of it is read.

    NaN (and no dtype) where the adapter does more than add, so that it depends on the base.
    """
    placed, found = programs.placed(), torch.zeros(sample.elements, dtype=torch.float64)
    dtypes: list[torch.dtype | None] = []
    for chosen in sample.tensors:
        part, adds = found[sample.slices[chosen.tensor]], True
        for place, program in placed.get(chosen.tensor, ()):
            values = base.values(program, torch.float64, rows_a_block=1)
            adds = adds and program.origin is not None and values.only_adds
            if adds:
                _add(chosen, place, values, part)
        dtypes.append(torch.float64 if adds else None)
        if not adds:
            part.fill_(torch.nan)
    return SampledValues(found, dtypes)


def _add(chosen: TensorSample, place: PlacedRun, values: SlotValues, found: torch.Tensor) -> None:
    rows: dict[int, torch.Tensor] = {}
    for at, offset in enumerate(chosen.offsets):
        stored, column = divmod(offset, values.slot.columns)
        if place.run.first <= stored < place.run.first + place.run.rows:
            row = place.at + place.run.meant(stored - place.run.first)
            if row not in rows:
                rows[row] = torch.empty(1, values.slot.columns, dtype=torch.float64)
                values.added_to(range(row, row + 1), rows[row])
            found[at] += rows[row][0, column]
