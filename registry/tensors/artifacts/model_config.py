"""The JSON files of a merged model that depend on its weights: config.json and the index."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from registry.files.header import Header
from registry.tensors.elements.dtypes import CONFIG_NAMES, FLOATS

_DTYPE_KEYS = ("dtype", "torch_dtype")
_TIE = "tie_word_embeddings"
_LANGUAGE_CONFIGS = ("text_config", "language_config", "llm_config", "decoder")


def config_with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A config for weights of another dtype (``BF16``): every dtype field of it and of the configs inside it.

    A config without such a field gets ``dtype``, so that it says what the weights are.
    """
    changed = _with_dtype(config, CONFIG_NAMES[dtype])
    if not any(key in config for key in _DTYPE_KEYS):
        changed["dtype"] = CONFIG_NAMES[dtype]
    return changed


def untied_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose input embedding and output head are two weights, in it and in that of the language model."""
    changed = {**config, _TIE: False}
    for key, value in config.items():
        if isinstance(value, dict) and (_TIE in value or key in _LANGUAGE_CONFIGS):
            changed[key] = untied_config(value)
    return changed


def labels_of_new_head(new: Mapping[str, tuple[int, ...]]) -> int | None:
    """Number of labels of a classification head among tensors that the base lacks; None where none is seen.

    The heads of transformers are ``score`` or ``classifier``, or end in ``classifier.out_proj``.
    """
    heads = [
        shape[0]
        for name, shape in new.items()
        if len(shape) == 2 and re.search(r"(^|\.)(score|classifier|classifier\.out_proj)\.weight$", name)
    ]
    return heads[0] if len(heads) == 1 else None


def labelled_config(config: Mapping[str, Any], labels: int) -> dict[str, Any]:
    """A config for a head with that many labels; names of labels that don't fit it are dropped."""
    changed = {**config, "num_labels": labels}
    if len(config.get("id2label") or {}) != labels:
        changed = {key: value for key, value in changed.items() if key not in ("id2label", "label2id")}
    return changed


def _with_dtype(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            changed[key] = _with_dtype(value, name)
        elif key in _DTYPE_KEYS and (value is None or str(value).removeprefix("torch.") in CONFIG_NAMES.values()):
            changed[key] = name
        else:
            changed[key] = value
    return changed


def index_of(index: Mapping[str, Any], headers: Mapping[str, Header]) -> dict[str, Any]:
    """The weight index for files of these headers: the base's own with the tensors and the size that they have."""
    metadata = dict(index.get("metadata") or {})
    entries = [entry for header in headers.values() for entry in header.entries.values()]
    if "total_size" in metadata:
        metadata["total_size"] = sum(entry.stop - entry.start for entry in entries)
    added = {name: file for file, header in headers.items() for name in header.entries}
    return {**index, "metadata": metadata, "weight_map": {**added, **index["weight_map"]}}


def changes_dtype(headers: Mapping[str, Header], dtype: str) -> bool:
    """Whether any float tensor of these files has another dtype."""
    return any(
        entry.dtype in FLOATS and entry.dtype != dtype
        for header in headers.values()
        for entry in header.entries.values()
    )


def write_json(document: Mapping[str, Any]) -> bytes:
    """A JSON file as transformers lays it out."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
