"""Answers of figures as people read them: statistics of deltas, and what differs between revisions and their deltas.

Described once: terminals lay the cells out, notebooks show them as tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from registry.figures import (
    BEHIND,
    GONE,
    NEW,
    QUIET,
    Cell,
    Span,
    counted,
    number,
    percent,
    phrase,
    quiet,
    ranked,
    reference,
    short_digest,
    size,
    words,
)
from registry.schemas.frames import Block, note
from registry.schemas.views import file_text, modules_text, value_text

if TYPE_CHECKING:
    from registry.schemas.difference import DeltaFigures, DeltaMatrix, Deltas, Difference, ValueDifference
    from registry.schemas.statistics import (
        DeltaStatistics,
        DenseMatrix,
        DenseStatistics,
        EstimatedFidelity,
        EstimatedFigure,
        GroupStatistics,
        PathFidelity,
        Statistics,
    )
    from registry.schemas.tree import LineageEntry

_MOST: Final = 12  # rows of a list of groups or pairs
_WIDEST: Final = 8  # columns of a matrix
_BAR: Final = 24
_NOT_IN: Final = "Not in these figures"
_Row = Sequence[Cell]


def statistics(found: Statistics) -> Iterator[Block]:
    """A row for each link and for the path; which rank would be enough; the energy by kind and by depth."""
    rows = [_delta(reference(link.reference), link.delta) for link in found.links]
    header = ("delta", "rank", "norm", "of base", "stable", "effective", "95 %", "")
    yield Block(None, [*rows, _delta(Span("the path"), found.path)], header, range(1, 7), indent=0)
    if found.path.energy:
        yield Block("", [(Span(one, QUIET), None) for one in _enough(found.path)], indent=0)
    quantised = [link for link in found.links if link.delta.relative_quantisation is not None]
    title = "Quantised in training, |W - dequant(Q(W))| / |delta|"
    yield Block(title, [_quantised(one.reference, one.delta) for one in quantised], right=(1,))
    for title, groups in (("By kind", found.path.kinds), ("By depth", found.path.depths)):
        if len(groups) > 1 and found.path.energy:
            yield from _groups(title, groups)
    yield Block(_NOT_IN, [(phrase(one.name), quiet(one.how)) for one in found.path.others])
    if found.fidelity is not None:
        yield from _estimate(found.fidelity)


def _delta(name: Span, one: DeltaStatistics) -> _Row:
    figures = f"{one.frobenius:.4g}", _share(one.relative_frobenius), f"{one.stable_rank:.3g}"
    return name, str(one.rank), *figures, f"{one.effective_rank:.3g}", str(one.rank95), None


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value)


def _quantised(name: str, delta: DeltaStatistics) -> _Row:
    each = [one.relative_quantisation for one in delta.modules if one.relative_quantisation is not None]
    span = f"{min(each):.3g} to {max(each):.3g} in {counted(len(each), 'module')}"
    return reference(name), f"{delta.relative_quantisation:.3g}", quiet(span)


def _enough(path: DeltaStatistics) -> Sequence[str]:
    """What the ranks mean for ``fetch --rank``."""
    told: dict[int, str] = {}
    for share in (90, 95, 99):
        rank = getattr(path, f"rank{share}")
        error = f"an error of {100 * math.sqrt(1 - share / 100):.0f} %"
        told[rank] = f"rank {rank} " + (
            f"holds {share} % of the energy: {error}" if rank < path.rank else "is all of it"
        )
    return [*told.values()]


def _groups(title: str, groups: Sequence[GroupStatistics]) -> Iterator[Block]:
    listed = sorted(groups, key=lambda group: -group.share)[:_MOST] if len(groups) > _MOST else groups
    most = max(group.share for group in groups)
    rows = [
        (
            phrase(group.name),
            counted(group.modules, "module"),
            percent(group.share),
            Span("#" * round(_BAR * group.share / most) if most else "", "cyan"),
        )
        for group in listed
    ]
    yield Block(title, rows, right=(2,))
    if len(groups) > len(listed):
        yield note(f"and {len(groups) - len(listed)} more with less")


def _estimate(found: PathFidelity) -> Iterator[Block]:
    """A row for each link and one for the path, each figure with half of its interval."""
    rows = [_estimated(reference(link.reference), link) for link in found.links]
    title = f"Fidelity in {found.dtype}, estimated from {size(found.read)} of the base model's rows"
    header = ("delta", "survives", "error", "unchanged", "")
    yield Block(title, [*rows, _estimated(Span("the path"), found)], header, range(1, 4))
    if found.left_out:
        yield note(f"left out: {len(found.left_out)} tensors whose values are replaced")


def _estimated(name: Span, found: EstimatedFidelity) -> _Row:
    return name, *map(_with_error, (found.surviving_share, found.relative_error, found.unchanged_share)), None


def _with_error(one: EstimatedFigure | None) -> str:
    half = 0.0 if one is None else (one.high - one.low) / 2
    return _share(None if one is None else one.value) + (f" +- {percent(half)}" if half else "")


def dense_statistics(found: DenseStatistics) -> Iterator[Block]:
    """A row for each weight, then what they are together, and what has no change."""
    if found.matrices:
        header = ("weight", "norm", "of base", "95 %", "m / |W + D|", "intruders", "")
        yield Block(None, [*map(_weight, found.matrices)], header, (1, 2, 3, 5), indent=0)
        share = "" if found.relative_frobenius is None else f", {percent(found.relative_frobenius)} of the base"
        intruders = counted(found.intruders, "intruder dimension")
        yield Block("", [(Span(f"together: norm {found.frobenius:.4g}{share}, {intruders}"), None)], indent=0)
        which = f"of the first {found.vectors} left singular vectors, those below {found.threshold:g} by cosine"
        yield note(f"Intruders: {which}.", indent=0)
    yield Block(_NOT_IN, [(phrase(name), quiet("the base model lacks it")) for name in found.missing])


def _weight(one: DenseMatrix) -> _Row:
    name = one.module if one.expert is None else f"{one.module}[{one.expert}]"
    ratios = ", ".join(f"{link.least:.3g} to {link.most:.3g}" for link in one.magnitudes) or "-"
    intruders = str(one.intruders) if one.cosines else "-"
    figures = f"{one.frobenius:.4g}", _share(one.relative_frobenius), str(one.rank95)
    return phrase(name), *figures, ratios, intruders, None


def deltas(found: Deltas, title: str | None = None) -> Iterator[Block]:
    """What is compared; the figures of all modules, of each kind and of each depth; what they leave out."""
    sides = (("a", found.a, found.frobenius_a), ("b", found.b, found.frobenius_b))
    rows = [(side, reference(f"{one.since}..{one.reference}"), f"norm {norm:.4g}", None) for side, one, norm in sides]
    yield Block(title, rows)
    yield _agreement("", [("all", found), *((group.name, group) for group in found.kinds)], found.undone_of)
    if len(found.depths) > 1:
        by_depth = [(group.name, group) for group in found.depths]
        if len(by_depth) > _MOST:
            by_depth = sorted(by_depth, key=lambda named: -abs(named[1].cosine or 0.0))[:_MOST]
        yield _agreement("layer", by_depth, found.undone_of)
        if len(found.depths) > _MOST:
            yield note(f"and {len(found.depths) - _MOST} more with cosines nearer to 0")
    changed = [(one.name, (("a", one.a), ("b", one.b))) for one in found.others]
    how = [(name, ", ".join(f"{side}: {how}" for side, how in each if how is not None)) for name, each in changed]
    yield Block(_NOT_IN, [(phrase(name), quiet(text)) for name, text in how])


def _agreement(title: str, groups: Sequence[tuple[str, DeltaFigures]], of: str) -> Block:
    rows = [
        (
            phrase(name),
            _cosine(one.cosine),
            _cosine(one.energy_ratio),
            *map(_share, (one.undone, one.row_overlap, one.column_overlap)),
            None,
        )
        for name, one in groups
    ]
    return Block("", rows, (title, "cosine", "energy", f"{of} undone", "inputs", "outputs", ""), range(1, 6))


def _cosine(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def delta_matrix(found: DeltaMatrix) -> Iterator[Block]:
    """The children with their norms, and the cosines of all pairs; of many children those furthest from 0."""
    count = len(found.children)
    square = range(count if count <= _WIDEST else 0)
    rows = [
        (
            str(at + 1),
            reference(child.reference),
            f"{child.frobenius:.4g}",
            *(_cosine(found.cosine[at][other], 2) for other in square),
            None,
        )
        for at, child in enumerate(found.children)
    ]
    header = ("", "child", "norm", *(str(other + 1) for other in square), "")
    yield Block(None, rows, header, (0, *range(2, len(header) - 1)), indent=0)
    pairs = sorted(
        ((value, i, j) for i in range(count) for j in range(i) if (value := found.cosine[i][j]) is not None),
        key=lambda pair: (-abs(pair[0]), pair[2], pair[1]),
    )
    if square and pairs:
        yield note("cosines: 1 is the same direction, 0 none in common, -1 the opposite one", indent=0)
    if not square:
        furthest = [
            (str(j + 1), str(i + 1), _cosine(value), _cosine(found.energy_ratio[i][j]), None)
            for value, i, j in pairs[:_MOST]
        ]
        yield Block("", furthest, ("a", "b", "cosine", "energy", ""), range(4))
        if len(pairs) > _MOST:
            yield note(f"and {len(pairs) - _MOST} more pairs with cosines nearer to 0")
    others = [
        (phrase(child.reference), phrase(one.name), quiet(one.how)) for child in found.children for one in child.others
    ]
    yield Block(_NOT_IN, others)


def difference(found: Difference) -> Iterator[Block]:
    """Section by section: ``-`` only the first has, ``+`` only the second, ``~`` both have; other base models first."""
    yield Block(None, [((reference(found.a.reference), "->", reference(found.b.reference)),)], indent=0)
    if found.identical:
        yield Block(None, [("nothing differs", None)], indent=0)
    else:
        yield Block("Other base models", [_one_sided(base, at) for at, base in enumerate(found.bases)])
        yield Block(None, [*map(_value, found.about)])
        yield Block("Configuration", [*map(_value, found.config)])
        yield Block("Targets", [_row(one.name, modules_text(one.a), modules_text(one.b)) for one in found.targets])
        metrics = ((one.name, one.a, one.b, one.difference) for one in found.metrics)
        yield Block("Metrics", [_row(name, _metric(a), _metric(b), _change(by)) for name, a, b, by in metrics])
        yield Block("Annotations", [*map(_value, found.annotations)])
        yield Block("Files", [_row(one.path, file_text(one.a), file_text(one.b)) for one in found.files])
        yield Block("Lineage", [*_lineage(found)])
    if found.deltas is not None:
        yield from deltas(found.deltas, "Deltas")


def _metric(value: float | None) -> str | None:
    return None if value is None else number(value)


def _change(value: float | None) -> str:
    return "" if value is None else f"({value:+.6g})"


def _row(name: str, a: str | None, b: str | None, more: str = "") -> _Row:
    """A name with its value on both sides, or on the one that has it."""
    if a is None:
        return Span("+", NEW), phrase(name), words(b, NEW)
    if b is None:
        return Span("-", GONE), phrase(name), words(a, GONE)
    return Span("~", BEHIND), phrase(name), (a, Span("->", QUIET), b, quiet(more))


def _value(one: ValueDifference) -> _Row:
    name = one.name.replace("_", " ") if one.name == "trained_on" else one.name
    if one.in_a and one.in_b and isinstance(one.a, list | tuple) and isinstance(one.b, list | tuple):
        return Span("~", BEHIND), phrase(name), _members(one.a, one.b)
    a = value_text(one.name, one.a) if one.in_a else None
    return _row(name, a, value_text(one.name, one.b) if one.in_b else None)


def _members(a: Sequence[object], b: Sequence[object]) -> list[Cell]:
    """What one list has and the other lacks."""
    gone = [words(f"- {value_text('', member)}", GONE) for member in a if member not in b]
    new = [words(f"+ {value_text('', member)}", NEW) for member in b if member not in a]
    return [*gone, *new] or [quiet("the same in another order")]


def _lineage(found: Difference) -> Iterator[_Row]:
    lineage = found.lineage
    if not lineage.a and not lineage.b:
        return
    if lineage.common is not None:
        yield "=", phrase(lineage.common.reference), quiet("the last in common")
    for at, links in enumerate((lineage.a, lineage.b)):
        yield from (_one_sided(link, at) for link in links)
    for pin in lineage.pinned:
        yield _row(f"pinned {pin.name}", *(f"@{str(ref).rpartition('@')[2]}" for ref in (pin.a, pin.b)))


def _one_sided(entry: LineageEntry, side: int) -> _Row:
    sign, style = ("-", GONE) if side == 0 else ("+", NEW)
    rank = "base model" if entry.rank is None else ranked(entry.rank)
    about: list[Cell] = [quiet(short_digest(entry.digest)), quiet(rank)]
    return Span(sign, style), phrase(entry.reference, style), about
