"""The target table: what a runtime module name means in the files of its base model.

A PEFT checkpoint names modules of the *runtime* module tree; base files name tensors. The table is frozen and
digested when the base is added, so that publishing and merging need no model code. It is made by
`registry.tensors.table.architecture` (from transformers or diffusers, in a child process, or from what is shipped of
diffusers' denoisers) or straight from the tensor names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from registry.digest import document_digest
from registry.errors import IntegrityError
from registry.tensors.table.parameters import (
    FileParameter,
    FusedParameter,
    Piece,
    Run,
    fused_document,
    fused_from,
    runs_document,
    runs_from,
    tie_groups,
    tied_parameters,
)

FORMAT: Final = 2

QUANTISED_FORMAT: Final = 3
"""Of a table whose tensors are decoded from others: a version that can't decode refuses it, and takes no code for a
number."""

WEIGHT: Final = ".weight"

TENSOR_NAMES: Final = "tensor names"
"""`TargetTable.source` of a table that was made without knowing the model."""


class TargetKind(StrEnum):
    """How a module multiplies."""

    LINEAR = "linear"  # stored (out, in)
    CONV1D = "conv1d"  # transformers' Conv1D (GPT-2 family): stored (in, out)
    EMBEDDING = "embedding"  # stored (vocabulary, features), that is (in, out)
    CONV = "conv"  # nn.Conv1d/2d/3d: stored (out, in / groups, kernel...)
    ATTENTION = "attention"  # nn.MultiheadAttention: in_proj_weight (3 E, E)
    EXPERTS = "experts"  # has parameters of three dimensions, one matrix an expert
    UNKNOWN = "unknown"  # has a weight of two or more dimensions, but how it multiplies isn't known


@dataclass(frozen=True)
class Target:
    """One module of the base model that has a weight of two or more dimensions.

    Tied weights: both sides name a partner in `tie`. The side that the files hold has the `tensor`; a side that they
    lack has ``tensor=None``, and its ``tie`` is the module that has it. Where the files hold a copy for each side
    (saved twice, with a config that ties them), each side has its own tensor, and `tie` still marks them as one
    weight.

    EXPERTS: `fused` lists the parameters of three dimensions in the order of registration, which is the order in which
    PEFT nests its wrappers (the first is innermost); `tensor` is None, and `shape` is that of the first in the running
    model. UNKNOWN: how it multiplies isn't known, or the files keep its weight in a form that is not followed.
    `runs`: transformers cuts, joins or reorders rows of file tensors to make the weight; `tensor` is None then.
    """

    module: str  # runtime path, model.layers.0.self_attn.q_proj
    kind: TargetKind
    tensor: str | None  # name in the base files; None: tied to another module's, or not stored as one tensor
    shape: tuple[int, ...]  # as stored
    tie: str | None = None  # a module that shares this weight; where `tensor` is None, the one that holds it
    geometry: Mapping[str, Any] = field(default_factory=dict)  # kernel, groups, dilation, padding_mode of a CONV
    fused: tuple[FusedParameter, ...] = ()  # of EXPERTS
    declared: bool = False  # the kind comes from the base's registry.json
    runs: tuple[Run, ...] = ()
    unfollowed: tuple[str, ...] = ()  # operations of transformers' loader that make its weight and are not followed

    def as_embedding(self) -> Target:
        """The same tensor read as an embedding, stored (vocabulary, features).

        For a LINEAR target whose kind is only a guess (`TargetTable.knows_kind` is false): an adapter with
        ``lora_embedding_A`` on it shows that it is an embedding. The caller checks the shapes of the factors.
        """
        if self.kind is not TargetKind.LINEAR or self.declared:
            raise ValueError(f"{self.module} is {self.kind}, which is not a reading of a name")
        return replace(self, kind=TargetKind.EMBEDDING)

    def laid_over(self, parameters: Mapping[str, FileParameter]) -> Target:
        """The target with the runs of its weight, where it has any."""
        held = parameters.get(f"{self.module}.{self.weight}")
        mine = held is not None and held.shape == self.shape and not self.kept and not self.fused
        return replace(self, runs=held.runs) if held is not None and mine else self

    @property
    def kept(self) -> bool:
        """Whether it is known where the files have its weight, be it another module's by a tie."""
        return self.tensor is not None or self.tie is not None or bool(self.runs)

    @property
    def weight(self) -> str:
        """The parameter that the target stands for."""
        return "in_proj_weight" if self.kind is TargetKind.ATTENTION else "weight"

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
        """Columns of the weight in oriented space (out x in); for a convolution (in / groups) * kernel."""
        return self.shape[0] if self.transposed else math.prod(self.shape[1:])


@dataclass(frozen=True)
class FileModule:
    """What a module means that is named as in the files, not as in the running model (`TargetTable.find_file_module`).

    With a `piece` it is the part of the `parameter` of `target` that lies in the named tensor: the expert
    ``piece.expert``, and of its matrix the output features ``piece.out``. Else it is the whole weight of `target`.
    """

    target: Target
    parameter: FusedParameter | None = None
    piece: Piece | None = None


