"""Checking the values of a full fine-tune that is published: every frame, finite, and not its parent once more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from registry.errors import IntegrityError, InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.model_weights import ModelWeights
from registry.files.source import ByteSource, look_at
from registry.schemas import Options
from registry.services.artifacts.build import build_artifact
from registry.services.artifacts.inputs import base_weights
from registry.services.lineage import Blobs, LoadedPath
from registry.tensors.arithmetic.streamed import FiniteWatch
from registry.tensors.artifacts.artifact import Artifact
from registry.tensors.exact.contents import with_exact_tensors
from registry.tensors.exact.file_format import FRAME, ExactIndex


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
