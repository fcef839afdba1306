"""The folder of a full model and its values: read, and checked: every frame, finite, and not its parent once more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from registry.errors import IntegrityError, InvalidAdapterError, InvalidBaseError, RegistryError
from registry.files.header import ModelWeights, TensorEntry
from registry.files.source import ByteSource, FileSource, look_at
from registry.folders.local_files import telling_unreadable
from registry.folders.scan import FoundFile
from registry.schemas import LeftOut, Options
from registry.services.artifacts.build import build_artifact
from registry.tensors.arithmetic.streamed import FiniteWatch
from registry.tensors.artifacts.artifact import Artifact
from registry.tensors.exact.contents import with_exact_tensors
from registry.tensors.exact.file_format import FRAME, ExactIndex
from registry.tensors.lineage.inputs import base_weights
from registry.tensors.lineage.paths import Blobs, LoadedPath
from registry.transfer.model_files import COMPONENT_INDEX, INDEX, ModelFiles, read_model_files, unquantised


def check_exact(
    blobs: Blobs, parent: LoadedPath, index: ExactIndex, weights: ByteSource, advance: Callable[[int], None]
) -> None:
    """Check every value of an exact file; ``advance`` gets the bytes of its tensors.

    Raises:
        InvalidAdapterError: ``bad_exact``, a frame can't be decoded; ``non_finite``.
        InvalidAdapterError: ``no_change``, the model is its parent's, bit for bit.
    """
    with ExitStack() as opened:
        model = with_exact_tensors(base_weights(blobs, replace(parent, links=()), opened), index, weights)
        for name in index.entries:
            check_values(*model.tensors[name], advance)
        if _is_model_of(blobs, parent, model):
            raise no_change(parent)


def no_change(parent: LoadedPath) -> InvalidAdapterError:
    """The error for a full model that is its parent's."""
    digest = parent.tip.removeprefix("sha256:")[:12]
    return InvalidAdapterError(
        f"The model equals {parent.reference} ({digest}) byte for byte: nothing was trained, so there is nothing to "
        f"publish. Use {parent.reference} itself.",
        code="no_change",
    )


def check_values(source: ByteSource, entry: TensorEntry, advance: Callable[[int], None]) -> None:
    """Read a tensor of a full model; ``advance`` gets its bytes.

    Raises:
        InvalidAdapterError: ``bad_exact``, a frame can't be decoded; ``non_finite``.
    """
    size = entry.stop - entry.start
    watch = FiniteWatch({entry.name: replace(entry, start=0, stop=size)})
    for at in range(0, size, FRAME):
        stop = min(at + FRAME, size)
        try:
            chunk = look_at(source, entry.start + at, entry.start + stop)
        except IntegrityError as problem:
            if problem.code != "bad_exact":
                raise
            raise InvalidAdapterError(f"{problem} Publish the model folder again.", code="bad_exact") from problem
        watch(at, chunk)
        advance(stop - at)


def _is_model_of(blobs: Blobs, path: LoadedPath, model: ModelWeights) -> bool:
    """Whether a model is the merged model of a path, compared until the first difference."""
    with build_artifact(blobs, path, None, Options(kind="merged")) as merged:
        return _same_tensors(merged, model)


def _same_tensors(merged: Artifact, model: ModelWeights) -> bool:
    places = {
        name: (file, entry)
        for file in merged.files.values()
        for name, entry in (file.header.entries.items() if file.header else ())
    }
    if {name: (one.dtype, one.shape) for name, (_, one) in places.items()} != {
        name: (one.dtype, one.shape) for name, (_, one) in model.tensors.items()
    }:
        return False
    for name, (file, entry) in places.items():
        source, own = model.tensors[name]
        at = own.start
        for chunk in file.chunks(entry.start, entry.stop, lanes=1):
            if look_at(source, at, at + len(chunk)) != chunk:
                return False
            at += len(chunk)
    return True


@dataclass(frozen=True)
class FullFolder:
    """The folder of a full model."""

    place: Path  # as it was given
    model: ModelFiles

    @property
    def others(self) -> tuple[FoundFile, ...]:
        """The files of the model that are neither weights nor their index."""
        weights = {*self.model.headers, INDEX, COMPONENT_INDEX}
        return tuple(found for found in self.model.files if found.path not in weights)

    def left_out(self, not_taken: Iterable[FoundFile], reason: str) -> tuple[LeftOut, ...]:
        """What of the folder is not published: what is no file of a model, and these files of it."""
        more = (LeftOut(path=found.path, reason=reason) for found in not_taken)
        return tuple(sorted([*self.model.left_out, *more], key=lambda left: left.path))


def read_full_model(folder: Path) -> FullFolder:
    """The folder of a full model, as ``save_pretrained`` writes it, with one file of weights or several.

    Raises:
        NotFoundError: the folder does not exist.
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
