"""Where the rows of a parameter lie that transformers cuts, joins or reorders on loading.

Such a parameter is runs of stored rows of file tensors, one below the other: ``q_proj`` is the first third of a fused
``Wqkv``, ``gate_up_proj`` a ``gate_proj`` above an ``up_proj``. Within a run the rows may come in another order: rotary
position embeddings pair the rows of a head as neighbours or as halves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from registry.tensors.table.held import Run

Shape = tuple[int, ...]


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


class _NotFollowed(Exception):  # noqa: N818 (it is an answer, not a fault)
    """The operation, or what it is asked to do here, is not one of those that are followed."""


def runs_of(
    conversion: Mapping[str, Any], parameter: str, runtime: Mapping[str, Shape], files: Mapping[str, Shape]
) -> tuple[Run, ...]:
    """The runs of a parameter of the running model; empty where its making can't be followed exactly.

    ``conversion`` is one of `registry.tensors.table.architecture_facts`, ``runtime`` are the shapes of the parameters,
    ``files`` those of the file tensors. The operations are those of ``transformers.core_model_loading``.
    """
    try:
        made = _follow(conversion, runtime, files)
    except _NotFollowed:
        return ()
    key = conversion["target_keys"][conversion["targets"].index(parameter)]
    found = made.get(key, [])
    if len(found) != 1 or found[0].shape != runtime.get(parameter):
        return ()
    return _joined(found[0].runs)


_Values = dict[str, list[Rows]]  # by the pattern of a source or target, as the loader keeps them


def _follow(conversion: Mapping[str, Any], runtime: Mapping[str, Shape], files: Mapping[str, Shape]) -> _Values:
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
    """The only value there is, which is cut along its rows."""
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
