"""Files of merged models: tensors with a path folded in, block by block, each value rounded once; config and index.

A tensor that the path does not change is copied byte for byte. A tensor that the base lacks (a head of another task, an
untied weight) is laid out after the others. The JSON files that depend on the weights are made here, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch

from registry.errors import IntegrityError, InvalidAdapterError
from registry.files.header import Header, TensorEntry, write_header
from registry.files.source import ByteSource, read_range
from registry.tensors.arithmetic.dtypes import CONFIG_NAMES, FLOATS
from registry.tensors.arithmetic.kernel import fits, holding, round_into, rounded
from registry.tensors.artifacts.artifact import ArtifactFile, Buffer, Region, bytes_region, copy_region
from registry.tensors.fidelity.meter import FidelityMeter, SlotMeter
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import NewTensor, Program
from registry.tensors.path.slot_values import KeptFactors, RecentFactors, SlotValues
from registry.tensors.path.steps import PlacedRun
from registry.tensors.quantised.decoding import DecodedTensor
from registry.tensors.quantised.source import decoded_in

_DTYPE_KEYS = ("dtype", "torch_dtype")
_TIE = "tie_word_embeddings"
_LANGUAGE_CONFIGS = ("text_config", "language_config", "llm_config", "decoder")


def config_with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A config for weights of another dtype (``BF16``): every dtype field of it and of the configs inside it.

    A config without such a field gets ``dtype``, so that it names the dtype of the weights.
    """
    changed = _with_dtype(config, CONFIG_NAMES[dtype])
    if not says_dtype(config):
        changed["dtype"] = CONFIG_NAMES[dtype]
    return changed


def says_dtype(config: Mapping[str, Any]) -> bool:
    """Whether a config has a field for the dtype of its weights."""
    return any(key in config for key in _DTYPE_KEYS)


def untied_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose input embedding and output head are two weights, in it and in that of the language model."""
    changed = {**config, _TIE: False}
    for key, value in config.items():
        if isinstance(value, dict) and (_TIE in value or key in _LANGUAGE_CONFIGS):
            changed[key] = untied_config(value)
    return changed


def labels_of_new_head(new: Mapping[str, tuple[int, ...]]) -> int | None:
    """Number of labels of a classification head among tensors that the base lacks; None where none is seen.

    The heads of transformers are ``score`` or ``classifier``, or end in ``classifier.out_proj``.
    """
    heads = [
        shape[0]
        for name, shape in new.items()
        if len(shape) == 2 and re.search(r"(^|\.)(score|classifier|classifier\.out_proj)\.weight$", name)
    ]
    return heads[0] if len(heads) == 1 else None


def labelled_config(config: Mapping[str, Any], labels: int) -> dict[str, Any]:
    """A config for a head with that many labels; names of labels that don't fit it are dropped."""
    changed = {**config, "num_labels": labels}
    if len(config.get("id2label") or {}) != labels:
        changed = {key: value for key, value in changed.items() if key not in ("id2label", "label2id")}
    return changed


