"""What a comparison comes to; needs no tensors, so that it can be told where there are none."""

from __future__ import annotations

from dataclasses import dataclass

from registry.schemas.parents import EQUAL


@dataclass(frozen=True)
class Limit:
    """How much is read before it has to be clear; whole tensors come after that, with progress."""

    bytes: int = 512 << 20
    seconds: float = 20.0


@dataclass(frozen=True)
class Standing:
    """How far a candidate is from the weights."""

    name: str
    distance: float  # |weights - candidate| / |candidate|, over what was read of it
    tensor: str  # where it fits least
    row: int
    column: int


@dataclass(frozen=True)
class Verdict:
    """What the weights are."""

    fitting: tuple[str, ...]  # the candidates that can't be told apart from them; none: they are something else
    nearest: Standing
    tensors: int  # that were looked at
    of: int
    bytes: int
    whole: bool  # every element of every tensor was looked at
    units: float  # of the first that fits (else the nearest): its largest difference, in units in the last place
    untold: tuple[str, ...]  # other orders of what fits that the bits don't tell from it
    residual: float  # of the first that fits (else the nearest): sum of squares beside what a usual way of merging
    # makes of it, each in units of rounding
    equal: float  # of the first that fits (else the nearest): share of the elements that its path changes, and that one
    # of the usual ways of merging gives, bit for bit
    others: int  # elements that it leaves alone, and that are not the base's
    complete: bool  # False: the limit came first, and nothing up to it spoke against the verdict

    @property
    def bits(self) -> bool:
        """Whether all of the weights are what was merged, up to a few sums that were made otherwise."""
        return self.whole and self.equal >= EQUAL and not self.others

    @property
    def exact(self) -> bool:
        """Whether every element of the first that fits is, bit for bit, what a usual way of merging makes of it."""
        return self.whole and self.residual == 0
