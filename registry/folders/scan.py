"""Decides which files of a folder are taken, and which are left out and why.

The same rules apply to publish folders, base folders and Hub repositories: trainers leave optimiser states, checkpoints
and pickles next to the files of the revision. Everything left out is listed with a reason.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from registry.errors import InvalidAdapterError, RegistryError
from registry.folders.foreign import Head, no_folder, what_it_is
from registry.folders.local_files import check_name, check_together, head_of, is_taken, telling_unreadable
from registry.folders.lora_files import holds_lora, only_weights
from registry.schemas import LeftOut

ADAPTER_CONFIG: Final = "adapter_config.json"
README: Final = "README.md"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
PICKLED_WEIGHTS: Final = "adapter_model.bin"
READ_PICKLE: Final = f"pickle, whose tensors were read and written as {ADAPTER_WEIGHTS}"
"""Why the pickle of an adapter is left out whose weights come from it."""
OF_PICKLE: Final = (
    f"The weights were in {PICKLED_WEIGHTS}, a pickle: its tensors were read, nothing else of it, and written as "
    f"{ADAPTER_WEIGHTS}."
)
"""The notice of a revision whose weights come from it."""
EXACT_WEIGHTS: Final = "model.exact"
"""What a full fine-tune that is stored exactly has in the place of PEFT's weights."""
MODEL_CONFIG: Final = "config.json"
RECEIPT: Final = "registry-receipt.json"
MAX_FILES: Final = 20_000

_TRAINER: Final = re.compile(r"(training_args\.bin|optimizer\.pt|optimizer\.bin|scheduler\.pt|scaler\.pt|rng_state.*)")
_PICKLES: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_CHECKPOINT: Final = re.compile(r"checkpoint-.*")
_WHOLE_MODEL: Final = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
_HIDDEN_REASON: Final = "hidden"
CHECKPOINT: Final = "trainer checkpoint"
ANOTHER_ADAPTER: Final = "another adapter"
ONLY_CHECKPOINTS: Final = "only trainer checkpoints"


@dataclass(frozen=True)
class Form:
    """The two files that make a revision: what configures it, and its weights."""

    config: str
    weights: str


ADAPTER: Final = Form(ADAPTER_CONFIG, ADAPTER_WEIGHTS)
EXACT: Final = Form(MODEL_CONFIG, EXACT_WEIGHTS)
"""A full fine-tune as the tensors that differ from the base's."""


def form_of(names: Collection[str]) -> Form:
    """The form of a revision with files of these names."""
    return EXACT if EXACT_WEIGHTS in names and ADAPTER_CONFIG not in names else ADAPTER


@dataclass(frozen=True)
class FoundFile:
    """A file that is taken: its ``/``-separated name in the folder, and where its bytes are."""

    path: str
    file: Path
    size: int  # at the time of listing


@dataclass(frozen=True)
class Folder:
    """The listing of a folder."""

    root: Path
    files: tuple[FoundFile, ...]
    left_out: tuple[LeftOut, ...]

    def find(self, path: str) -> Path | None:
        """Where the file of that name is, if it was taken."""
        return next((found.file for found in self.files if found.path == path), None)


def scan(folder: Path, error: type[RegistryError]) -> Folder:
    """List a folder by the rules of this module.

    Raises:
        NotFoundError: the folder does not exist.
        UnavailableError: the folder, or one below it, can't be read.
        error: ``link_outside`` for a symbolic link that leads out, ``bad_config`` for a name that can't be stored.
    """
    with telling_unreadable(folder):
        return _scan(folder, error)


def alone(file: Path, error: type[RegistryError]) -> Folder:
    """The listing of a folder of which one file is given, as if it held nothing else.

    Raises:
        UnavailableError: it can't be read.
        error: ``bad_config`` for a name that can't be stored.
    """
    check_name(file.name, error)
    with telling_unreadable(file):
        place = file.resolve()
        return Folder(file.parent.resolve(), (FoundFile(file.name, place, place.stat().st_size),), ())


