"""The adapter of a full model, written as an ordinary folder, which is then published as any other.

It runs where the folder is: in the process of a client or of a registry. Nothing is stored meanwhile.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

from registry.files.source import FileSource
from registry.folders.errors import telling_unwritable
from registry.operations.publication import FullModel
from registry.progress import Progress
from registry.schemas.artifacts import ExtractedModule, Extraction
from registry.services.artifacts.bound import bound_links
from registry.services.artifacts.inputs import Inputs
from registry.services.exact.model_folder import FullFolder
from registry.services.exact.values import no_change
from registry.services.full.folder import open_full_model
from registry.services.lineage import Blobs, LoadedPath
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.extraction import extract as core
from registry.tensors.extraction.best_pair import Wanted
from registry.tensors.extraction.changed import Changes, changes_of
from registry.tensors.extraction.link import Scratch
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import path_programs


def extract_full(
    blobs: Blobs, parent: LoadedPath, full: FullFolder, asked: FullModel, out: Path, progress: Progress
) -> Extraction:
    """Write the best adapter of a full model over a parent, in fp32.

    Args:
        blobs: where the parent is read from.
        parent: the revision or base model that the full model was trained from.
        full: the folder of the full model.
        asked: which rank or error.
        out: an empty folder for the adapter; its sibling ``factors`` is used meanwhile.
        progress: of the work.

    Returns:
        The ranks and true errors.

    Raises:
        What `registry.services.full.folder.open_full_model` raises.
        InvalidAdapterError: ``no_change``, the model is its parent; ``non_finite``; ``unsupported_layout``,
            ``not_composable``, ``tied_partial``: no PEFT adapter can bring the change; a link of the parent is invalid.
        AccuracyError: the error can't be reached in fp32.
        UnavailableError: the disk is full.
    """
    with ExitStack() as opened:
        inputs = Inputs(blobs, parent, opened)
        weights = core.ParentWeights(
            bound_links(inputs, parent.live), BaseTensors(inputs.base_weights().tensors), inputs.table
        )
        tensors = open_full_model(full, weights.base, weights.table, parent.base.name, opened)
        progress.begin("Comparing with the parent", sum(entry.elements for _, entry in tensors.tensors.values()))
        programs = path_programs(weights.links, weights.table)
        changes = changes_of(programs, weights.base, tensors, weights.table, progress)
        if not changes:
            raise no_change(parent)
        factors = out.with_name("factors")
        with telling_unwritable(out), Scratch(factors) as scratch:
            wanted = Wanted(asked.rank, asked.max_error, asked.svd == "full")
            found = core.Extraction(weights, tensors, changes, wanted, scratch, progress)
            scratch.flush()
            source = opened.enter_context(FileSource(factors))
            files, modules = found.files(source)
            progress.begin("Writing the adapter", sum(file.size for file in files))
            for file in files:
                _write(file, out, progress)
    return _as_extraction(parent, asked, modules, changes)


def _write(file: ArtifactFile, folder: Path, progress: Progress) -> None:
    with (folder / file.path).open("xb") as stream:
        for chunk in file.chunks():
            stream.write(chunk)
            progress.advance(len(chunk))


def _as_extraction(
    parent: LoadedPath, asked: FullModel, modules: tuple[ExtractedModule, ...], changes: Changes
) -> Extraction:
    energy = math.fsum(one.energy for one in modules)
    discarded = math.fsum(one.energy * one.error**2 for one in modules)
    return Extraction(
        parent=parent.tip,
        rank=asked.rank,
        max_error=asked.max_error,
        svd="full" if asked.max_error is not None else asked.svd,
        error=math.sqrt(discarded / energy) if energy > 0 else 0.0,
        modules=modules,
        values=tuple(sorted(value.parameter for value in changes.values)),
        unchanged=changes.unchanged,
    )
