"""What came of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """What a batch did to each sibling that had rows in it.

    Example:
        >>> Step({"llama/support/code": 2.5}, {"llama/support/code": 0.9}).losses
        {'llama/support/code': 2.5}
    """

    losses: Mapping[str, float] = field(default_factory=dict)
    """The mean loss over a sibling's own rows."""
    grad_norms: Mapping[str, float] = field(default_factory=dict)
    """The norm of the gradient before it was clipped, of those that were updated."""
    set_aside: Mapping[str, str] = field(default_factory=dict)
    """Why siblings are not trained any more, of those that this batch was the last of."""
