"""Composed adapters: one PEFT adapter that equals a whole path."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from registry.errors import AccuracyError
from registry.figures import counted
from registry.schemas import Truncation
from registry.schemas.artifacts import check_ranks
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.threads import in_order
from registry.tensors.artifacts.artifact import ArtifactFile, generated_file
from registry.tensors.composed.flattened import Aside, Directions, FlattenedPair, RescaledModule
from registry.tensors.composed.forms import (
    CONFIG,
    BaseRepo,
    ComposedNames,
    Forms,
    composed_config,
    forms_of,
    is_inside,
    is_under,
    not_composable,
    rescales,
    twins_of,
)
from registry.tensors.composed.pair import ComposedExperts, ComposedPair, pair_tensors
from registry.tensors.composed.spelling import (
    LEAD,
    AdapterTensor,
    Rows,
    WrappedNames,
    rows_of,
    spelling_of,
    stored_value,
    token_tensor,
    turned,
    weights_file,
    whole_experts,
    whole_value,
)
from registry.tensors.composed.truncated import (
    TruncatedExperts,
    TruncatedPair,
    expert_spectrum,
    report,
    spectrum,
    written_error,
)
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, PathPrograms, Program
from registry.tensors.path.slot_values import SlotValues
from registry.tensors.table.parameters import FileParameter
from registry.tensors.table.slots import Slot, slot_of_parameter, slot_of_piece, slot_of_target
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from registry.tensors.truncation.rank_choice import ModuleSpectrum, choose_ranks, relative_error, rounded_up

_TRIES: Final = 5


@dataclass(frozen=True)
class ComposedParts:
    """What a composed adapter is made of."""

    forms: Forms
    pairs: Mapping[str, ComposedPair | TruncatedPair | FlattenedPair]  # by module, as the base names it
    since: int
    paths: PathPrograms
    base: BaseTensors
    plain: bool = False  # what a DoRA link rescales is a pair without a magnitude

    @property
    def scaled(self) -> list[str]:
        """The modules that a DoRA link rescales, and that have a magnitude."""
        pairs = () if self.plain else self.forms.pairs
        return [target.module for target, program in pairs if rescales(program, self.since)]

    def around(self, slot: Slot) -> tuple[SlotValues, SlotValues]:
        """A slot's values before what the adapter holds and after it, in float64."""
        program = self.paths.programs.get(slot) or Program(slot, (), slot)
        before = replace(program, steps=tuple(step for step in program.steps if step.link < self.since))
        first, last = (self.base.values(one, torch.float64) for one in (before, program))
        return first, last


