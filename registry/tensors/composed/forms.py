"""Which form each part of a path takes in a composed adapter.

Only products on a module: one pair, or a DoRA where a link rescales. Only token rows: the rows. Anything that replaces
values and then adds to them: the module's whole values (``modules_to_save``). Everything else that is replaced, such as
biases and norms: its values.

adapter_config.json of a composed adapter: the scale-1 normal form.

``lora_alpha == r``, ``use_rslora = false``, and per-module ranks and alphas that are equal, so that alpha / r is 1 for
readers that honour the patterns and for those that ignore them (PEFT's ``LoraLayer.update_layer``; vLLM scales with one
alpha / r). Patterns and names are full paths, anchored, so that none can match another module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.tensors.path.programs import BoundLink, PathPrograms, Program, owners_of
from registry.tensors.path.steps import Add, Replace, Rescale, SetRows
from registry.tensors.table.parameters import FusedParameter
from registry.tensors.table.slots import Slot, slot_of_target
from registry.tensors.table.targets import Target, TargetKind, TargetTable

CONFIG: Final = "adapter_config.json"


@dataclass(frozen=True)
class ComposedNames:
    """What the adapter adapts, by full names."""

    ranks: Mapping[str, int]  # module or parameter -> rank
    modules: Sequence[str]  # target_modules
    parameters: Sequence[str] = ()  # target_parameters
    saved: Sequence[str] = ()  # modules_to_save
    tokens: Mapping[str, Sequence[int]] = field(default_factory=dict)  # trainable_token_indices
    bias: str = "none"
    dora: bool = False
    conv1d: bool = False
    tied: bool = False
    dated: bool = False  # only the version shows how PEFT reads a part of it: applied twice, or in and out alike

    def spelled(self, spelling: Callable[[str], str]) -> ComposedNames:
        """The same with every name spelled as it says."""
        return replace(
            self,
            ranks=dict(sorted((spelling(name), rank) for name, rank in self.ranks.items())),
            modules=[spelling(name) for name in self.modules],
            parameters=[spelling(name) for name in self.parameters],
            saved=[spelling(name) for name in self.saved],
            tokens={spelling(name): rows for name, rows in self.tokens.items()},
        )


@dataclass(frozen=True)
class BaseRepo:
    """The model that a composed adapter belongs on, as the Hub views spell it: a repo id, and a commit of it."""

    id: str
    revision: str


def composed_config(
    names: ComposedNames, others: Collection[str], base_repo: BaseRepo | None, hints: Mapping[str, Any]
) -> bytes:
    """The file's bytes.

    Args:
        names: what the adapter adapts.
        others: the base's modules that it does not adapt.
        base_repo: what the config calls the model that the adapter belongs on.
        hints: fields that do not change the maths (``task_type``, ``auto_mapping``), from the youngest link.
    """
    rank = max(names.ranks.values())
    # A pattern is a regex that PEFT matches as (.*\.)?(key)$; anchored full names can't match another module.
    pattern = {"^" + re.escape(name): own for name, own in names.ranks.items() if own != rank}
    document = {
        "peft_type": "LORA",
        "task_type": hints.get("task_type"),
        "auto_mapping": hints.get("auto_mapping"),
        "base_model_name_or_path": None if base_repo is None else base_repo.id,
        "revision": None if base_repo is None else base_repo.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "use_rslora": False,
        "use_dora": names.dora,
        "lora_dropout": 0.0,
        "bias": names.bias,
        "init_lora_weights": True,
        "fan_in_fan_out": names.conv1d,
        "modules_to_save": list(names.saved) or None,
        "target_modules": as_targets(names.modules, others),
    }
    if names.parameters:
        document["target_parameters"] = list(names.parameters)
    if names.tokens:
        document["trainable_token_indices"] = {module: list(rows) for module, rows in names.tokens.items()}
    if names.tied:
        document["ensure_weight_tying"] = True
    if names.dated:
        document["peft_version"] = "0.21.2"
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode("utf-8")


def as_targets(modules: Sequence[str], others: Collection[str]) -> list[str] | str:
    """Full names; as a regex where a name is also the end of another module's name, which PEFT would match too."""
    if any(other.endswith("." + module) for other in others for module in modules):
        return "(" + "|".join(re.escape(module) for module in modules) + ")"
    return list(modules)


_NO_DORA = {
    TargetKind.ATTENTION: "a fused attention (nn.MultiheadAttention)",
    TargetKind.EXPERTS: "a group of experts",
    TargetKind.UNKNOWN: "a parameter that is targeted by its name",
}


