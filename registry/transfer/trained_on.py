"""The local folder that an adapter was trained on, if its configuration names one that exists.

Needs no torch, since clients use it.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from registry.digest import document_digest
from registry.errors import InvalidAdapterError, NotFoundError, RegistryError, UsageError
from registry.files.hashed import hash_file
from registry.folders.output import has_own_times, is_right
from registry.folders.receipts import read_receipt
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RECEIPT, Folder
from registry.progress import SILENT
from registry.schemas.form import Schema
from registry.schemas.parents import FolderCompared, Times
from registry.schemas.transfer import GivenReceipt
from registry.transfer.file_times import Around, times_of, weights_in

_REPO_ID: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,95})/([A-Za-z0-9_][A-Za-z0-9._-]{0,95})")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
RECORD: Final = ".registry-trained-on.json"
"""Hidden, so that it belongs to no revision."""


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
    """The folder that ``base_model_name_or_path`` names, in its present place; None: not found.

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


def cached_commit(repo_id: str) -> str | None:
    """The only commit of a repository of which the Hub's cache holds files; None: several commits, or none.

    PEFT writes the name of the model that an adapter was trained on, and no revision.
    """
    named = _REPO_ID.fullmatch(repo_id)
    if named is None:
        return None
    snapshots = _cache_of_hub() / f"models--{named[1]}--{named[2]}" / "snapshots"
    try:
        found = [one.name for one in snapshots.iterdir() if _COMMIT.fullmatch(one.name) and any(one.iterdir())]
    except OSError:
        return None
    return found[0] if len(found) == 1 else None


def _cache_of_hub() -> Path:
    """The cache at the place of the Hub's own client: by its environment variables."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


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


def receipt_of_parent(
    given: Path | None, folder: TrainedFolder | None, weights: Path | None = None, beside: Beside | None = None
) -> GivenReceipt | None:
    """The receipt that names the parent: the given one, or that of the folder that the adapter was trained on.

    ``weights`` are the adapter's, and ``beside`` is when that folder was written: a receipt that is newer proves
    nothing by itself, and a person who gives one states that it existed before.

    Raises:
        NotFoundError, InvalidAdapterError: the receipt can't be read.
    """
    if given is not None:
        receipt = read_receipt(given, InvalidAdapterError)
        file = given / RECEIPT if given.is_dir() else given
        times = None if weights is None else times_of([file], weights, Around.both(file.parent, weights.parent))
        return GivenReceipt(receipt=receipt, words=f"the receipt {given}", given=True, times=times)
    if folder is None:
        return None
    try:
        there = (folder.place / RECEIPT).is_file()
    except OSError:
        there = False
    if not there:
        return None
    words = f"the receipt in {folder.words}, which the adapter was trained on"
    receipt = read_receipt(folder.place, InvalidAdapterError)
    if beside is None:
        return GivenReceipt(receipt=receipt, words=words)
    known: Times = "newer" if beside.is_later else "older" if beside.recorded else beside.times
    return GivenReceipt(receipt=receipt, words=words, times=known, covered=beside.covered)


def receipt_of_export(folder: Folder) -> GivenReceipt | None:
    """The receipt in the folder of a fetched adapter: it names what the adapter continues, as long as it is unchanged.

    None: no receipt, or the adapter differs by now, such as one that was trained further in the same folder.
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


@dataclass(frozen=True)
class Beside:
    """The evidence whether a folder still holds what an adapter was trained on."""

    times: Times
    recorded: bool | None = None  # it is what was recorded when the training began; None: nothing was
    covered: bool = False  # another adapter is in it, which loaders put on top of its weights

    @classmethod
    def of(cls, folder: TrainedFolder, weights: Path, around: Around | None = None) -> Beside:
        """Compare the times of a folder and of an adapter's ``weights``, and read what the callback has recorded.

        ``around`` are the files of the heap that contains both, if known.
        """
        there = folder.place
        around = around or Around.both(there, weights.parent)
        named = _as_named(there, weights.parent)
        written = weights_in(there) or [there / RECEIPT]
        times = times_of(written, weights, around, fetched=_has_own_times(there), place=named)
        return cls(times, _is_recorded(there, weights.parent), _is_covered(there, weights, around))

    @property
    def is_later(self) -> bool:
        """Whether the folder was written after the adapter was trained, so that it shows nothing."""
        return self.recorded is False or (self.recorded is None and self.times == "newer")


UNTIMED: Final = Beside("unknown")
"""For a folder without an adapter to be older than."""


def _as_named(folder: Path, adapter: Path) -> Path:
    """A folder by the name that an adapter knows, if that leads to it: it may be a link, or behind one."""
    try:
        named = trained_folder((adapter / ADAPTER_CONFIG).read_bytes(), adapter)
    except OSError:
        return folder
    return folder if named is None or named.place.resolve() != folder.resolve() else named.place


class TrainedRecord(Schema):
    """What a folder held when a training from it began: stored in the adapter's folder, and never published."""

    format: Literal[1] = 1
    name: str  # base_model_name_or_path
    digest: str  # of its weights, see `weights_of_folder`


def weights_of_folder(folder: Path) -> str | None:
    """A digest of all weights in a folder, which are read whole; None: it has none.

    Raises:
        OSError: one can't be read.
    """
    digests = {file.name: hash_file(file, SILENT).digest for file in weights_in(folder)}
    return document_digest(digests) if digests else None


def write_record(folder: Path, record: TrainedRecord) -> None:
    """Write a record into an adapter's folder; raises OSError."""
    (folder / RECORD).write_text(record.model_dump_json(indent=2), encoding="utf-8")


def _has_own_times(folder: Path) -> bool:
    try:
        return has_own_times(folder)
    except OSError:
        return False


def _is_covered(folder: Path, weights: Path, around: Around) -> bool:
    """Whether another adapter is in the model's folder, unless it was saved into it after the training.

    transformers puts it on top of the weights, as `PeftAdapterMixin.load_adapter` does. What is in the folder itself or
    below it is the trainer's own output, and so is a copy of the adapter.
    """
    other = folder / ADAPTER_WEIGHTS
    try:
        model = [file for file in folder.glob("*.safetensors") if file.name != ADAPTER_WEIGHTS]
        if not model or not (other.is_file() and (folder / ADAPTER_CONFIG).is_file()):
            return False
        if folder.resolve() in weights.resolve().parents or filecmp.cmp(other, weights, shallow=False):
            return False
    except OSError:
        return False
    return times_of([other], weights, around) != "newer"


def _is_recorded(folder: Path, adapter: Path) -> bool | None:
    try:
        record = TrainedRecord.model_validate_json((adapter / RECORD).read_bytes())
        if record.name != trained_on((adapter / ADAPTER_CONFIG).read_bytes()):
            return None
        return record.digest == weights_of_folder(folder)
    except (OSError, ValidationError):
        return None


def or_elsewhere(found: FolderCompared, search: Callable[[], FolderCompared]) -> FolderCompared:
    """A comparison that found only what is within rounding, or the one revision among all that is equal."""
    if not found.is_near:
        return found
    other = search()
    equal = other.fitting and not other.is_near and not other.retracted
    return other if equal else found
