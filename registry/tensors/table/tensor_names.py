"""The target table of a net that transformers does not know: straight from the tensor names.

A name says nothing about orientation, so every 2-D ``X.weight`` is taken as (out, in), and the table says so. Whether
such a module is an embedding is left to the adapter that names it (`Target.as_embedding`); no word is a hint. What the
files can't tell is declared (`registry.tensors.table.declaration`). A square weight fits both ways, so its orientation
is believed only where nothing speaks against it (`is_square_guess`, `kept_transposed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from registry.files.strict_json import shown
from registry.tensors.table.held import FileParameter
from registry.tensors.table.targets import TENSOR_NAMES, WEIGHT, Target, TargetKind, TargetTable

Shape = tuple[int, ...]

_IN_PROJECTION: Final = ".in_proj_weight"
_OUT_PROJECTION: Final = ".out_proj"
_ORIENTATION: Final = "Every 2-D weight is taken as (out, in), because transformers does not know this architecture."

_SHARED: Final = (
    "No two modules are taken to share a weight: where the model ties them, an adapter of one changes the other, too."
)


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


def is_square_guess(target: Target, table: TargetTable) -> bool:
    """Whether a matrix of a table from names is square and undeclared: no shape tells (out, in) from (in, out)."""
    guessed = target.kind is TargetKind.LINEAR and not table.knows_kind(target)
    return guessed and len(target.shape) == 2 and target.shape[0] == target.shape[1] > 1


def kept_transposed(table: TargetTable) -> str | None:
    """A module of a table from names that is stored (in, out): declared so, or by a bias of as many columns as it has.

    One such module, as transformers' ``Conv1D`` is one, says that (out, in) is no rule of this model.
    """
    for module, target in table.targets.items():
        if target.declared and target.kind is TargetKind.CONV1D:
            return module
        if not table.knows_kind(target) and contradicts_bias(target, table):
            return module
    return None


def contradicts_bias(target: Target, table: TargetTable) -> bool:
    """Whether a module that is read as (out, in) has a bias that fits (in, out) only."""
    bias = table.parameters_of(target.module).get("bias")
    if target.kind is not TargetKind.LINEAR or bias is None or len(target.shape) != 2:
        return False
    out, columns = target.shape
    return out != columns and bias.shape == (columns,)


def guesses(table: TargetTable) -> tuple[str, ...]:
    """What was assumed of a model because its files don't show it, a sentence each, besides `TargetTable.notices`.

    They are beside the table, not in it: equal tables of different versions have equal digests.
    """
    if table.knows_kinds:
        return ()
    undeclared = [one for one in table.targets.values() if not one.declared]
    kernels = [one.module for one in undeclared if one.kind is TargetKind.CONV and max(one.shape[2:], default=1) > 1]
    attentions = [one.module for one in undeclared if one.kind is TargetKind.ATTENTION]
    found = [_SHARED]
    if kernels:
        found.append(f"{_some(kernels)}: the files do not record dilation and padding mode; 1 and zeros are assumed.")
    if attentions:
        found.append(f"{_some(attentions)}: by the names of its tensors, each is taken as an nn.MultiheadAttention.")
    return tuple(found)


def _some(modules: Sequence[str]) -> str:
    return shown(modules[0]) + (f" and {len(modules) - 1} more" if len(modules) > 1 else "")


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
