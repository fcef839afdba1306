"""A composed LoRA as llama.cpp reads it: one GGUF file, as its convert_lora_to_gguf.py writes it.

The names come from the map of the package ``gguf``, and so does everything before the numbers. llama.cpp multiplies by
``adapter.lora.alpha`` over the rank of each tensor, so that all have one rank, which is alpha. Its Llama keeps the two
halves of each head of queries and keys by turns, where transformers keeps one after the other: rows of B move as the
rows of the weight do when the model is converted (``LlamaModel.permute`` of convert_hf_to_gguf.py).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch

from registry.errors import UsageError
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.artifacts.artifact import ArtifactFile, Region, bytes_region
from registry.tensors.composed.composition import ComposedParts
from registry.tensors.composed.joined import any_rows
from registry.tensors.composed.layouts import cannot
from registry.tensors.composed.spelling import AdapterTensor, tensor_region
from registry.tensors.composed.text_models import TextModel, TextPair, text_model, text_pairs

GGUF: Final = "adapter.gguf"

_ARCHITECTURES: Final = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
"""Model type -> the name in ``gguf.MODEL_ARCH`` of what its converter makes of it."""
_TURNED: Final = "LLAMA"
_NUMBERS: Final = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
"""Dtype -> that of ``gguf.GGMLQuantizationType``."""


def gguf_file(parts: ComposedParts, config: Mapping[str, Any], dtype: str) -> ArtifactFile:
    """The file.

    Args:
        parts: of the path, with sums in float64 and one rank for all modules.
        config: its config.json.
        dtype: that of all tensors (``F32``).

    Raises:
        UsageError: the package ``gguf`` is not installed.
        InvalidAdapterError: ``not_low_rank``; ``engine_limits`` for what else is not written.
    """
    gguf = _package()
    model = text_model(config, "gguf")
    pairs = text_pairs(parts, model, "gguf")
    tensors = _named(gguf, pairs, model)
    lead = _lead(gguf, tensors, _ARCHITECTURES[model.model_type], float(pairs[0].rank), dtype)
    return ArtifactFile(GGUF, _regions(lead, tensors, dtype, gguf.GGUF_DEFAULT_ALIGNMENT))


def _package() -> ModuleType:
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise UsageError(
            "A LoRA for llama.cpp needs the package gguf, which is not installed where the registry runs: install "
            "adapter-registry[gguf] there."
        ) from error
    return gguf


def _named(gguf: ModuleType, pairs: Sequence[TextPair], model: TextModel) -> list[AdapterTensor]:
    """A and B of each module, by llama.cpp's names and in the order of its rows."""
    architecture = _ARCHITECTURES[model.model_type]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture], model.layers)
    heads = {"self_attn.q_proj": model.heads, "self_attn.k_proj": model.key_heads} if architecture == _TURNED else {}
    found = []
    for pair in pairs:
        name = names.get_name(f"{pair.name}.weight", try_suffixes=(".weight",))
        if name is None:
            raise cannot("gguf", f"adapts {pair.name!r}, for which the package gguf has no name")
        b = by_turns(pair.b, heads[pair.module]) if pair.module in heads else pair.b
        found += [replace(pair.a, name=f"{name}.lora_a"), replace(b, name=f"{name}.lora_b")]
    return found


def by_turns(tensor: AdapterTensor, heads: int) -> AdapterTensor:
    """The rows of a matrix with those of the two halves of each head by turns.

    Raises:
        InvalidAdapterError: ``engine_limits``, the rows are not those of so many heads.
    """
    count = tensor.shape[0]
    if count % (2 * heads):
        raise cannot("gguf", f"adapts {tensor.name!r}, whose {count} rows are not those of {heads} heads")
    order = torch.arange(count).view(heads, 2, -1).transpose(1, 2).flatten()

    def rows(start: int, stop: int) -> torch.Tensor:
        wanted = order[start:stop]
        first, last = int(wanted.min()), int(wanted.max()) + 1
        return any_rows(tensor, first, last)[wanted - first]

    return replace(tensor, rows=rows)


def _lead(gguf: ModuleType, tensors: Sequence[AdapterTensor], architecture: str, alpha: float, dtype: str) -> bytes:
    """All before the numbers, filled up to where they begin."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / GGUF
        writer = gguf.GGUFWriter(place, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[architecture]])
        try:
            writer.add_type(gguf.GGUFType.ADAPTER)
            writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
            writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
            for tensor in tensors:
                kind = gguf.GGMLQuantizationType[_NUMBERS[dtype]]
                writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), _bytes(tensor, dtype), kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        written = place.read_bytes()
    return written + bytes(-len(written) % gguf.GGUF_DEFAULT_ALIGNMENT)


def _bytes(tensor: AdapterTensor, dtype: str) -> int:
    return math.prod(tensor.shape) * FLOATS[dtype].itemsize


def _regions(lead: bytes, tensors: Sequence[AdapterTensor], dtype: str, alignment: int) -> list[Region]:
    """Everything in its place: the numbers of each tensor begin at a multiple of the alignment."""
    regions, at = [bytes_region(0, lead)], len(lead)
    for tensor in tensors:
        regions.append(tensor_region(tensor, at, dtype))
        at = regions[-1].stop
        if at % alignment:
            regions.append(bytes_region(at, bytes(-at % alignment)))
            at = regions[-1].stop
    return regions
