"""The weight files of a model as they are read: headers, and every tensor with the open file that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.files.header import Header, TensorEntry
from registry.files.source import ByteSource

Tensors = Mapping[str, tuple[ByteSource, TensorEntry]]
"""Every tensor of a model, and the open file that holds it."""


@dataclass(frozen=True)
class ModelWeights:
    """The weights of a model: those that are stored, or made of stored ones while they are read."""

    headers: Mapping[str, Header]  # of all weight files, by name
    tensors: Tensors
    made: Mapping[str, ByteSource] = field(default_factory=dict)  # the weight files that are not stored as they are
    quantised: frozenset[str] = frozenset()  # the stored files of a quantised model, in whose place those are
