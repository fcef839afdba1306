"""Renders figures: statistics of factors and dense ones, what rounding leaves of a change, what a truncation loses.

Also whether an engine loads an adapter; statistics go out as CSV, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from registry.cli.render.screen import BEHIND, QUIET, REFERENCE, Line, Row, Span, fields, phrase, table, words
from registry.figures import counted, percent, size
from registry.schemas import Truncation
from registry.schemas.artifacts import Fidelity, FidelityFigures
from registry.schemas.frames import csv_of
from registry.schemas.statistics import COLUMNS, DENSE_COLUMNS, EstimatedFidelity, EstimatedFigure, PathFidelity

if TYPE_CHECKING:
    from registry.schemas.artifacts import EngineCheck, EngineReason
    from registry.schemas.statistics import DeltaStatistics, DenseMatrix, DenseStatistics, GroupStatistics, Statistics


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
    rows = [_estimate_row(phrase(link.reference, REFERENCE), link) for link in found.links]
    rows.append(_estimate_row(Span("the path"), found))
    header = ("delta", "survives", "error", "unchanged", "")
    title = f"Fidelity in {found.dtype}, estimated from {size(found.read)} of the base model's rows"
    lines: list[Line] = [(Span(title, "bold"),), *table(rows, width, header=header, right=range(1, 4), indent=2)]
    if found.left_out:
        lines.append((Span(f"  left out: {len(found.left_out)} tensors whose values are replaced", QUIET),))
    return lines


def _estimate_row(name: Span, found: EstimatedFidelity) -> Row:
    of = (found.surviving_share, found.relative_error, found.unchanged_share)
    return [name, *(Span("-" if one is None else _with_error(one)) for one in of)], [words("")]


def _with_error(one: EstimatedFigure) -> str:
    half = (one.high - one.low) / 2
    return percent(one.value) if not half else f"{percent(one.value)} +- {percent(half)}"


def check_lines(found: EngineCheck, width: int | None) -> list[Line]:
    """Yes, or no with every reason; and the command that writes what loads."""
    limit = "any rank" if found.max_lora_rank is None else f"at most {found.max_lora_rank}"
    pairs = [
        ("engine", [words(f"{found.engine} {found.version}")]),
        ("loads", [words("yes" if found.loads else "no", "" if found.loads else BEHIND)]),
        ("rank", [words("-" if found.rank is None else f"{found.rank} of {limit}")]),
        *(pair for reason in found.reasons for pair in _reason(reason)),
        *(("note", [words(note)]) for note in found.notes),
        ("would do", [[phrase(found.would_do)]]),
    ]
    return [(Span(found.reference, REFERENCE),), *fields(pairs, width)]


def _reason(reason: EngineReason) -> Iterator[tuple[str, list[list[Span]]]]:
    yield reason.code, [words(f"{reason.sentence} {reason.remedy}")]
    if reason.source:
        yield "", [words(reason.source, QUIET)]


def dense_lines(found: DenseStatistics, width: int | None) -> list[Line]:
    """A row for each weight, then what they are together, and what there is no change of."""
    rows = [_weight_row(one) for one in found.matrices]
    header = ("weight", "norm", "of base", "95 %", "m / |W + D|", "intruders", "")
    lines = table(rows, width, header=header, right=(1, 2, 3, 5)) if rows else []
    share = "" if found.relative_frobenius is None else f", {percent(found.relative_frobenius)} of the base"
    together = f"together: norm {found.frobenius:.4g}{share}, {counted(found.intruders, 'intruder dimension')}"
    lines += [(), (Span(together),)] if rows else []
    about = f"Intruders: of the first {found.vectors} left singular vectors, those below {found.threshold:g} by cosine."
    lines += [(Span(about, QUIET),)] if rows else []
    if found.missing:
        missing = [([phrase(name)], [words("the base model lacks it", QUIET)]) for name in found.missing]
        lines += [(), (Span("Not in these figures", "bold"),), *table(missing, width, indent=2)]
    return lines


def _weight_row(one: DenseMatrix) -> Row:
    name = one.module if one.expert is None else f"{one.module}[{one.expert}]"
    share = "-" if one.relative_frobenius is None else percent(one.relative_frobenius)
    ratios = ", ".join(f"{link.least:.3g} to {link.most:.3g}" for link in one.magnitudes) or "-"
    intruders = str(one.intruders) if one.cosines else "-"
    return [phrase(name), *map(Span, [f"{one.frobenius:.4g}", share, str(one.rank95), ratios, intruders])], []


def dense_csv(found: DenseStatistics) -> str:
    """A line for each weight; what is not known is empty."""
    return csv_of(found.rows(), DENSE_COLUMNS)


_BAR: Final = 24
_MOST: Final = 12  # rows of a list of groups


def statistics_lines(found: Statistics, width: int | None) -> list[Line]:
    """A row for each link and for the path; which rank would be enough; the energy by kind and by depth."""
    rows = [_row(phrase(link.reference, REFERENCE), link.delta) for link in found.links]
    rows.append(_row(Span("the path"), found.path))
    header = ("delta", "rank", "norm", "of base", "stable", "effective", "95 %", "")
    lines = table(rows, width, header=header, right=range(1, len(header) - 1))
    if found.path.energy:
        lines += [(), *_enough(found.path)]
    quantised = [one for one in found.links if one.delta.relative_quantisation is not None]
    if quantised:
        lines += [(), (Span("Quantised in training, |W - dequant(Q(W))| / |delta|", "bold"),)]
        lines += table([_quantised(one.reference, one.delta) for one in quantised], width, indent=2, right=(1,))
    for title, groups in (("By kind", found.path.kinds), ("By depth", found.path.depths)):
        if len(groups) > 1 and found.path.energy:
            lines += [(), (Span(title, "bold"),), *_groups(groups, width)]
    if found.path.others:
        changes = [([phrase(one.name)], [words(one.how, QUIET)]) for one in found.path.others]
        lines += [(), (Span("Not in these figures", "bold"),), *table(changes, width, indent=2)]
    if found.fidelity is not None:
        lines += [(), *estimate_lines(found.fidelity, width)]
    return lines


def _row(name: Span, delta: DeltaStatistics) -> Row:
    share = "-" if delta.relative_frobenius is None else percent(delta.relative_frobenius)
    figures = [str(delta.rank), f"{delta.frobenius:.4g}", share, f"{delta.stable_rank:.3g}"]
    return [name, *map(Span, [*figures, f"{delta.effective_rank:.3g}", str(delta.rank95)])], []


def _quantised(reference: str, delta: DeltaStatistics) -> Row:
    each = [one.relative_quantisation for one in delta.modules if one.relative_quantisation is not None]
    span = f"{min(each):.3g} to {max(each):.3g} in {counted(len(each), 'module')}"
    return [phrase(reference, REFERENCE), Span(f"{delta.relative_quantisation:.3g}")], [words(span, QUIET)]


def _enough(path: DeltaStatistics) -> list[Line]:
    """What the ranks mean for ``fetch --rank``."""
    told: dict[int, str] = {}
    for share in (90, 95, 99):
        rank = getattr(path, f"rank{share}")
        error = f"an error of {100 * math.sqrt(1 - share / 100):.0f} %"
        told[rank] = f"rank {rank} " + (
            f"holds {share} % of the energy: {error}" if rank < path.rank else "is all of it"
        )
    return [(Span(one, QUIET),) for one in told.values()]


def _groups(groups: Sequence[GroupStatistics], width: int | None) -> list[Line]:
    listed = sorted(groups, key=lambda group: -group.share)[:_MOST] if len(groups) > _MOST else groups
    most = max(group.share for group in groups)
    rows: list[Row] = [
        (
            [phrase(group.name), Span(counted(group.modules, "module")), Span(percent(group.share))],
            [[Span("#" * round(_BAR * group.share / most) if most else "", "cyan")]],
        )
        for group in listed
    ]
    lines = table(rows, width, right=(2,), indent=2)
    if len(groups) > len(listed):
        lines.append((Span(f"  and {len(groups) - len(listed)} more with less", QUIET),))
    return lines


def csv_text(found: Statistics) -> str:
    """A line for each module of each link and of the path; what is not known is empty."""
    return csv_of(found.rows(), COLUMNS)
