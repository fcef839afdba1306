"""A model's parameters in float64 while a path of adapters is applied to them, with the size of what was summed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.kit.floats import Array
from tests.kit.layouts import Index, Layout, Parameter, Part
from tests.kit.merged_tensor import MergedTensor
from tests.kit.tensor_files import RawTensor, read_model

FLOATS = ("F64", "F32", "F16", "BF16")
SAME = 1e-9
"""Two sides of a tie that differ by less than this share of their size are one weight."""


@dataclass
class View:
    """A parameter, or a part of one, as a matrix or vector that may be changed in place."""

    values: Array
    magnitude: Array  # |w| + sum |s b a|, scaled along by DoRA
    touched: NDArray[np.bool_]

    def part(self, index: Index) -> View:
        """The part at ``index``."""
        return View(self.values[index], self.magnitude[index], self.touched[index])

    def replace(self, values: Array) -> None:
        """Set the values: what was summed before is gone."""
        self.values[...] = values
        self.magnitude[...] = np.abs(values)
        self.touched[...] = True

    def add(self, delta: Array, spread: Array) -> None:
        """Add ``delta``; ``spread`` is the sum of the absolute values of its terms."""
        self.values += delta
        self.magnitude += spread
        self.touched[...] = True

    def rescale(self, norms: Array, factor: Array) -> None:
        """DoRA: multiply by ``factor`` / ``norms``, both of a shape that spreads over the values.

        The norm has the relative error of the values that it is taken of. Where the sum cancels that is more than
        one share, which the second term allows for.
        """
        sizes = np.sqrt(np.sum(self.magnitude**2, axis=_axes(norms), keepdims=True))
        scale = factor / norms
        self.magnitude[...] = np.abs(scale) * (self.magnitude + np.abs(self.values) * (sizes / norms - 1.0))
        self.values *= scale
        self.touched[...] = True

    def norms(self, *, rows: bool) -> Array:
        """Euclidean norms over all but the first dimension (``rows``), or over the first; dimensions are kept."""
        axes = tuple(range(1, self.values.ndim)) if rows else (0,)
        found: Array = np.sqrt(np.sum(self.values**2, axis=axes, keepdims=True))
        return found


def _axes(norms: Array) -> tuple[int, ...]:
    return tuple(axis for axis, size in enumerate(norms.shape) if size == 1)


@dataclass
class State:
    """All parameters of a running model."""

    layout: Layout
    views: dict[str, View]
    files: Mapping[str, RawTensor]
    tied: dict[str, str] = field(default_factory=dict)  # ties that still hold: the side without a tensor -> the holder
    new: dict[str, RawTensor] = field(default_factory=dict)  # parameters that the base lacks

    @classmethod
    def load(cls, layout: Layout, folder: Path) -> State:
        """The base model of a folder."""
        files = {name: raw for name, raw in read_model(folder).items() if raw.dtype in FLOATS}
        views = {
            name: _view(_gather(parameter, files))
            for name, parameter in layout.parameters.items()
            if parameter.parts and all(part.tensor in files for part in parameter.parts)
        }
        for name, holder in layout.ties.items():
            views[name] = _view(views[holder].values)
        return cls(layout, views, files, tied=dict(layout.ties))

    def settle_ties(self) -> None:
        """After a link: sides that are the same are one weight, others go their own way."""
        for name, holder in self.layout.ties.items():
            mine, other = self.views[name], self.views[holder]
            if np.all(np.abs(mine.values - other.values) <= SAME * (mine.magnitude + other.magnitude)):
                self.views[name] = View(other.values.copy(), other.magnitude.copy(), other.touched.copy())
                self.tied[name] = holder
            else:
                self.tied.pop(name, None)

    def tensors(self) -> dict[str, MergedTensor]:
        """Every float tensor of the merged model's files, untied and new ones too."""
        found: dict[str, MergedTensor] = {}
        for name, view in self.views.items():
            parameter = self.layout.parameters.get(name)
            if name in self.tied:
                continue
            if parameter is None or not parameter.parts:
                holder = self.layout.ties.get(name)
                base = self.new[name] if holder is None else self.files[self.layout.parameters[holder].parts[0].tensor]
                found[name] = MergedTensor(base, view.values, view.magnitude, touched=True)
                continue
            for part in parameter.parts:
                one = view.part(part.index)
                found[part.tensor] = MergedTensor(
                    self.files[part.tensor], one.values.copy(), one.magnitude.copy(), touched=bool(one.touched.any())
                )
        return found


def _gather(parameter: Parameter, files: Mapping[str, RawTensor]) -> Array:
    if parameter.parts == (Part(parameter.parts[0].tensor, ()),):
        return files[parameter.parts[0].tensor].values
    values = np.empty(parameter.shape)
    for part in parameter.parts:
        values[part.index] = files[part.tensor].values
    return values


def _view(values: Array) -> View:
    return View(values.copy(), np.abs(values), np.zeros(values.shape, dtype=bool))
