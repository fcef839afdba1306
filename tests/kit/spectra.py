"""What a truncated adapter may have lost: dense deltas of a path in float64, and their singular values.

A delta is what is felt in the merged weight: of a DoRA path ``diag(c) (W + B A)`` it is ``diag(c) B A``. Both c and the
delta are found by applying adapters (`tests.kit.simulate`), so nothing here reads factors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.kit.bases import Base
from tests.kit.floats import Array
from tests.kit.recipes import module_of
from tests.kit.simulate import Simulated
from tests.kit.tensor_files import read_tensors, write_tensors

NOISE: Final = 1e-13
"""What float64 leaves of a delta that is nothing, beside the weights that it was added to."""


def without_dora(folder: Path) -> Path:
    """A copy of an adapter that adds the same product and rescales nothing."""
    config = json.loads((folder / "adapter_config.json").read_text())
    if not config["use_dora"]:
        return folder
    copy = folder.with_name(f"{folder.name}-without-dora")
    tensors = read_tensors(folder / "adapter_model.safetensors")
    kept = {key: tensor for key, tensor in tensors.items() if "lora_magnitude_vector" not in key}
    write_tensors(copy / "adapter_model.safetensors", kept)
    (copy / "adapter_config.json").write_text(json.dumps(config | {"use_dora": False}))
    return copy


class Spectra:
    """The deltas of links number ``since`` and later on of a path, by module or parameter; a matrix for each expert."""

    def __init__(self, base: Base, path: Sequence[Path], since: int = 0) -> None:
        self._base, self._path, self._since = base, path, since
        self._deltas: dict[str, list[Array]] = {}
        self._values: dict[str, list[Array]] = {}
        self._adapters: dict[Path, Simulated] = {}

    @cached_property
    def _states(self) -> list[Simulated]:
        """Before the first of the links, and after each."""
        return [self._base.simulate(self._path[:end]) for end in range(self._since, len(self._path) + 1)]

    @cached_property
    def _added(self) -> list[Simulated]:
        """After each link's product, before it rescales."""
        return [
            self._base.simulate([*self._path[:at], without_dora(self._path[at])])
            for at in range(self._since, len(self._path))
        ]

    def deltas(self, name: str) -> list[Array]:
        """Matrices (out, in)."""
        if name not in self._deltas:
            before, after = (self._matrices(one, name) for one in (self._states[0], self._states[-1]))
            scales = self._scales(name)
            self._deltas[name] = [new - old * scales for old, new in zip(before, after, strict=True)]
        return self._deltas[name]

    def left_out(self, name: str, adapter: Path) -> list[Array]:
        """What the merged weights of the path have and those of an adapter on the path's beginning lack."""
        if adapter not in self._adapters:
            self._adapters[adapter] = self._base.simulate([*self._path[: self._since], adapter])
        found = self._matrices(self._adapters[adapter], name)
        return [new - other for new, other in zip(self._matrices(self._states[-1], name), found, strict=True)]

    def values(self, name: str) -> list[Array]:
        """Singular values of each matrix, largest first."""
        if name not in self._values:
            self._values[name] = [singular_values(delta) for delta in self.deltas(name)]
        return self._values[name]

    def _scales(self, name: str) -> Array:
        """c of all links, (out, 1)."""
        found: Array = np.ones((1, 1))
        for link, added, after in zip(self._path[self._since :], self._added, self._states[1:], strict=True):
            if without_dora(link) != link:
                (old,), (new,) = self._matrices(added, name), self._matrices(after, name)
                found = found * np.sum(old * new, axis=1, keepdims=True) / np.sum(old * old, axis=1, keepdims=True)
        return found

    def _matrices(self, model: Simulated, name: str) -> list[Array]:
        views = model.state.views
        if name in views:
            return list(views[name].values) if views[name].values.ndim == 3 else [views[name].values]
        if f"{name}.in_proj_weight" in views:
            return [views[f"{name}.in_proj_weight"].values]
        values = views[f"{name}.weight"].values
        turned = module_of(self._base, name).kind in ("conv1d", "embedding")
        return [values.T if turned else values.reshape(values.shape[0], -1)]


def singular_values(matrix: Array) -> Array:
    """Largest first."""
    return np.linalg.svd(matrix, compute_uv=False).astype(np.float64)


def tail(values: Sequence[Array], rank: int) -> float:
    """Frobenius norm of what the best matrices of a rank leave out (Eckart and Young)."""
    return math.hypot(*(math.hypot(*one[rank:]) for one in values))


def wrong_claims(report: Mapping[str, Any], spectra: Spectra, adapter: Path, *, rounding: float = 2e-6) -> list[str]:
    """Claims of a truncation report that are not what the adapter does; the document of ``--report``.

    Args:
        report: the document.
        spectra: of the links that the adapter stands for.
        adapter: its folder.
        rounding: what rounded factors may change, as a share of the delta.
    """
    wrong: list[str] = []

    def check(what: str, claimed: float, true: float, size: float) -> None:
        if not abs(claimed - true) <= rounding * size + NOISE:
            wrong.append(f"{what}: {claimed} claimed, {true} found, of {size}")

    norms, errors, largest, spectral = [0.0], [0.0], [0.0], [0.0]
    for entry in report["modules"]:
        name, kept = entry["module"], entry["rank_after"]
        deltas, rest, values = spectra.deltas(name), spectra.left_out(name, adapter), spectra.values(name)
        norm, first = tail(values, 0), max(float(one[0]) for one in values)
        lost, following = tail(values, kept), max(float(one[kept]) if kept < len(one) else 0.0 for one in values)
        check(f"{name} energy", math.sqrt(entry["energy"]), norm, norm)
        check(f"{name} discarded", math.sqrt(entry["discarded"]), lost, norm)
        check(f"{name} error of the adapter", math.hypot(*(float(np.linalg.norm(one)) for one in rest)), lost, norm)
        check(f"{name} spectral error", max(float(np.linalg.norm(one, 2)) for one in rest), following, norm)
        # of a delta that is nothing but rounding, the shares mean nothing
        check(f"{name} relative", entry["relative_frobenius"], lost / norm if norm > NOISE else 0.0, 1.0)
        check(f"{name} relative spectral", entry["relative_spectral"], following / first if norm > NOISE else 0.0, 1.0)
        for delta, left in zip(deltas, rest, strict=True):
            beyond = tail([singular_values(delta - left)], kept)
            check(f"{name} beyond its rank {kept}", beyond, 0.0, norm)
        norms, errors = [*norms, norm], [*errors, lost]
        largest, spectral = [*largest, first], [*spectral, following]
    total, whole, lost = report["total"], math.hypot(*norms), math.hypot(*errors)
    check("total energy", math.sqrt(total["energy"]), whole, whole)
    check("total discarded", math.sqrt(total["discarded"]), lost, whole)
    check("total relative", total["relative_frobenius"], lost / whole if whole > NOISE else 0.0, 1.0)
    check("total spectral", total["relative_spectral"], max(spectral) / max(largest) if whole > NOISE else 0.0, 1.0)
    return wrong
