"""The options of a truncation, checked before any work is done. Needs neither torch nor numpy."""

from __future__ import annotations

from registry.errors import UsageError


def check_options(rank: int | None, max_error: float | None) -> None:
    """Refuse options that mean nothing, before any work is done.

    Raises:
        UsageError: ``rank`` is below 1, or ``max_error`` is not a number from 0 up to, not including, 1.
    """
    if rank is not None and rank < 1:
        raise UsageError(f"--rank must be 1 or more, not {rank}.")
    if max_error is not None and not 0 <= max_error < 1:
        raise UsageError(f"--max-error must be 0 or more and less than 1 (0.05 is 5 %), not {max_error}.")