def _scan(folder: Path, error: type[RegistryError]) -> Folder:
    if not folder.is_dir():
        raise no_folder(folder)
    root = folder.resolve()
    files: list[FoundFile] = []
    left_out: list[LeftOut] = []

    def leave(path: Path, reason: str) -> None:
        left_out.append(LeftOut(path=_spelt(path, root), reason=reason))

    for path in _walk(root, leave):
        found = _look_at(path, root, error)
        if isinstance(found, FoundFile):
            files.append(found)
        else:
            leave(path, found)
        if len(files) > MAX_FILES:
            raise error(
                f"{folder} contains more than {MAX_FILES} files; publish the folder of one model.", code="bad_config"
            )
    files.sort(key=lambda found: found.path)
    check_together((found.path for found in files), error)
    return Folder(root, tuple(files), tuple(sorted(left_out, key=lambda left: left.path)))


def _walk(root: Path, leave: Callable[[Path, str], None]) -> Iterator[Path]:
    """Files below ``root``, reporting folders that are left out as a whole."""
    for place, folders, names in os.walk(root, onerror=_refused):
        here = Path(place)
        kept = []
        for name in sorted(folders):
            reason = folder_reason(here / name)
            if reason is None:
                kept.append(name)
            else:
                leave(here / name, reason)
        folders[:] = kept
        for name in sorted(names):
            yield here / name


def _refused(problem: OSError) -> None:
    """Raise: by default `os.walk` would silently skip a folder that can't be read."""
    raise problem


def folder_reason(folder: Path) -> str | None:
    """Why a subfolder is left out as a whole; None if its files are taken.

    Raises OSError if it can't be read.
    """
    if folder.is_symlink():
        return "symbolic link to a folder"
    return _reason_by_folder_name(folder.name) or _reason_by_content(folder)


def _reason_by_folder_name(name: str) -> str | None:
    if name.startswith("."):
        return _HIDDEN_REASON
    if _CHECKPOINT.fullmatch(name):
        return CHECKPOINT
    if name == "__pycache__":
        return "compiled Python"
    return None


def _reason_by_content(folder: Path) -> str | None:
    """Whether the folder or one below it contains an adapter, or at least checkpoints of one."""
    for _, folders, names in os.walk(folder, onerror=_refused):
        if ADAPTER_CONFIG in names or EXACT_WEIGHTS in names:
            return ANOTHER_ADAPTER
        folders[:] = [name for name in folders if _reason_by_folder_name(name) is None]
    return ONLY_CHECKPOINTS if _checkpoints(folder) else None


def is_publish_folder(folder: Path) -> bool:
    """Whether a folder itself is that of a revision."""
    return (folder / ADAPTER_CONFIG).is_file() or (folder / EXACT_WEIGHTS).is_file()


def _checkpoints(folder: Path) -> list[str]:
    """Names of the checkpoints in a folder that contain an adapter."""
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if _CHECKPOINT.fullmatch(entry.name) and (Path(entry.path) / ADAPTER_CONFIG).is_file()
    )


def checkpoints_alone(folder: Path) -> InvalidAdapterError | None:
    """The error for a folder that holds only trainer checkpoints; None if it has none."""
    found = _checkpoints(folder)
    return _only_checkpoints(str(folder), found) if found else None


def _only_checkpoints(where: str, checkpoints: Iterable[str]) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"{where} contains only trainer checkpoints: {', '.join(checkpoints)}. Publish one of these folders.",
        code="checkpoint_folders",
    )


def holds_weights(folder: Path) -> bool:
    """Whether a folder, or one below it that would be entered, contains weight files; raises OSError."""
    for _, folders, names in os.walk(folder, onerror=_refused):
        if any(PurePosixPath(name).suffix.lower() in (".safetensors", ".gguf", *_PICKLES) for name in names):
            return True
        folders[:] = [name for name in folders if _reason_by_folder_name(name) is None]
    return False


def _look_at(path: Path, root: Path, error: type[RegistryError]) -> FoundFile | str:
    """A file that is taken, or the reason why it is left out."""
    if path.name.startswith("."):
        return _HIDDEN_REASON
    file, status = path, path.lstat()
    if stat.S_ISLNK(status.st_mode):
        file = _behind_link(path, root, error)
        status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    return reason_by_name(path.name) or FoundFile(
        check_name(path.relative_to(root).as_posix(), error), file, status.st_size
    )


def reason_by_name(name: str) -> str | None:
    """Why a file with that base name is left out; None if it is taken."""
    if name.startswith("."):
        return _HIDDEN_REASON
    if is_taken(name, RECEIPT):
        return "receipt of a fetch"
    if is_trainer_state(name):
        return "trainer state"
    if PurePosixPath(name).suffix.lower() in _PICKLES:
        return "pickle"
    return None


