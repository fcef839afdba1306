"""The normal form of a LoRA file: PEFT's names for its tensors, the rows of each module cut out, nothing copied.

Every module that the file names is looked up in the base model: by diffusers' name, by the native one
(`registry.images.native_names`), each with dots or underlines. A native module may be several of diffusers': its down
factor belongs to all of them, its up factor is cut by rows, which is exact. Every tensor is used once, and every shape
fits, or the file is refused with names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from registry.errors import InvalidAdapterError
from registry.files.header import SIZES, TensorEntry
from registry.files.strict_json import shown
from registry.images.adapter_file import LoraFile
from registry.images.keys import (
    ALPHA,
    BIAS,
    DORA_SCALE,
    DOWN,
    MAGNITUDE,
    UP,
    SpelledModule,
    components_of,
    spelled_modules,
)
from registry.images.native_names import Modules, family_of

_LEAD: Final = "base_model.model."
_NAMED: Final = 5
_TEXT: Final = "text_model."
_FLOATS: Final = ("F64", "F32", "F16", "BF16")

_BESIDE: Final = (
    (MAGNITUDE, "lora_magnitude_vector"),
    (DORA_SCALE, "lora_magnitude_vector"),
    (BIAS, "lora_B.bias"),
)

Shapes = Mapping[str, tuple[int, ...]]
"""Modules of a base model, and their weights as stored: (out, in), or (out, in, kernel...)."""


@dataclass(frozen=True, slots=True)
class SwappedHalves(TensorEntry):
    """A factor whose two halves of rows the file keeps in the other order than the base model."""


@dataclass(frozen=True)
class NormalForm:
    """A LoRA file as a PEFT checkpoint."""

    tensors: Mapping[str, TensorEntry]  # by PEFT's names
    scales: Mapping[str, tuple[int, float]] | None  # module -> rank and alpha; None: by the configuration's patterns
    alphas: tuple[tuple[TensorEntry, float], ...]  # tensors that have to hold what the configuration says
    notices: tuple[str, ...] = ()


def normal_form(file: LoraFile, usual: float, tensors: Mapping[str, TensorEntry], shapes: Shapes) -> NormalForm:
    """Bring the tensors of a file into the normal form for one base model.

    Args:
        file: what the configuration says of it.
        usual: its alpha, where the file's module has no other.
        tensors: all its tensors, by name.
        shapes: the modules of the base model.

    Raises:
        InvalidAdapterError: ``several_components``, it changes more than the base model has; ``unknown_target``, its
            modules are others'; ``module_twice``; ``input_widened`` or ``shape_mismatch``; ``dora_axis_ambiguous``;
            ``format_unsupported``; ``rank_mismatch``; or what `registry.images.keys.spelled_modules` raises.
    """
    modules = spelled_modules(tensors)
    _check_components(modules)
    names = _Names(shapes)
    meant = {one.spelled: known for one in modules.values() if (known := names.find(one)) is not None}
    _check_base([spelled for spelled in modules if spelled not in meant], len(modules))
    out: dict[str, TensorEntry] = {}
    owners: dict[str, str] = {}
    scales: dict[str, tuple[int, float]] = {}
    alphas = []
    for one in modules.values():
        found, swapped = meant[one.spelled].modules, meant[one.spelled].swapped
        rank = _check_pair(one, tensors, found, shapes)
        alpha = (file.alphas or {}).get(one.spelled, usual)
        if ALPHA in one.parts:
            alphas.append((tensors[one.parts[ALPHA]], alpha))
        row = 0
        for module in found:
            if module in owners:
                raise InvalidAdapterError(
                    f"{shown(owners[module])} and {shown(one.spelled)} of the file both change {shown(module)} of the "
                    "base model. Keep one of them.",
                    code="module_twice",
                )
            owners[module] = one.spelled
            scales[module] = rank, alpha
            out |= _parts(one, tensors, module, shapes, row, swapped=swapped)
            row += shapes[module][0]
    told = _split_notice(file)
    return NormalForm(out, None if file.alphas is None else scales, tuple(alphas), told)


def _split_notice(file: LoraFile) -> tuple[str, ...]:
    if not file.split_qkv:
        return ()
    told = (
        f"{file.file} was trained with split_qkv: kohya's scripts wrote the joined pairs with the alpha of the split "
        "ones, so every reader, and the registry too, scales them by alpha over the joined rank."
    )
    return (told,)


@dataclass(frozen=True)
class _Meant:
    """diffusers' modules that a spelled one is, and whether the file keeps the halves of its rows the other way."""

    modules: Modules
    swapped: bool = False


