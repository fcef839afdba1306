"""Whether the tensors of an exact file fit the base model that they replace: names, shapes, and a grown vocabulary.

The target table of a model whose vocabulary has grown: embeddings and head have more rows than the base's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown
from registry.tensors.arithmetic.dtypes import FLOATS, WHOLE_NUMBERS
from registry.tensors.exact.file_format import ExactIndex
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


MOST_GROWN: Final = 16
"""How many times the base's rows a grown vocabulary may have: frames of nothing would stand for any number of them."""

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""dtype and shape by name."""


def check_fit(found: Shapes, base: Shapes, table: TargetTable, config: Mapping[str, Any]) -> None:
    """Check tensors that are to replace those of a base model.

    Args:
        found: the tensors that differ from the base's.
        base: all tensors of the base's files.
        table: the base's target table.
        config: config.json of the model that they belong to.

    Raises:
        InvalidAdapterError: ``unknown_target``, a tensor that the base lacks; ``bad_dtype``, one that is neither a
            float in both nor of the same whole numbers; ``shape_mismatch``; ``bad_config``, the vocabulary has grown
            and config.json does not give the new size.
    """
    grown = {}
    for name, (dtype, shape) in found.items():
        if name not in base:
            raise InvalidAdapterError(
                f"The model has the tensor {shown(name)}, which the base model's files do not have: an exact revision "
                "keeps the architecture and the ties of its base. Add this model as a base model of its own.",
                code="unknown_target",
            )
        base_dtype, base_shape = base[name]
        if not (dtype in FLOATS and base_dtype in FLOATS) and not (dtype in WHOLE_NUMBERS and dtype == base_dtype):
            raise InvalidAdapterError(
                f"Tensor {shown(name)} has dtype {dtype}, and {base_dtype} in the base: another one is kept only of "
                f"floats ({', '.join(FLOATS)}). Publish the model under the base that it was trained on.",
                code="bad_dtype",
            )
        if shape != base_shape:
            if shape[1:] != base_shape[1:] or name not in vocabulary_tensors(table):
                raise _other_shape(name, shape, base_shape)
            if not base_shape[0] < shape[0] <= MOST_GROWN * base_shape[0]:
                raise _other_shape(name, shape, base_shape)
            grown[name] = shape[0]
    if grown:
        _check_grown(grown, base, table, config)


def shapes_in(index: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """dtype and shape of each tensor of a base model, by the document of its index."""
    return {name: (tensor["dtype"], tuple(tensor["shape"])) for name, tensor in index["tensors"].items()}


def grown_shapes(index: ExactIndex, base: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes of tensors that have more rows than the base's."""
    return {name: entry.shape for name, entry in index.entries.items() if entry.shape != base[name][1]}


def _other_shape(name: str, shape: tuple[int, ...], base: tuple[int, ...]) -> InvalidAdapterError:
    return InvalidAdapterError(
        f"Tensor {shown(name)} has shape {shape}, the base's has {base}: only a vocabulary may grow, by rows of its "
        "embeddings and its head. Publish the model under the base that it was trained on.",
        code="shape_mismatch",
    )


def _check_grown(grown: Mapping[str, int], base: Shapes, table: TargetTable, config: Mapping[str, Any]) -> None:
    """All tensors with a row for each token grow together, to the size in config.json."""
    first = next(iter(grown))
    rows, before = grown[first], base[first][1][0]
    for name in vocabulary_tensors(table):
        if base[name][1][0] == before and grown.get(name) != rows:
            raise InvalidAdapterError(
                f"The vocabulary has grown to {rows} rows in {shown(first)} and not in {shown(name)}: resize both "
                "(resize_token_embeddings) and save the model again.",
                code="shape_mismatch",
            )
    sizes = set(_vocab_sizes(config))
    if rows not in sizes:
        raise InvalidAdapterError(
            f"Tensor {shown(first)} has {rows} rows, and config.json says vocab_size "
            f"{', '.join(map(str, sorted(sizes))) or 'nowhere'}: save the model again with save_pretrained.",
            code="bad_config",
        )


def _vocab_sizes(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if key == "vocab_size" and isinstance(value, int):
            yield value
        elif isinstance(value, dict):
            yield from _vocab_sizes(value)
