"""Which slots run in a call that is compiled. `torch.compile` reads what a thread has, but no context."""

from __future__ import annotations

import threading

import torch


class Chosen:
    """The slots of one call; whether they are read or written in it, it is traced.

    Args:
        rows: the slot of each row of the batch, or one for all; None: the base alone.
        turned: whether some module may get the rows of the batch in another dimension than the first.
    """

    def __init__(self, rows: torch.Tensor | None, *, turned: bool = False) -> None:
        self.rows = rows
        self.turned = turned
        self.length: int | None = None
        """Of the sequences in the batch, once it is known."""
        self.lost: list[str] = []
        """Modules that ran with the base's weights, as the rows of the batch were not found in their input."""

    def finds(self, rows: torch.Tensor, x: torch.Tensor) -> bool:
        """Whether a module's input has the rows of the batch, in order; numbers to look up may have one for all."""
        count = rows.shape[0]
        if not x.is_floating_point():
            # positions are the same in all rows; without a dimension for rows nothing tells them from rows, and
            # dynamo gets `in` wrong for sizes that vary
            return x.dim() > 1 and (x.shape[0] == 1 or x.shape[0] == count)
        if x.dim() > 2:
            self.length = x.shape[1]
            return x.shape[0] == count and not (self.turned and x.shape[1] == count)
        if x.dim() == 0 or x.shape[0] == count:
            return x.dim() > 0
        return x.dim() == 2 and not self.turned and self.length is not None and x.shape[0] == count * self.length


class OfThread(threading.local):
    """What runs in this thread."""

    chosen: Chosen | None = None
    """In a call that is compiled, its slots."""
    inside: bool = False
    """Whether a call of the model runs, in which paths were chosen."""
