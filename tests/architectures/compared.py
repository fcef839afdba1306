"""Weights and outputs of two models, ours and PEFT's: how far they may be from each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

CLOSE: Final = 1e-5
"""Of the largest delta: what our weights may be from PEFT's, beside the rounding of the weights themselves."""

OUTPUT: Final = 2e-5
"""Of the largest number of an output: what a merged model's may be from that of the model as it was trained."""

State = Mapping[str, torch.Tensor]
Output = Callable[[Any], torch.Tensor]
"""What a model makes of an input that is the same every time."""


class Different(Exception):  # noqa: N818 (it is a verdict)
    """Weights that are not those of PEFT."""


@dataclass(frozen=True)
class Compared:
    """The base's weights, PEFT's after the path, and names that the base's files lack."""

    before: State
    after: State
    left_out: Sequence[str]
    part: Callable[[Any], Any]  # what was done to the model before it was trained
    judged: tuple[Output, torch.Tensor] | None = None  # what a model's output is, and the trained model's

    def check_output(self, ours: Any) -> None:
        """Compare the output with that of the model as it was trained, before PEFT merged it."""
        if self.judged is None:
            return
        output, expected = self.judged
        apart = float((output(ours) - expected).abs().max())
        room = OUTPUT * max(1.0, float(expected.abs().max()))
        if not apart <= room:
            raise Different(f"the output is {apart:.3g} off that of the model as it was trained ({room:.3g} allowed)")

    def check_rounding(self, ours: State, exact: State) -> None:
        """Compare every weight with PEFT's sums in float64: half a unit in the last place, and sums in float32."""
        for name in self._floats():
            moved = (exact[name] - self.before[name].double()).abs()
            room = 2.0**-24 * exact[name].abs() + 2.0**-19 * float(moved.max()) + 1e-30
            used = ((ours[name].double() - exact[name]).abs() / room).max()
            if not float(used) <= 1:
                raise Different(f"{name} is {float(used):.3g} times as far from PEFT's sums in float64 as rounding is")

    def check(self, ours: State) -> None:
        """Compare every weight; raises `Different` naming the worst."""
        if set(ours) != set(self.after):
            names = sorted(set(ours) ^ set(self.after))
            raise Different(f"the models have other weights: {', '.join(names[:4])}")
        for name, one in self.after.items():
            if not one.is_floating_point() and name not in self.left_out and not torch.equal(ours[name], one):
                raise Different(f"{name} holds other whole numbers")
        ours = {name: _unless_loaded_as_zero(one, self.before[name], self.after[name]) for name, one in ours.items()}
        moved = max(float((self.after[name] - self.before[name]).abs().max()) for name in self._floats())
        worst, at = 0.0, ""
        for name in self._floats():
            apart = (ours[name] - self.after[name]).abs().max()
            room = CLOSE * moved + 2.0**-21 * float(self.after[name].abs().max())
            if float(apart) / room > worst or not bool(torch.isfinite(apart)):
                worst, at = float(apart) / room, name
        if not worst <= 1:
            wrong = sum(
                bool((ours[name] - self.after[name]).abs().max() > CLOSE * moved + 1e-6) for name in self._floats()
            )
            apart = (ours[at] - self.after[at]).abs().max()
            raise Different(f"{at} is {float(apart):.3g} off (deltas up to {moved:.3g}); {wrong} weights in all")

    def _floats(self) -> Iterator[str]:
        for name, one in self.after.items():
            if one.is_floating_point() and one.numel() and name not in self.left_out:
                yield name


def _unless_loaded_as_zero(ours: torch.Tensor, base: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Ours, with PEFT's row where it and the base's are all zeros: a padding row, which some models' loaders zero."""
    if ours.dim() != 2 or ours.shape != base.shape:
        return ours
    zero = (ours == 0).all(dim=1) & (base == 0).all(dim=1)
    return torch.where(zero.unsqueeze(1), after, ours) if bool(zero.any()) else ours
