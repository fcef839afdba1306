"""Checking a target table that another registry made against the tensors of the base model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from registry.errors import IntegrityError, InvalidBaseError
from registry.files.strict_json import shown
from registry.tensors.table.held import FusedParameter
from registry.tensors.table.row_conversions import run_problem
from registry.tensors.table.targets import FORMAT, Target, TargetTable

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""dtype and shape by tensor name."""


def check_table(document: Mapping[str, Any], shapes: Shapes) -> TargetTable:
    """Parse a table and check that it matches these tensors.

    Raises:
        InvalidBaseError: ``bad_declaration``, it is malformed, of another version, or names missing tensors or wrong
            shapes.
    """
    try:
        table = TargetTable.from_document(document)
        known = table.to_document() == dict(document)
    except IntegrityError as problem:  # means damage in a stored table, but this one came with a request
        raise _refused(f"its format is {shown(document.get('format'))}, and {FORMAT} is read here") from problem
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise _refused("it is malformed") from problem
    if not known:
        raise _refused("it has parts that this version does not support")
    bare = {tensor: shape for tensor, (_, shape) in shapes.items()}
    for name, held in table.parameters.items():
        if held.runs:
            problem_of = run_problem(held.runs, held.shape, bare)
            if problem_of is not None:
                raise _refused(f"the parameter {shown(name)} {problem_of}")
        elif held.tensor not in shapes or tuple(held.shape) != shapes[held.tensor][1]:
            raise _refused(f"the parameter {shown(name)} is not a tensor of that shape")
    _check_ties(table)
    _check_overlaps(table)
    for target in table.targets.values():
        problem_of = next(_problems(target, table, shapes), None)
        if problem_of is not None:
            raise _refused(f"{shown(target.module)} {problem_of}")
    return table


def _check_ties(table: TargetTable) -> None:
    """Check that both sides of every tie exist."""
    for name, holder in (table.ties or {}).items():
        if name in table.parameters or (holder is not None and holder not in table.parameters):
            raise _refused(f"the parameter {shown(name)} is tied to one that does not exist")
    for module, target_of in table.apart.items():
        if not {module, target_of} <= table.targets.keys():
            raise _refused(f"{shown(module)} is distinguished from a module that does not exist")


def _check_overlaps(table: TargetTable) -> None:
    """Check that no rows belong to two parameters: they would be changed twice."""
    whole = {held.tensor for held in table.parameters.values() if not held.runs}
    whole |= {piece.tensor for target in table.targets.values() for fused in target.fused for piece in fused.pieces}
    runs = sorted(run for held in table.parameters.values() for run in held.runs)
    shared = [run for run, after in pairwise(runs) if after.tensor == run.tensor and after.first < run.first + run.rows]
    shared += [run for run in runs if run.tensor in whole]
    if shared:
        raise _refused(f"rows of {shown(shared[0].tensor)} are those of two parameters")


def _problems(target: Target, table: TargetTable, shapes: Shapes) -> Iterator[str]:
    tensor = target.tensor
    empty = tensor is not None and tensor in shapes and target.shape == shapes[tensor][1]  # one may hold nothing
    if not target.shape or (min(target.shape) < 1 and not empty):
        yield "has an invalid shape"
    if target.tensor is not None and (target.tensor not in shapes or target.shape != shapes[target.tensor][1]):
        yield "is not a tensor of that shape"
    if target.tie is not None and target.tie not in table.targets:
        yield "is tied to a module that does not exist"
    for parameter in target.fused:
        yield from _piece_problems(parameter, shapes)


def _piece_problems(parameter: FusedParameter, shapes: Shapes) -> Iterator[str]:
    for piece in parameter.pieces:
        shape = shapes[piece.tensor][1] if piece.tensor in shapes else ()
        matrices = math.prod(shape[:-2]) if len(shape) in (2, 3) else 0
        first, stop = piece.out
        outputs = stop - first
        expected = (parameter.in_features, outputs) if piece.transposed else (outputs, parameter.in_features)
        inside = 0 <= piece.expert < parameter.experts and 0 <= first < stop <= parameter.out_features
        if not inside or not 0 <= piece.matrix < matrices or tuple(shape[-2:]) != expected:
            yield f"has a parameter {shown(parameter.name)} with a piece that is not in its tensor"


def _refused(why: str) -> InvalidBaseError:
    return InvalidBaseError(
        f"The target table that came with the base model can't be used: {why}.", code="bad_declaration"
    )
