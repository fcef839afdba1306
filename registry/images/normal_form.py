"""The normal form of a LoRA file: PEFT's names for its tensors, the rows of each module cut out, nothing copied.

Every module that the file names is looked up in the base model: by diffusers' name, by the native one
(`registry.images.native_names`), each with dots or underlines. A native module may be several of diffusers': its down
factor belongs to all of them, its up factor is cut by rows, which is exact. Every tensor is used once, and every shape
fits, or the file is refused with names.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from registry.errors import InvalidAdapterError
from registry.files.header import SIZES, TensorEntry
from registry.files.strict_json import shown
from registry.images.adapter_file import LoraFile
from registry.images.changes import Change, change_of, rank_of, wrong_shape
from registry.images.components import Meant, Shapes, meant_modules
from registry.images.expressions import Expression, Eye, HalvesSwapped, Tensor, computed
from registry.images.keys import (
    ALPHA,
    BIAS,
    DIFF,
    DIFF_B,
    DORA_SCALE,
    DOWN,
    FACTORS,
    MAGNITUDE,
    ON_INPUT,
    SET_WEIGHT,
    SpelledModule,
    spelled_modules,
)
from registry.images.native_names import Modules

_LEAD: Final = "base_model.model."
_FLOATS: Final = ("F64", "F32", "F16", "BF16")

_BESIDE: Final = (
    (MAGNITUDE, "lora_magnitude_vector"),
    (DORA_SCALE, "lora_magnitude_vector"),
    (BIAS, "lora_B.bias"),
)


@dataclass(frozen=True, slots=True)
class ColumnMagnitude(TensorEntry):
    """A magnitude for each input channel; the norms run over the rows of all ``modules``, which the file has as one."""

    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SwappedHalves(TensorEntry):
    """A factor whose two halves of rows the file keeps in the other order than the base model."""


class Scale(NamedTuple):
    """Of a pair: its rank, the file's alpha, and what B A is multiplied by."""

    rank: int
    alpha: float
    scaling: float


@dataclass(frozen=True)
class NormalForm:
    """A LoRA file as a PEFT checkpoint."""

    tensors: Mapping[str, TensorEntry]  # by PEFT's names
    scales: Mapping[str, Scale] | None  # by module; None: by the configuration's patterns
    alphas: tuple[tuple[TensorEntry, float], ...]  # tensors that have to hold what the configuration says
    added: Mapping[str, TensorEntry]  # parameters of one dimension -> what is added to them
    replaced: Mapping[str, TensorEntry]  # parameters -> what they become
    diagonals: Mapping[str, tuple[TensorEntry, bool]]  # modules -> IA3's factors, and whether they are of columns
    notices: tuple[str, ...] = ()


def normal_form(
    file: LoraFile,
    usual: float,
    tensors: Mapping[str, TensorEntry],
    shapes: Shapes,
    vectors: Shapes,
    components: Collection[str] = (),
) -> NormalForm:
    """Bring the tensors of a file into the normal form for one base model.

    Args:
        file: what the configuration says of it.
        usual: its alpha, where the file's module has no other.
        tensors: all its tensors, by name.
        shapes: the modules of the base model.
        vectors: its parameters of one dimension, by full name.
        components: of a pipeline.

    Raises:
        InvalidAdapterError: ``module_twice``; ``input_widened`` or ``shape_mismatch``; ``dora_axis_ambiguous``;
            ``format_unsupported``; ``rank_mismatch``; or what `registry.images.keys.spelled_modules` and
            `registry.images.components.meant_modules` raise.
    """
    modules = spelled_modules(tensors)
    all_shapes: Shapes = {**dict.fromkeys(_modules_of(vectors), ()), **shapes}
    meant = meant_modules(modules, all_shapes, components, file.component)
    draft = _Draft(file, tensors, shapes, vectors)
    for one in modules.values():
        alpha = (file.alphas or {}).get(one.spelled, usual)
        if ALPHA in one.parts:
            draft.alphas.append((tensors[one.parts[ALPHA]], alpha))
        draft.add(one, meant[one.spelled], alpha)
    scales = None if file.alphas is None else draft.scales
    beside = draft.added, draft.replaced, draft.diagonals
    return NormalForm(draft.out, scales, tuple(draft.alphas), *beside, _split_notice(file))


