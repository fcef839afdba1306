"""Where the rows of a parameter lie in the files that transformers computes on loading: experts, and runs of rows.

Transformers 5 keeps the matrices of all experts in one tensor, and its loader makes that tensor from files of older
versions by a list of operations (stack, concatenate, transpose). They are followed here on names and shapes only, so
that each matrix of a file can be changed where it lies. An operation that moves numbers in any other way is not
followed, and then the tensor has no pieces. The operations are those of ``transformers.core_model_loading``.

A parameter that transformers cuts, joins or reorders on loading is runs of stored rows of file tensors, one below the
other: ``q_proj`` is the first third of a fused ``Wqkv``, ``gate_up_proj`` a ``gate_proj`` above an ``up_proj``. Within
a run the rows may come in another order: rotary position embeddings pair the rows of a head as neighbours or as halves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any, Final

from registry.tensors.table.parameters import Piece, Run


@dataclass(frozen=True)
class Rows:
    """A parameter: its rows and the shape of one."""

    runs: tuple[Run, ...]
    rest: Shape  # () for a vector

    @property
    def count(self) -> int:
        """Number of rows."""
        return sum(run.rows for run in self.runs)

    @property
    def shape(self) -> Shape:
        """Shape of the parameter."""
        return (self.count, *self.rest)


def runs_of(
    conversion: Mapping[str, Any], parameter: str, runtime: Mapping[str, Shape], files: Mapping[str, Shape]
) -> tuple[Run, ...]:
    """The runs of a parameter of the running model; empty where its making can't be followed exactly.

    ``conversion`` is one of `registry.tensors.table.architecture_facts`, ``runtime`` are the shapes of the parameters,
    ``files`` those of the file tensors. The operations are those of ``transformers.core_model_loading``.
    """
    try:
        made = _followed_rows(conversion, runtime, files)
    except _NotFollowed:
        return ()
    key = conversion["target_keys"][conversion["targets"].index(parameter)]
    found = made.get(key, [])
    if len(found) != 1 or found[0].shape != runtime.get(parameter):
        return ()
    return _joined(found[0].runs)


_Values = dict[str, list[Rows]]  # by the pattern of a source or target, as the loader keeps them


def _followed_rows(conversion: Mapping[str, Any], runtime: Mapping[str, Shape], files: Mapping[str, Shape]) -> _Values:
    pairs = zip(conversion["source_keys"], conversion["sources"], strict=True)
    values: _Values = {key: [_whole(name, files[name]) for name in names] for key, names in pairs if names}
    if not conversion["operations"] or not values:
        raise _NotFollowed
    keys: list[str] = conversion["target_keys"]
    wanted = dict(zip(keys, (runtime.get(name) for name in conversion["targets"]), strict=True))
    for name, options in conversion["operations"]:
        match name:
            case "Chunk" if options.get("num_shards_attribute") is None:
                whole = _one(values, options["dim"])
                values = _cut(whole, {key: whole.count // len(keys) for key in keys})
            case "Split":
                values = _cut(_one(values, options["dim"]), {key: shape[0] for key, shape in wanted.items() if shape})
            case "Concatenate" if len(keys) == 1:
                values = {keys[0]: [_below(values, conversion["source_keys"], options["dim"])]}
            case "PermuteForRope":
                values = {_renamed(key, conversion): [_permuted(key, rows, options)] for key, rows in values.items()}
            case "Inkling2UnpadVocab" if not options["inverse"] and len(keys) == 1 and wanted[keys[0]]:
                # the files pad the vocabulary
                values = {keys[0]: [_part(_one(values, 0), 0, (wanted[keys[0]] or (0,))[0])]}
            case _:
                raise _NotFollowed
    return values


def _whole(tensor: str, shape: Shape) -> Rows:
    if not shape:
        raise _NotFollowed
    return Rows((Run(tensor, 0, shape[0]),), shape[1:])


def _one(values: _Values, dim: int) -> Rows:
    """The only value, which is cut along its rows."""
    if len(values) != 1:
        raise _NotFollowed
    (found,) = values.values()
    if len(found) != 1 or dim not in (0, -1 - len(found[0].rest)):
        raise _NotFollowed
    return found[0]


def _cut(whole: Rows, sizes: Mapping[str, int]) -> _Values:
    if sum(sizes.values()) != whole.count:
        raise _NotFollowed
    values: _Values = {}
    at = 0
    for key, size in sizes.items():
        values[key] = [_part(whole, at, at + size)]
        at += size
    return values


def _part(whole: Rows, start: int, stop: int) -> Rows:
    runs, at = [], 0
    for run in whole.runs:
        first, last = max(start, at), min(stop, at + run.rows)
        if first < last:
            cut = run.cut(first - at, last - at)
            if cut is None:
                raise _NotFollowed
            runs.append(cut)
        at += run.rows
    if not runs or stop > at:
        raise _NotFollowed
    return Rows(tuple(runs), whole.rest)


def _below(values: _Values, order: Iterable[str], dim: int) -> Rows:
    """Everything, in the order of the source patterns."""
    parts = [rows for key in order for rows in values.get(key, ())]
    if len({rows.rest for rows in parts}) != 1 or dim not in (0, -1 - len(parts[0].rest)):
        raise _NotFollowed
    return Rows(tuple(run for rows in parts for run in rows.runs), parts[0].rest)


def _renamed(key: str, conversion: Mapping[str, Any]) -> str:
    """`PermuteForRope` alone gives its value the name of the target; between others it keeps the name."""
    alone = len(conversion["source_keys"]) == 1 and len(conversion["target_keys"]) == 1
    found: str = conversion["target_keys"][0] if alone else key
    return found


def _permuted(key: str, found: list[Rows], options: Mapping[str, Any]) -> Rows:
    if len(found) != 1:
        raise _NotFollowed
    (rows,) = found
    names = options["permute_layer_names"]
    if len(rows.rest) > 1 or (names is not None and not any(name in key for name in names)):
        return rows
    heads = options["heads"]
    half = rows.count // heads // 2
    if len(rows.runs) != 1 or not rows.runs[0].in_order or half * heads * 2 != rows.count:
        raise _NotFollowed
    return Rows((replace(rows.runs[0], grid=(2, half) if options["inverse"] else (half, 2)),), rows.rest)


def _joined(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Runs that follow one another in one tensor are one."""
    found: list[Run] = []
    for run in runs:
        last = found[-1] if found else None
        together = last is not None and last.in_order and run.in_order and last.tensor == run.tensor
        if last is not None and together and last.first + last.rows == run.first:
            found[-1] = Run(last.tensor, last.first, last.rows + run.rows)
        else:
            found.append(run)
    return tuple(found)


