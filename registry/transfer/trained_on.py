"""The local folder that an adapter was trained on, where its configuration names one that exists.

Needs no torch, since clients use it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from registry.errors import InvalidAdapterError
from registry.folders.receipts import read_receipt
from registry.folders.scan import ADAPTER_WEIGHTS, RECEIPT
from registry.schemas.transfer import GivenReceipt


@dataclass(frozen=True)
class TrainedFolder:
    """A folder and how messages refer to it; for a relative name they say from where it was looked up."""

    place: Path
    words: str


def trained_folder(config: bytes, adapter: Path) -> TrainedFolder | None:
    """The folder that ``base_model_name_or_path`` names; None if it does not exist.

    A relative name is looked up from the ``adapter``'s folder, then from the working directory.
    """
    name = trained_on(config)
    if not name or "\0" in name:
        return None
    try:
        given = Path(name).expanduser()
        if given.is_absolute():
            return TrainedFolder(given, str(given)) if given.is_dir() else None
        for root, where in ((adapter, "the adapter's folder"), (Path.cwd(), "the working directory")):
            if (root / given).is_dir():
                return TrainedFolder(root / given, f"{given} (looked up from {where}, {root})")
    except (OSError, RuntimeError):  # too long for a path, or the home of an unknown user
        return None
    return None


def receipt_of_parent(given: Path | None, folder: TrainedFolder | None) -> GivenReceipt | None:
    """The receipt that names the parent: the given one, or that of the folder that the adapter was trained on.

    Raises:
        NotFoundError, InvalidAdapterError: the receipt can't be read.
    """
    if given is not None:
        return GivenReceipt(receipt=read_receipt(given, InvalidAdapterError), words=f"the receipt {given}")
    if folder is None:
        return None
    try:
        there = (folder.place / RECEIPT).is_file()
    except OSError:
        there = False
    if not there:
        return None
    words = f"the receipt in {folder.words}, which the adapter was trained on"
    return GivenReceipt(receipt=read_receipt(folder.place, InvalidAdapterError), words=words)


def trained_on(config: bytes) -> str | None:
    """``base_model_name_or_path``; the configuration is not validated here, but when it is published."""
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        return None
    found = document.get("base_model_name_or_path") if isinstance(document, dict) else None
    return found if isinstance(found, str) else None


def is_newer(folder: TrainedFolder, weights: Path) -> bool:
    """Whether weights in the folder were written after the adapter's: the folder may have been overwritten since."""
    try:
        files = [file for file in folder.place.glob("*.safetensors") if file.name != ADAPTER_WEIGHTS]
        written = [file.stat().st_mtime for file in files]
        return bool(written) and max(written) > weights.stat().st_mtime
    except OSError:
        return False