@dataclass(frozen=True)
class TargetTable:
    """All targets of a base model, by runtime module name."""

    targets: Mapping[str, Target]
    source: str  # "transformers 5.24.0", "diffusers 0.42.1", "diffusers (shipped)" or "tensor names"
    parameters: Mapping[str, FileParameter] = field(default_factory=dict)  # by runtime name; tied: the holder's only
    architecture: str | None = None  # LlamaForCausalLM
    model_type: str | None = None
    prefix: str = ""  # base_model_prefix: names with and without it mean the same module
    output_module: str | None = None  # the output embedding, which target_modules="all-linear" leaves out
    notices: tuple[str, ...] = ()
    ties: Mapping[str, str | None] | None = None  # of `registry.tensors.table.ties`; the holder, None: in another form
    apart: Mapping[str, str] = field(default_factory=dict)  # module -> what the configuration ties it to, not the files
    components: tuple[str, ...] = ()  # of a pipeline: those that adapters change, by which all names begin
    quantised: str | None = None  # digest of how a quantised base is decoded, so that renderings depend on it
    outdated: frozenset[str] = field(default=frozenset(), compare=False)  # modules whose tie the files deny

    @property
    def knows_kinds(self) -> bool:
        """Whether the kinds come from model code; else a 2-D weight is LINEAR by default (see `knows_kind`)."""
        return self.source != TENSOR_NAMES

    def knows_kind(self, target: Target) -> bool:
        """Whether a target's kind is certain: from model code or declared (else see `Target.as_embedding`)."""
        return self.knows_kinds or target.declared

    def may_be_embedding(self, target: Target) -> bool:
        """Whether a target is LINEAR by its name only: see `Target.as_embedding`."""
        return target.kind is TargetKind.LINEAR and not self.knows_kind(target)

    def attention_of(self, module: str) -> Target | None:
        """The nn.MultiheadAttention that a module is the output projection of."""
        parent, _, leaf = module.rpartition(".")
        found = self.targets.get(parent)
        return found if leaf == "out_proj" and found is not None and found.kind is TargetKind.ATTENTION else None

    def find(self, module: str) -> Target | None:
        """The target that a checkpoint's module name means.

        Exact name first, then with the base model prefix put before it or taken away (a headless model and a model
        with a head name the same module with and without it). None when no target is meant.
        """
        return next((self.targets[name] for name in self.spellings(module) if name in self.targets), None)

    def find_parameter(self, name: str) -> tuple[str, FileParameter] | None:
        """Runtime name and place of the parameter that a checkpoint means, found as `find` finds modules.

        A name that the running model does not have may be the name of the tensor in the files, which is what older
        versions of transformers called it.
        """
        for spelled in map(self.holder, self.spellings(name)):
            if spelled in self.parameters:
                return spelled, self.parameters[spelled]
        for spelled in self.spellings(name):
            if spelled in self._by_tensor:
                found = self._by_tensor[spelled]
                return found, self.parameters[found]
        return None

    def find_file_module(self, name: str) -> FileModule | None:
        """What the module ``name`` means, where the files have a tensor ``name.weight``.

        Adapters of older versions of transformers name modules by the paths that the files still have: one module for
        each expert and projection (``experts.0.w1``), or another path for a module that still exists. Call it after
        `find`; the base model prefix is optional, as in `find`. None if no tensor has that name, or if it is not the
        whole weight of a module or of a piece.
        """
        return next((self._by_file[name] for name in self.spellings(name) if name in self._by_file), None)

    def holder(self, parameter: str) -> str:
        """The parameter that gives one its value: itself, or the one that it is tied to and the files hold."""
        return self._tied.get(parameter, parameter)

    def parameters_of(self, module: str) -> Mapping[str, FileParameter]:
        """A module's own parameters and buffers by their names in it."""
        return self._by_module.get(module, {})

    def made_from(self, name: str) -> tuple[str, ...]:
        """Modules whose weights have rows of the tensor ``name.weight`` of the files, in the order of their rows."""
        tensors = {spelled + WEIGHT for spelled in self.spellings(name)}
        runs = [(run, target.module) for target in self.targets.values() for run in target.runs]
        return tuple(dict.fromkeys(module for run, module in sorted(runs) if run.tensor in tensors))

    def is_parametrized(self, module: str) -> bool:
        """Whether a module's weight is computed from parameters of its own (``parametrizations``) as it runs."""
        return any(name.startswith(f"{module}.parametrizations.") for name in self.parameters)

    def tie_group(self, module: str) -> tuple[str, ...]:
        """All modules that share the weight of ``module``, a runtime name: the one that holds it first.

        Only ``module`` itself when its weight is not tied.
        """
        return self._tie_groups.get(module, (module,))

    def spellings(self, name: str) -> tuple[str, ...]:
        """What ``name`` may be called here: as it is, then with the base model prefix put before it or taken away."""
        if not self.prefix:
            return (name,)
        lead = self.prefix + "."
        return (name, name[len(lead) :] if name.startswith(lead) else lead + name)

    @cached_property
    def _tied(self) -> Mapping[str, str]:
        return tied_parameters(self.ties, self.targets)

    @cached_property
    def named_parameters(self) -> Mapping[str, FileParameter]:
        """All parameters and buffers, also those that are tied, with what holds them."""
        return {**self.parameters, **{name: self.parameters[holder] for name, holder in self._tied.items()}}

    @cached_property
    def _by_module(self) -> Mapping[str, Mapping[str, FileParameter]]:
        found: dict[str, dict[str, FileParameter]] = {}
        for name, held in self.named_parameters.items():
            module, _, leaf = name.rpartition(".")
            found.setdefault(module, {})[leaf] = held
        return found

    @cached_property
    def _by_tensor(self) -> Mapping[str, str]:
        """File tensor -> the runtime parameter that it is loaded into."""
        return {held.tensor: name for name, held in self.parameters.items() if not held.runs}

    @cached_property
    def _by_file(self) -> Mapping[str, FileModule]:
        found = {
            held.tensor.removesuffix(WEIGHT): FileModule(target)
            for name, held in self.parameters.items()
            if name.endswith(WEIGHT) and held.tensor.endswith(WEIGHT)
            if (target := self.targets.get(name.removesuffix(WEIGHT))) is not None and target.tensor == held.tensor
        }
        for target in self.targets.values():
            for parameter in target.fused:
                whole = {piece.tensor for piece in parameter.pieces if piece.matrix}
                for piece in parameter.pieces:
                    if piece.tensor.endswith(WEIGHT) and piece.tensor not in whole:
                        found[piece.tensor.removesuffix(WEIGHT)] = FileModule(target, parameter, piece)
        return found

    @cached_property
    def _tie_groups(self) -> Mapping[str, tuple[str, ...]]:
        return tie_groups(self.targets)

    def to_document(self) -> dict[str, Any]:
        """The table as a JSON document; equal tables give equal documents. Facts of later versions only if set."""
        later: dict[str, Any] = {"ties": dict(self.ties)} if self.ties is not None else {}
        later |= {"apart": dict(self.apart)} if self.apart else {}
        runs = {name: runs_document(held) for name, held in self.parameters.items() if held.runs}
        later |= {"runs": runs} if runs else {}
        later |= {"components": list(self.components)} if self.components else {}
        mark = {} if self.quantised is None else {"quantised": self.quantised}
        return {
            "format": FORMAT if self.quantised is None else QUANTISED_FORMAT,
            **mark,
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
                    "tie": target.tie,
                    "geometry": dict(target.geometry),
                    "fused": [fused_document(parameter) for parameter in target.fused],
                    "declared": target.declared,
                    **({"unfollowed": list(target.unfollowed)} if target.unfollowed else {}),
                }
                for name, target in self.targets.items()
            },
            "parameters": {name: [held.tensor, *held.shape] for name, held in self.parameters.items() if not held.runs},
            **later,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> TargetTable:
        """Read what `to_document` wrote.

        Raises `IntegrityError` (``table_format``) when another version of the registry wrote it in another form.
        """
        if document.get("format") != (QUANTISED_FORMAT if "quantised" in document else FORMAT):
            raise IntegrityError(
                f"The stored target table has format {document.get('format')!r} and this version of the registry reads "
                f"formats {FORMAT} and {QUANTISED_FORMAT}: it was written by another version, so add the base model "
                "again in a new registry.",
                code="table_format",
            )
        rows = {name: runs_from(name, held) for name, held in document.get("runs", {}).items()}
        targets = {
            name: Target(
                module=name,
                kind=TargetKind(entry["kind"]),
                tensor=entry["tensor"],
                shape=tuple(entry["shape"]),
                tie=entry["tie"],
                geometry=entry["geometry"],
                fused=tuple(fused_from(parameter) for parameter in entry["fused"]),
                declared=entry["declared"],
                unfollowed=tuple(entry.get("unfollowed", ())),
            )
            for name, entry in document["targets"].items()
        }
        return cls(
            targets={name: target.laid_over(rows) for name, target in targets.items()},
            parameters={
                name: FileParameter(tensor, tuple(shape)) for name, (tensor, *shape) in document["parameters"].items()
            }
            | rows,
            source=document["source"],
            architecture=document["architecture"],
            model_type=document["model_type"],
            prefix=document["prefix"],
            output_module=document["output_module"],
            notices=tuple(document["notices"]),
            ties=document.get("ties"),
            apart=document.get("apart", {}),
            components=tuple(document.get("components", ())),
            quantised=document.get("quantised"),
        )

    @cached_property
    def digest(self) -> str:
        """Digest of the table's document."""
        return document_digest(self.to_document())
