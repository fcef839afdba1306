"""What a decoding means, by numpy in float64 and by the words of docs/quantised.md alone; and folders, read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from registry.errors import InvalidBaseError
from registry.files.header import read_header
from registry.files.source import FileSource, read_range
from registry.quantised.reading import (
    MAPS,
    Decoding,
    Grid,
    Reading,
    Scale,
    StoredTensor,
    ZeroPoint,
    decoding_document,
    decoding_from,
)
from registry.quantised.table import read_quantised
from registry.tensors.quantised.decoding import DecodedTensor

Numbers = npt.NDArray[np.float64]
Tensors = Mapping[str, torch.Tensor]
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def read_folder(folder: Path) -> Reading | None:
    """A folder of config.json and one model.safetensors."""
    with FileSource(folder / "model.safetensors") as source:
        header = read_header(source, what="model.safetensors", error=InvalidBaseError)
        stored = {entry.name: StoredTensor(entry.dtype, entry.shape) for entry in header.entries.values()}

        def small(name: str) -> bytes:
            return bytes(read_range(source, header.entries[name].start, header.entries[name].stop))

        return read_quantised(json.loads((folder / "config.json").read_text()), None, stored, small)


def write_folder(folder: Path, tensors: Tensors, config: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def decoded_folder(folder: Path) -> dict[str, Numbers]:
    """The numbers of every quantised weight of a folder, in plain shape; the registry computes the same."""
    reading = read_folder(folder)
    assert reading is not None
    tensors = load_file(folder / "model.safetensors")
    made = {name: decoded(how, tensors) for name, how in reading.decoded.items()}
    with FileSource(folder / "model.safetensors") as source:
        header = read_header(source, what="model.safetensors", error=InvalidBaseError)
        stored = {name: (source, entry) for name, entry in header.entries.items()}
        for name, how in reading.decoded.items():
            assert decoding_from(json.loads(json.dumps(decoding_document(how)))) == how
            computed = DecodedTensor(how, stored).values(0, made[name].size).double().numpy()
            np.testing.assert_array_equal(computed.reshape(made[name].shape), made[name], strict=True)
    return made


def decoded(how: Decoding, tensors: Tensors) -> Numbers:
    """The numbers of one quantised weight, in plain shape."""
    if isinstance(how, Grid):
        rows, columns = how.shape
        grid = _scales(how.scale, tensors, how.shape)
        codes = _codes(how, tensors)
        if how.zero is not None:
            codes = codes - _spread(_zeros(how.zero, tensors, grid.shape, rows), how.scale.block, rows, columns)
        made = codes * _spread(grid, how.scale.block, rows, columns)
        if how.factor is not None:
            by = how.factor.value if how.factor.name is None else float(tensors[how.factor.name].item())
            assert by is not None
            made = made * by if how.factor.operation == "multiply" else made / by
    else:
        made = _flat(how, tensors)
    return np.ascontiguousarray(np.swapaxes(made, -1, -2)) if how.transposed else made


def _codes(how: Grid, tensors: Tensors) -> Numbers:
    stored = tensors[how.codes.name]
    if how.codes.coding in ("float8", "int8"):
        return stored.double().numpy()
    if how.codes.coding == "e2m1":
        data = stored.numpy().view(np.uint8)
        return _E2M1[np.stack([data & 15, data >> 4], axis=-1).reshape(how.shape)]
    return _unpacked(stored.numpy(), how.codes.bits, how.shape[-1])


def _unpacked(words: npt.NDArray[Any], bits: int, columns: int) -> Numbers:
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    codes = stream[:, : columns * bits].reshape(len(words), columns, bits) @ (2.0 ** np.arange(bits))
    return np.asarray(codes - 2 ** (bits - 1), dtype=np.float64)


def _scales(scale: Scale, tensors: Tensors, shape: tuple[int, ...]) -> Numbers:
    stored = tensors[scale.name]
    grid = (-(-shape[0] // scale.block[0]), -(-shape[1] // scale.block[1]))
    if scale.coding == "exponent":
        return np.asarray(2.0 ** (stored.view(torch.uint8).double().numpy() - 127)).reshape(grid)
    return stored.double().numpy().reshape(grid)


def _zeros(zero: ZeroPoint, tensors: Tensors, grid: tuple[int, ...], rows: int) -> Numbers:
    stored = tensors[zero.name].numpy()
    if zero.coding == "int8":
        return stored.astype(np.float64).reshape(grid)
    return np.stack([_unpacked(stored[:, [g]].T, zero.bits, grid[0])[0] for g in range(grid[1])], axis=1)


def _spread(grid: Numbers, block: tuple[int, int], rows: int, columns: int) -> Numbers:
    return np.repeat(np.repeat(grid, block[0], axis=0), block[1], axis=1)[:rows, :columns]


def _flat(how: Any, tensors: Tensors) -> Numbers:
    data = np.ascontiguousarray(tensors[how.codes].view(torch.uint8).numpy()).reshape(-1)
    count = int(np.prod(how.shape))
    codes = np.stack([data >> 4, data & 15], axis=-1).reshape(-1)[:count]
    absmax = tensors[how.absmax].numpy().reshape(-1)
    if how.nested is not None:
        outer = np.repeat(tensors[how.nested.absmax].double().numpy(), how.nested.block)[: len(absmax)]
        absmax = tensors[how.nested.map].double().numpy()[absmax] * outer + how.nested.offset
    made = np.array(MAPS[how.map])[codes] * np.repeat(absmax.astype(np.float64), how.block)[:count]
    return np.asarray(made.reshape(how.shape))


@contextmanager
def one_thread() -> Iterator[None]:
    """Libraries start as many threads as there are cores, which costs more than tiny models take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
