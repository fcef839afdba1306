"""Which files of a folder are taken, and which are left out and why.

One rule for publish folders and base folders: trainers leave optimiser states, checkpoints and pickles beside what
belongs to the revision. Nothing is taken silently and nothing is dropped silently.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from registry.errors import InvalidAdapterError, NotFoundError, RegistryError
from registry.schemas import LeftOut

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
RECEIPT: Final = "registry-receipt.json"
MAX_FILES: Final = 20_000

_TRAINER: Final = re.compile(r"(training_args\.bin|optimizer\.pt|optimizer\.bin|scheduler\.pt|scaler\.pt|rng_state.*)")
_PICKLES: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_CHECKPOINT: Final = re.compile(r"checkpoint-.*")
_HIDDEN_REASON: Final = "hidden"


@dataclass(frozen=True)
class FoundFile:
    """A file that belongs to what is added: its name in the folder (``/``-separated) and where its bytes are."""

    path: str
    file: Path


@dataclass(frozen=True)
class Folder:
    """What a folder holds."""

    root: Path
    files: tuple[FoundFile, ...]
    left_out: tuple[LeftOut, ...]

    def find(self, path: str) -> Path | None:
        """Where the file of that name is, if it was taken."""
        return next((found.file for found in self.files if found.path == path), None)


def scan(folder: Path, error: type[RegistryError]) -> Folder:
    """List a folder by the rule above.

    Raises:
        NotFoundError: there is no such folder.
        error: ``link_outside`` for a symbolic link that leads out, ``bad_config`` for a name that can't be stored.
    """
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {str(folder)!r}.", code="missing_file")
    root = folder.resolve()
    files: list[FoundFile] = []
    left_out: list[LeftOut] = []

    def leave(path: Path, reason: str) -> None:
        left_out.append(LeftOut(path=_name(path, root, error), reason=reason))

    for path in _walk(root, leave):
        reason = _reason(path, root, error)
        if reason is None:
            files.append(FoundFile(_name(path, root, error), path.resolve() if path.is_symlink() else path))
        else:
            leave(path, reason)
        if len(files) > MAX_FILES:
            raise error(
                f"{folder} holds more than {MAX_FILES} files; publish the folder of one model.", code="bad_config"
            )
    files.sort(key=lambda found: found.path)
    return Folder(root, tuple(files), tuple(sorted(left_out, key=lambda left: left.path)))


def _walk(root: Path, leave: Callable[[Path, str], None]) -> Iterator[Path]:
    """Files below ``root``; folders that never belong are left out as a whole."""
    for place, folders, names in os.walk(root):
        here = Path(place)
        kept = []
        for name in sorted(folders):
            reason = _folder_reason(here / name)
            if reason is None:
                kept.append(name)
            else:
                leave(here / name, reason)
        folders[:] = kept
        for name in sorted(names):
            yield here / name


def _folder_reason(folder: Path) -> str | None:
    if folder.is_symlink():
        return "symbolic link to a folder"
    if folder.name.startswith("."):
        return _HIDDEN_REASON
    if _CHECKPOINT.fullmatch(folder.name):
        return "trainer checkpoint"
    if folder.name == "__pycache__":
        return "compiled Python"
    if holds_adapter(folder):
        return "another adapter"
    return None


def holds_adapter(folder: Path) -> bool:
    """Whether an adapter lies in the folder itself or anywhere below it."""
    for _, folders, names in os.walk(folder):
        if ADAPTER_CONFIG in names:
            return True
        folders[:] = [name for name in folders if not _CHECKPOINT.fullmatch(name) and not name.startswith(".")]
    return False


def _reason(path: Path, root: Path, error: type[RegistryError]) -> str | None:
    """Why a file is left out; None where it is taken."""
    if path.name.startswith("."):
        return _HIDDEN_REASON
    if path.is_symlink():
        _check_link(path, root, error)
    if not stat.S_ISREG(path.stat().st_mode):
        return "not a regular file"
    return reason_by_name(path.name)


def reason_by_name(name: str) -> str | None:
    """Why a file of that name, without folders, is left out; None where it is taken."""
    if name.startswith("."):
        return _HIDDEN_REASON
    if name == RECEIPT:
        return "receipt of a fetch"
    if _TRAINER.fullmatch(name):
        return "trainer state"
    if PurePosixPath(name).suffix.lower() in _PICKLES:
        return "pickle"
    return None


def _check_link(path: Path, root: Path, error: type[RegistryError]) -> None:
    """A link may lead into the blobs of the Hub cache that the folder is a snapshot of, and nowhere else."""
    target = path.resolve()
    if not target.exists():
        raise error(f"{path} is a symbolic link to nothing; restore the file or remove the link.", code="link_outside")
    blobs = root.parent.parent / "blobs"
    if root.parent.name == "snapshots" and blobs.is_dir() and target.is_relative_to(blobs.resolve()):
        return
    raise error(
        f"{path} is a symbolic link to {target}; links are followed only in a Hub cache. Put the file itself there.",
        code="link_outside",
    )


def _name(path: Path, root: Path, error: type[RegistryError]) -> str:
    name = path.relative_to(root).as_posix()
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise error(f"File name {name!r} is not valid UTF-8; rename the file.", code="bad_config") from None
    if any(ord(letter) < 32 or letter in '\\:*?"<>|' for letter in name) or len(name) > 512:
        raise error(
            f"File name {name!r} can't be stored: at most 512 characters and none of \\ : * ? \" < > | are expected.",
            code="bad_config",
        )
    return name


def adapter_folder(folder: Path) -> Folder:
    """List a publish folder: PEFT's two files, and whatever a trainer left beside them.

    Raises:
        NotFoundError: there is no such folder.
        InvalidAdapterError: ``missing_file``, ``pickle`` or ``checkpoint_folders`` where the two files are not there.
    """
    found = scan(folder, InvalidAdapterError)
    has_config = found.find(ADAPTER_CONFIG) is not None
    if has_config and found.find(ADAPTER_WEIGHTS) is not None:
        return found
    left = {entry.path: entry.reason for entry in found.left_out}
    checkpoints = sorted(path for path, reason in left.items() if reason == "trainer checkpoint" and "/" not in path)
    if checkpoints and not has_config:
        raise InvalidAdapterError(
            f"{folder} holds only trainer checkpoints: {', '.join(checkpoints)}. Publish one of these folders.",
            code="checkpoint_folders",
        )
    if "adapter_model.bin" in left:
        raise InvalidAdapterError(
            f"{folder} has its weights only as adapter_model.bin, a pickle, which is never read. "
            "Save the adapter with save_pretrained(..., safe_serialization=True).",
            code="pickle",
        )
    missing = ADAPTER_WEIGHTS if has_config else ADAPTER_CONFIG
    raise InvalidAdapterError(
        f"{folder} has no {missing}; a folder written by PEFT's save_pretrained is expected.", code="missing_file"
    )
