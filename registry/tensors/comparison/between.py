"""Which of two candidates some weights are: where they lie on the line from the one to the other."""

from __future__ import annotations

import math
from typing import Final

_NEAR: Final = 0.3  # of the way between two candidates: 0 is the one, 1 the other
_SURE: Final = 4.0  # standard errors
_TELLING: Final = 16.0  # squared units: what a few elements say that other sums would round otherwise, nobody knows
_FAR: Final = 0.02  # sure whatever the product is: with t the root of it, t (1 + t) / (1 - t)^2 is below `_NEAR`


def lies_at_one(own: float, both: float, others: float, elements: float) -> bool:
    """Whether weights lie at one candidate, on the line from it to another one.

    Args:
        own: sum of the squares of the residuals beside the one, in units of rounding.
        both: sum of the products of the residuals beside both.
        others: sum of the squares of the residuals beside the other.
        elements: how many residuals there are.
    """
    apart = own + others - 2 * both
    if not apart >= _TELLING:
        return False
    along = (own - both) / apart
    noise = math.sqrt(max(0.0, min(own, others)) / max(1.0, elements) / apart)
    return abs(along) + _SURE * noise <= _NEAR


def surely_at_one(own: float, others: float) -> bool:
    """The same, where the product beside both is not known: its size is at most the root of ``own`` times ``others``.

    Of residuals beside every element, so that what they are rounded by is no sample.
    """
    return own <= _FAR * others and (math.sqrt(others) - math.sqrt(own)) ** 2 >= _TELLING
