"""From a path to what it does to the output of each module of a running model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from registry.errors import UsageError
from registry.pool.layout import Layout, Place, PristineTensors, plain_rows
from registry.pool.path_programs import Wanted
from registry.pool.per_call.dispatch import Dispatched
from registry.pool.per_call.effects import Effect, Sum, SumParts, Whole
from registry.pool.weight_readers import Form, Readers, form_of, source_of
from registry.tensors.artifacts.merged import RoundedSlot
from registry.tensors.path.low_rank import LowRank, low_rank
from registry.tensors.path.programs import Program
from registry.tensors.path.slot_values import RecentFactors
from registry.tensors.path.steps import Replace, Rescale

Effects = Mapping[nn.Module, Effect]

_Leaf = list[tuple[Place, Program]]
_Changed = Mapping[nn.Module, Mapping[str, _Leaf]]


@dataclass(frozen=True)
class Composer:
    """Makes the effects of paths on one running model, whose weights are the base's meanwhile."""

    model: nn.Module
    layout: Layout
    base: PristineTensors

    @cached_property
    def names(self) -> Mapping[nn.Module, list[str]]:
        """All names of each module."""
        found: dict[nn.Module, list[str]] = {}
        for name, module in self.model.named_modules(remove_duplicate=False):
            found.setdefault(module, []).append(name)
        return found

    @cached_property
    def readers(self) -> Readers:
        """Which modules read the weights of others."""
        return Readers(self.model)

    def effects(self, path: Wanted) -> Effects:
        """What a path does, by module.

        Raises:
            UsageError: ``unsupported_model``: a module that the path changes can't be run beside its base.
            InvalidAdapterError: ``overflow``, ``zero_norm``: the path has no weights in the model's dtype.
        """
        changed: dict[nn.Module, dict[str, _Leaf]] = {}
        for place, (_, program) in path.programs.items():
            tensor = self.layout[place.tensor]
            changed.setdefault(tensor.owner, {}).setdefault(tensor.leaf, []).append((place, program))
        with torch.inference_mode(mode=False), torch.no_grad():  # made for any mode of later calls
            whole = self._run_whole(changed)
            return {
                owner: self._effect(owner, changed, whole=owner in whole) for owner in dict.fromkeys((*changed, *whole))
            }

    def _run_whole(self, changed: _Changed) -> set[nn.Module]:
        """The modules that read what the path changes below them, instead of calling it."""
        found = set()
        for owner, leaves in changed.items():
            for leaf in leaves:
                for reader, by_forward in self.readers.of(owner, leaf).items():
                    names, below = self.names[owner], [owner in set(reader.modules()), by_forward]
                    if len(names) > 1 or not all(below):
                        raise _refused(
                            f"{type(reader).__name__} reads the weights of {names[0]!r} instead of calling it"
                        )
                    found.add(reader)
        return found

    def _effect(self, owner: nn.Module, changed: _Changed, *, whole: bool) -> Effect:
        name = self.names[owner][0]
        _check_free(name, owner)
        leaves = changed.get(owner, {})
        form, weight = form_of(owner), leaves.get("weight", [])
        others = set(leaves) - {"weight", "bias"} or any(_replaced(program) for _, program in weight)
        if not whole and form is not None and not others:
            return self._sum(name, owner, form, leaves)
        if source_of(type(owner)).writes:
            raise _refused(f"{name!r} ({type(owner).__name__}) sets attributes of its own when it runs")
        below = owner.named_modules() if whole else [("", owner)]
        return self._whole(name, {inner: changed[one] for inner, one in below if one in changed})

    def _low_rank(self, place: Place, program: Program) -> LowRank:
        live = self.layout[place.tensor].get()
        return low_rank(self.base.values(program, live.dtype, kept=RecentFactors()))

    def _values(self, name: str, programs: _Leaf) -> torch.Tensor:
        """A whole parameter after some programs, in the model's dtype; on the CPU."""
        one = self.layout[name]
        live = one.get()
        found = torch.empty(live.shape, dtype=live.dtype)
        given = dict(programs)
        for place in one.places:
            for start, stop, block in self._blocks(place, given.get(place), live.dtype):
                target = place.rows(found, start, stop)
                target.copy_(block.reshape(target.shape))
        return found

    def _blocks(
        self, place: Place, program: Program | None, dtype: torch.dtype
    ) -> Iterator[tuple[int, int, torch.Tensor]]:
        rows = place.slot.rows
        if program is None:
            own = place.rows(self.layout[place.tensor].get(), 0, rows)  # as far as the base lacks it
            yield 0, rows, own if place.origin is None else plain_rows(self.base, place, dtype)(0, rows)
            return
        values = RoundedSlot(self.base.values(program, dtype, kept=RecentFactors()), dtype)
        step = values.values.rows_a_block
        for index in range(values.values.blocks):
            yield index * step, min((index + 1) * step, rows), values.block(index)

    def _whole(self, name: str, changed: Mapping[str, Mapping[str, _Leaf]]) -> Whole:
        """By name below a module, what the path changes in it."""
        owner = self.model.get_submodule(name)
        values: dict[str, torch.Tensor] = {}
        for inner, leaves in changed.items():
            for leaf, programs in leaves.items():
                below = f"{inner}.{leaf}" if inner else leaf
                live = self.layout[f"{name}.{below}"].get()
                made = self._values(f"{name}.{below}", programs).to(live.device)
                values[below] = nn.Parameter(made, requires_grad=False) if isinstance(live, nn.Parameter) else made
        return Whole(owner, values)

    def _sum(self, name: str, owner: nn.Module, form: Form, leaves: Mapping[str, _Leaf]) -> Sum:
        live = self.layout[f"{name}.weight"].get()
        change = next((self._low_rank(*one) for one in leaves.get("weight", ())), None)
        bias = before = None
        scaled = change is not None and (change.scale is not None or change.rows)
        if f"{name}.bias" in self.layout and ("bias" in leaves or scaled):
            before = self._values(f"{name}.bias", [])
            bias = self._values(f"{name}.bias", leaves["bias"]) if "bias" in leaves else before
        return SumParts(name, owner, form, live, change, before, bias).made()


def _refused(what: str) -> UsageError:
    return UsageError(
        f"{what}, so a path can't run beside its weights; merge the path instead.", code="unsupported_model"
    )


def _check_free(name: str, owner: nn.Module) -> None:
    if not name:
        raise _refused(
            "The model itself has the weights that the path changes, or reads them instead of calling a module"
        )
    forward = vars(owner).get("forward")
    own = getattr(forward, "__func__", None) is type(owner).forward  # as copies of a model in use have it
    if forward is not None and not own and not isinstance(forward, Dispatched):
        raise _refused(f"The module {name!r} has a forward of its own, which something else has put there")


def _replaced(program: Program) -> bool:
    by_input = any(isinstance(step, Rescale) and step.by_input for step in program.steps)
    return program.origin is None or by_input or any(isinstance(step, Replace) for step in program.steps[:1])
