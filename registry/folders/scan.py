"""Which files of a folder are taken, and which are left out and why.

One rule for publish folders, base folders and repositories of a Hub: trainers leave optimiser states, checkpoints and
pickles beside what belongs to the revision. Nothing is taken silently and nothing is dropped silently.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from registry.errors import InvalidAdapterError, NotFoundError, RegistryError
from registry.folders.refusals import telling_unreadable
from registry.schemas import LeftOut

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
RECEIPT: Final = "registry-receipt.json"
MAX_FILES: Final = 20_000

_TRAINER: Final = re.compile(r"(training_args\.bin|optimizer\.pt|optimizer\.bin|scheduler\.pt|scaler\.pt|rng_state.*)")
_PICKLES: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_CHECKPOINT: Final = re.compile(r"checkpoint-.*")
_HIDDEN_REASON: Final = "hidden"
_ANOTHER_ADAPTER: Final = "another adapter"


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
        UnavailableError: the folder, or one below it, can't be read.
        error: ``link_outside`` for a symbolic link that leads out, ``bad_config`` for a name that can't be stored.
    """
    with telling_unreadable(folder):
        return _scan(folder, error)


def _scan(folder: Path, error: type[RegistryError]) -> Folder:
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
    for place, folders, names in os.walk(root, onerror=_refused):
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


def _refused(problem: OSError) -> None:
    """What is in a folder that can't be read would be dropped silently."""
    raise problem


def _folder_reason(folder: Path) -> str | None:
    if folder.is_symlink():
        return "symbolic link to a folder"
    return _reason_by_folder_name(folder.name) or (_ANOTHER_ADAPTER if holds_adapter(folder) else None)


def _reason_by_folder_name(name: str) -> str | None:
    if name.startswith("."):
        return _HIDDEN_REASON
    if _CHECKPOINT.fullmatch(name):
        return "trainer checkpoint"
    if name == "__pycache__":
        return "compiled Python"
    return None


def holds_adapter(folder: Path) -> bool:
    """Whether an adapter lies in the folder itself or anywhere below it; raises OSError for what can't be read."""
    for _, folders, names in os.walk(folder, onerror=_refused):
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
    return _check_name(path.relative_to(root).as_posix(), error)


def _check_name(name: str, error: type[RegistryError]) -> str:
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


def sort_names(names: Iterable[str], error: type[RegistryError]) -> tuple[list[str], list[LeftOut]]:
    """The same rule for files that are not here yet, by their names alone: what is taken, and what is left out.

    Raises:
        error: ``path_traversal`` for a name that leads out of its folder, ``bad_config`` for one that can't be stored.
    """
    listed = sorted(names)
    for name in listed:
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise error(f"File name {name!r} leads out of its folder; it is not taken.", code="path_traversal")
    holders = _holders(listed)
    taken: list[str] = []
    left_out: dict[str, str] = {}
    for name in listed:
        place, reason = _first_reason(name, holders)
        if reason is None:
            taken.append(_check_name(name, error))
        else:
            left_out[place] = reason
    return taken, [LeftOut(path=place, reason=reason) for place, reason in sorted(left_out.items())]


def _first_reason(name: str, holders: Collection[str]) -> tuple[str, str | None]:
    """What is left out, a folder or the file, and why; no reason: the file is taken."""
    *folders, last = name.split("/")
    for depth, folder in enumerate(folders, 1):
        place = "/".join(folders[:depth])
        reason = _reason_by_folder_name(folder) or (_ANOTHER_ADAPTER if place in holders else None)
        if reason is not None:
            return place, reason
    return name, reason_by_name(last)


def _holders(names: Iterable[str]) -> set[str]:
    """The folders in which `holds_adapter` would find an adapter."""
    found = set()
    for name in names:
        folders = name.split("/")[:-1]
        if not name.endswith(f"/{ADAPTER_CONFIG}"):
            continue
        while folders:
            found.add("/".join(folders))
            last = folders.pop()
            if _CHECKPOINT.fullmatch(last) or last.startswith("."):
                break
    return found


def adapter_folder(folder: Path) -> Folder:
    """List a publish folder: PEFT's two files, and whatever a trainer left beside them.

    Raises:
        NotFoundError: there is no such folder.
        InvalidAdapterError: ``missing_file``, ``pickle`` or ``checkpoint_folders`` where the two files are not there.
    """
    found = scan(folder, InvalidAdapterError)
    require_adapter(str(folder), {one.path for one in found.files}, found.left_out)
    return found


def require_adapter(where: str, taken: Collection[str], left_out: Iterable[LeftOut]) -> None:
    """Check that PEFT's two files are among those that are taken.

    Raises:
        InvalidAdapterError: ``missing_file``, ``pickle`` or ``checkpoint_folders``.
    """
    has_config = ADAPTER_CONFIG in taken
    if has_config and ADAPTER_WEIGHTS in taken:
        return
    left = {entry.path: entry.reason for entry in left_out}
    checkpoints = sorted(path for path, reason in left.items() if reason == "trainer checkpoint" and "/" not in path)
    if checkpoints and not has_config:
        raise InvalidAdapterError(
            f"{where} holds only trainer checkpoints: {', '.join(checkpoints)}. Publish one of these folders.",
            code="checkpoint_folders",
        )
    if "adapter_model.bin" in left:
        raise InvalidAdapterError(
            f"{where} has its weights only as adapter_model.bin, a pickle, which is never read. "
            "Save the adapter with save_pretrained(..., safe_serialization=True).",
            code="pickle",
        )
    missing = ADAPTER_WEIGHTS if has_config else ADAPTER_CONFIG
    raise InvalidAdapterError(
        f"{where} has no {missing}; a folder written by PEFT's save_pretrained is expected.", code="missing_file"
    )
