"""Changes as LyCORIS and others write them: drawn tensors of a form, and the change in float64 that they mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]
Matrix = np.ndarray[Any, Any]
Form = Callable[["Drawn", int, tuple[int, ...], int], tuple[Tensors, Matrix, int | None]]
"""(drawn, rows, shape behind them, rank) -> tensors by end of name, the change (rows, columns), and its rank."""


class Drawn:
    """Small multiples of 1/8, of which every sum of products is exact in float64; ``fine``: any numbers of a dtype."""

    def __init__(self, seed: int = 17, fine: torch.dtype | None = None) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._fine = fine

    def __call__(self, *shape: int) -> torch.Tensor:
        if self._fine is not None:
            return torch.randn(shape, generator=self._generator).to(self._fine)
        return torch.randint(-8, 9, shape, generator=self._generator).to(torch.float16) / 8


def flat(tensor: torch.Tensor) -> Matrix:
    return tensor.double().reshape(tensor.shape[0], -1).numpy()


def pair(drawn: Drawn, rows: int, inner: tuple[int, ...], rank: int) -> tuple[Tensors, Matrix, int | None]:
    down, up = drawn(rank, *inner), drawn(rows, rank, *(1 for _ in inner[1:]))
    return {"lora_down.weight": down, "lora_up.weight": up}, flat(up) @ flat(down), rank


def tucker(drawn: Drawn, rows: int, inner: tuple[int, ...], rank: int) -> tuple[Tensors, Matrix, int | None]:
    ones = (1,) * (len(inner) - 1)
    down, mid = drawn(rank, inner[0], *ones), drawn(rank, rank, *inner[1:])
    up = drawn(rows, rank, *ones)
    core = mid.double().reshape(rank, rank, -1).numpy()
    delta = np.einsum("op,pqt,qi->oit", flat(up), core, flat(down)).reshape(rows, -1)
    return {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}, delta, rank


def loha(drawn: Drawn, rows: int, inner: tuple[int, ...], rank: int) -> tuple[Tensors, Matrix, int | None]:
    columns = math.prod(inner)
    found = {f"hada_w{n}_{part}": drawn(*shape) for n in (1, 2)
             for part, shape in (("a", (rows, rank)), ("b", (rank, columns)))}  # fmt: skip
    halves = [flat(found[f"hada_w{n}_a"]) @ flat(found[f"hada_w{n}_b"]) for n in (1, 2)]
    return found, halves[0] * halves[1], rank


def _core(t: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Matrix:
    core = t.double().reshape(*t.shape[:2], -1).numpy()
    return np.asarray(np.einsum("ijt,ip,jc->pct", core, flat(a), flat(b)).reshape(a.shape[1], -1))


def loha_tucker(drawn: Drawn, rows: int, inner: tuple[int, ...], rank: int) -> tuple[Tensors, Matrix, int | None]:
    found: Tensors = {}
    for n in (1, 2):
        found |= {
            f"hada_t{n}": drawn(rank, rank, *inner[1:]),
            f"hada_w{n}_a": drawn(rank, rows),
            f"hada_w{n}_b": drawn(rank, inner[0]),
        }
    halves = [_core(found[f"hada_t{n}"], found[f"hada_w{n}_a"], found[f"hada_w{n}_b"]) for n in (1, 2)]
    return found, halves[0] * halves[1], rank


def _factor(number: int, most: int = 8) -> int:
    return next(factor for factor in range(min(most, number), 0, -1) if number % factor == 0)


def lokr(first: bool, second: bool, core: bool = False) -> Form:
    """A LoKr; whether the first and the second matrix are pairs, and the second has a core."""

    def form(drawn: Drawn, rows: int, inner: tuple[int, ...], rank: int) -> tuple[Tensors, Matrix, int | None]:
        m, n = _factor(rows, 4), _factor(inner[0], 4)
        p, q = rows // m, inner[0] // n
        found: Tensors = {}
        if first:
            found |= {"lokr_w1_a": drawn(m, rank), "lokr_w1_b": drawn(rank, n)}
            w1 = flat(found["lokr_w1_a"]) @ flat(found["lokr_w1_b"])
        else:
            found["lokr_w1"] = drawn(m, n)
            w1 = flat(found["lokr_w1"])
        if core:
            found |= {
                "lokr_t2": drawn(rank, rank, *inner[1:]),
                "lokr_w2_a": drawn(rank, p),
                "lokr_w2_b": drawn(rank, q),
            }
            w2 = _core(found["lokr_t2"], found["lokr_w2_a"], found["lokr_w2_b"])
        elif second:
            found |= {"lokr_w2_a": drawn(p, rank), "lokr_w2_b": drawn(rank, q * math.prod(inner[1:]))}
            w2 = flat(found["lokr_w2_a"]) @ flat(found["lokr_w2_b"])
        else:
            found["lokr_w2"] = drawn(p, q, *inner[1:])
            w2 = flat(found["lokr_w2"])
        return found, np.kron(w1, w2), rank if first or second or core else None

    return form


def difference(drawn: Drawn, rows: int, inner: tuple[int, ...], rank: int) -> tuple[Tensors, Matrix, int | None]:
    diff = drawn(rows, *inner)
    return {"diff": diff}, flat(diff), None


FORMS: Final[Mapping[str, Form]] = {
    "pair": pair,
    "tucker": tucker,
    "loha": loha,
    "loha-tucker": loha_tucker,
    "lokr-full": lokr(first=False, second=False),
    "lokr-second": lokr(first=False, second=True),
    "lokr-first": lokr(first=True, second=False),
    "lokr-both": lokr(first=True, second=True),
    "lokr-core": lokr(first=False, second=False, core=True),
    "difference": difference,
}
