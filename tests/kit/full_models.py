"""Full fine-tunes of tiny base models: their folders, and what each tensor was changed by, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from tests.kit.bases import draw
from tests.kit.floats import FORMATS, Array
from tests.kit.tensor_files import RawTensor, other_files, read_model, write_model


def full_model(
    folder: Path,
    start: Path,
    *,
    trained: Callable[[str], bool] = lambda _: True,
    dtype: str | None = None,
    seed: int = 1,
    size: float = 0.02,
    shards: int = 1,
    rename: Callable[[str], str] = lambda name: name,
    without: Iterable[str] = (),
) -> dict[str, RawTensor]:
    """Train a model: random changes of its float tensors; writes the folder and gives back the tensors.

    Args:
        folder: is written.
        start: the model that training began with.
        trained: which tensors are changed, by name.
        dtype: of all float tensors; None: as they were.
        seed, size: of the changes.
        shards: how many files.
        rename: how the tensors are called in the new folder.
        without: tensors that are left out.
    """
    found = {}
    for name, tensor in read_model(start).items():
        if name not in without:
            change = draw(name, tensor.shape, seed, size) if trained(name) else 0.0
            is_float = tensor.dtype in FORMATS
            found[rename(name)] = RawTensor.of(tensor.values + change, dtype or tensor.dtype) if is_float else tensor
    folder.mkdir(parents=True)
    write_model(folder, found, shards)
    for name, data in other_files(start):
        if not name.endswith(".index.json"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return found


def least_error(delta: Array, rank: int) -> float:
    """|D - D'|_F of the best approximation of a rank, by the dense SVD."""
    values = np.linalg.svd(delta, compute_uv=False)
    return float(np.sqrt(np.sum(values[rank:] ** 2)))
