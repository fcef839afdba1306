"""The target table of a model that is one file: diffusers' modules by component, as rows of the native tensors.

`registry.images.single_files` says which parameter a tensor is. Several of diffusers' modules are rows of one tensor,
and halves may be stored the other way round: these parameters have runs. So a LoRA file means the same here as on the
pipeline, and a merged model is that file again. Needs no configuration and no library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from registry.errors import InvalidBaseError
from registry.files.strict_json import shown
from registry.images.single_files import (
    CLIP,
    DENOISER_LEADS,
    TEXT_ENCODERS,
    UNCHANGED,
    Denoiser,
    NotUnderstood,
    denoiser_of,
    open_clip,
    pipeline_of,
)
from registry.tensors.table.parameters import FileParameter, Run
from registry.tensors.table.targets import Target, TargetKind, TargetTable

Shape = tuple[int, ...]
Tensors = Mapping[str, tuple[str, Shape]]

SOURCE: Final = "names of a single file"

_FLOATS: Final = ("F64", "F32", "F16", "BF16")
_SCALED: Final = re.compile(r"(.*\.)?(scaled_fp8|scale_weight|scale_input|weight_scale|input_scale|comfy_quant)")
_EMBEDDING: Final = re.compile(r".*\.(token_embedding|position_embedding)")
_NAMED: Final = 5


def single_file_table(where: str, tensors: Tensors) -> TargetTable:
    """The table of a checkpoint in one file.

    Args:
        where: how messages name the file.
        tensors: dtype and shape of all.

    Raises:
        InvalidBaseError: ``quantised_base``, it is FP8 with scales or without; ``architecture``, some of its tensors
            belong to no model that is known here.
    """
    scaled = sorted(name for name in tensors if _SCALED.fullmatch(name))
    if scaled:
        raise _quantised(where, scaled[0], "says how others are scaled")
    lead, denoiser = _denoiser(where, tensors)
    parameters: dict[str, FileParameter] = {}
    for name, held in _parameters(where, lead, denoiser, tensors):
        if name in parameters:
            raise _refused(where, "It holds one part twice:", (parameters[name].tensor, held.tensor))
        parameters[name] = held
    for held in parameters.values():
        for tensor in {run.tensor for run in held.runs} or {held.tensor}:
            if tensors[tensor][0] not in _FLOATS:
                raise _quantised(where, tensor, f"is {tensors[tensor][0]}")
    made = (
        _target(name.removesuffix(".weight"), held) for name, held in parameters.items() if name.endswith(".weight")
    )
    targets = {one.module: one for one in made if one is not None}
    named = {module for found in denoiser.modules.values() for module in found}
    return TargetTable(
        targets=dict(sorted(targets.items())),
        parameters=dict(sorted(parameters.items())),
        source=SOURCE,
        architecture=pipeline_of(denoiser.family, named),
        components=tuple(dict.fromkeys(name.partition(".")[0] for name in parameters)),
    )


def _denoiser(where: str, tensors: Tensors) -> tuple[str, Denoiser]:
    """What the denoiser's names begin with, and what it is."""
    for lead in DENOISER_LEADS:
        own = {name.removeprefix(lead) for name in tensors if name.startswith(lead)}
        if lead == "":
            own = {name for name in own if not _is_beside(name, tensors[name][1])}
        if not own:
            continue
        found = denoiser_of(own)
        if isinstance(found, NotUnderstood):
            raise _refused(
                where, "These belong to no denoiser that is known here:", (lead + one for one in found.names)
            )
        return lead, found
    raise _refused(where, "It holds no denoiser, only", sorted(tensors))


def _is_beside(name: str, shape: Shape) -> bool:
    """Whether a tensor is of another part than the denoiser."""
    schedule = "." not in name and len(shape) < 2 and name != "pos_embed"  # betas, alphas_cumprod, v_pred, ...
    return schedule or UNCHANGED.fullmatch(name) is not None or name.startswith(tuple(TEXT_ENCODERS))


