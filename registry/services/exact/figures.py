"""How far a full model is from others, and what it takes to store it exactly: before anything of it is written."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from registry.files.header import Tensors
from registry.progress import Progress
from registry.schemas.publishing import FullSize
from registry.services.exact.folder import open_beside
from registry.services.exact.model_folder import check_values, open_tensors, read_full_model
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.comparison.fingerprint import base_sample, sample_values
from registry.tensors.exact.contents import estimated_size
from registry.tensors.lineage.paths import Blobs, LoadedPath


def full_size(blobs: Blobs, base: LoadedPath, folder: Path, far: float, progress: Progress) -> FullSize | None:
    """What it takes to store a model exactly; None: it is as far from the base model as ``far``, or farther.

    Args:
        blobs: where the base model's files are.
        base: the path of the base model alone.
        folder: the model, as `save_pretrained` writes it.
        far: a distance, relative to the norm of the base's weights.
        progress: of the comparison.

    Raises:
        NotFoundError, InvalidAdapterError: it can't be an exact revision on that base model; what
            `registry.services.exact.folder.write_exact_folder` raises, but ``no_change``.
    """
    with ExitStack() as opened:
        beside = open_beside(blobs, base, read_full_model(folder), opened)
        apart = _apart(beside.found, beside.base)
        if apart is None or apart.distance >= far:
            return None
        changed = beside.changed(progress)
        progress.begin("Checking the changed tensors", sum(one.size for one in changed))
        for one in changed:
            check_values(one.source, one.entry, progress.advance)
        return FullSize(
            base=base.base.name,
            distance=apart.distance,
            tensors=len(changed),
            of=len(beside.base),
            size=sum(one.size for one in changed),
            stored=estimated_size(changed),
        )


@dataclass(frozen=True)
class Apart:
    """How far a model is from another one, by samples."""

    distance: float  # relative to the norm of the other
    elements: int  # that were compared


def models_apart(folder: Path, other: Path) -> Apart | None:
    """How far a model is from another one; None: it has other tensors.

    Raises:
        NotFoundError, InvalidAdapterError, UnavailableError: see `registry.services.exact.model_folder`.
    """
    with ExitStack() as opened:
        one, there = (open_tensors(read_full_model(place).model, opened) for place in (folder, other))
        return _apart(one, there) if one.keys() == there.keys() else None


def _apart(model: Tensors, other: Tensors) -> Apart | None:
    """By samples of the tensors of the same shape: a vocabulary may have grown.

    Each tensor is weighted by its number of elements, since a norm has as many samples as a matrix.
    """
    alike = {
        name: entry
        for name, (_, entry) in other.items()
        if name in model and model[name][1].shape == entry.shape and model[name][1].dtype in FLOATS
    }
    sample = base_sample(alike)
    if not sample.elements:
        return None
    found, there = (sample_values(sample, {name: one[name] for name in alike}).values for one in (model, other))
    weights = sample.stands_for.to(torch.float64)
    square = float((weights * there.square()).sum())
    if not 0 < square < math.inf:
        return None
    return Apart(math.sqrt(float((weights * (found - there).square()).sum()) / square), sample.elements)