class _Names:
    """What names of modules mean in a base model."""

    def __init__(self, shapes: Shapes) -> None:
        family = family_of(shapes)
        own = {module: _Meant((module,)) for module in shapes}
        own |= {module.removeprefix(_TEXT): _Meant((module,)) for module in shapes if module.startswith(_TEXT)}
        own |= {f"{_TEXT}{module}": _Meant((module,)) for module in shapes if f"{_TEXT}{module}" not in own}
        native = {} if family is None else dict(family.names(shapes))
        swapped = frozenset[str]() if family is None else family.swapped
        self._names = {name: _Meant(modules, name in swapped) for name, modules in native.items()} | own
        self._flat: dict[str, _Meant | None] = {}
        for name, meant in self._names.items():
            flat = name.replace(".", "_")
            before = self._flat.setdefault(flat, meant)
            self._flat[flat] = meant if before == meant else None

    def find(self, one: SpelledModule) -> _Meant | None:
        """What a spelled module is; None: the base model has none, or several."""
        return self._flat.get(one.name) if one.flat else self._names.get(one.name)


def _check_components(modules: Mapping[str, SpelledModule]) -> None:
    counted = list(components_of(modules.values()))
    if len(counted) > 1:
        listed = ", ".join(f"{count} modules of the {component}" for component, count in counted)
        raise InvalidAdapterError(
            f"The file changes several components of a pipeline: {listed}. A base model is one of them here, so write "
            "one file for each, and publish it under the component that it changes.",
            code="several_components",
        )


def _check_base(unknown: list[str], count: int) -> None:
    if not unknown:
        return
    listed = ", ".join(map(shown, unknown[:_NAMED]))
    raise InvalidAdapterError(
        f"{count - len(unknown)} of the {count} modules that the file changes are in the base model; it has no "
        f"{listed}{', ...' if len(unknown) > _NAMED else ''}. Publish it under the base model that it was trained on.",
        code="unknown_target",
    )


def _check_pair(one: SpelledModule, tensors: Mapping[str, TensorEntry], found: Modules, shapes: Shapes) -> int:
    """The rank of a pair whose factors, and what stands beside them, fit the modules."""
    for name in one.parts.values():
        entry = tensors[name]
        if name != one.parts.get(ALPHA) and entry.dtype not in _FLOATS:
            raise InvalidAdapterError(
                f"Tensor {shown(name)} has dtype {entry.dtype}, expected one of {', '.join(_FLOATS)}.", code="bad_dtype"
            )
    down, up = tensors[one.parts[DOWN]], tensors[one.parts[UP]]
    inner, rows = shapes[found[0]][1:], sum(shapes[module][0] for module in found)
    columns = math.prod(inner)
    rank = down.shape[0] if down.shape else 0
    fits = len(down.shape) >= 2 and (down.shape[1:] == inner or (_is_pointwise(down) and down.shape[1] == columns))
    if not rank or not fits:
        wider = found == ("x_embedder",) and len(down.shape) == 2 and down.shape[1] > columns
        raise _shape(down, (("rank", *inner)), one, "input_widened" if wider else "shape_mismatch")
    if up.shape[:1] != (rows,) or not _is_pointwise(up):
        raise _shape(up, (rows, "rank"), one, "shape_mismatch")
    if up.shape[1] != rank:
        raise InvalidAdapterError(
            f"The pair of {shown(one.spelled)} has rank {rank} in {shown(down.name)} and {up.shape[1]} in "
            f"{shown(up.name)}; they must be equal.",
            code="rank_mismatch",
        )
    for part in (MAGNITUDE, BIAS):
        if part in one.parts and tensors[one.parts[part]].elements != rows:
            raise _shape(tensors[one.parts[part]], (rows,), one, "shape_mismatch")
    if DORA_SCALE in one.parts:
        _check_axis(tensors[one.parts[DORA_SCALE]], rows, columns, one)
    return rank


