"""Reports the loss of a truncation as a line of text."""

from __future__ import annotations

from registry.schemas import Truncation


def truncation_line(truncation: Truncation) -> str:
    """One line: the error over all modules, and the uniform rank that is enough for each of some errors."""
    if all(module.rank_after >= module.rank_before for module in truncation.modules):
        largest = max((module.rank_before for module in truncation.modules), default=0)
        return f"not truncated: its largest rank is {largest}"
    total = truncation.total
    kept = 100 * total.parameters_after / max(1, total.parameters_before)
    error = total.relative_frobenius if total.written is None else total.written
    enough = ", ".join(f"{float(bound):.0%} with --rank {rank}" for bound, rank in truncation.enough_for.items())
    return f"truncated to {kept:.3g}% of the parameters with an error of {100 * error:.3g}%; at most {enough}"
