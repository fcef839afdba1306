"""What the parameters of a running model are called, and where they lie in the files of a base model folder.

A running model and its files may differ in names (a lead that is absent, ``block_sparse_moe`` for ``mlp``), in ties
(one tensor for two parameters) and in form (one parameter for all experts, one tensor for each in the files). Only the
few architectures that the tests use are known here; of any other the names in the files are those of the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.kit.tensor_files import read_model

CONV1D_LEAVES: Final[dict[str, tuple[str, ...]]] = {"gpt2": ("c_attn", "c_proj", "c_fc", "q_attn")}
"""Leaf names of modules whose weight is stored (in, out), by model type."""

EMBEDDING_LEAVES: Final = (
    "embed_tokens",
    "embed_positions",
    "wte",
    "wpe",
    "word_embeddings",
    "position_embeddings",
    "token_type_embeddings",
    "emb",
)

_TIED: Final = {
    "llama": "model.embed_tokens.weight",
    "gpt2": "transformer.wte.weight",
    "opt": "model.decoder.embed_tokens.weight",
    "mixtral": "model.embed_tokens.weight",
}

_EXPERT: Final = re.compile(r"(.*)\.block_sparse_moe\.experts\.(\d+)\.(w[123])\.weight")

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Part:
    """A tensor of the files, and the part of a parameter of the running model that it holds."""

    tensor: str
    index: Index  # () for the whole


@dataclass(frozen=True)
class Parameter:
    """A parameter of the running model."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Layout:
    """All parameters of a running model, by their names."""

    parameters: Mapping[str, Parameter]
    ties: Mapping[str, str] = field(default_factory=dict)  # parameter without a tensor -> the one that it shares
    conv1d: tuple[str, ...] = ()  # leaf names, or full names, of modules stored (in, out)
    experts: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # module -> leaf names, in order of registration
    experts_transposed: bool = False  # the running model keeps (experts, in, out)

    def place(self, tensor: str) -> tuple[str, Index] | None:
        """The parameter, and the part of it, that a tensor of the files is."""
        for name, parameter in self.parameters.items():
            for part in parameter.parts:
                if part.tensor == tensor:
                    return name, part.index
        return None


def layout_of(folder: Path) -> Layout:
    """The layout of a base model folder."""
    shapes = {name: raw.shape for name, raw in read_model(folder).items()}
    config, declared = (
        json.loads(path.read_text()) if path.exists() else {}
        for path in (folder / "config.json", folder / "registry.json")
    )
    return make_layout(config, shapes, declared.get("modules", {}))


def make_layout(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], declared: Mapping[str, Any] | None = None
) -> Layout:
    """The layout of files with these tensors; ``declared`` are the modules of ``registry.json``."""
    kind = config.get("model_type")
    hub_names = kind == "gpt2" and "wte.weight" in shapes
    fused: dict[tuple[str, str], dict[tuple[int, str], str]] = {}
    parameters: dict[str, Parameter] = {}
    for tensor, shape in shapes.items():
        expert = _EXPERT.fullmatch(tensor) if kind == "mixtral" else None
        if expert:
            lead, number, leaf = expert.groups()
            leaf_name = "down_proj" if leaf == "w2" else "gate_up_proj"
            fused.setdefault((f"{lead}.mlp.experts", leaf_name), {})[int(number), leaf] = tensor
            continue
        name = f"transformer.{tensor}" if hub_names else tensor
        name = name.replace(".block_sparse_moe.", ".mlp.") if kind == "mixtral" else name
        parameters[name] = Parameter(shape, (Part(tensor, ()),))
    experts: dict[str, tuple[str, ...]] = {}
    for (module, leaf), tensors in sorted(fused.items()):
        parameters[f"{module}.{leaf}"] = _fuse(tensors, shapes)
        experts[module] = ("gate_up_proj", "down_proj")
    if kind == "gpt_oss":
        modules = {name.rpartition(".")[0] for name in shapes if name.endswith(".experts.gate_up_proj")}
        experts = dict.fromkeys(sorted(modules), ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias"))
    said = declared or {}
    experts |= {name: tuple(one["parameters"]) for name, one in said.items() if one["kind"] == "experts"}
    turned = tuple(name for name, one in said.items() if one.get("transposed") and one["kind"] == "linear")
    holder = _TIED.get(kind) if isinstance(kind, str) else None
    tied = bool(holder and config.get("tie_word_embeddings") and "lm_head.weight" not in shapes)
    if holder and tied:
        parameters["lm_head.weight"] = Parameter(parameters[holder].shape, ())
    return Layout(
        parameters,
        ties={"lm_head.weight": holder} if holder and tied else {},
        conv1d=(*CONV1D_LEAVES.get(kind or "", ()), *turned),
        experts=experts,
        experts_transposed=kind == "gpt_oss"
        or any(one.get("transposed") and name in experts for name, one in said.items()),
    )


def _fuse(tensors: Mapping[tuple[int, str], str], shapes: Mapping[str, tuple[int, ...]]) -> Parameter:
    """One parameter of all experts: w1 above w3 for each (gate and up), or w2 (down)."""
    numbers = sorted({number for number, _ in tensors})
    parts = []
    rows = 0
    for number in numbers:
        rows = 0
        for leaf in sorted(leaf for expert, leaf in tensors if expert == number):
            tensor = tensors[number, leaf]
            height = shapes[tensor][0]
            parts.append(Part(tensor, (number, slice(rows, rows + height))))
            rows += height
    return Parameter((len(numbers), rows, shapes[parts[0].tensor][1]), tuple(parts))
