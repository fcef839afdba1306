"""LoRA files of image models: one safetensors file without a configuration, which is made next to it.

Trainers of image models write one file, or a folder with one and pictures. Such a file is taken as the weights of an
adapter, byte for byte, and the contents of PEFT's adapter_config.json are made from its names and alphas
(`registry.images.adapter_file`). Needs no torch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry, read_header
from registry.files.opened import open_new
from registry.files.source import FileSource, read_range
from registry.folders.foreign import tensor_names
from registry.folders.local_files import head_of, telling_unreadable, telling_unwritable
from registry.images.adapter_file import as_bytes, made_config
from registry.images.keys import is_image_lora

ENDING = ".safetensors"


def is_lora_file(file: Path) -> bool:
    """Whether a path is called as a safetensors file and `holds_lora`."""
    return file.suffix == ENDING and holds_lora(file)


def holds_lora(file: Path) -> bool:
    """Whether a path is a file with a LoRA of an image model, by the names of its tensors.

    Raises:
        UnavailableError: it can't be read.
    """
    with telling_unreadable(file):
        return file.is_file() and is_image_lora(tensor_names(head_of(file)))


def only_weights(names: Collection[str]) -> str | None:
    """The only weight file at the top of a folder; None: none or several."""
    found = [name for name in names if name.endswith(ENDING) and "/" not in name]
    return found[0] if len(found) == 1 else None


def write_config(file: Path, name: str, out: Path, component: str | None = None) -> None:
    """Write the configuration of a LoRA file of that name, for a component of a pipeline if one is given.

    Raises:
        InvalidAdapterError: the file is damaged, or what `registry.images.adapter_file.made_config` raises.
        UnavailableError: it can't be read, or the configuration not written.
    """
    with telling_unreadable(file), FileSource(file) as source:
        header = read_header(source, what=str(file), error=InvalidAdapterError)

        def read(entry: TensorEntry) -> bytes:
            return bytes(read_range(source, entry.start, entry.stop))

        made = as_bytes(made_config(header, read, name, component))
    with telling_unwritable(out), os.fdopen(open_new(out), "wb") as written:
        written.write(made)


def put_beside(file: Path, place: Path) -> None:
    """Put a file into a folder under another name, without a copy where the disk allows it.

    Raises:
        UnavailableError: it can't be read or written.
    """
    with telling_unreadable(file), telling_unwritable(place):
        try:
            os.link(file.resolve(), place)
        except OSError:  # another disk, or one without links
            shutil.copyfile(file, place)
