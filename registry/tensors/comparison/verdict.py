"""What a comparison comes to, and the rule by which one of two candidates is it. Needs no tensors.

The rule looks at where the weights lie on the line from one candidate to the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from registry.schemas.parents import EQUAL

_NEAR: Final = 0.3  # of the way between two candidates: 0 is the one, 1 the other
_SURE: Final = 4.0  # standard errors
_TELLING: Final = 16.0  # squared units: less may come from a few elements that other sums round otherwise
_FAR: Final = 0.02  # sure whatever the product is: with t the root of it, t (1 + t) / (1 - t)^2 is below `_NEAR`


def lies_at_one(own: float, both: float, others: float, elements: float) -> bool:
    """Whether weights lie at one candidate, on the line from it to another one.

    Args:
        own: sum of the squares of the residuals against the one, in units of rounding.
        both: sum of the products of the residuals against both.
        others: sum of the squares of the residuals against the other.
        elements: the number of residuals.
    """
    apart = own + others - 2 * both
    if not apart >= _TELLING:
        return False
    along = (own - both) / apart
    noise = math.sqrt(max(0.0, min(own, others)) / max(1.0, elements) / apart)
    return abs(along) + _SURE * noise <= _NEAR


def surely_at_one(own: float, others: float) -> bool:
    """The same, if the product against both is not known: its size is at most the root of ``own`` times ``others``.

    Of the residuals of every element, so that what they are rounded by is no sample.
    """
    return own <= _FAR * others and (math.sqrt(others) - math.sqrt(own)) ** 2 >= _TELLING


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

    fitting: tuple[str, ...]  # the candidates that can't be distinguished from them; none: they are something else
    nearest: Standing
    tensors: int  # that were looked at
    of: int
    bytes: int
    whole: bool  # every element of every tensor was looked at
    units: float  # of the first that fits (else the nearest): its largest difference, in units in the last place
    untold: tuple[str, ...]  # other orders of what fits that the bits don't distinguish from it
    residual: float  # of the first that fits (else the nearest): sum of squares against what a usual way of merging
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
