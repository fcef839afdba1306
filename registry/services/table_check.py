"""A target table that another registry made, held against the tensors that it speaks of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from registry.errors import InvalidBaseError
from registry.tensors.files.strict_json import shown
from registry.tensors.table.targets import FusedParameter, Target, TargetTable

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""dtype and shape of every tensor."""


def check_table(document: Mapping[str, Any], shapes: Shapes) -> TargetTable:
    """Read a table and see that it is about these tensors.

    Raises:
        IntegrityError: ``table_format``.
        InvalidBaseError: ``bad_declaration``, it is malformed, or names tensors or shapes that are not there.
    """
    try:
        table = TargetTable.from_document(document)
        known = table.to_document() == dict(document)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise _refused("it is malformed") from problem
    if not known:
        raise _refused("it says more than this version reads")
    for name, held in table.parameters.items():
        if held.tensor not in shapes or tuple(held.shape) != shapes[held.tensor][1]:
            raise _refused(f"the parameter {shown(name)} is not a tensor of that shape")
    for target in table.targets.values():
        problem_of = next(_problems(target, table, shapes), None)
        if problem_of is not None:
            raise _refused(f"{shown(target.module)} {problem_of}")
    return table


def _problems(target: Target, table: TargetTable, shapes: Shapes) -> Iterator[str]:
    if not target.shape or min(target.shape) < 1:
        yield "has a shape that is none"
    if target.tensor is not None and (target.tensor not in shapes or target.shape != shapes[target.tensor][1]):
        yield "is not a tensor of that shape"
    if target.tie is not None and target.tie not in table.targets:
        yield "is tied to a module that is not there"
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
