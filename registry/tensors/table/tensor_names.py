"""The target table of a net that transformers does not know: straight from the tensor names.

A name says nothing about orientation, so every 2-D ``X.weight`` is taken as (out, in), and the table says so. Whether
such a module is an embedding is left to the adapter that names it (`Target.as_embedding`); no word is a hint. What the
files can't tell is declared (`registry.tensors.table.declaration`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from registry.tensors.table.held import FileParameter
from registry.tensors.table.targets import TENSOR_NAMES, WEIGHT, Target, TargetKind, TargetTable

Shape = tuple[int, ...]

_IN_PROJECTION: Final = ".in_proj_weight"
_OUT_PROJECTION: Final = ".out_proj"
_ORIENTATION: Final = "Every 2-D weight is taken as (out, in), because transformers does not know this architecture."


def table_from_names(
    tensors: Mapping[str, tuple[str, Shape]],
    *,
    architecture: str | None = None,
    model_type: str | None = None,
    notices: tuple[str, ...] = (),
) -> TargetTable:
    """One target for each ``X.weight``: 2-D is a linear module, 3-D to 5-D a convolution (out, in / groups, kernel).

    ``X.in_proj_weight`` (3 E, E) beside ``X.out_proj.weight`` (E, E) is an ``nn.MultiheadAttention``. Every float
    tensor is a parameter of its own name.
    """
    shapes = {name: shape for name, (_, shape) in sorted(tensors.items())}
    found = (_weight(name, shape) or _attention(name, shapes) for name, shape in shapes.items())
    return TargetTable(
        targets={target.module: target for target in found if target is not None},
        parameters={
            name: FileParameter(name, shape)
            for name, shape in shapes.items()
            if tensors[name][0] in ("F64", "F32", "F16", "BF16")
        },
        source=TENSOR_NAMES,
        architecture=architecture,
        model_type=model_type,
        notices=(*notices, _ORIENTATION),
    )


def _weight(name: str, shape: Shape) -> Target | None:
    module = name.removesuffix(WEIGHT)
    if module in ("", name) or not 2 <= len(shape) <= 5:
        return None
    if len(shape) == 2:
        return Target(module, TargetKind.LINEAR, name, shape)
    return Target(module, TargetKind.CONV, name, shape, geometry={"kernel": list(shape[2:])})


def _attention(name: str, shapes: Mapping[str, Shape]) -> Target | None:
    module = name.removesuffix(_IN_PROJECTION)
    if module in ("", name) or len(shapes[name]) != 2:
        return None
    rows, size = shapes[name]
    if rows != 3 * size or shapes.get(module + _OUT_PROJECTION + WEIGHT) != (size, size):
        return None
    if shapes.get(module + ".in_proj_bias", (rows,)) != (rows,):
        return None
    return Target(module, TargetKind.ATTENTION, name, shapes[name])