def run_problem(runs: Iterable[Run], shape: Shape, files: Mapping[str, Shape]) -> str | None:
    """What keeps the runs of a stranger's table from being that parameter of these files; None: they are it."""
    rows = 0
    for run in runs:
        held = files.get(run.tensor, ())
        if run.first < 0 or run.rows < 1 or min(run.grid) < 1 or run.rows % run.group:
            return "has an invalid run of rows"
        if not held or held[1:] != shape[1:] or run.first + run.rows > held[0]:
            return "has rows that are not in its tensors"
        rows += run.rows
    return None if shape and rows == shape[0] and min(shape) > 0 else "has more or fewer rows than its shape says"


Shape = tuple[int, ...]


class _NotFollowed(Exception):  # noqa: N818 (it is an answer, not a fault)
    """The operation, or its use here, is not one of those that are followed."""


@dataclass(frozen=True)
class _Strip:
    """One matrix of a file, where it lies in a matrix of the running model."""

    tensor: str
    matrix: int
    rows: int
    columns: int
    transposed: bool = False  # the file has it the other way round


@dataclass(frozen=True)
class _Matrix:
    strips: tuple[_Strip, ...]
    down: bool = True  # the strips lie one below the other; else side by side

    @property
    def rows(self) -> int:
        return sum(strip.rows for strip in self.strips) if self.down else self.strips[0].rows

    @property
    def columns(self) -> int:
        return self.strips[0].columns if self.down else sum(strip.columns for strip in self.strips)


_Value = _Matrix | tuple[_Matrix, ...]  # a tensor of two dimensions, or of three
_Inputs = list[list[_Value]]  # for each source pattern in order, what was collected or made for it


def pieces_of(
    conversion: Mapping[str, Any], parameter: str, shape: Shape, shapes: Mapping[str, Shape], *, transposed: bool
) -> tuple[Piece, ...]:
    """The pieces of a fused parameter of that runtime shape; empty where its making can't be followed exactly.

    ``conversion`` is one of `registry.tensors.table.architecture_facts`, ``shapes`` are those of the file tensors, and
    ``transposed``: the running model stores (experts, in, out).
    """
    try:
        made = _follow(conversion, shape, shapes)[conversion["targets"].index(parameter)]
        return _pieces(made, shape, transposed)
    except _NotFollowed:
        return ()


def pieces_of_tensor(tensor: str, shape: Shape, *, transposed: bool) -> tuple[Piece, ...]:
    """The pieces of a fused parameter that is one tensor of the files, with one matrix an expert."""
    count, rows, columns = shape
    out = (0, columns if transposed else rows)
    return tuple(Piece(tensor, expert, out, expert, transposed) for expert in range(count))


def _follow(conversion: Mapping[str, Any], shape: Shape, shapes: Mapping[str, Shape]) -> list[_Value]:
    """What the operations make, one for each target."""
    inputs: _Inputs = [[_source(name, shapes[name]) for name in names] for names in conversion["sources"]]
    if not conversion["operations"] or not all(inputs):
        raise _NotFollowed
    targets = len(conversion["targets"])
    for name, options in conversion["operations"]:
        operation = _OPERATIONS.get(name)
        if operation is None:
            raise _NotFollowed
        inputs = operation(inputs, {**options, "targets": targets, "shape": shape})
    if len(inputs) != targets or any(len(values) != 1 for values in inputs):
        raise _NotFollowed
    return [values[0] for values in inputs]


