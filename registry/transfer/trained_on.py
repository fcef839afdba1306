"""The local folder that an adapter was trained on, where its configuration names one that exists.

Needs no torch, since clients use it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import InvalidAdapterError, NotFoundError, RegistryError, UsageError
from registry.folders.hub.cached import cached_commit
from registry.folders.output import is_right
from registry.folders.receipts import read_receipt
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RECEIPT, Folder
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


def moved_folder(config: bytes, look_in: Sequence[Path]) -> TrainedFolder | None:
    """The folder that ``base_model_name_or_path`` names, in another place by now; None: there is none.

    It is the one below ``look_in`` whose path ends with most of the parts of that name.

    Raises:
        NotFoundError: a folder of ``look_in`` does not exist.
        UsageError: ``parent_ambiguous``, several have equally many of them.
    """
    parts = [part for part in re.split(r"[/\\]+", trained_on(config) or "") if part not in {"", ".", ".."}]
    best: list[Path] = []
    most = 1
    for root in look_in:
        if not root.is_dir():
            raise NotFoundError(f"There is no folder {root} to look in.")
        for place in _folders(root):
            common = _common(parts, place.parts)
            if common > most:
                best, most = [], common
            if common and common == most:
                best.append(place)
    found = sorted({place.resolve(): place for place in best}.values())
    if len(found) > 1:
        names = ", ".join(str(place) for place in found[:3])
        raise UsageError(
            f"{len(found)} folders may be {'/'.join(parts)}, which the adapter was trained on: {names}"
            f"{', ...' if len(found) > 3 else ''}. Give the one that it was as --look-in.",
            code="parent_ambiguous",
        )
    return TrainedFolder(found[0], str(found[0])) if found else None


def cached_parent(config: bytes, folder: TrainedFolder | None) -> str | None:
    """The only commit of the repository that ``base_model_name_or_path`` names in this machine's cache of the Hub."""
    name = trained_on(config)
    return None if folder is not None or not name else cached_commit(name)


def _folders(root: Path) -> Iterator[Path]:
    """A folder and all below it that hold weights; links are not followed."""
    for place, names, files in os.walk(root):
        names.sort()
        if any(name.endswith(".safetensors") for name in files):
            yield Path(place)


def _common(parts: Sequence[str], others: Sequence[str]) -> int:
    """How many of the last parts of two paths are the same."""
    pairs = enumerate(zip(reversed(parts), reversed(others), strict=False))
    return next((count for count, (one, other) in pairs if one != other), min(len(parts), len(others)))


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


def receipt_of_export(folder: Folder) -> GivenReceipt | None:
    """The receipt beside an adapter that came back: it says what the adapter goes on, as long as it is unchanged.

    None: there is none, or the adapter is another by now, such as one that was trained further in the same folder.
    """
    try:
        receipt = read_receipt(folder.root)
    except RegistryError:
        return None
    if receipt.exported is None:
        return None
    files = {file.path: file for file in receipt.files}
    for path in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        place = folder.find(path)
        if place is None or path not in files or not is_right(place, files[path]):
            return None
    return GivenReceipt(receipt=receipt, words=f"the receipt of the export in {folder.root}", own=True)


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
