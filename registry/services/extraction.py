"""What is published of a full model: all of it, exactly, or the nearest adapter, written as an ordinary folder.

It runs where the folder is: in the process of a client or of a registry. Nothing is stored meanwhile.

The folder of a full model and the base model that it was trained from: opened, named and refused by name.

What is published of a full model: all of it, exactly, or the adapter that is nearest to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import TensorEntry
from registry.files.source import FileSource
from registry.folders.local_files import telling_unwritable
from registry.folders.scan import MODEL_CONFIG
from registry.operations.publication import FullModel
from registry.progress import Progress
from registry.schemas.artifacts import ExtractedModule, Extraction
from registry.services.exact.folder import write_exact_folder
from registry.services.exact.model_folder import FullFolder, no_change, open_tensors, read_full_model
from registry.services.publishing.parent_folder import Held, by_names_of
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.extraction import extract as core
from registry.tensors.extraction.best_pair import Wanted
from registry.tensors.extraction.changed import Changes, changes_of
from registry.tensors.extraction.extract import Scratch
from registry.tensors.lineage.bound import bound_links
from registry.tensors.lineage.inputs import Inputs
from registry.tensors.lineage.paths import Blobs, LoadedPath
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import path_programs
from registry.tensors.table.slots import slot_of_target
from registry.tensors.table.targets import TargetTable
from registry.transfer.source import MadeOfFull

_MOST_OF_IT: Final = 0.5  # share of the base's tensors that must be found by name


def open_full_model(
    full: FullFolder, base: BaseTensors, table: TargetTable, name: str, opened: ExitStack
) -> BaseTensors:
    """The tensors of a full model, by the names of the base's files if they have one.

    Args:
        full: the folder.
        base: the tensors of the base model.
        table: its target table.
        name: of the base model, for errors.
        opened: closes the files.

    Raises:
        UnavailableError: a file can't be read.
        InvalidAdapterError: ``architecture``: of another base model; ``incomplete_model``, ``shape_mismatch``,
            ``grown_vocabulary``, ``bad_dtype``, ``unexpected_tensor``: it does not fit that one.
    """
    folder, found = full.place, open_tensors(full.model, opened)
    named = by_names_of(base.tensors, found)
    _check_architecture(folder, base.tensors, named, name)
    _check_there(folder, base.tensors, named, table, name)
    for tensor, (_, entry) in base.tensors.items():
        if tensor in named:
            _check_fits(folder, tensor, entry, named[tensor][1], name)
    _check_new(folder, base.tensors, named, table, name)
    return BaseTensors(named)


def _check_architecture(folder: Path, base: Mapping[str, object], named: Mapping[str, object], name: str) -> None:
    """Tensors with other names are those of another architecture."""
    there = sum(tensor in named for tensor in base)
    if there < _MOST_OF_IT * len(base):
        lacking = next(tensor for tensor in base if tensor not in named)
        other = next((tensor for tensor in named if tensor not in base), None)
        instead = f"; it has {other!r}" if other is not None else ""
        raise InvalidAdapterError(
            f"{folder} holds a model of another architecture than {name}: {there} of its {len(base)} tensors are there "
            f"by name, and {lacking!r} is not{instead}. Publish it under the base model that it was trained from.",
            code="architecture",
        )


def _check_there(
    folder: Path, base: Mapping[str, object], named: Mapping[str, object], table: TargetTable, name: str
) -> None:
    """Require every tensor of the base, unless one that it is tied to is present, or another head replaces it."""
    shared = {tensor for group in _ties(table) for tensor in group if not group.isdisjoint(named)}
    sides = _sides(table)
    heads = {tensor for tensor in named if tensor not in base and tensor not in sides}
    for tensor in base:
        is_head = table.output_module is not None and tensor == f"{table.output_module}.weight"
        if tensor not in named and tensor not in shared and not (is_head and heads):
            raise InvalidAdapterError(
                f"{folder} lacks the tensor {tensor!r}, which {name} has: it is not a whole model. Save it with "
                "save_pretrained, after gathering it where it was sharded (FSDP, ZeRO).",
                code="incomplete_model",
            )


def _check_fits(folder: Path, tensor: str, base: TensorEntry, full: TensorEntry, name: str) -> None:
    if full.shape != base.shape:
        if full.shape[1:] == base.shape[1:] and len(base.shape) == 2 and full.shape[0] > base.shape[0]:
            raise InvalidAdapterError(
                f"{folder} has a grown vocabulary: {tensor!r} has {full.shape[0]} rows, and {base.shape[0]} in {name}. "
                "No pair adds rows: publish it without --rank and --max-error.",
                code="grown_vocabulary",
            )
        raise InvalidAdapterError(
            f"{folder} has {tensor!r} with the shape {list(full.shape)}, which is {list(base.shape)} in {name}. "
            "Publish it under the base model that it was trained from.",
            code="shape_mismatch",
        )
    if (base.dtype in FLOATS) is not (full.dtype in FLOATS):
        raise InvalidAdapterError(
            f"{folder} has {tensor!r} as {full.dtype}, which is {base.dtype} in {name}. Save it in bf16, fp16 or fp32.",
            code="bad_dtype",
        )


def _check_new(folder: Path, base: Mapping[str, object], named: Held, table: TargetTable, name: str) -> None:
    """What the base lacks may be the head of another task, in addition to all tensors of the base."""
    tops = {tensor.partition(".")[0] for tensor in (*base, *table.parameters)}
    sides = _sides(table)
    for tensor, (_, entry) in named.items():
        if tensor in base or tensor in sides:
            continue
        twice = any(spelled in base for spelled in table.spellings(tensor))
        if twice or tensor.partition(".")[0] in tops or "." not in tensor or entry.dtype not in FLOATS:
            raise InvalidAdapterError(
                f"{folder} has the tensor {tensor!r}, which {name} has no place for. Publish it under the base model "
                "that it was trained from.",
                code="unexpected_tensor",
            )


def _ties(table: TargetTable) -> list[set[str]]:
    """The tensors of modules that share one weight, by group."""
    groups = {table.tie_group(module) for module, target in table.targets.items() if target.tie is not None}
    return [{slot_of_target(table.targets[module]).tensor for module in group} for group in groups]


def _sides(table: TargetTable) -> set[str]:
    return {tensor for group in _ties(table) for tensor in group}


def extract_full(
    blobs: Blobs, parent: LoadedPath, full: FullFolder, asked: FullModel, out: Path, progress: Progress
) -> Extraction:
    """Write the best adapter of a full model over a parent, in fp32.

    Args:
        blobs: where the parent is read from.
        parent: the revision or base model that the full model was trained from.
        full: the folder of the full model.
        asked: the requested rank or error.
        out: an empty folder for the adapter; its sibling ``factors`` is used meanwhile.
        progress: of the work.

    Returns:
        The ranks and true errors.

    Raises:
        What `registry.services.extraction.open_full_model` raises.
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


def write_full(
    blobs: Blobs, parent: LoadedPath, folder: Path, asked: FullModel, out: Path, progress: Progress
) -> MadeOfFull:
    """Write the publish folder of a full model into an empty folder.

    Raises:
        What `registry.services.exact.model_folder.read_full_model` raises.
        What `registry.services.extraction.extract_full` raises, and for an exact one
        `registry.services.exact.folder.write_exact_folder`.
    """
    full = read_full_model(folder)
    if not asked.is_exact:
        report = extract_full(blobs, parent, full, asked, out, progress)
        others = [found for found in full.others if found.path != MODEL_CONFIG]
        return MadeOfFull(report, full.left_out(others, "an adapter is made of the weights alone"))
    base = replace(parent, reference=parent.base.name, links=())
    return MadeOfFull(None, write_exact_folder(blobs, base, full, out, progress).left_out)