@dataclass
class Forms:
    """What a composed adapter is made of, by module as the base names it."""

    pairs: list[tuple[Target, Program]] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)  # of pairs that only ``target_parameters`` names: path
    experts: dict[str, list[FusedParameter]] = field(default_factory=dict)
    saved: dict[str, Target] = field(default_factory=dict)
    saved_experts: list[str] = field(default_factory=list)  # modules of experts that are saved whole
    diagonals: dict[str, str] = field(default_factory=dict)  # of `saved`: rescaled as no magnitude of PEFT's does it
    tokens: dict[str, Program] = field(default_factory=dict)
    values: dict[str, Program] = field(default_factory=dict)  # by parameter
    whole: frozenset[str] = frozenset()  # modules that a link has trained whole, as modules_to_save names them

    def is_bias(self, parameter: str) -> bool:
        """Whether a value is a bias of no module that is saved whole."""
        return is_called_bias(parameter) and not is_under(parameter, self.saved_modules)

    @cached_property
    def bias(self) -> str:
        """The configuration's ``bias``: none, lora_only or all."""
        biases = [name for name in self.values if self.is_bias(name)]
        own = all(name.endswith(".bias") and name.rpartition(".")[0] in self._adapted for name in biases)
        return "none" if not biases else "lora_only" if own else "all"

    def needs_bias(self, parameter: str) -> bool:
        """Whether the configuration requires a bias, changed or not."""
        if self.bias == "none" or not parameter.endswith(".bias"):
            return False
        return self.bias == "all" or parameter.rpartition(".")[0] in self._adapted

    @cached_property
    def _adapted(self) -> frozenset[str]:
        return frozenset(target.module for target, _ in self.pairs)

    @cached_property
    def saved_modules(self) -> frozenset[str]:
        """Names of the modules that are saved whole, none inside another; call it once everything is sorted."""
        by_value = [name for name in self.values if is_inside(name, self.whole) or not is_called_bias(name)]
        modules = (*self.saved, *self.saved_experts, *(name.rpartition(".")[0] for name in by_value))
        # what computes its weight from parametrizations is no module that PEFT can save
        found = {_outermost(name, self.whole) or name.partition(".parametrizations.")[0] for name in modules}
        return frozenset(name for name in found if not is_inside(name, found))


def forms_of(
    links: Sequence[BoundLink], since: int, paths: PathPrograms, table: TargetTable, *, plain: bool = False
) -> Forms:
    """Sort out what the links from number ``since`` on do; ``plain``: what they rescale becomes pairs, too.

    Raises:
        InvalidAdapterError: ``not_composable``, no single PEFT adapter equals this path.
    """
    forms = Forms(whole=frozenset(module for link in links[since:] for module in link.checkpoint.saved))
    owners = owners_of(links[since:], table)
    own, parameters = owners.targets, owners.parameters
    named = _only_by_name(links[since:])
    for slot in sorted(paths.programs):
        program = paths.programs[slot]
        if not program.since(since):
            continue
        if slot in owners.pieces:
            module, parameter = owners.pieces[slot].module, owners.pieces[slot].fused
            listed = forms.experts.setdefault(module, [])
            if parameter not in listed:
                listed.append(parameter)
            only_adds = all(isinstance(step, Add) for step in program.since(since))
            if module not in forms.saved_experts and not only_adds:
                forms.saved_experts.append(module)
        elif slot in own and not _replaces_another(program, since, parameters.get(slot), own[slot]):
            token_rows = any(own[slot].module in link.checkpoint.tokens for link in links[since:])
            # PEFT lays the rows of one side of a tie over the other side too, whatever that is by then
            as_rows = token_rows and own[slot].module not in paths.untied
            _sort_target(forms, own[slot], program, since, as_rows=as_rows, tied=paths.tied, plain=plain)
            if slot in named:
                forms.named[own[slot].module] = named[slot]
        elif not _comes_with(name := parameters.get(slot, slot.tensor), links[since:], forms.whole):
            forms.values[name] = program
    for module in forms.saved_experts:  # with all of their parameters, whatever was done to each
        del forms.experts[module]
    _check_apart(forms)
    _check_named(forms)
    if not plain:
        _check_dora(forms, since, table)
    return forms


def is_inside(name: str, modules: Container[str]) -> bool:
    """Whether one of the modules has the module or parameter."""
    return any(name[:at] in modules for at, letter in enumerate(name) if letter == ".")


def is_under(name: str, modules: Container[str]) -> bool:
    """Whether one of the modules has the module or parameter, or is it."""
    return name in modules or is_inside(name, modules)


def rescales(program: Program, since: int) -> bool:
    """Whether a link from number ``since`` on rescales the slot."""
    return any(isinstance(step, Rescale) for step in program.since(since))


