"""A composed LoRA as ComfyUI and Forge read it: one file, with the modules of the code that a model came with.

Of Stable Diffusion by kohya's names, with an alpha for each module that is its rank; of transformers by native names
without one. Modules that are one there are joined (`registry.tensors.composed.joined`). DoRA is not written: ComfyUI
scales by the norm of the weight before the change, not after it (``weight_adapter/base.py``). It, what a path replaces
or rescales by columns, and changes of full rank, whose pairs are larger than themselves, can be written as the whole
difference of a weight (``.diff``, ``.diff_b``), in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

import torch

from registry.images.outgoing import Component, Joined, comfy_names, components_of_base
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.checkpoint.factors import Plain
from registry.tensors.composed.composition import ComposedParts
from registry.tensors.composed.flattened import FlattenedPair
from registry.tensors.composed.joined import Factors, any_rows, in_file_order, joined_pair, piled
from registry.tensors.composed.layouts import (
    PEFT_ENDS,
    cannot,
    changed_components,
    check_products,
    few,
    full_pairs,
    replaced_names,
)
from registry.tensors.composed.pair import ComposedPair
from registry.tensors.composed.spelling import AdapterTensor, Rows, weights_file
from registry.tensors.composed.truncated import TruncatedPair
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.table.slots import Slot, slot_of_parameter, slot_of_target
from registry.tensors.table.targets import TargetTable

COMFYUI: Final = "lora.safetensors"
"""The only file of an artifact with this layout; in the folder of the program it gets the adapter's name."""

_FLAT_ENDS: Final = ("lora_down.weight", "lora_up.weight")
_VECTORS: Final = {"bias": "diff_b", "weight": "diff"}
"""Parameters of one dimension, and what the difference of each is called."""
_FIRST: Final = "stable-diffusion-v1"


def comfyui_file(parts: ComposedParts, table: TargetTable, dtype: str, *, dense: bool) -> ArtifactFile:
    """The file.

    Args:
        parts: of the path, with sums in float64.
        table: the base model's.
        dtype: that of all tensors but alphas (``F32``).
        dense: write the whole difference of what is no product of low rank, or one of full rank.

    Raises:
        InvalidAdapterError: ``not_low_rank``; ``engine_limits`` for what else it can't load.
    """
    found = changed_components(parts, table, "comfyui")
    if len([one for one in found if one.component.is_denoiser]) > 1:
        raise cannot("comfyui", "changes two denoisers, and it loads a file for each")
    if not dense:
        _check_no_dora(parts)
        check_products(parts.forms, "comfyui")
    components = components_of_base(table.targets)
    architecture = next((one.architecture for one in components if one.is_denoiser), None)
    file = _File(parts, table, full_pairs(parts) if dense else ())
    for component in components:
        norms = {name.rpartition(".")[0].removeprefix(component.lead) for name in parts.forms.values}
        file.add(component, comfy_names(component, numbered=architecture != _FIRST, norms=norms))
    file.check_all()
    told = {} if architecture is None else {"modelspec.architecture": f"{architecture}/lora"}
    metadata = {"format": "pt", "ss_network_module": "networks.lora", "ss_network_dim": str(file.rank), **told}
    return weights_file(file.tensors, dtype, COMFYUI, metadata)


def _check_no_dora(parts: ComposedParts) -> None:
    if parts.scaled:
        what = f"has DoRA links on {few(parts.scaled)}, whose rows it scales by other norms than they were trained with"
        raise cannot("comfyui", what, remedy="Fetch it --as merged, or with --dense-as-diff")


