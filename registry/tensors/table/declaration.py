"""The target table of a net that transformers does not know: from tensor names, and what ``registry.json`` declares.

A base folder's ``registry.json`` declares what the tensors can't show. The keys are described in docs/bases.md; a key,
a module or a value that is not known is refused, because a declaration that is half understood gives wrong weights.

A name does not show the orientation, so every 2-D ``X.weight`` is taken as (out, in), and the table notes it. Whether
such a module is an embedding is left to the adapter that names it (`Target.as_embedding`); no word is a hint. A square
weight fits both ways, so its orientation is believed only where nothing speaks against it (`is_square_guess`,
`kept_transposed`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NoReturn

from registry.errors import InvalidBaseError
from registry.files.strict_json import shown
from registry.tensors.table.parameters import FileParameter, FusedParameter, Piece
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

    ``X.in_proj_weight`` (3 E, E) with ``X.out_proj.weight`` (E, E) is an ``nn.MultiheadAttention``. Every float
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
    """Whether a matrix of a table from names is square and undeclared: (out, in) and (in, out) have the same shape."""
    return table.may_be_embedding(target) and len(target.shape) == 2 and target.shape[0] == target.shape[1] > 1


def kept_transposed(table: TargetTable) -> str | None:
    """A module of a table from names that is stored (in, out): declared so, or by a bias of as many columns as it has.

    One such module, such as transformers' ``Conv1D``, shows that (out, in) is no rule of this model.
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

    They are stored next to the table, not in it: equal tables of different versions have equal digests.
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


FILE: Final = "registry.json"

_PADDING_MODES: Final = ("zeros", "reflect", "replicate", "circular")
_Apply = Callable[[str, Mapping[str, Any], TargetTable], Target]


def declare(table: TargetTable, document: Any) -> TargetTable:
    """The table with the declarations of a parsed registry.json about its modules.

    Raises `InvalidBaseError` (``bad_declaration``): the document is malformed, names a module that the files do not
    have, does not fit its shape, or contradicts the facts about the model's class.
    """
    if not isinstance(document, dict):
        _refuse("it is not a JSON object")
    _check_keys("it", document, {"modules"})
    modules = document.get("modules", {})
    if not isinstance(modules, dict):
        _refuse("modules is not an object from module names to what they are")
    declared = {name: _target(name, entry, table) for name, entry in modules.items()}
    if table.knows_kinds:
        for target in declared.values():
            _check_agreement(target, table)
        return table
    targets = {**table.targets, **declared}
    return replace(table, targets={name: targets[name] for name in sorted(targets)})


def _target(name: str, entry: Any, table: TargetTable) -> Target:
    if not isinstance(entry, dict):
        _refuse(f"{shown(name)} is not an object with a kind")
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        _refuse(f"the kind of {shown(name)} is {shown(kind)}, and one of {', '.join(_KINDS)} is expected")
    keys, apply = _KINDS[kind]
    _check_keys(shown(name), entry, {"kind", *keys})
    return apply(name, entry, table)


def _linear(name: str, entry: Mapping[str, Any], table: TargetTable) -> Target:
    kind = TargetKind.CONV1D if _flag(name, entry, "transposed") else TargetKind.LINEAR
    return _of_kind(name, kind, (2, 2), table)


def _embedding(name: str, _: Mapping[str, Any], table: TargetTable) -> Target:
    return _of_kind(name, TargetKind.EMBEDDING, (2, 2), table)


def _conv(name: str, entry: Mapping[str, Any], table: TargetTable) -> Target:
    target = _of_kind(name, TargetKind.CONV, (3, 5), table)
    kernel = list(target.shape[2:])
    groups, dilation = entry.get("groups", 1), entry.get("dilation", [1] * len(kernel))
    mode = entry.get("padding_mode", "zeros")
    if not _is_count(groups) or target.shape[0] % groups:
        _refuse(
            f"groups of {name} is {shown(groups)}, and a divisor of its {target.shape[0]} output features is expected"
        )
    if not isinstance(dilation, list) or len(dilation) != len(kernel) or not all(map(_is_count, dilation)):
        _refuse(
            f"dilation of {name} is {shown(dilation)}, and a list of {len(kernel)} positive numbers is expected, one "
            f"for each dimension of its kernel {kernel}"
        )
    if mode not in _PADDING_MODES:
        _refuse(f"padding_mode of {name} is {shown(mode)}, and one of {', '.join(_PADDING_MODES)} is expected")
    geometry = {"kernel": kernel, "groups": groups, "dilation": dilation, "padding_mode": mode}
    return replace(target, geometry=geometry)