def is_trainer_state(name: str) -> bool:
    """Whether a file of that base name is what a trainer resumes from, and nothing that a model is loaded with."""
    return _TRAINER.fullmatch(name) is not None


def is_own_file(path: Path, root: Path) -> bool:
    """Whether a file is one of a folder: no link, but into the blobs of the Hub cache that it is a snapshot of."""
    try:
        return path.is_file() and (not path.is_symlink() or bool(_behind_link(path, root, InvalidAdapterError)))
    except (OSError, RegistryError):
        return False


def _behind_link(path: Path, root: Path, error: type[RegistryError]) -> Path:
    """The target of a link; allowed only into the blobs of the Hub cache that the folder is a snapshot of."""
    target = path.resolve()
    if not target.exists():
        raise error(f"{path} is a broken symbolic link; restore the file or remove the link.", code="link_outside")
    blobs = root.parent.parent / "blobs"
    if root.parent.name == "snapshots" and blobs.is_dir() and target.is_relative_to(blobs.resolve()):
        return target
    raise error(
        f"{path} is a symbolic link to {target}; links are followed only in a Hub cache. Put the file itself there.",
        code="link_outside",
    )


def _spelt(path: Path, root: Path) -> str:
    """The name of a left-out path as valid UTF-8, even if the system's name is not."""
    return path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def sort_names(names: Iterable[str], error: type[RegistryError]) -> tuple[list[str], list[LeftOut]]:
    """Apply the same rules to files that are not local yet, by name alone: taken names, and left-out ones.

    Raises:
        error: ``path_traversal`` for a name that leads out of its folder, ``bad_config`` for one that can't be stored.
    """
    listed = sorted(names)
    for name in listed:
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise error(
                f"File name {name!r} leads out of its folder; such files are not published.", code="path_traversal"
            )
    others = _others(listed)
    taken: list[str] = []
    left_out: dict[str, str] = {}
    for name in listed:
        place, reason = _first_reason(name, others)
        if reason is None:
            taken.append(check_name(name, error))
        else:
            left_out[place] = reason
    check_together(taken, error)
    return taken, [LeftOut(path=place, reason=reason) for place, reason in sorted(left_out.items())]


def _first_reason(name: str, others: Mapping[str, str]) -> tuple[str, str | None]:
    """The outermost folder, or the file, that is left out, and why; reason None: the file is taken."""
    *folders, last = name.split("/")
    for depth, folder in enumerate(folders, 1):
        place = "/".join(folders[:depth])
        reason = _reason_by_folder_name(folder) or others.get(place)
        if reason is not None:
            return place, reason
    return name, reason_by_name(last)


def _others(names: Iterable[str]) -> dict[str, str]:
    """What `_reason_by_content` would find in the folders of these names."""
    found: dict[str, str] = {}
    for name in names:
        *folders, last = name.split("/")
        if last not in {ADAPTER_CONFIG, EXACT_WEIGHTS} or not folders:
            continue
        if _CHECKPOINT.fullmatch(folders[-1]) and len(folders) > 1:
            found.setdefault("/".join(folders[:-1]), ONLY_CHECKPOINTS)
        while folders:
            found["/".join(folders)] = ANOTHER_ADAPTER
            if _reason_by_folder_name(folders.pop()) is not None:
                break
    return found


class Written(Protocol):
    """What an adapter lacks, made elsewhere."""

    def weights(self, pickle: Path, /) -> Path:
        """The tensors of a pickle as a safetensors file."""

    def lora(self, file: Path, name: str, folder: Path, /) -> Mapping[str, Path]:
        """What a LoRA file of that name in a folder lacks, by name: its configuration, and a card if there is one."""


