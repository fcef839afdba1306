"""The target table of a model of which it is known what its modules are: the facts about it, laid over its files.

The facts are those of `registry.tensors.table.architecture_facts`, of a class that was built, or of
`registry.tensors.table.shipped`, which knows some classes without building them. Needs neither torch nor transformers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from registry.errors import InvalidBaseError
from registry.tensors.table.conversions import pieces_of, pieces_of_tensor, runs_of
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece, joined
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from registry.tensors.table.ties import with_flag_ties

Shape = tuple[int, ...]
Tensors = Mapping[str, tuple[str, Shape]]

_FLOATS: Final = ("F64", "F32", "F16", "BF16")

_WEIGHT: Final = {TargetKind.ATTENTION: "in_proj_weight"}
"""The parameter that an adapter changes, where it is not called ``weight``."""


@dataclass(frozen=True)
class _Files:
    """Where the runtime parameters lie in the files."""

    architecture: str
    shapes: Mapping[str, Shape]  # of the file tensors
    one: Mapping[str, str]  # runtime parameter or buffer -> the file tensor that is loaded into it as it is
    computed: Mapping[str, Mapping[str, Any]]  # runtime parameter -> how it is computed (merged, split, transposed)
    laid: Mapping[str, FileParameter]  # those of `computed` that are runs of stored rows


def table_from_facts(facts: Mapping[str, Any], tensors: Tensors) -> TargetTable:
    """The target table of a model that was built from its config.

    Raises `InvalidBaseError`: ``shape_mismatch`` when a file tensor has another shape than the model's parameter,
    ``architecture`` when two file tensors are the same parameter, or when none belongs to the model.
    """
    files = _files(facts, tensors)
    _check_shapes(facts, files)
    modules = [_module(entry, files) for entry in facts["modules"] if entry[0]]
    candidates = {target.module: target for target in modules if target is not None}
    held, missing = _with_ties(facts, files, candidates)
    table = TargetTable(
        targets={name: held[name] for name in sorted(held)},
        parameters={
            name: FileParameter(files.one[name], files.shapes[files.one[name]])
            for name in sorted(files.one)
            if name not in files.computed
        }
        | dict(sorted(files.laid.items())),
        source=facts["source"],
        architecture=facts["architecture"],
        model_type=facts["model_type"],
        prefix=facts["prefix"] or "",
        output_module=facts["output_module"],
        notices=tuple(_notices(facts, tensors, missing)),
    )
    return with_flag_ties(table, joined(facts["flag_ties"]), files.computed, facts["renamed"])


def _files(facts: Mapping[str, Any], tensors: Tensors) -> _Files:
    architecture = facts["architecture"]
    if not facts["direct"] and not facts["conversions"]:
        example = min(tensors) if tensors else "none"
        raise InvalidBaseError(
            f"None of the {len(tensors)} tensors in the files (for example {example}) belongs to {architecture}, which "
            "config.json names: give the config.json that these weights were saved with.",
            code="architecture",
        )
    computed = {name: entry for entry in facts["conversions"] for name in entry["targets"]}
    found: dict[str, list[str]] = defaultdict(list)
    for tensor, parameter in facts["direct"].items():
        found[parameter].append(tensor)
    for parameter, names in found.items():
        if len(names) > 1:
            first, second = sorted(names)[:2]
            raise InvalidBaseError(
                f"The tensors {first} and {second} are both {parameter} of {architecture}, so it is not known which "
                "one counts: keep one of them in the files.",
                code="architecture",
            )
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    one = {parameter: names[0] for parameter, names in found.items()}
    return _Files(architecture, shapes, one, computed, _laid(facts, tensors, one))


def _laid(facts: Mapping[str, Any], tensors: Tensors, one: Mapping[str, str]) -> dict[str, FileParameter]:
    """Parameters that are runs of stored rows: made once, of floats, and no other parameter's by a tie."""
    shapes = {name: shape for name, (_, shape) in tensors.items()}
    runtime = {
        _join(name, key): tuple(shape)
        for name, kind, _, found in facts["modules"]
        for key, shape in found
        if kind != TargetKind.EXPERTS  # these have pieces
    }
    made = Counter(name for entry in facts["conversions"] for name in entry["targets"])
    shared = {name for group in joined(facts["ties"]) for name in group if len(group) > 1}
    laid: dict[str, FileParameter] = {}
    for entry in facts["conversions"]:
        for name in entry["targets"]:
            if name not in runtime or name in one or name in shared or made[name] > 1:
                continue
            runs = runs_of(entry, name, runtime, shapes)
            if runs and all(tensors[run.tensor][0] in _FLOATS for run in runs):
                laid[name] = FileParameter(name, runtime[name], runs)
    return laid


def _check_shapes(facts: Mapping[str, Any], files: _Files) -> None:
    for name, _, _, parameters in facts["modules"]:
        for key, shape in parameters:
            parameter = _join(name, key)
            tensor = files.one.get(parameter)
            if tensor is None or parameter in files.computed:
                continue
            held = files.shapes[tensor]
            if tuple(shape) != held:
                raise InvalidBaseError(
                    f"The tensor {tensor} has shape {list(held)}, but {parameter} of {files.architecture} has "
                    f"shape {shape} by config.json: give the config.json that these weights were saved with.",
                    code="shape_mismatch",
                )