def _modules_of(vectors: Shapes) -> Iterator[str]:
    return (name.rpartition(".")[0] for name in vectors if "." in name)


@dataclass
class _Draft:
    """What the modules of a file come to, one after another."""

    file: LoraFile
    tensors: Mapping[str, TensorEntry]
    shapes: Shapes
    vectors: Shapes
    out: dict[str, TensorEntry] = field(default_factory=dict)
    scales: dict[str, Scale] = field(default_factory=dict)
    alphas: list[tuple[TensorEntry, float]] = field(default_factory=list)
    added: dict[str, TensorEntry] = field(default_factory=dict)
    replaced: dict[str, TensorEntry] = field(default_factory=dict)
    diagonals: dict[str, tuple[TensorEntry, bool]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def add(self, one: SpelledModule, meant: Meant, alpha: float) -> None:
        """All that the file does to one module as it spells it."""
        self._check_dtypes(one)
        for module in meant.modules:
            if module in self.owners:
                raise InvalidAdapterError(
                    f"{shown(self.owners[module])} and {shown(one.spelled)} of the file both change {shown(module)} of "
                    "the base model. Keep one of them.",
                    code="module_twice",
                )
            self.owners[module] = one.spelled
        matrices = all(module in self.shapes for module in meant.modules)
        if matrices and FACTORS in one.parts:
            self._add_diagonal(one, meant)
        elif matrices and not {SET_WEIGHT, DIFF_B} >= set(one.parts) - {ALPHA}:
            self._add_change(one, meant, alpha)
        if DIFF in one.parts and not matrices:
            self._add_vector(one, meant, "weight", one.parts[DIFF], self.added)
        elif not matrices and set(one.parts) - {ALPHA, DIFF_B, SET_WEIGHT}:
            raise InvalidAdapterError(
                f"{shown(one.spelled)} of the file is {shown(meant.modules[0])} of the base model, which is no linear "
                "module and no convolution, so it takes no factors. Publish the file under the base model that it was "
                "trained on.",
                code="unknown_target",
            )
        if SET_WEIGHT in one.parts:
            self._set_weight(one, meant, matrices=matrices)
        if DIFF_B in one.parts:
            self._add_vector(one, meant, "bias", one.parts[DIFF_B], self.added)

    def _check_dtypes(self, one: SpelledModule) -> None:
        for name in one.parts.values():
            entry = self.tensors[name]
            if name not in (one.parts.get(ALPHA), one.parts.get(ON_INPUT)) and entry.dtype not in _FLOATS:
                raise InvalidAdapterError(
                    f"Tensor {shown(name)} has dtype {entry.dtype}, expected one of {', '.join(_FLOATS)}.",
                    code="bad_dtype",
                )

    def _add_change(self, one: SpelledModule, meant: Meant, alpha: float) -> None:
        """Factors for each of the modules, and what stands beside them."""
        change = _change(one, self.tensors, meant.modules, self.shapes)
        scaling = self._scaling(one, alpha)
        row = 0
        for module in meant.modules:
            shape = self.shapes[module]
            lead = f"{_LEAD}{module}."
            b, a = factors_of(change, lead, shape, row, swapped=meant.swapped)
            self.out |= {b.name: b, a.name: a}
            for part, tail in _BESIDE:
                entry = self.tensors.get(one.parts.get(part, ""))
                if entry is not None and part == DORA_SCALE and is_of_columns(entry, shape[1]):
                    name = f"{lead}{tail}"
                    self.out[name] = ColumnMagnitude(
                        name, entry.dtype, (entry.elements,), entry.start, entry.stop, meant.modules
                    )
                elif part in one.parts:
                    _refuse_swapped(one.parts[part], swapped=meant.swapped)
                    beside = _rows(self.tensors[one.parts[part]], f"{lead}{tail}", row, (shape[0],))
                    self.out[beside.name] = beside
            self.scales[module] = Scale(a.shape[0], alpha, scaling)
            row += shape[0]

    def _add_diagonal(self, one: SpelledModule, meant: Meant) -> None:
        """IA3's factors of rows, cut like them, or of columns."""
        entry, flag, row = self.tensors[one.parts[FACTORS]], self.tensors[one.parts[ON_INPUT]], 0
        by_input = one.spelled in self.file.on_input
        self.alphas.append((flag, float(by_input)))
        shapes = [self.shapes[module] for module in meant.modules]
        size = shapes[0][1] if by_input else sum(shape[0] for shape in shapes)
        if entry.elements != size or max(entry.shape, default=0) != size:
            raise wrong_shape(entry, (size,), one)
        if not by_input:
            _refuse_swapped(entry.name, swapped=meant.swapped)
        for module, shape in zip(meant.modules, shapes, strict=True):
            height = size if by_input else shape[0]
            self.diagonals[module] = _rows(entry, f"{module}.factors", row, (height,)), by_input
            row += 0 if by_input else height

    def _scaling(self, one: SpelledModule, alpha: float) -> float:
        """What a change is multiplied by: alpha over the rank of the file's form, whatever rank the factors have."""
        rank = rank_of(one, self.tensors)
        if self.file.rank is None:
            return 1.0 if rank is None else alpha / rank
        if rank is not None and rank != self.file.rank:
            raise InvalidAdapterError(
                f"{shown(one.spelled)} has rank {rank}, but the configuration in the header gives {self.file.rank}. "
                "Save the adapter again with the configuration that it was trained with.",
                code="rank_mismatch",
            )
        return alpha / self.file.rank

    def _add_vector(self, one: SpelledModule, meant: Meant, leaf: str, name: str, out: dict[str, TensorEntry]) -> None:
        """What is done to a parameter of one dimension."""
        entry, row = self.tensors[name], 0
        _refuse_swapped(name, swapped=meant.swapped)
        sizes = [self.vectors.get(f"{module}.{leaf}", ())[:1] for module in meant.modules]
        if () in sizes:
            raise InvalidAdapterError(
                f"Tensor {shown(name)} changes the {leaf} of {shown(meant.modules[sizes.index(())])}, which the base "
                "model does not have. Publish it under the base model that it was trained on.",
                code="unknown_target",
            )
        total = sum(size for (size,) in sizes)
        if entry.elements != total or max(entry.shape, default=0) != total:
            raise wrong_shape(entry, (total,), one)
        for module, (size,) in zip(meant.modules, sizes, strict=True):
            out[f"{module}.{leaf}"] = _rows(entry, f"{module}.{leaf}", row, (size,))
            row += size

    def _set_weight(self, one: SpelledModule, meant: Meant, *, matrices: bool) -> None:
        name = one.parts[SET_WEIGHT]
        if not matrices:
            self._add_vector(one, meant, "weight", name, self.replaced)
            return
        _refuse_swapped(name, swapped=meant.swapped)
        entry, row = self.tensors[name], 0
        shape = self.shapes[meant.modules[0]][1:]
        total = sum(self.shapes[module][0] for module in meant.modules)
        if entry.shape != (total, *shape):
            raise wrong_shape(entry, (total, *shape), one)
        for module in meant.modules:
            self.replaced[f"{module}.weight"] = _rows(entry, f"{module}.weight", row, self.shapes[module])
            row += self.shapes[module][0]


def _refuse_swapped(name: str, *, swapped: bool) -> None:
    if swapped:
        raise InvalidAdapterError(
            f"Tensor {shown(name)} belongs to a module whose halves diffusers keeps in the other order, which is read "
            "of factors alone. Train without that module.",
            code="format_unsupported",
        )


def _split_notice(file: LoraFile) -> tuple[str, ...]:
    if not file.split_qkv:
        return ()
    told = (
        f"{file.file} was trained with split_qkv: kohya's scripts wrote the joined pairs with the alpha of the split "
        "ones, so every reader, and the registry too, scales them by alpha over the joined rank."
    )
    return (told,)


def _change(one: SpelledModule, tensors: Mapping[str, TensorEntry], found: Modules, shapes: Shapes) -> Change:
    """What is added to the modules, where it and what stands beside it fit them."""
    inner, heights = shapes[found[0]][1:], [shapes[module][0] for module in found]
    rows, columns = sum(heights), math.prod(inner)
    down = tensors.get(one.parts.get(DOWN, ""))
    if (
        found[0].rpartition(".")[2] == "x_embedder"
        and down is not None
        and len(down.shape) == 2
        and down.shape[1] > columns
    ):
        raise InvalidAdapterError(
            f"Tensor {shown(down.name)} of {shown(one.spelled)} has shape {down.shape}, expected (rank, {columns}): it "
            "takes more channels than the base model has, as control LoRAs do: they change the shape of the input.",
            code="input_widened",
        )
    change = change_of(one, tensors, inner, rows, min(heights))
    if change is None:
        raise AssertionError(f"{one.spelled} has no change")
    for part in (MAGNITUDE, BIAS):
        if part in one.parts and tensors[one.parts[part]].elements != rows:
            raise wrong_shape(tensors[one.parts[part]], (rows,), one)
    if DORA_SCALE in one.parts:
        _check_axis(tensors[one.parts[DORA_SCALE]], rows, columns, inner[0], one)
    return change


def is_of_columns(entry: TensorEntry, channels: int) -> bool:
    """Whether a magnitude says by its shape that it is one number for each input channel: (1, channels, 1...)."""
    return len(entry.shape) > 1 and entry.shape[:2] == (1, channels) and entry.elements == channels


def _check_axis(entry: TensorEntry, rows: int, columns: int, channels: int, one: SpelledModule) -> None:
    """Check that a magnitude is one number a row, or one an input channel."""
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
    if is_of_columns(entry, channels):
        return
    raise wrong_shape(entry, (rows, 1), one)


def factors_of(
    change: Change, lead: str, shape: tuple[int, ...], row: int = 0, *, swapped: bool = False
) -> tuple[TensorEntry, TensorEntry]:
    """B and A of a module, whose rows begin at ``row`` of the change's; ``lead`` is what their names begin with.

    Of a change that is kept whole one factor is the change and the other the identity, whichever is smaller.
    """
    rows, columns, ones = shape[0], math.prod(shape[1:]), (1,) * len(shape[2:])
    name_a, name_b = f"{lead}lora_A.weight", f"{lead}lora_B.weight"
    if change.a is not None:
        rank = change.a.shape[0]
        b = _factor(change.b, name_b, row, (rows, rank, *ones), swapped=swapped)
        return b, _factor(change.a, name_a, 0, (rank, *shape[1:]), swapped=False)
    if columns <= rows:
        b = _factor(change.b, name_b, row, (rows, columns, *ones), swapped=swapped)
        return b, computed(name_a, (columns, *shape[1:]), Eye(columns))
    a = _factor(change.b, name_a, row, (rows, *shape[1:]), swapped=swapped)
    return computed(name_b, (rows, rows, *ones), Eye(rows)), a


def _factor(made: Expression, name: str, row: int, shape: tuple[int, ...], *, swapped: bool) -> TensorEntry:
    """Rows of a matrix from ``row`` on: those of a tensor where it is one, else to be computed."""
    if not isinstance(made, Tensor):
        return computed(name, shape, HalvesSwapped(made) if swapped else made, row)
    found = _rows(made.entry, name, row, shape)
    if not swapped:
        return found
    return SwappedHalves(found.name, found.dtype, found.shape, found.start, found.stop)


def _rows(entry: TensorEntry, name: str, row: int, shape: tuple[int, ...]) -> TensorEntry:
    """Rows of a tensor from ``row`` on, under another name."""
    size = math.prod(shape[1:]) * SIZES[entry.dtype]
    start = entry.start + row * size
    return TensorEntry(name, entry.dtype, shape, start, start + shape[0] * size)
