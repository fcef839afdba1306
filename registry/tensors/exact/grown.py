"""The target table of a model whose vocabulary has grown: embeddings and head have more rows than the base's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from registry.tensors.table.targets import TargetKind, TargetTable


def vocabulary_tensors(table: TargetTable) -> frozenset[str]:
    """The tensors of the files that have a row for each token: input embeddings, and what the output head holds."""
    found = set()
    for target in table.targets.values():
        if target.kind is TargetKind.EMBEDDING or target.module == table.output_module:
            held = {f"{module}.weight" for module in table.tie_group(target.module)} | {f"{target.module}.bias"}
            names = [table.find_parameter(name) for name in held]
            found |= {one[1].tensor for one in names if one is not None and not one[1].runs}
    return frozenset(found)


def grown_table(table: TargetTable, shapes: Mapping[str, tuple[int, ...]]) -> TargetTable:
    """The table where some tensors have other shapes: ``shapes`` are theirs, by the name in the files."""
    if not shapes:
        return table
    parameters = {
        name: replace(held, shape=shapes[held.tensor]) if held.tensor in shapes and not held.runs else held
        for name, held in table.parameters.items()
    }
    holder = {module: table.tie_group(module)[0] for module in table.targets}
    targets = {
        module: replace(target, shape=shapes[tensor])
        if (tensor := table.targets[holder[module]].tensor) is not None and tensor in shapes
        else target
        for module, target in table.targets.items()
    }
    return replace(table, parameters=parameters, targets=targets)