def _source(tensor: str, shape: Shape) -> _Value:
    match shape:
        case (rows, columns):
            return _Matrix((_Strip(tensor, 0, rows, columns),))
        case (count, rows, columns):
            return tuple(_Matrix((_Strip(tensor, number, rows, columns),)) for number in range(count))
        case _:
            raise _NotFollowed


def _pieces(made: _Value, shape: Shape, transposed: bool) -> tuple[Piece, ...]:
    if isinstance(made, _Matrix) or _shape(made) != shape:
        raise _NotFollowed
    found = []
    for expert, matrix in enumerate(made):
        # an expert's output features are its rows, or its columns where the running model is transposed
        if len(matrix.strips) > 1 and matrix.down == transposed:
            raise _NotFollowed
        sizes = [strip.columns if transposed else strip.rows for strip in matrix.strips]
        stops = list(accumulate(sizes))
        found += [
            Piece(strip.tensor, expert, (stop - size, stop), strip.matrix, strip.transposed != transposed)
            for strip, size, stop in zip(matrix.strips, sizes, stops, strict=True)
        ]
    return tuple(found)


def _shape(value: _Value) -> Shape:
    if isinstance(value, _Matrix):
        return (value.rows, value.columns)
    return (len(value), *_shape(value[0])) if len({_shape(matrix) for matrix in value}) == 1 else ()


def _merge_modulelist(inputs: _Inputs, options: Mapping[str, Any]) -> _Inputs:
    """Each list of matrices becomes one tensor, (experts, rows, columns)."""
    if options["dim"] != 0:
        raise _NotFollowed
    return [[_stack(values)] for values in inputs]


def _stack(values: Sequence[_Value]) -> _Value:
    matrices = tuple(value for value in values if isinstance(value, _Matrix))
    if len(matrices) != len(values) or len({_shape(matrix) for matrix in matrices}) != 1:
        raise _NotFollowed
    return matrices


def _concatenate(inputs: _Inputs, options: Mapping[str, Any]) -> _Inputs:
    """Everything, in the order of the source patterns, along one dimension."""
    return [[_join(list(chain.from_iterable(inputs)), options["dim"])]]


def _join(values: Sequence[_Value], dim: int) -> _Value:
    matrices = [value for value in values if isinstance(value, _Matrix)]
    stacks = [value for value in values if not isinstance(value, _Matrix)]
    if not stacks and dim in (0, 1, -2, -1):
        return _beside(matrices, down=dim in (0, -2))
    if matrices:
        raise _NotFollowed
    if dim in (0, -3):
        return _stack([matrix for stack in stacks for matrix in stack])
    if dim in (1, 2, -2, -1) and len({len(stack) for stack in stacks}) == 1:
        return tuple(_beside(row, down=dim in (1, -2)) for row in zip(*stacks, strict=True))
    raise _NotFollowed


def _beside(matrices: Sequence[_Matrix], *, down: bool) -> _Matrix:
    across = {matrix.columns if down else matrix.rows for matrix in matrices}
    if len(across) != 1 or any(len(matrix.strips) > 1 and matrix.down != down for matrix in matrices):
        raise _NotFollowed
    return _Matrix(tuple(strip for matrix in matrices for strip in matrix.strips), down)


def _transpose(inputs: _Inputs, options: Mapping[str, Any]) -> _Inputs:
    """The last two dimensions change places; with ``check_dims`` only where the shape is not yet the parameter's."""
    values = list(chain.from_iterable(inputs))
    if len(values) != 1:
        raise _NotFollowed
    (value,) = values
    if options["check_dims"] and _shape(value) == options["shape"]:
        return [[value]]
    count = 2 if isinstance(value, _Matrix) else 3
    if {options["dim0"] % count, options["dim1"] % count} != {count - 2, count - 1}:
        raise _NotFollowed
    return [[_turned(value) if isinstance(value, _Matrix) else tuple(_turned(matrix) for matrix in value)]]


def _turned(matrix: _Matrix) -> _Matrix:
    strips = (
        replace(strip, rows=strip.columns, columns=strip.rows, transposed=not strip.transposed)
        for strip in matrix.strips
    )
    return _Matrix(tuple(strips), not matrix.down)


def _fuse_and_split(inputs: _Inputs, options: Mapping[str, Any]) -> _Inputs:
    """Ernie: each list is cut into one run of experts for each target, stacked, and the lists are joined."""
    if options["stack_dim"] != 0 or options["concat_dim"] != 1:
        raise _NotFollowed
    made: _Inputs = []
    for number in range(options["targets"]):
        stacks = []
        for values in inputs:
            size = math.ceil(len(values) / options["targets"])
            stacks.append(_stack(values[number * size : (number + 1) * size]))
        made.append([_join(stacks, 1)])
    return made


_OPERATIONS: Final[Mapping[str, Callable[[_Inputs, Mapping[str, Any]], _Inputs]]] = {
    "MergeModulelist": _merge_modulelist,
    "Concatenate": _concatenate,
    "Transpose": _transpose,
    "ErnieFuseAndSplitTextVisionExperts": _fuse_and_split,
}
