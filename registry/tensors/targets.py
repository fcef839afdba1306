"""The target table: what a runtime module name means in the files of its base model.

A PEFT checkpoint names modules of the *runtime* module tree; base files name tensors. The table is frozen and
digested when the base is added, so that publishing and merging need no model code. It is made by
`registry.tensors.architecture` (from transformers, in a child process) or straight from the tensor names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from registry.digest import document_digest

FORMAT: Final = 1

TENSOR_NAMES: Final = "tensor names"
"""`TargetTable.source` of a table that was made without knowing the model."""


class TargetKind(StrEnum):
    """How a module multiplies."""

    LINEAR = "linear"  # stored (out, in)
    CONV1D = "conv1d"  # transformers' Conv1D (GPT-2 family): stored (in, out)
    EMBEDDING = "embedding"  # stored (vocabulary, features), that is (in, out)
    CONV = "conv"  # nn.Conv1d/2d/3d: stored (out, in / groups, kernel...)
    ATTENTION = "attention"  # nn.MultiheadAttention: in_proj_weight (3 E, E)
    EXPERTS = "experts"  # a fused parameter of several experts, kept as several tensors in the files
    UNKNOWN = "unknown"  # has a weight of two or more dimensions, but how it multiplies isn't known


@dataclass(frozen=True)
class Target:
    """One module of the base model that has a weight of two or more dimensions.

    Tied weights: both sides name a partner in `tie`. The side that the files hold has the `tensor`; a side that they
    lack has ``tensor=None``, and its ``tie`` is the module that has it. Where the files hold a copy for each side
    (saved twice, with a config that ties them), each side has its own tensor, and `tie` still says that they are one
    weight.

    EXPERTS and UNKNOWN: `tensor` is None when the files keep the weight in another form (merged, split or transposed
    on loading). ``geometry["parameters"]`` then lists what the module holds, in the order of registration.
    """

    module: str  # runtime path, model.layers.0.self_attn.q_proj
    kind: TargetKind
    tensor: str | None  # name in the base files; None: tied to another module's, or not kept as one tensor
    shape: tuple[int, ...]  # as stored
    rows: tuple[int, int] | None = None  # the module is these stored rows of the tensor; None: all
    tie: str | None = None  # a module that shares this weight; where `tensor` is None, the one that holds it
    geometry: Mapping[str, Any] = field(default_factory=dict)  # groups, dilation, ... where they matter

    def as_embedding(self) -> Target:
        """The same tensor read as an embedding, stored (vocabulary, features).

        For a LINEAR target of a table that does not know kinds (`TargetTable.knows_kinds` is false): an adapter with
        ``lora_embedding_A`` on it tells that it is an embedding. The caller checks the shapes of the factors.
        """
        if self.kind is not TargetKind.LINEAR:
            raise ValueError(f"{self.module} is {self.kind}, which is not a reading of a name")
        return replace(self, kind=TargetKind.EMBEDDING)

    @property
    def transposed(self) -> bool:
        """Whether the stored weight is (in, out) instead of (out, in)."""
        return self.kind in (TargetKind.CONV1D, TargetKind.EMBEDDING)

    @property
    def out_features(self) -> int:
        """Rows of the weight in oriented space (out x in)."""
        return self.shape[1] if self.transposed else self.shape[0]

    @property
    def in_features(self) -> int:
        """Columns of the weight in oriented space (out x in)."""
        return self.shape[0] if self.transposed else self.shape[1]


@dataclass(frozen=True)
class TargetTable:
    """All targets of a base model, by runtime module name."""

    targets: Mapping[str, Target]
    source: str  # "transformers 5.24.0" or "tensor names"
    architecture: str | None = None  # LlamaForCausalLM
    model_type: str | None = None
    prefix: str = ""  # base_model_prefix: names with and without it mean the same module
    output_module: str | None = None  # the output embedding, which target_modules="all-linear" leaves out
    notices: tuple[str, ...] = ()

    @property
    def knows_kinds(self) -> bool:
        """Whether the kinds come from model code; else every 2-D weight is LINEAR (see `Target.as_embedding`)."""
        return self.source != TENSOR_NAMES

    def find(self, module: str) -> Target | None:
        """The target that a checkpoint's module name means.

        Exact name first, then with the base model prefix put before it or taken away (a headless model and a model
        with a head name the same module with and without it). None when no target is meant.
        """
        exact = self.targets.get(module)
        if exact is not None or not self.prefix:
            return exact
        lead = self.prefix + "."
        return self.targets.get(module[len(lead) :] if module.startswith(lead) else lead + module)

    def to_document(self) -> dict[str, Any]:
        """The table as a JSON document; equal tables give equal documents."""
        return {
            "format": FORMAT,
            "source": self.source,
            "architecture": self.architecture,
            "model_type": self.model_type,
            "prefix": self.prefix,
            "output_module": self.output_module,
            "notices": list(self.notices),
            "targets": {
                name: {
                    "kind": target.kind.value,
                    "tensor": target.tensor,
                    "shape": list(target.shape),
                    "rows": list(target.rows) if target.rows else None,
                    "tie": target.tie,
                    "geometry": dict(target.geometry),
                }
                for name, target in self.targets.items()
            },
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> TargetTable:
        """Read what `to_document` wrote."""
        if document.get("format") != FORMAT:
            raise ValueError(f"target table format {document.get('format')!r}, expected {FORMAT}")
        targets = {
            name: Target(
                module=name,
                kind=TargetKind(entry["kind"]),
                tensor=entry["tensor"],
                shape=tuple(entry["shape"]),
                rows=(entry["rows"][0], entry["rows"][1]) if entry["rows"] else None,
                tie=entry["tie"],
                geometry=entry["geometry"],
            )
            for name, entry in document["targets"].items()
        }
        return cls(
            targets=targets,
            source=document["source"],
            architecture=document["architecture"],
            model_type=document["model_type"],
            prefix=document["prefix"],
            output_module=document["output_module"],
            notices=tuple(document["notices"]),
        )

    @cached_property
    def digest(self) -> str:
        """Digest of the table's document."""
        return document_digest(self.to_document())