def adapter_folder(folder: Path, written: Written | None = None) -> Folder:
    """List a publish folder: PEFT's two files, and whatever else a trainer left.

    Args:
        folder: the folder.
        written: makes what an adapter lacks; None: such a folder is refused.

    Raises:
        NotFoundError: the folder does not exist.
        InvalidAdapterError: ``missing_file``, ``pickle`` or ``checkpoint_folders`` if the two files are missing.
    """
    found = scan(folder, InvalidAdapterError)
    if written is not None:
        found = _with_config(_with_pickle(found, folder, written.weights), written.lora)
    places = {one.path: one.file for one in found.files}
    require_adapter(str(folder), places, found.left_out, lambda name: head_of(places[name]))
    models = models_beside(places)
    names = {model.path for model in models}
    files = tuple(one for one in found.files if one.path not in names)
    return Folder(found.root, files, tuple(sorted([*found.left_out, *models], key=lambda left: left.path)))


def has_pickle_alone(names: Collection[str], left_out: Iterable[LeftOut]) -> bool:
    """Whether an adapter of these files has its weights as a pickle alone."""
    has = any(left.path == PICKLED_WEIGHTS for left in left_out)
    return has and ADAPTER_CONFIG in names and ADAPTER_WEIGHTS not in names


def _with_pickle(found: Folder, folder: Path, from_pickle: Callable[[Path], Path]) -> Folder:
    """The listing with what the pickle of an adapter holds in the place of its weights, where it has no others."""
    names = {one.path for one in found.files}
    if not has_pickle_alone(names, found.left_out) or not is_own_file(found.root / PICKLED_WEIGHTS, found.root):
        return found
    written = from_pickle(folder / PICKLED_WEIGHTS)
    files = (*found.files, FoundFile(ADAPTER_WEIGHTS, written, written.stat().st_size))
    left_out = [LeftOut(path=PICKLED_WEIGHTS, reason=READ_PICKLE) if one.path == PICKLED_WEIGHTS else one
                for one in found.left_out]  # fmt: skip
    return Folder(found.root, tuple(sorted(files, key=lambda one: one.path)), tuple(left_out))


def _with_config(found: Folder, made: Callable[[Path, str, Path], Mapping[str, Path]]) -> Folder:
    """The listing with a LoRA file of an image model as weights, and the configuration and card that it lacks."""
    files = {one.path: one for one in found.files}
    if ADAPTER_CONFIG in files:
        return found
    name = only_weights(files)
    if name is None or not holds_lora(files[name].file):  # of a Hub's snapshot, it is called as its digest
        return found
    written = made(files[name].file, name, found.root)
    weights = files.pop(name)
    files[ADAPTER_WEIGHTS] = replace(weights, path=ADAPTER_WEIGHTS)
    for path, file in written.items():
        files.setdefault(path, FoundFile(path, file, file.stat().st_size))
    return Folder(found.root, tuple(files[path] for path in sorted(files)), found.left_out)


def models_beside(names: Collection[str]) -> tuple[LeftOut, ...]:
    """The merged model that a trainer wrote next to an adapter, as torchtune does: it follows from the path."""
    if form_of(names) != ADAPTER:
        return ()
    return tuple(LeftOut(path=name, reason="whole model") for name in names if _WHOLE_MODEL.fullmatch(name))


def require_adapter(where: str, taken: Collection[str], left_out: Iterable[LeftOut], head: Head | None = None) -> None:
    """Check that PEFT's two files are among those taken; ``head`` reads headers of weights, if available already.

    Raises:
        InvalidAdapterError: ``missing_file``, ``pickle`` or ``checkpoint_folders``.
    """
    has_config = ADAPTER_CONFIG in taken
    form = form_of(taken)
    if form.config in taken and form.weights in taken:
        return
    left = {entry.path: entry.reason for entry in left_out}
    checkpoints = sorted(path for path, reason in left.items() if reason == CHECKPOINT and "/" not in path)
    if checkpoints and not has_config:
        raise _only_checkpoints(where, checkpoints)
    if PICKLED_WEIGHTS in left:
        raise InvalidAdapterError(
            f"{where} has its weights only as {PICKLED_WEIGHTS}, a pickle, which is not read here: save the adapter "
            "again as safetensors, with save_pretrained.",
            code="pickle",
        )
    others = sorted(path for path, reason in left.items() if reason == ANOTHER_ADAPTER and "/" not in path)
    missing = ADAPTER_WEIGHTS if has_config else ADAPTER_CONFIG
    raise InvalidAdapterError(
        what_it_is(where, taken, left, () if has_config else others, head)
        or f"{where} has no {missing}; a folder written by PEFT's save_pretrained is expected.",
        code="missing_file",
    )
