"""Heat maps and charts of answers, for notebooks, pages and files that the command line writes."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Final

from registry.figures import number
from registry.plots.charts import Axis, LineChart, Mark, Point
from registry.plots.heat_map import HeatMap, around_zero, from_zero

if TYPE_CHECKING:
    from registry.schemas.difference import DeltaMatrix, Deltas
    from registry.schemas.statistics import DeltaStatistics, Statistics

_ENDS: Final = (0.1, 0.2, 0.5, 1.0)  # of the scale of a heat map of cosines


def path_map(found: Statistics) -> HeatMap:
    """The norm of the path's delta by kind of module and depth, relative to the base where its norms are known."""
    return delta_map(f"{found.since}..{found.reference}: change by layer", found.path)


def delta_map(title: str, delta: DeltaStatistics) -> HeatMap:
    """The same of any delta."""
    modules = delta.modules
    relative = all(module.relative_frobenius is not None for module in modules)
    measured = "relative to the weight of the base" if relative else "in absolute terms"
    values = {
        (module.kind, _depth(module.depth)): (module.relative_frobenius if relative else None) or module.frobenius
        for module in modules
    }
    return HeatMap(
        title=title,
        about=f"The Frobenius norm of the delta of each module, {measured}, by kind of module and layer.",
        rows=sorted({module.kind for module in modules}),
        columns=[_depth(depth) for depth in sorted({module.depth for module in modules}, key=_order)],
        across="layer",
        unit="of the weight" if relative else "norm of the delta",
        values=values,
        scale=from_zero(values.values()),
        word=(lambda value: f"{100 * value:.3g} %") if relative else number,
    )


def energy_chart(title: str, delta: DeltaStatistics) -> LineChart:
    """The share of a delta's energy that lower ranks would have held, with its own rank."""
    marks = [Mark(getattr(delta, f"rank{share}"), f"{share} %") for share in (90, 95, 99)]
    shares = [(0, 0.0), *enumerate(delta.energy_by_rank, 1)]
    return LineChart(
        title=title,
        about=f"How much of the energy of the change a lower rank would have held; rank {delta.rank95} holds 95 %.",
        x=Axis("rank", low=0, whole=True),
        y=Axis("energy", word=lambda share: f"{share:.0%}", low=0, high=1),
        points=[Point(rank, share, f"rank {rank}: {share:.2%}") for rank, share in shares],
        marks=[*marks, Mark(delta.rank, "its rank", own=True)],
    )


def modules_map(found: Deltas) -> HeatMap:
    """The cosine of the two deltas by kind of module and depth."""
    values = {
        (module.kind, _depth(module.depth)): module.cosine for module in found.modules if module.cosine is not None
    }
    return HeatMap(
        title=f"{found.a.reference} and {found.b.reference}: agreement by layer",
        about="The cosine of the two deltas of each module, by kind of module and layer: 1 in the same direction, "
        f"-1 in opposite ones. Compared are {found.a.since}..{found.a.reference} and "
        f"{found.b.since}..{found.b.reference}.",
        rows=sorted({module.kind for module in found.modules}),
        columns=[_depth(depth) for depth in sorted({module.depth for module in found.modules}, key=_order)],
        across="layer",
        unit="cosine",
        values=values,
        scale=around_zero(values.values(), _ENDS),
        word=_cosine,
    )


def children_map(found: DeltaMatrix) -> HeatMap:
    """The cosine of the links of each pair of children."""
    names = [child.reference.removeprefix(f"{found.path}/") for child in found.children]
    rows = [f"{at} {name}" for at, name in enumerate(names, start=1)]
    columns = [str(at) for at in range(1, len(names) + 1)]
    values = {
        (rows[i], columns[j]): value
        for i, cosines in enumerate(found.cosine)
        for j, value in enumerate(cosines)
        if value is not None and i != j
    }
    return HeatMap(
        title=f"Children of {found.path}: agreement of their links",
        about="The cosine of what each two children learned: 1 in the same direction, -1 in opposite ones.",
        rows=rows,
        columns=columns,
        across="child",
        unit="cosine",
        values=values,
        scale=around_zero(values.values(), _ENDS),
        word=_cosine,
    )


def picture(heat_map: HeatMap) -> str:
    """A heat map as an image of its own: what styles it styles nothing else of the page."""
    if not heat_map.values:
        return ""
    data = base64.b64encode(heat_map.svg().encode()).decode("ascii")
    return f'<p><img alt="{escape(heat_map.about)}" src="data:image/svg+xml;base64,{data}"></p>'


def _cosine(value: float) -> str:
    return f"{value:.3g}"


def _order(depth: int | None) -> tuple[bool, int]:
    return depth is None, depth or 0


def _depth(depth: int | None) -> str:
    return "-" if depth is None else str(depth)
