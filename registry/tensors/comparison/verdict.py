"""What a comparison comes to; needs no tensors, so that it can be told where there are none."""

from __future__ import annotations

from dataclasses import dataclass


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
    complete: bool  # False: the limit came first, and nothing up to it spoke against the verdict