class _File:
    """The tensors of the file, component by component."""

    def __init__(self, parts: ComposedParts, table: TargetTable, full: Collection[str]) -> None:
        self.tensors: list[AdapterTensor] = []
        self.rank = 0
        self._parts, self._table = parts, table
        self._whole = {*parts.scaled, *parts.forms.saved, *full}
        self._left = {*parts.pairs, *replaced_names(parts.forms)}

    def add(self, component: Component, names: Mapping[str, Joined]) -> None:
        """What changes of a component, as far as its modules have names there."""
        lead, changed = component.lead, self._parts.pairs.keys() | self._whole
        for one in dict.fromkeys(joined for module, joined in names.items() if lead + module in changed):
            mine = [module for module in one.modules if lead + module in changed]
            if any(lead + module in self._whole for module in mine):
                self._add_difference(lead, one, mine)
            else:
                self._add_pair(lead, one, mine)
            self._left -= {lead + module for module in mine}
        for leaf, end in _VECTORS.items():
            values = {name for name in self._parts.forms.values if name.endswith(f".{leaf}")}
            for one in dict.fromkeys(joined for module, joined in names.items() if f"{lead}{module}.{leaf}" in values):
                self._add_vectors([f"{lead}{module}.{leaf}" for module in one.modules], one, end)

    def check_all(self) -> None:
        """Refuse what has no name there; raises `InvalidAdapterError` (``engine_limits``)."""
        if self._left:
            raise cannot("comfyui", f"changes {few(self._left)}, and what it calls them is not known here")

    def _add_pair(self, lead: str, one: Joined, mine: list[str]) -> None:
        pairs = {module: _factors(self._parts.pairs[lead + module]) for module in mine}
        heights = {module: self._table.targets[lead + module].out_features for module in one.modules}
        a, b = joined_pair(one, _FLAT_ENDS if one.flat else PEFT_ENDS, pairs, heights)
        rank = a.shape[0]
        self.rank = max(self.rank, rank)
        self.tensors += [a, b]
        if one.flat:  # in 32 bits whatever the factors have: 16 do not hold every rank
            alpha = torch.full((1, 1), float(rank), dtype=torch.float32)
            self.tensors.append(AdapterTensor(f"{one.name}.alpha", (), lambda _start, _stop: alpha, 1, "F32"))

    def _add_difference(self, lead: str, one: Joined, mine: list[str]) -> None:
        targets = [self._table.targets[lead + module] for module in one.modules]
        changed = set(mine)
        slots = [
            (slot_of_target(target), module in changed) for target, module in zip(targets, one.modules, strict=True)
        ]
        shape = (sum(target.shape[0] for target in targets), *targets[0].shape[1:])
        self.tensors.append(AdapterTensor(f"{one.name}.diff", shape, self._differences(one, slots)))

    def _add_vectors(self, parameters: list[str], one: Joined, end: str) -> None:
        held = [self._table.parameters.get(name) for name in parameters]
        if any(found is None or len(found.shape) != 1 for found in held):
            return  # it is refused as what has no name there
        known = [found for found in held if found is not None]
        values = self._parts.forms.values
        slots = [(slot_of_parameter(found), name in values) for found, name in zip(known, parameters, strict=True)]
        shape = (sum(found.shape[0] for found in known),)
        self.tensors.append(AdapterTensor(f"{one.name}.{end}", shape, self._differences(one, slots)))
        self._left -= set(parameters)

    def _differences(self, one: Joined, slots: list[tuple[Slot, bool]]) -> Rows:
        pieces = [_difference(slot, self._parts.around(slot) if changes else None) for slot, changes in slots]
        rows = piled([slot.rows for slot, _ in slots], pieces)
        return in_file_order(rows, sum(slot.rows for slot, _ in slots), swapped=one.swapped)


def _factors(pair: ComposedPair | TruncatedPair | FlattenedPair) -> Factors:
    a, b = pair.tensors()[:2]
    whole = isinstance(pair, ComposedPair) and not pair.dense and pair.rank == pair.links_rank
    made_of = tuple(_places(pair)) if isinstance(pair, ComposedPair) and whole else None
    return Factors(a, b, made_of if made_of and None not in made_of else None)


def _places(pair: ComposedPair) -> Iterator[object]:
    """Where the rows of A are: equal ones are the same numbers."""
    for one in pair.pairs:
        entry = one.a.entry if type(one.a) is Plain else None
        yield None if entry is None else (id(one.source), entry.start, entry.stop, entry.dtype, entry.shape)


def _difference(slot: Slot, around: tuple[SlotValues, SlotValues] | None) -> Rows:
    """Rows of the difference of a slot's values; zeros where it does not change."""
    if around is None:
        return lambda start, stop: torch.zeros(stop - start, slot.columns, dtype=torch.float64)
    before, after = around

    def block(start: int, stop: int) -> torch.Tensor:
        found = after.block(start // after.rows_a_block) - before.block(start // before.rows_a_block)
        if found.shape[0] != stop - start:
            raise AssertionError("differences are read on the grid of their blocks")
        return found

    whole = AdapterTensor(slot.tensor, (slot.rows, slot.columns), block)
    return lambda start, stop: any_rows(whole, start, stop)
