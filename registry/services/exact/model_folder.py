"""The folder of a full model: its files and tensors, or the rule of base models that it breaks, told of that model."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from registry.errors import InvalidAdapterError, InvalidBaseError, RegistryError
from registry.files.header import TensorEntry
from registry.files.source import ByteSource, FileSource
from registry.folders.local_files import telling_unreadable
from registry.folders.scan import FoundFile
from registry.schemas import LeftOut
from registry.transfer.model_files import INDEX, ModelFiles, read_model_files, unquantised


@dataclass(frozen=True)
class FullFolder:
    """The folder of a full model."""

    place: Path  # as it was given
    model: ModelFiles

    @property
    def others(self) -> tuple[FoundFile, ...]:
        """The files of the model that are neither weights nor their index."""
        weights = {*self.model.headers, INDEX}
        return tuple(found for found in self.model.files if found.path not in weights)

    def left_out(self, not_taken: Iterable[FoundFile], reason: str) -> tuple[LeftOut, ...]:
        """What of the folder is not published: what is no file of a model, and these files of it."""
        more = (LeftOut(path=found.path, reason=reason) for found in not_taken)
        return tuple(sorted([*self.model.left_out, *more], key=lambda left: left.path))


def read_full_model(folder: Path) -> FullFolder:
    """The folder of a full model, as ``save_pretrained`` writes it, with one file of weights or several.

    Raises:
        NotFoundError: there is no such folder.
        InvalidAdapterError: ``pickle``, ``missing_file``, ``bad_index``, ``bad_safetensors``, ``quantised_base``,
            ``adapter_as_base``: it is no full model.
    """
    try:
        model = read_model_files(folder)
        unquantised(model.model)
        return FullFolder(folder, model)
    except InvalidBaseError as problem:
        raise InvalidAdapterError(_reworded(folder, problem), code=_code(folder, problem)) from problem


def open_tensors(model: ModelFiles, opened: ExitStack) -> dict[str, tuple[ByteSource, TensorEntry]]:
    """The tensors of a full model by its own names; ``opened`` closes the files.

    Raises:
        UnavailableError: a file can't be read.
    """
    places = {one.path: one.file for one in model.files}
    found: dict[str, tuple[ByteSource, TensorEntry]] = {}
    for path, header in model.headers.items():
        with telling_unreadable(places[path]):
            source = opened.enter_context(FileSource(places[path]))
        found |= {entry.name: (source, entry) for entry in header.entries.values()}
    return found


def _reworded(folder: Path, problem: RegistryError) -> str:
    if problem.code == "quantised_base":
        return (
            f"{folder} holds quantised weights, so what training changed can't be seen in them. Publish the model "
            "that it was before it was quantised."
        )
    if problem.code == "adapter_as_base":
        return f"{folder} holds an adapter and no full model. Publish it without --full."
    if _code(folder, problem) == "pickle":
        return (
            f"{folder} has its weights only as pickles, which are never read. Load the model there and save it with "
            "save_pretrained(..., safe_serialization=True)."
        )
    return str(problem)


def _code(folder: Path, problem: RegistryError) -> str:
    pickles = (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"))
    weights = [one for one in pickles if one.name.startswith(("pytorch_model", "model", "consolidated"))]
    return "pickle" if problem.code == "missing_file" and weights else problem.code
