"""Full fine-tunes of tiny base models: the same files with other numbers, written by hand."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.kit.bases import Base
from tests.kit.tensor_files import RawTensor, read_model, write_model


def fine_tuned(
    folder: Path,
    base: Base,
    *,
    seed: int = 0,
    scale: float = 1e-3,
    frozen: Collection[str] = ("k_proj",),
    shards: int = 1,
    dtype: str | None = None,
    grown: int = 0,
) -> Base:
    """A model of the same architecture as ``base`` whose weights moved a little, but those with a ``frozen`` part.

    ``grown`` tokens are appended to all tensors with a row for each token, and to ``vocab_size``.
    """
    random = np.random.default_rng(seed)
    config = json.loads((base.folder / "config.json").read_text())
    vocabulary = config.get("vocab_size")
    tensors = {}
    for name, tensor in read_model(base.folder).items():
        moved = tensor.values
        if not any(part in name for part in frozen):
            moved = moved + scale * random.standard_normal(tensor.shape)
        if grown and tensor.shape[0] == vocabulary:
            moved = np.concatenate([moved, random.standard_normal((grown, *tensor.shape[1:]))])
        tensors[name] = RawTensor.of(moved, dtype or tensor.dtype)
    folder.mkdir(parents=True)
    write_model(folder, tensors, shards)
    config |= {"vocab_size": vocabulary + grown} if grown else {}
    config |= {"dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]} if dtype else {}
    (folder / "config.json").write_text(json.dumps(config))
    sizes = {name: tensor.shape for name, tensor in tensors.items()}
    modules = {name: replace(one, shape=sizes.get(one.tensor, one.shape)) for name, one in base.modules.items()}
    return Base(folder, modules, base.architecture)
