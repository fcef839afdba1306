"""The target table of a net that transformers does not know: straight from the tensor names.

A name says nothing about orientation, so every 2-D ``X.weight`` is taken as (out, in), and the table says so. Whether
such a module is an embedding is left to the adapter that names it (`Target.as_embedding`); no word is a hint.
"""

from __future__ import annotations

from collections.abc import Mapping

from registry.tensors.targets import TENSOR_NAMES, Target, TargetKind, TargetTable

_SUFFIX = ".weight"
_ORIENTATION = "Every 2-D weight is taken as (out, in), because transformers does not know this architecture."


def table_from_names(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    *,
    architecture: str | None = None,
    model_type: str | None = None,
    notices: tuple[str, ...] = (),
) -> TargetTable:
    """One target for each ``X.weight``: 2-D is a linear module, 3-D to 5-D a convolution (out, in / groups, kernel)."""
    targets = {}
    for name in sorted(tensors):
        _, shape = tensors[name]
        module = name.removesuffix(_SUFFIX)
        if module == name or not module or not 2 <= len(shape) <= 5:
            continue
        linear = len(shape) == 2
        targets[module] = Target(
            module=module,
            kind=TargetKind.LINEAR if linear else TargetKind.CONV,
            tensor=name,
            shape=shape,
            geometry={} if linear else {"kernel": list(shape[2:])},
        )
    return TargetTable(
        targets=targets,
        source=TENSOR_NAMES,
        architecture=architecture,
        model_type=model_type,
        notices=(*notices, _ORIENTATION),
    )
