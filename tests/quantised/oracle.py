"""Folders that libraries wrote, read and multiplied out: by numpy (`tests.kit.quantised`) and by the registry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from registry.errors import InvalidBaseError
from registry.files.header import read_header
from registry.files.source import FileSource, read_range
from registry.quantised.reading import Reading, StoredTensor, decoding_document, decoding_from
from registry.quantised.table import read_quantised
from registry.tensors.quantised.decoding import DecodedTensor
from tests.kit.floats import Array
from tests.kit.quantised import Raw, in_memory, meaning
from tests.kit.tensor_files import RawTensor


def write_folder(folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def raw_tensors(folder: Path) -> dict[str, RawTensor]:
    """The tensors of a folder's one weight file, as bytes."""
    with FileSource(folder / "model.safetensors") as source:
        header = read_header(source, what="model.safetensors", error=InvalidBaseError)
        return {
            entry.name: RawTensor(entry.dtype, entry.shape, bytes(read_range(source, entry.start, entry.stop)))
            for entry in header.entries.values()
        }


def read(config: Mapping[str, Any], raw: Raw) -> Reading | None:
    """What the registry reads of a configuration and tensors."""
    stored = {name: StoredTensor(tensor.dtype, tensor.shape) for name, tensor in raw.items()}
    return read_quantised(config, None, stored, lambda name: raw[name].data)


def read_folder(folder: Path) -> Reading:
    reading = read(json.loads((folder / "config.json").read_text()), raw_tensors(folder))
    assert reading is not None
    return reading


def decoded_folder(folder: Path) -> dict[str, Array]:
    """The numbers of every quantised weight of a folder, in plain shape."""
    return decoded(read_folder(folder), raw_tensors(folder))


def decoded(reading: Reading, raw: Raw) -> dict[str, Array]:
    """What a reading means, by numpy; the registry computes the same."""
    found = {}
    stored = in_memory(raw)
    for name, how in reading.decoded.items():
        found[name] = meaning(how, raw)
        assert found[name].shape == how.plain_shape
        assert decoding_from(json.loads(json.dumps(decoding_document(how)))) == how
        computed = DecodedTensor(how, stored).values(0, found[name].size).double().numpy()
        np.testing.assert_array_equal(computed.reshape(found[name].shape), found[name], strict=True)
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Libraries start as many threads as there are cores, which costs more than tiny models take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