def _experts(name: str, entry: Mapping[str, Any], table: TargetTable) -> Target:
    transposed = _flag(name, entry, "transposed")
    keys = entry.get("parameters")
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) for key in keys):
        _refuse(
            f"parameters of {shown(name)} is {shown(keys)}, and a list of names is expected, in the order in which the "
            "class registers them"
        )
    if len(set(keys)) != len(keys):
        _refuse(f"parameters of {shown(name)} names one twice")
    fused = tuple(_fused(name, key, transposed, table) for key in keys)
    first = table.parameters[f"{name}.{keys[0]}"].shape
    return Target(name, TargetKind.EXPERTS, None, first, fused=fused, declared=True)


def _fused(name: str, key: str, transposed: bool, table: TargetTable) -> FusedParameter:
    held = table.parameters.get(f"{name}.{key}")
    if held is None or len(held.shape) != 3:
        _refuse(f"the files have no tensor {shown(f'{name}.{key}')} with three dimensions (experts, rows, columns)")
    experts, rows, columns = held.shape
    out_features, in_features = (columns, rows) if transposed else (rows, columns)
    pieces = (Piece(held.tensor, expert, (0, out_features), expert, transposed) for expert in range(experts))
    return FusedParameter(key, experts, out_features, in_features, transposed, tuple(pieces))


_KINDS: Final[Mapping[str, tuple[tuple[str, ...], _Apply]]] = {
    "linear": (("transposed",), _linear),
    "embedding": ((), _embedding),
    "conv": (("groups", "dilation", "padding_mode"), _conv),
    "experts": (("parameters", "transposed"), _experts),
}
"""Kind -> the keys that it may have next to ``kind``, and what makes its target."""


def _of_kind(name: str, kind: TargetKind, dimensions: tuple[int, int], table: TargetTable) -> Target:
    """The module's target, read as that kind; its weight has to have a fitting number of dimensions."""
    target = table.targets.get(name)
    if target is None or target.kind in (TargetKind.ATTENTION, TargetKind.EXPERTS):
        _refuse(f"the model has no module {shown(name)} with a weight of two or more dimensions")
    low, high = dimensions
    if not low <= len(target.shape) <= high:
        expected = f"{low}" if low == high else f"{low} to {high}"
        _refuse(
            f"{name} is declared as {kind}, which has {expected} dimensions, and its weight is {list(target.shape)}"
        )
    return replace(target, kind=kind, geometry={}, declared=True)


def _check_agreement(declared: Target, table: TargetTable) -> None:
    known = table.targets.get(declared.module)
    if known is None or replace(declared, declared=False) != known:
        library = table.source.partition(" ")[0]
        _refuse(
            f"{declared.module} of {table.architecture} is {_described(known)} in {library}, and it is declared as "
            f"{_described(declared)}"
        )


def _described(target: Target | None) -> str:
    if target is None:
        return "no module with a weight"
    if target.kind is TargetKind.UNKNOWN:
        return "a module with arithmetic of its own"
    if target.kind is TargetKind.CONV1D:
        return "a transposed linear"
    details = [f"{key} {value}" for key, value in target.geometry.items()]
    return " with ".join([target.kind.value, ", ".join(details)]) if details else target.kind.value


def _check_keys(what: str, entry: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(entry) - known)
    if unknown:
        _refuse(f"{what} has the key {shown(unknown[0])}, and only {', '.join(sorted(known))} may be there")


def _flag(name: str, entry: Mapping[str, Any], key: str) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        _refuse(f"{key} of {shown(name)} is {shown(value)}, and true or false is expected")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _refuse(reason: str) -> NoReturn:
    raise InvalidBaseError(f"{FILE} of the base can't be used: {reason}.", code="bad_declaration")