def twins_of(pairs: Sequence[tuple[Target, Program]], tied: Sequence[str], table: TargetTable) -> dict[str, str]:
    """Linear modules that share weight and change with an embedding, and that embedding."""
    kinds = {target.module: target.kind for target, _ in pairs}
    found = {}
    for module in tied:
        others = [one for one in table.tie_group(module) if kinds.get(one) is TargetKind.EMBEDDING]
        if kinds.get(module) is TargetKind.LINEAR and others:
            found[module] = others[0]
    return found


def not_composable(what: str) -> InvalidAdapterError:
    """The error for a path that no single PEFT adapter equals."""
    return InvalidAdapterError(
        f"{what}: no single PEFT adapter equals this path. Fetch it --as merged.", code="not_composable"
    )


def _only_by_name(links: Sequence[BoundLink]) -> dict[Slot, str]:
    """Paths of the parameters of two dimensions that ``target_parameters`` names, and no link's target_modules."""
    by_name: dict[Slot, str] = {}
    by_module: set[Slot] = set()
    for link in links:
        for pair in link.checkpoint.pairs.values():
            if pair.fused is None and pair.parameter:
                by_name[slot_of_target(pair.target)] = pair.module
            elif pair.fused is None:
                by_module.add(slot_of_target(pair.target))
    return {slot: path for slot, path in by_name.items() if slot not in by_module}


def _sort_target(
    forms: Forms, target: Target, program: Program, since: int, *, as_rows: bool, tied: Sequence[str], plain: bool
) -> None:
    steps = program.since(since)
    kinds = {type(step) for step in steps}
    turned = [step for step in steps if isinstance(step, Rescale) and (step.by_input or step.strength is not None)]
    if turned and not plain:
        forms.diagonals[target.module] = "DoRA on columns" if turned[0].strength is None else "an IA3"
        forms.saved[target.module] = target
    elif not kinds & {Replace, SetRows}:
        forms.pairs.append((target, program))
    elif kinds != {SetRows}:
        forms.saved[target.module] = target
    elif as_rows:
        forms.tokens[target.module] = program
    elif target.module not in tied:  # else it follows the embedding that has the rows
        forms.saved[target.module] = target


def _outermost(module: str, modules: Container[str]) -> str | None:
    """The first of the modules that has the module or is it, seen from the root."""
    ends = (*(at for at, letter in enumerate(module) if letter == "."), len(module))
    return next((module[:at] for at in ends if module[:at] in modules), None)


def is_called_bias(parameter: str) -> bool:
    """Whether ``bias="all"`` has it: by the last part of its name, of which older PEFT reads any part (q_bias)."""
    return "bias" in parameter.rpartition(".")[2]


def _comes_with(parameter: str, links: Sequence[BoundLink], whole: Container[str]) -> bool:
    """Whether the links have a parameter only by another name that it is tied to, in a module that is saved whole."""
    values = [value for link in links if (value := link.checkpoint.values.get(parameter)) is not None]
    names = {name for value in values for name in value.names}
    return bool(names) and parameter not in names and all(is_under(name, whole) for name in names)


def _check_apart(forms: Forms) -> None:
    """Nothing is adapted inside a module that is saved whole: PEFT takes the one and drops the other."""
    adapted = [*(target.module for target, _ in forms.pairs), *forms.experts, *forms.tokens]
    for module in adapted:
        if is_under(module, forms.saved_modules):
            raise not_composable(f"The path replaces a module that has {module!r} in it, and adapts that")


def _replaces_another(program: Program, since: int, parameter: str | None, target: Target) -> bool:
    """Whether a parameter is replaced that modules don't call their weight: a bias of two dimensions, positions."""
    replaced = any(isinstance(step, Replace) for step in program.since(since))
    return replaced and parameter is not None and parameter != f"{target.module}.{target.weight}"


def _check_named(forms: Forms) -> None:
    """PEFT nests the wrappers of one module's parameters in an order that only the module's class knows."""
    modules = [path.rpartition(".")[0] for path in forms.named.values()]
    for module in modules:
        if modules.count(module) > 1 or module in forms.experts:
            raise not_composable(f"The path adapts several parameters of {module!r} by their names")


def _check_dora(forms: Forms, since: int, table: TargetTable) -> None:
    if not any(rescales(program, since) for _, program in forms.pairs):
        return
    kinds = dict.fromkeys(forms.experts, TargetKind.EXPERTS)
    for target, _ in forms.pairs:
        kinds[target.module] = TargetKind.ATTENTION if table.attention_of(target.module) else target.kind
    kinds |= dict.fromkeys(forms.named, TargetKind.UNKNOWN)
    for module, kind in kinds.items():
        if kind in _NO_DORA:
            raise not_composable(
                f"The path has DoRA links and adapts {module!r}, {_NO_DORA[kind]}, which PEFT can't do in one adapter"
            )