def _parameters(where: str, lead: str, denoiser: Denoiser, tensors: Tensors) -> Iterator[tuple[str, FileParameter]]:
    """Every parameter that adapters may change, and where it is in the file; all other tensors are known, too."""
    rest = set(tensors)
    for native, modules in denoiser.modules.items():
        weight = f"{lead}{native}.weight"
        for leaf in ("weight", "bias"):
            tensor = f"{lead}{native}.{leaf}"
            if tensor in tensors:
                rest.discard(tensor)
                names = [f"{denoiser.component}.{module}.{leaf}" for module in modules]
                swapped = native in denoiser.family.swapped
                width = tensors.get(weight, tensors[tensor])[1][1:]
                yield from _held(where, tensor, names, tensors[tensor][1], width, swapped=swapped)
    for native, parameter in denoiser.beside.items():
        rest.discard(lead + native)
        if parameter:
            yield f"{denoiser.component}.{parameter}", FileParameter(lead + native, tensors[lead + native][1])
    for start, (component, naming) in TEXT_ENCODERS.items():
        own = [name.removeprefix(start) for name in tensors if name.startswith(start)]
        known = [(name, (name,)) for name in own] if naming == CLIP else list(open_clip(own))
        for name, parts in known:
            dtype, shape = tensors[start + name]
            rest.discard(start + name)
            if dtype.startswith("I") or not shape:  # position ids, the scale of logits
                continue
            column = tensors.get(f"{start}{name.removesuffix('bias')}weight", (dtype, shape))[1][1:]
            names = [f"{component}.{part}" for part in parts]
            yield from _held(where, start + name, names, shape, column, swapped=False)
    strange = sorted(name for name in rest if not _is_beside(name, tensors[name][1]) or name.startswith(_LEADS))
    if strange:
        raise _refused(where, "These belong to no part that is known here:", strange)


_LEADS: Final = tuple(TEXT_ENCODERS)


def _held(
    where: str, tensor: str, names: list[str], shape: Shape, width: Shape, *, swapped: bool
) -> Iterator[tuple[str, FileParameter]]:
    """The parameters that are the rows of a tensor; each of the first three of several has as many as columns."""
    if len(names) == 1 and not swapped:
        yield names[0], FileParameter(tensor, shape)
    elif len(names) == 1:
        half = shape[0] // 2
        if half * 2 != shape[0] or not half:
            raise _refused(where, f"Two halves are expected in the {shape[0]} rows of", (tensor,))
        runs = (Run(tensor, half, half), Run(tensor, 0, half))
        yield names[0], FileParameter(names[0], shape, runs)
    elif names:
        size = width[0] if width else 0
        rows = [size] * 3 + [shape[0] - 3 * size] * (len(names) - 3)
        if min(rows) < 1 or sum(rows) != shape[0]:
            raise _refused(where, f"{len(names)} parts are expected in the rows of", (tensor,))
        first = 0
        for name, count in zip(names, rows, strict=True):
            yield name, FileParameter(name, (count, *shape[1:]), (Run(tensor, first, count),))
            first += count


def _target(module: str, held: FileParameter) -> Target | None:
    """The target of a weight; None of a vector."""
    if len(held.shape) < 2:
        return None
    kernel = list(held.shape[2:])
    kind = TargetKind.CONV if kernel else TargetKind.EMBEDDING if _EMBEDDING.fullmatch(module) else TargetKind.LINEAR
    geometry = {"kernel": kernel, "groups": 1, "dilation": [1] * len(kernel), "padding_mode": "zeros"} if kernel else {}
    return Target(module, kind, None if held.runs else held.tensor, held.shape, geometry=geometry, runs=held.runs)


def _refused(where: str, why: str, names: Iterable[str]) -> InvalidBaseError:
    some = list(names)
    listed = ", ".join(map(shown, some[:_NAMED])) + (f" and {len(some) - _NAMED} more" if len(some) > _NAMED else "")
    return InvalidBaseError(
        f"{where} is a checkpoint in one file that is not understood. {why} {listed}. Stable Diffusion 1 to 3, "
        "SDXL, FLUX, Wan and Z-Image are read as one file; write any other as a folder, "
        "PIPELINE.from_single_file(FILE).save_pretrained(DIR), and add that.",
        code="architecture",
    )


def _quantised(where: str, tensor: str, why: str) -> InvalidBaseError:
    return InvalidBaseError(
        f"{where} is quantised: {shown(tensor)} {why}, and a checkpoint in one file is expected in F32, F16 or BF16. "
        "Add the file that it was made from.",
        code="quantised_base",
    )