class Composition:
    """A path as one adapter: what it holds is known from headers, its numbers are made when they are read.

    Args:
        links: the whole path, root first.
        since: number of the first link that the adapter holds; those before it are in the weights that it goes on.
        paths: the path's programs.
        base: the base's tensors.
        table: the base's target table.
        sums: the least precision of sums and products; what is written is rounded from them once.
        aside: where the factors of rescaled modules are kept, which are cut to plain pairs by `truncate`, which has to
            be called; None: they stay DoRA.

    Raises:
        InvalidAdapterError: ``not_composable``, no single PEFT adapter equals this path.
    """

    def __init__(
        self,
        links: Sequence[BoundLink],
        since: int,
        paths: PathPrograms,
        base: BaseTensors,
        table: TargetTable,
        *,
        sums: torch.dtype = torch.float32,
        aside: Aside | None = None,
    ) -> None:
        self._sums, self._aside, plain = sums, aside, aside is not None
        self._links, self._since, self._paths, self._base, self._table = links, since, paths, base, table
        self._forms = forms_of(links, since, paths, table, plain=plain)
        self._wrapped = WrappedNames(self._forms, table)
        # PEFT has one switch for all modules: a single link that rescales makes every pair a DoRA
        self.dora = not plain and any(rescales(program, since) for _, program in self._forms.pairs)
        # of modules that share one weight and one change, PEFT keeps the pair of the embedding and its transpose
        self._twins = {} if self.dora else twins_of(self._forms.pairs, paths.tied, table)
        own = [one for one in self._forms.pairs if one[0].module not in self._twins]
        self._rescaled = [self._module(*one) for one in own if plain and rescales(one[1], since)]
        self._pairs: list[ComposedPair | TruncatedPair | FlattenedPair] = [
            self._pair(*one) for one in own if not (plain and rescales(one[1], since))
        ]
        self._experts: list[ComposedExperts | TruncatedExperts] = list(self._all_experts())
        self._fill_up(uniform=False)

    @property
    def parts(self) -> ComposedParts:
        """What it is made of, for other names and files than PEFT's."""
        pairs = {pair.target.module: pair for pair in self._pairs}
        plain = self._aside is not None
        return ComposedParts(self._forms, pairs, self._since, self._paths, self._base, plain)

    @property
    def notices(self) -> list[str]:
        """What a person should know about the adapter."""
        told = []
        if any(self._table.attention_of(pair.target.module) for pair in self._pairs):
            told.append(
                "The composed adapter has the output projection of a fused attention, whose delta PEFT up to 0.21.2 "
                "applies twice: its B is halved for those versions."
            )
        if self._rescaled:
            told.append(
                f"The path rescales {counted(len(self._rescaled), 'module')} (DoRA), which the adapter has as the "
                "nearest plain pairs: it is near to the path, and not equal to it."
            )
        if self._paths.untied:
            told.append(
                f"The path changes {' and '.join(map(repr, self._paths.untied))} differently, which share one weight "
                "in the base model: merge with this registry, since PEFT would merge both into the shared weight."
            )
        return told

    def truncate(self, *, rank: int | None, max_error: float | None, dtype: str) -> Truncation:
        """Lower the ranks to a cap for each module, or as far as an error over all modules allows, or both.

        ``dtype`` is that of the factors as they will be written; a 16-bit one has its own error, which counts.

        Raises:
            UsageError: an option is out of its range.
            AccuracyError: the cap or the dtype can't reach the error.
        """
        pairs = [pair for pair in self._pairs if isinstance(pair, ComposedPair)]
        experts = [one for one in self._experts if isinstance(one, ComposedExperts)]
        parts: list[ComposedPair | ComposedExperts] = [*pairs, *experts]
        directions = self._directions(rank, max_error)
        spectra = [*in_order(_spectrum, parts), *(found.spectrum for found in directions)]
        most, wanted = choose_ranks(spectra, rank=rank), choose_ranks(spectra, rank=rank, max_error=max_error)
        asked, tries = max_error, 0
        while True:
            ranks = self._shared(wanted, spectra)
            self._pairs = [
                *(TruncatedPair(pair, ranks[pair.target.module]) for pair in pairs),
                *(FlattenedPair(found, ranks[found.module.target.module]) for found in directions),
            ]
            self._experts = [TruncatedExperts(one, ranks[one.parameter]) for one in experts]
            written = self._written_error(spectra, FLOATS[dtype])
            if max_error is None or asked is None or written is None or written <= max_error:
                break
            if wanted == most:
                cap = "" if rank is None else f" with rank {rank} at most in every module"
                least = rounded_up(written)
                # an error of the whole delta or more can't be requested
                other = f", or ask for --max-error {least} or more" if written < 1 else ""
                raise AccuracyError(
                    f"Written in {dtype}{cap} the error is {least}, more than the requested {max_error:g}, because of "
                    f"its rounding; fetch with --dtype fp32{other}."
                )
            # the rounding's share of the error hardly depends on the ranks: leave room for it
            asked = math.sqrt(max(0.0, asked**2 - 1.1 * (written**2 - max_error**2)))
            tries += 1
            within = tries < _TRIES and relative_error(spectra, most) <= asked
            wanted = choose_ranks(spectra, rank=rank, max_error=asked) if within else most
        self._fill_up(uniform=False)
        scaled = frozenset(pair.target.module for pair in pairs if self.dora)
        scaled |= {found.module.target.module for found in directions}
        return report(spectra, ranks, rank=rank, max_error=max_error, scaled=scaled, written=written)

    def _directions(self, rank: int | None, max_error: float | None) -> list[Directions]:
        """Of each rescaled module, one at a time: a whole weight is in memory."""
        aside = self._aside
        if aside is None:
            return []
        check_ranks(rank, max_error)

        def find(module: RescaledModule) -> Directions:
            return module.directions(aside, rank=rank, max_error=max_error or 0.0)

        return list(in_order(find, self._rescaled, lanes=1))

    def _written_error(self, spectra: Sequence[ModuleSpectrum], dtype: torch.dtype) -> float | None:
        """Relative error of the truncated pairs with their rounding; None where that adds next to nothing."""
        if dtype.itemsize > 2:
            return None
        parts: list[TruncatedPair | TruncatedExperts | FlattenedPair] = [
            part for part in (*self._pairs, *self._experts) if not isinstance(part, ComposedPair | ComposedExperts)
        ]
        error = math.hypot(*in_order(lambda part: written_error(part, dtype), parts))
        total = math.sqrt(math.fsum(module.tails[0] for module in spectra))
        return error / total if total > 0 else 0.0

    def make_uniform(self) -> None:
        """Fill every pair with zeros up to the largest rank, for engines that need a single one."""
        self._fill_up(uniform=True)

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each module and parameter as it is written."""
        found = {pair.target.module: pair.rank for pair in self._pairs}
        found |= {module: found[other] for module, other in self._twins.items() if other in found}
        return found | {experts.parameter: experts.rank for experts in self._experts}

    def files(
        self, *, dtype: str, base_repo: BaseRepo | None, hints: Mapping[str, Any], lead: str = ""
    ) -> list[ArtifactFile]:
        """The two files; ``dtype`` is that of all tensors (``F32``), ``lead`` is left out before names of modules.

        Raises:
            InvalidAdapterError: ``not_composable``, the path rescales a module as PEFT's magnitudes do not.
        """
        for module, how in self._forms.diagonals.items():
            raise not_composable(f"The path rescales {module!r} ({how})")
        tensors: list[AdapterTensor] = [tensor for pair in self._pairs for tensor in pair.tensors()]
        tensors += self._twin_tensors()
        tensors += [tensor for experts in self._experts for tensor in experts.tensors()]
        tensors += self._value_tensors(torch.promote_types(FLOATS[dtype], self._sums))
        tokens = {module: rows_of(program, self._since) for module, program in self._forms.tokens.items()}
        tensors += [token_tensor(self._wrapped.path(module), rows) for module, rows in tokens.items()]
        names = self._names({module: sorted(rows) for module, rows in tokens.items()})
        if not names.ranks:
            target = self._spare_target(names.saved)
            tensors += pair_tensors(target.module, target, 1, _zeros(target.in_features), _zeros(1), None)
            names = replace(names, ranks={target.module: 1}, modules=[target.module])
        spelled = [tensor.name.removeprefix(LEAD) for tensor in tensors]
        own = spelling_of(self._links[self._since :], spelled, self._table)

        def spelling(name: str) -> str:
            return own(name).removeprefix(lead)

        tensors = [replace(tensor, name=LEAD + spelling(tensor.name.removeprefix(LEAD))) for tensor in tensors]
        others = [spelling(module) for module in _all_modules(self._table) - set(names.modules)]
        config = composed_config(names.spelled(spelling), others, base_repo, hints)
        return [weights_file(tensors, dtype), generated_file(CONFIG, config)]

    # ------------------------------------------------------------------ pairs

    def _pair(self, target: Target, program: Program) -> ComposedPair:
        # PEFT up to 0.21.2 applies the delta of an attention's output projection twice
        factor = 0.5 if self._table.attention_of(target.module) else 1.0
        path = self._path(target)
        return ComposedPair(path, target, program, self._since, self._base, self.dora, factor, sums=self._sums)

    def _module(self, target: Target, program: Program) -> RescaledModule:
        steps = tuple(step for step in program.steps if step.link < self._since)
        before = self._base.values(replace(program, steps=steps), torch.float64)
        return RescaledModule(self._path(target), target, before, self._base.values(program, torch.float64))

    def _path(self, target: Target) -> str:
        path = self._forms.named.get(target.module)
        return self._wrapped.path(path.rpartition(".")[0] if path else target.module)

    def _twin_tensors(self) -> Iterable[AdapterTensor]:
        pairs = {pair.target.module: pair for pair in self._pairs}
        for module, other in self._twins.items():
            a, b = pairs[other].tensors()
            name = LEAD + self._wrapped.path(module)
            yield turned(b, f"{name}.lora_A.weight")
            yield turned(a, f"{name}.lora_B.weight")

    def _all_experts(self) -> Iterable[ComposedExperts]:
        for module, changed in self._forms.experts.items():
            # the parameter that the module registers first is in the innermost wrapper
            nested = [one for one in self._table.targets[module].fused if one in changed]
            for at, fused in enumerate(nested):
                name = self._wrapped.path(module) + ".base_layer" * (len(nested) - 1 - at)
                parameter, programs = f"{module}.{fused.name}", self._paths.programs
                yield ComposedExperts(name, parameter, fused, programs, self._since, sums=self._sums)

    def _fill_up(self, *, uniform: bool) -> None:
        """Give a rank to all pairs that must share it: an attention's two, or all."""
        most: dict[str, int] = {}
        for name, rank in self.ranks.items():
            group = self._rank_group(name, uniform=uniform)
            most[group] = max(most.get(group, 0), rank)
        self._pairs = [
            replace(pair, at_least=most[self._rank_group(pair.target.module, uniform=uniform)]) for pair in self._pairs
        ]
        self._experts = [
            replace(one, at_least=most[self._rank_group(one.parameter, uniform=uniform)]) for one in self._experts
        ]

    def _shared(self, ranks: Mapping[str, int], spectra: Sequence[ModuleSpectrum]) -> dict[str, int]:
        """Of pairs that must share a rank each keeps as much as the one that keeps most: zeros would cost the same."""
        most: dict[str, int] = {}
        for name, rank in ranks.items():
            group = self._rank_group(name, uniform=False)
            most[group] = max(most.get(group, 0), rank)
        return {one.module: min(one.most, most[self._rank_group(one.module, uniform=False)]) for one in spectra}

    def _rank_group(self, name: str, *, uniform: bool) -> str:
        target = self._table.targets.get(name)
        attention = self._table.attention_of(target.module) if target is not None else None
        return "" if uniform else attention.module if attention else name

    # ------------------------------------------------------------------ values

    def _value_tensors(self, dtype: torch.dtype) -> list[AdapterTensor]:
        """Modules that are saved whole, with all the parameters in and below them, and biases."""
        found: dict[str, AdapterTensor] = {}
        for module, target in self._forms.saved.items():
            name = f"{module}.{target.weight}"
            found[name] = self._whole(name, target.shape, self._values(slot_of_target(target), dtype))
            found |= self._others_of(module, {target.weight}, dtype)
        for module in self._forms.saved_experts:
            found |= self._experts_saved_whole(module, dtype)
        for name, program in self._forms.values.items():
            if name not in found:
                held = self._table.parameters.get(name)
                shape = held.shape if held is not None else self._paths.new[name].shape
                found[name] = self._whole(name, shape, self._base.values(program, dtype))
        # PEFT loads no module in part, and "all" means all of them
        for name, held in self._table.named_parameters.items():
            if name not in found and (is_inside(name, self._forms.saved_modules) or self._forms.needs_bias(name)):
                found[name] = self._parameter(name, held, dtype)
        return list(found.values())

    def _others_of(self, module: str, but: Container[str], dtype: torch.dtype) -> dict[str, AdapterTensor]:
        """A module's own parameters except those of some names."""
        others = (
            (f"{module}.{leaf}", held) for leaf, held in self._table.parameters_of(module).items() if leaf not in but
        )
        return {name: self._parameter(name, held, dtype) for name, held in others}

    def _parameter(self, name: str, held: FileParameter, dtype: torch.dtype) -> AdapterTensor:
        if not held.runs:
            source, entry = self._base.tensors[held.tensor]
            if entry.dtype not in FLOATS:
                return stored_value(self._wrapped.parameter(name), source, entry)
        return self._whole(name, held.shape, self._values(slot_of_parameter(held), dtype))

    def _whole(self, parameter: str, shape: tuple[int, ...], values: SlotValues) -> AdapterTensor:
        return whole_value(self._wrapped.parameter(parameter), shape, values)

    def _experts_saved_whole(self, module: str, dtype: torch.dtype) -> Mapping[str, AdapterTensor]:
        found = {}
        for fused in self._table.targets[module].fused:
            slots = [slot_of_piece(piece, fused) for piece in fused.pieces]
            name, values = f"{module}.{fused.name}", [self._values(slot, dtype) for slot in slots]
            found[name] = whole_experts(self._wrapped.parameter(name), fused, values)
        return found | self._others_of(module, {fused.name for fused in self._table.targets[module].fused}, dtype)

    def _values(self, slot: Slot, dtype: torch.dtype) -> SlotValues:
        """A slot's values after the path, or as the base has them."""
        return self._base.values(self._paths.programs.get(slot) or Program(slot, (), slot), dtype)

    # ------------------------------------------------------------------ the configuration

    def _names(self, tokens: Mapping[str, Sequence[int]]) -> ComposedNames:
        projections = {pair.target.module for pair in self._pairs if self._table.attention_of(pair.target.module)}
        targeted = dict(self._forms.named)
        targeted |= {experts.parameter: experts.parameter for experts in self._experts}
        ranks = {targeted.get(name, name): rank for name, rank in self.ranks.items() if name not in projections}
        square = (one.in_features == one.out_features for adapted in self._forms.experts.values() for one in adapted)
        return ComposedNames(
            ranks=dict(sorted(ranks.items())),
            modules=sorted(set(ranks) - set(targeted.values())),
            parameters=sorted(targeted.values()),
            saved=sorted(self._forms.saved_modules),
            tokens=tokens,
            bias=self._forms.bias,
            dora=self.dora,
            conv1d=any(pair.target.kind is TargetKind.CONV1D for pair in self._pairs),
            tied=bool({*self._twins, *self._forms.saved} & set(self._paths.tied)),
            dated=bool(projections) or any(square),
        )

    def _spare_target(self, taken: Sequence[str]) -> Target:
        """A module for a pair of zeros: PEFT loads no LoRA without a pair."""
        for module, target in self._table.targets.items():
            if target.kind is TargetKind.LINEAR and target.tie is None and not is_under(module, taken):
                return target
        raise not_composable("The path only replaces whole modules")


def _all_modules(table: TargetTable) -> set[str]:
    """Every module of the base, also those that only hold others: PEFT looks at the names of all."""
    held = (*table.targets, *table.parameters)
    above = {name[:at] for name in held for at, letter in enumerate(name) if letter == "."}
    return above.union(table.targets)


def _spectrum(part: ComposedPair | ComposedExperts) -> ModuleSpectrum:
    return expert_spectrum(part) if isinstance(part, ComposedExperts) else spectrum(part)


def _zeros(columns: int) -> Rows:
    return lambda start, stop: torch.zeros(stop - start, columns)
