"""A path of adapters applied step by step in float64: PEFT's meaning of every variant, written out once more.

It shares no code with `registry` and uses neither torch nor PEFT. For each link: absolute values are set (modules,
biases, token rows), then deltas are added, then DoRA rescales. Whole weights that PEFT saves beside a targeted
embedding (``base_layer.weight``) are copies of the parent and mean nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.kit import products
from tests.kit.expert_factors import nested_names, split_a, split_b
from tests.kit.floats import Array
from tests.kit.layouts import Layout, layout_of
from tests.kit.merged_tensor import MergedTensor
from tests.kit.reference import ROOT, scaling_of
from tests.kit.states import State, View
from tests.kit.tensor_files import RawTensor, read_tensors

ATTENTION_FIXED_AFTER: Final = (0, 21, 2)
"""PEFT up to this version applies the delta of ``out_proj`` of ``nn.MultiheadAttention`` twice, in training too."""

_PAIR: Final = re.compile(r"(.+)\.(lora_A\.weight|lora_embedding_A)")
_PART: Final = re.compile(r".+\.(lora_[AB]\.(weight|bias)|lora_embedding_[AB]|lora_magnitude_vector(\.weight)?)")
_ROWS: Final = ".token_adapter.trainable_tokens_delta"
_PRODUCT: Final = re.compile(rf"(.+)\.({'|'.join(products.PARTS)})")
_IGNORED: Final = re.compile(r".+\.(lora_velora_embed.*|lora_monteclora_sampler\..+)")


@dataclass(frozen=True)
class Simulated:
    """What a path makes of a base model."""

    tensors: dict[str, MergedTensor]  # by name in the files
    untied: bool  # a tie of the base no longer holds: its config must say so
    state: State


@dataclass(frozen=True)
class Factors:
    """The pair of one module: ``a`` (rank, in), ``b`` (out, rank), as matrices."""

    a: Array
    b: Array
    scaling: float
    magnitude: Array | None = None  # DoRA
    bias: Array | None = None  # lora_bias

    @property
    def delta(self) -> Array:
        return self.scaling * (self.b @ self.a)

    @property
    def spread(self) -> Array:
        return abs(self.scaling) * (np.abs(self.b) @ np.abs(self.a))


def simulate(base: Path, adapters: Sequence[Path], layout: Layout | None = None) -> Simulated:
    """Apply adapters, root first, to the base model in a folder."""
    state = State.load(layout or layout_of(base), base)
    for folder in adapters:
        apply(state, folder)
    untied = len(state.tied) < len(state.layout.ties)
    return Simulated(state.tensors(), untied, state)


def apply(state: State, folder: Path) -> None:
    """Apply one adapter."""
    config = json.loads((folder / "adapter_config.json").read_text())
    raw = {
        key.removeprefix(ROOT): tensor
        for key, tensor in read_tensors(folder / "adapter_model.safetensors").items()
        if not _IGNORED.fullmatch(key)
    }
    tensors = {key: tensor.values for key, tensor in raw.items()}
    made = {key: found for key in tensors if (found := _PRODUCT.fullmatch(key))}
    parts = {key for key in tensors if _PART.fullmatch(key)} | set(made)
    stems = [found[1] for key in sorted(parts) if (found := _PAIR.fullmatch(key))]
    for key in tensors:
        if key in parts:
            continue
        if key.endswith(_ROWS):
            _set_rows(state, key.removesuffix(_ROWS), tensors, config)
        elif not key.endswith(".base_layer.weight"):
            _set_value(state, key.replace(".base_layer.", "."), raw[key], config)
    for stem in stems:
        _add_pair(state, stem, tensors, stems, config)
    for stem in sorted({found[1] for found in made.values()}):
        own = {found[2]: tensors[key] for key, found in made.items() if found[1] == stem}
        _add_product(state, stem, own, config)
    state.settle_ties()


def _add_product(state: State, stem: str, parts: Mapping[str, Array], config: Mapping[str, Any]) -> None:
    """Add a LoHa or a LoKr; PEFT scales by alpha / r whatever the factors are."""
    view = state.views[f"{stem}.weight"]
    _, scaling = scaling_of({**config, "lora_alpha": config["alpha"]}, stem)
    added = scaling * products.delta(parts)
    spread = abs(scaling) * products.delta({part: np.abs(one) for part, one in parts.items()})
    view.add(added.reshape(view.values.shape), spread.reshape(view.values.shape))


def _set_value(state: State, parameter: str, raw: RawTensor, config: Mapping[str, Any]) -> None:
    if parameter not in state.views:
        found = state.layout.place(parameter)  # named as in the files
        if found is None:
            state.new[parameter] = raw
            state.views[parameter] = View(raw.values.copy(), np.abs(raw.values), np.ones(raw.shape, dtype=bool))
            return
        state.views[found[0]].part(found[1]).replace(raw.values)
        return
    for one in (parameter, *_followers(state, parameter, config)):
        state.views[one].replace(raw.values)


def _set_rows(state: State, module: str, tensors: Mapping[str, Array], config: Mapping[str, Any]) -> None:
    given = config["trainable_token_indices"]
    if isinstance(given, dict):
        (tokens,) = [found for name, found in given.items() if module == name or module.endswith(f".{name}")]
    else:
        tokens = given
    # the head follows a tied embedding, unless it has rows of its own
    heads = [name for name, holder in state.tied.items() if holder == f"{module}.weight"]
    followers = [name for name in heads if name.removesuffix(".weight") + _ROWS not in tensors]
    for one in (f"{module}.weight", *followers):
        _replace_rows(state.views[one], tokens, tensors[module + _ROWS])


def _replace_rows(view: View, tokens: Sequence[int], rows: Array) -> None:
    for token, row in zip(tokens, rows, strict=True):
        view.part((token,)).replace(row)


def _followers(state: State, parameter: str, config: Mapping[str, Any]) -> list[str]:
    """The other side of a tie that the adapter keeps (``ensure_weight_tying``)."""
    if not config.get("ensure_weight_tying"):
        return []
    return [name for name, holder in state.tied.items() if holder == parameter]


def _add_pair(
    state: State, stem: str, tensors: Mapping[str, Array], stems: Sequence[str], config: Mapping[str, Any]
) -> None:
    layout = state.layout
    if stem.replace(".base_layer", "") in layout.experts:
        _add_experts(state, stem, tensors, config)
        return
    embedding = f"{stem}.lora_embedding_A" in tensors
    attention, _, inner = stem.partition(".base_layer.")
    if inner:  # the out_proj of an nn.MultiheadAttention, which has the rank and alpha of the whole
        factors = _read_factors(stem, attention, tensors, config, embedding=False)
        for _ in range(2 if _doubles(config) else 1):
            state.views[f"{attention}.{inner}.weight"].add(factors.delta, factors.spread)
        return
    factors = _read_factors(stem, stem, tensors, config, embedding=embedding)
    if f"{stem}.in_proj_weight" in state.views:
        state.views[f"{stem}.in_proj_weight"].add(factors.delta, factors.spread)
        return
    if f"{stem}.weight" not in state.views:
        name, index = _place(layout, f"{stem}.weight")
        _add_factors(state.views[name].part(index), None, factors, transposed=False)
        return
    transposed = embedding or stem in layout.conv1d or stem.rpartition(".")[2] in layout.conv1d
    parameter = f"{stem}.weight"
    followers = [name for name in _followers(state, parameter, config) if name.removesuffix(".weight") not in stems]
    for one in (parameter, *followers):
        _add_factors(state.views[one], state.views.get(f"{stem}.bias"), factors, transposed=transposed)


def _place(layout: Layout, tensor: str) -> tuple[str, Any]:
    found = layout.place(tensor)
    if found is None:
        raise KeyError(tensor)
    return found


def _add_factors(view: View, bias: View | None, factors: Factors, *, transposed: bool) -> None:
    delta, spread = (factors.delta.T, factors.spread.T) if transposed else (factors.delta, factors.spread)
    view.add(delta.reshape(view.values.shape), spread.reshape(view.values.shape))
    if factors.magnitude is not None:
        norms = view.norms(rows=not transposed)
        view.rescale(norms, factors.magnitude.reshape(norms.shape))
    if factors.bias is not None:
        if bias is None:
            raise KeyError("lora_bias on a module without a bias")
        added = factors.scaling * factors.bias
        bias.add(added, np.abs(added))


def _read_factors(
    stem: str, name: str, tensors: Mapping[str, Array], config: Mapping[str, Any], *, embedding: bool
) -> Factors:
    """``name`` is the module that patterns are matched against."""
    a = tensors[f"{stem}.lora_embedding_A" if embedding else f"{stem}.lora_A.weight"]
    b = tensors[f"{stem}.lora_embedding_B" if embedding else f"{stem}.lora_B.weight"]
    a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
    blocks = config.get("use_bdlora")
    if blocks:
        if any(pattern in name for pattern in blocks.get("target_modules_bd_a") or []):
            a = block_diagonal(a, blocks["nblocks"])
        elif any(pattern in name for pattern in blocks.get("target_modules_bd_b") or []):
            b = block_diagonal(b, blocks["nblocks"])
    rank, scaling = scaling_of(config, name)
    if a.shape[0] != rank or b.shape[1] != rank:
        raise ValueError(f"{stem}: rank {rank} in the config, factors {a.shape} and {b.shape}")
    magnitude = tensors.get(f"{stem}.lora_magnitude_vector", tensors.get(f"{stem}.lora_magnitude_vector.weight"))
    return Factors(a, b, scaling, magnitude, tensors.get(f"{stem}.lora_B.bias"))


def block_diagonal(stored: Array, blocks: int) -> Array:
    """``stored`` cut into ``blocks`` of rows, as the blocks of a block-diagonal matrix."""
    height, width = stored.shape[0] // blocks, stored.shape[1]
    full = np.zeros((stored.shape[0], width * blocks))
    for block in range(blocks):
        rows = slice(block * height, (block + 1) * height)
        full[rows, block * width : (block + 1) * width] = stored[rows]
    return full


def _add_experts(state: State, stem: str, tensors: Mapping[str, Array], config: Mapping[str, Any]) -> None:
    layout = state.layout
    module = stem.replace(".base_layer", "")
    targeted = [one.rpartition(".")[2] for one in config["target_parameters"] if _means(one, module)]
    leaf = nested_names(layout.experts[module], targeted)[stem.count(".base_layer")]
    name = f"{module}.{leaf}"
    view = state.views[name]
    experts = view.values.shape[0] if view.values.ndim == 3 else 1
    a, b = tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"]
    rank, scaling = scaling_of(config, name)
    if a.shape[0] != rank * experts:
        raise ValueError(f"{stem}: rank {rank} of {experts} experts in the config, A is {a.shape}")
    for expert, (one_a, one_b) in enumerate(zip(split_a(a, experts), split_b(b, experts), strict=True)):
        factors = Factors(one_a, one_b, scaling)
        part = view.part((expert,)) if view.values.ndim == 3 else view
        turned = layout.experts_transposed and view.values.ndim == 3
        part.add(factors.delta.T if turned else factors.delta, factors.spread.T if turned else factors.spread)


def _means(parameter: str, module: str) -> bool:
    """Whether an entry of ``target_parameters`` names a parameter of the module."""
    owner = parameter.rpartition(".")[0]
    return owner in ("", module) or module.endswith(f".{owner}")


def _doubles(config: Mapping[str, Any]) -> bool:
    numbers = re.findall(r"\d+", str(config.get("peft_version") or "0"))[:3]
    return tuple(int(number) for number in numbers) <= ATTENTION_FIXED_AFTER