def _with_dtype(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            changed[key] = _with_dtype(value, name)
        elif key in _DTYPE_KEYS and (value is None or str(value).removeprefix("torch.") in CONFIG_NAMES.values()):
            changed[key] = name
        else:
            changed[key] = value
    return changed


def index_of(index: Mapping[str, Any], headers: Mapping[str, Header]) -> dict[str, Any]:
    """The weight index for files of these headers: the base's own with the tensors and the size that they have.

    Files of a component are in its folder, and its index names them, and their tensors, by themselves.
    """
    metadata = dict(index.get("metadata") or {})
    entries = [entry for header in headers.values() for entry in header.entries.values()]
    if "total_size" in metadata:
        metadata["total_size"] = sum(entry.stop - entry.start for entry in entries)
    added = {
        name.removeprefix(header.lead): file.rpartition("/")[2]
        for file, header in headers.items()
        for name in header.entries
    }
    return {**index, "metadata": metadata, "weight_map": {**added, **index["weight_map"]}}


def changes_dtype(headers: Mapping[str, Header], dtype: str) -> bool:
    """Whether any float tensor of these files has another dtype."""
    return any(
        entry.dtype in FLOATS and entry.dtype != dtype
        for header in headers.values()
        for entry in header.entries.values()
    )


def write_json(document: Mapping[str, Any]) -> bytes:
    """A JSON file as transformers lays it out."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


_CAST_ELEMENTS: Final = 1 << 20
_NONE_MADE: Final[Mapping[str, Callable[[TensorEntry], list[Region]]]] = {}


def as_buffer(tensor: torch.Tensor) -> memoryview:
    """A contiguous tensor's bytes, without a copy."""
    return tensor.view(torch.uint8).reshape(-1).numpy().data


def merged_file(
    path: str,
    header: Header,
    base: BaseTensors,
    changed: Mapping[str, Sequence[tuple[PlacedRun, Program]]],
    new: Sequence[NewTensor],
    dtype: str | None,
    kept: KeptFactors | None = None,
    meter: FidelityMeter | None = None,
    made: Mapping[str, Callable[[TensorEntry], list[Region]]] = _NONE_MADE,
) -> ArtifactFile:
    """The file ``path`` of the merged model.

    Args:
        path: its name.
        header: of the base's file of that name.
        base: the base's tensors.
        changed: by tensor name, its rows that programs change; names that this file lacks are another file's.
        new: tensors that this file gets and the base lacks.
        dtype: output dtype of all float tensors (``BF16``); None keeps each tensor's own.
        kept: where the path's factors are cached while its pieces are made; by default a file caches those in use.
        meter: measures the blocks that are made.
        made: by tensor name, what makes all of its bytes.

    Raises, when a block is read: InvalidAdapterError (``overflow``) naming the tensor.
    """
    source = base.tensors[next(iter(header.entries))][0] if header.entries else None
    lead, out_header = _lay_out(source, header, base, new, dtype)
    kept = kept or RecentFactors()
    regions = [bytes_region(0, lead)]
    for out in out_header.entries.values():
        entry = header.entries.get(out.name)
        if out.name in made:
            regions += made[out.name](out)
            continue
        at = 0
        for place, program in changed.get(out.name, ()):
            first = place.run.first * program.slot.columns
            if entry is not None:
                regions += _unchanged(base, entry, out, at, first)
            regions.append(_merge_region(base, program, place, out, kept, meter))
            at = first + place.run.rows * program.slot.columns
        if entry is not None:
            regions += _unchanged(base, entry, out, at, out.elements)
    return ArtifactFile(path, regions, out_header)


def _lay_out(
    source: ByteSource | None, header: Header, base: BaseTensors, new: Sequence[NewTensor], dtype: str | None
) -> tuple[bytes, Header]:
    """Bytes before the first tensor and their parsed header: the base's own, unless a dtype or a tensor changes."""

    def out_dtype(own: str) -> str:
        return dtype if dtype and own in FLOATS else own

    same = all(out_dtype(entry.dtype) == entry.dtype for entry in header.entries.values())
    if same and not new and source is not None:
        return bytes(read_range(source, 0, header.size)), header
    old = [(entry.name, out_dtype(entry.dtype), entry.shape) for entry in header.entries.values()]
    added = [(one.name, out_dtype(dtype_of(one, base)), one.shape) for one in sorted(new, key=lambda one: one.name)]
    return write_header([*old, *added], header.metadata, header.lead)


def dtype_of(new: NewTensor, base: BaseTensors) -> str:
    """Dtype of a tensor that the base lacks: its own, or that of the tensor it was tied to."""
    if new.dtype is not None:
        return new.dtype
    if new.beside is None:
        raise AssertionError(f"the new tensor {new.name!r} has a dtype or a tensor that it was tied to")
    return base.entry(new.beside).dtype


def _unchanged(base: BaseTensors, entry: TensorEntry, out: TensorEntry, first: int, stop: int) -> Iterator[Region]:
    """Elements ``first`` to ``stop`` of a tensor, in the output's dtype."""
    if first >= stop and entry.elements:
        return
    source = base.tensors[entry.name][0]
    decoded = decoded_in(source, entry.name)
    if decoded is not None:
        yield _decoded_region(decoded, out, first, stop)
    elif out.dtype != entry.dtype:
        yield _cast_region(source, entry, out, first, stop)
    else:
        size = (entry.stop - entry.start) // max(1, entry.elements)
        yield copy_region(out.start + first * size, source, entry.start + first * size, (stop - first) * size)


def _merge_region(
    base: BaseTensors,
    program: Program,
    place: PlacedRun,
    out: TensorEntry,
    kept: KeptFactors,
    meter: FidelityMeter | None,
) -> Region:
    dtype = FLOATS[out.dtype]
    values = base.values(program, dtype, kept=kept)
    rounding = RoundedSlot(values, dtype, None if meter is None else meter.slot(program, values, dtype))
    start = out.start + place.run.first * program.slot.columns * rounding.dtype.itemsize
    return rounding.region_of(place, start) if program.slot.runs else rounding.region(start)


class RoundedSlot:
    """A slot's values rounded once to an output dtype, by blocks of the grid; ``meter`` sees each that is made."""

    def __init__(self, values: SlotValues, dtype: torch.dtype, meter: SlotMeter | None = None) -> None:
        self.values = values
        self.dtype = dtype
        self._meter = meter

    def region(self, start: int) -> Region:
        """The whole slot as bytes of a file from ``start`` on."""
        slot = self.values.slot
        row = slot.columns * self.dtype.itemsize
        return Region(start, start + slot.rows * row, self.values.rows_a_block * row, self.block_bytes)

    def region_of(self, place: PlacedRun, start: int) -> Region:
        """One run of the slot as bytes of a file from ``start`` on, in pieces as long as blocks of the grid."""
        row = self.values.slot.columns * self.dtype.itemsize
        step = self.values.rows_a_block

        def make(index: int) -> Buffer:
            first = index * step
            return as_buffer(place.scattered(self.rows, first, min(first + step, place.run.rows)))

        return Region(start, start + place.run.rows * row, step * row, make)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Any rows of the slot, cut out of whole blocks of its grid."""
        step = self.values.rows_a_block
        first = start // step
        blocks = torch.cat([self.block(index) for index in range(first, -(-stop // step))])
        return blocks[start - first * step : stop - first * step]

    def block(self, index: int) -> torch.Tensor:
        """Stored rows of block ``index``.

        Raises:
            InvalidAdapterError: ``overflow``, a value is too large for the dtype.
            IntegrityError: ``non_finite``, the base holds NaN or infinity.
        """
        before, after = self.values.before_and_after(index)
        merged = rounded(after, self.dtype)
        if merged is None:
            raise self._too_large(before, after)
        if self._meter is not None:
            self._meter.see(index, before, merged)
        return merged

    def block_bytes(self, index: int) -> Buffer:
        """The bytes of `block`."""
        return as_buffer(self.block(index))

    def _too_large(self, origin: torch.Tensor, values: torch.Tensor) -> Exception:
        name = self.values.slot.tensor
        if not bool(origin.isfinite().all()):
            return IntegrityError(
                f"Base tensor {name!r} contains NaN or infinity, so nothing can be merged into it; add the base model "
                "again from intact files.",
                code="non_finite",
            )
        return overflow(name, self.dtype, values)


def overflow(tensor: str, dtype: torch.dtype, values: torch.Tensor) -> InvalidAdapterError:
    """The error for values that round to infinity; it names the dtypes of ``--dtype`` that hold them, if any does."""
    held = holding(values)
    advice = f"fetch with --dtype {held}" if held else "no dtype that can be asked for holds them"
    name = str(dtype).removeprefix("torch.")
    return InvalidAdapterError(
        f"Tensor {tensor!r} has values too large for {name} once it is merged; {advice}.", code="overflow"
    )


def _decoded_region(decoded: DecodedTensor, out: TensorEntry, first: int, last: int) -> Region:
    """Elements ``first`` to ``last`` of a quantised tensor that no link changes, rounded once."""
    dtype = FLOATS[out.dtype]

    def make(index: int) -> Buffer:
        start = first + index * _CAST_ELEMENTS
        stop = min(start + _CAST_ELEMENTS, last)
        values = decoded.rounded(start, stop, dtype)
        if not fits(values, dtype):
            raise overflow(out.name, dtype, decoded.values(start, stop))
        return as_buffer(values)

    start, stop = out.start + first * dtype.itemsize, out.start + last * dtype.itemsize
    return Region(start, stop, _CAST_ELEMENTS * dtype.itemsize, make)


def _cast_region(source: ByteSource, entry: TensorEntry, out: TensorEntry, first: int, last: int) -> Region:
    """Elements ``first`` to ``last`` of a tensor that no link changes, in another dtype."""
    from_dtype, to_dtype = FLOATS[entry.dtype], FLOATS[out.dtype]
    end = entry.start + last * from_dtype.itemsize

    def make(index: int) -> Buffer:
        start = entry.start + (first + index * _CAST_ELEMENTS) * from_dtype.itemsize
        stop = min(start + _CAST_ELEMENTS * from_dtype.itemsize, end)
        values = torch.frombuffer(read_range(source, start, stop), dtype=from_dtype)
        finite = values[values.isfinite()]
        if not fits(finite, to_dtype):
            raise overflow(entry.name, to_dtype, finite)
        cast = torch.empty(values.shape, dtype=to_dtype)
        round_into(cast, values)
        return as_buffer(cast)

    start, stop = out.start + first * to_dtype.itemsize, out.start + last * to_dtype.itemsize
    return Region(start, stop, _CAST_ELEMENTS * to_dtype.itemsize, make)