def _is_pointwise(entry: TensorEntry) -> bool:
    """Whether a tensor is a matrix, whatever dimensions of size 1 follow."""
    return len(entry.shape) >= 2 and all(size == 1 for size in entry.shape[2:])


def _shape(entry: TensorEntry, expected: tuple[int | str, ...], one: SpelledModule, code: str) -> InvalidAdapterError:
    why = (
        "it takes more channels than the base model has, as control LoRAs do: they change the shape of the input"
        if code == "input_widened"
        else "publish it under the base model that it was trained on"
    )
    listed = ", ".join(map(str, expected))
    return InvalidAdapterError(
        f"Tensor {shown(entry.name)} of {shown(one.spelled)} has shape {entry.shape}, expected ({listed}): {why}.",
        code=code,
    )


def _check_axis(entry: TensorEntry, rows: int, columns: int, one: SpelledModule) -> None:
    """Check that a magnitude is one number a row."""
    size = entry.elements
    if len(entry.shape) == 1 and size in (rows, columns):
        if size == columns:
            raise InvalidAdapterError(
                f"Tensor {shown(entry.name)} has shape {entry.shape}, and {shown(one.spelled)} {rows} rows and "
                f"{columns} columns: it is not known whether rows or columns are scaled. Save it as (rows, 1) or "
                "(1, columns).",
                code="dora_axis_ambiguous",
            )
        return
    if entry.shape[:1] == (rows,) and size == rows:
        return
    if entry.shape[:1] == (1,) and len(entry.shape) > 1 and size == entry.shape[1]:
        raise InvalidAdapterError(
            f"Tensor {shown(entry.name)} has shape {entry.shape}: this DoRA scales columns, which is not read here "
            "yet. Train it on rows (LyCORIS: wd_on_out=True), or publish the merged model.",
            code="format_unsupported",
        )
    raise _shape(entry, (rows, 1), one, "shape_mismatch")


def _parts(
    one: SpelledModule, tensors: Mapping[str, TensorEntry], module: str, shapes: Shapes, row: int, *, swapped: bool
) -> dict[str, TensorEntry]:
    """The tensors of one of diffusers' modules, whose rows begin at ``row`` of the file's."""
    shape = shapes[module]
    down, up = tensors[one.parts[DOWN]], tensors[one.parts[UP]]
    rank, ones = down.shape[0], (1,) * len(shape[2:])
    lead = f"{_LEAD}{module}."
    b = _rows(up, f"{lead}lora_B.weight", row, (shape[0], rank, *ones))
    if swapped:
        b = SwappedHalves(b.name, b.dtype, b.shape, b.start, b.stop)
    found = [replace(down, name=f"{lead}lora_A.weight", shape=(rank, *shape[1:])), b]
    for part, tail in _BESIDE:
        if part not in one.parts:
            continue
        if swapped:
            raise InvalidAdapterError(
                f"Tensor {shown(one.parts[part])} belongs to a module whose halves diffusers keeps in the other order, "
                "which is read of pairs alone. Train without that module.",
                code="format_unsupported",
            )
        found.append(_rows(tensors[one.parts[part]], f"{lead}{tail}", row, (shape[0],)))
    return {entry.name: entry for entry in found}


def _rows(entry: TensorEntry, name: str, row: int, shape: tuple[int, ...]) -> TensorEntry:
    """Rows of a tensor from ``row`` on, under another name."""
    size = math.prod(shape[1:]) * SIZES[entry.dtype]
    start = entry.start + row * size
    return TensorEntry(name, entry.dtype, shape, start, start + shape[0] * size)
