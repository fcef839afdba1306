"""Renders what rounding leaves of a change, measured in a merged model or estimated, and what a truncation loses."""

from __future__ import annotations

from registry.cli.render.screen import QUIET, REFERENCE, Line, Row, Span, phrase, table, words
from registry.figures import percent, size
from registry.schemas import Truncation
from registry.schemas.artifacts import Fidelity, FidelityFigures
from registry.schemas.statistics import EstimatedFidelity, EstimatedFigure, PathFidelity


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


def fidelity_line(found: Fidelity) -> str:
    """One line about a merged model."""
    rows = "on every 16th row" if found.rows == "sample" else "on all rows"
    if found.surviving_share is None:
        return f"fidelity: nothing of the change could be measured, {left_out(found)}"
    dtypes = ", ".join(sorted({one.dtype for one in found.tensors}))
    named = f"; {left_out(found)}" if found.left_out else ""
    return f"fidelity{f' in {dtypes}' if dtypes else ''}, {rows}: {figures(found)}{named}"


def figures(found: FidelityFigures) -> str:
    """The three figures in words."""
    if found.relative_error is None or found.unchanged_share is None or found.surviving_share is None:
        return "no change"
    return (
        f"{percent(found.surviving_share)} of the change survives, error {percent(found.relative_error)}, "
        f"{percent(found.unchanged_share)} of the elements unchanged"
    )


def left_out(found: Fidelity) -> str:
    """The tensors that no figure has."""
    names = [one.tensor for one in found.left_out]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"left out: {', '.join(names[:2])}{more}"


def estimate_lines(found: PathFidelity, width: int | None) -> list[Line]:
    """A row for each link and one for the path, each figure with half of its interval."""
    rows = [_row(phrase(link.reference, REFERENCE), link) for link in found.links]
    rows.append(_row(Span("the path"), found))
    header = ("delta", "survives", "error", "unchanged", "")
    title = f"Fidelity in {found.dtype}, estimated from {size(found.read)} of the base model's rows"
    lines: list[Line] = [(Span(title, "bold"),), *table(rows, width, header=header, right=range(1, 4), indent=2)]
    if found.left_out:
        lines.append((Span(f"  left out: {len(found.left_out)} tensors whose values are replaced", QUIET),))
    return lines


def _row(name: Span, found: EstimatedFidelity) -> Row:
    of = (found.surviving_share, found.relative_error, found.unchanged_share)
    return [name, *(Span("-" if one is None else _with_error(one)) for one in of)], [words("")]


def _with_error(one: EstimatedFigure) -> str:
    half = (one.high - one.low) / 2
    return percent(one.value) if not half else f"{percent(one.value)} +- {percent(half)}"