def _module(entry: list[Any], files: _Files) -> Target | None:
    """A target for a module's own parameters, as if nothing were tied; None when they all are vectors.

    `Target.tensor` is None where the files lack the parameter or keep it in another form.
    """
    name, kind, geometry, parameters = entry[0], TargetKind(entry[1]), entry[2], entry[3]
    wide = {key: tuple(shape) for key, shape in parameters if len(shape) >= 2}
    if not wide:
        return None
    first = next(iter(wide.values()))
    if kind is TargetKind.EXPERTS:
        deep = [(key, shape) for key, shape in wide.items() if len(shape) == 3]
        fused = tuple(_fused(name, key, shape, geometry["transposed"], files) for key, shape in deep)
        return Target(name, kind, None, deep[0][1], fused=fused)
    key = _WEIGHT.get(kind, "weight")
    parameter = _join(name, key)
    followed = parameter in files.laid or parameter not in files.computed
    if kind is TargetKind.UNKNOWN or key not in wide or not followed:
        why = _operations(name, wide, files)
        found = Target(name, TargetKind.UNKNOWN, _only(name, wide, files), first, unfollowed=why)
    else:
        found = Target(name, kind, files.one.get(parameter), wide[key], geometry=geometry)
    return found.laid_over(files.laid)


def _operations(name: str, wide: Mapping[str, Shape], files: _Files) -> tuple[str, ...]:
    """What makes the first parameter of a module that is computed in a way that is not followed."""
    for key in wide:
        parameter = _join(name, key)
        if parameter in files.computed and parameter not in files.laid:
            return tuple(operation for operation, _ in files.computed[parameter]["operations"]) or ("several",)
    return ()


def _only(name: str, wide: Mapping[str, Shape], files: _Files) -> str | None:
    """The tensor of a module whose product is not known, where it has one weight and that is one tensor."""
    parameters = [_join(name, key) for key in wide]
    return files.one.get(parameters[0]) if len(wide) == 1 and parameters[0] not in files.computed else None


def _fused(name: str, key: str, shape: Shape, transposed: bool, files: _Files) -> FusedParameter:
    parameter = _join(name, key)
    pieces: tuple[Piece, ...] = ()
    if parameter in files.computed:
        if parameter not in files.one:
            pieces = pieces_of(files.computed[parameter], parameter, shape, files.shapes, transposed=transposed)
    elif parameter in files.one:
        pieces = pieces_of_tensor(files.one[parameter], shape, transposed=transposed)
    experts, rows, columns = shape
    out_features, in_features = (columns, rows) if transposed else (rows, columns)
    return FusedParameter(key, experts, out_features, in_features, transposed, pieces)


def _with_ties(
    facts: Mapping[str, Any], files: _Files, candidates: Mapping[str, Target]
) -> tuple[dict[str, Target], list[str]]:
    """(targets that the files hold, with their ties; modules that the files do not hold)."""
    present = _present(facts, files)
    held = {name: target for name, target in candidates.items() if name in present}
    for group in joined(facts["ties"]):
        weights = [parameter for parameter in group if _owns(candidates, parameter)]
        modules = [_owner(parameter) for parameter in weights]
        holders = [_owner(parameter) for parameter in weights if parameter in files.one]
        if len(modules) < 2 or not holders:
            continue
        holder = holders[0]
        others = [module for module in modules if module != holder]
        output = facts["output_module"]
        held[holder] = replace(held[holder], tie=output if output in others else others[0])
        for module in others:
            held[module] = replace(candidates[module], tie=holder)
    return held, sorted(set(candidates) - set(held))


def _present(facts: Mapping[str, Any], files: _Files) -> set[str]:
    """Modules of which the files hold a weight of two or more dimensions, in whatever form."""
    found = {
        parameter.partition(".parametrizations.")[0] for parameter in files.one if ".parametrizations." in parameter
    }
    for name, _, _, parameters in facts["modules"]:
        wide = [_join(name, key) for key, shape in parameters if len(shape) >= 2]
        if any(parameter in files.one or parameter in files.computed for parameter in wide):
            found.add(name)
    return found


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _owns(candidates: Mapping[str, Target], parameter: str) -> bool:
    """Whether the parameter is the weight that a target stands for."""
    module, _, key = parameter.rpartition(".")
    target = candidates.get(module)
    return target is not None and key == _WEIGHT.get(target.kind, "weight")


def _notices(facts: Mapping[str, Any], tensors: Tensors, missing: list[str]) -> Iterable[str]:
    architecture = facts["architecture"]
    if not facts["named"]:
        yield f"The structure is that of {architecture}, chosen by the model type {facts['model_type']}."
    if missing:
        yield (
            f"{len(missing)} {'module' if len(missing) == 1 else 'modules'} of {architecture} with no weights in the "
            f"files (for example {missing[0]}): no adapter can change {'it' if len(missing) == 1 else 'them'}."
        )
    used = set(facts["direct"]).union(*(names for entry in facts["conversions"] for names in entry["sources"]))
    # not the integers (position ids, masks): they are no weights, and loaders drop them in silence
    unused = sorted(name for name in set(tensors) - used if tensors[name][0].startswith(("F", "BF")))
    if unused:
        elements = sum(math.prod(tensors[name][1]) for name in unused)
        yield (
            f"{len(unused)} {'tensor' if len(unused) == 1 else 'tensors'} in the files not explained by {architecture} "
            f"(for example {unused[0]}; {elements} numbers in all): copied as is."
        )


def _join(module: str, key: str) -> str:
    return f"{module}.{key}" if module else key
