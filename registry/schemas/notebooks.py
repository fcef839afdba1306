"""Answers as notebooks show them: tables of HTML, and heat maps, which the command line writes too.

Everything that people wrote is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Final

from registry.figures import age, amount, clean, counted, metrics, moment, number, ranked, size
from registry.plots.charts import Axis, LineChart, Mark, Point
from registry.plots.heat_map import HeatMap, around_zero, from_zero
from registry.schemas.frames import html_table
from registry.schemas.parents import in_short
from registry.schemas.views import modules_text, nothing_compared, nothing_paired, remarks, value_text

if TYPE_CHECKING:
    from registry.schemas.difference import DeltaFigures, DeltaMatrix, Deltas, Difference
    from registry.schemas.statistics import DeltaStatistics, Statistics
    from registry.schemas.tree import RevisionSummary, Shown, Tree, TreeNode

_ENDS: Final = (0.1, 0.2, 0.5, 1.0)  # of the scale of a heat map of cosines


def tree_table(tree: Tree) -> str:
    """The nodes of a tree, each under its parent."""
    now = datetime.now(UTC)
    header = ("path", "revision", "tags", "metrics", "rank", "published")
    return _table(header, [_node(one, now) for one in _nodes(tree.roots)], "node")


def _nodes(nodes: Iterable[TreeNode]) -> Iterator[TreeNode]:
    for one in nodes:
        yield one
        yield from _nodes(one.children)


def _node(one: TreeNode, now: datetime) -> list[str]:
    if one.revision is None:
        return [one.path, "", "", "", "", ""]
    revision = one.revision
    told = ", ".join([f"@{revision.number}", *remarks(revision)])
    return [one.path, told, _tags(revision), ", ".join(metrics(revision.metrics)), str(revision.rank),
            _ago(revision, now)]  # fmt: skip


def revisions_table(revisions: Sequence[RevisionSummary], notices: Sequence[str] = ()) -> str:
    """Revisions in the order given, with a column for each metric that any of them has; then the notices."""
    now = datetime.now(UTC)
    names = sorted({name for one in revisions for name in one.metrics})
    header = ("revision", "published", "author", "parent", "rank", "size", "tags", *names, "message")
    return _table(header, [_revision(one, names, now) for one in revisions], "revision") + _told(notices)


def _revision(one: RevisionSummary, names: Sequence[str], now: datetime) -> list[str]:
    values = [number(one.metrics[name]) if name in one.metrics else "" for name in names]
    told = ", ".join([one.reference, *remarks(one)])
    message = one.message.strip().partition("\n")[0]
    return [told, _ago(one, now), one.author, one.parent, str(one.rank), size(one.size), _tags(one), *values, message]


def _tags(one: RevisionSummary) -> str:
    return ", ".join(one.tags)


def _detail(detail: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in detail.items())


def shown_table(shown: Shown) -> str:
    """What matters most of a revision or a base model, a row each, and its lineage."""
    revision, base = shown.revision, shown.base
    if revision is None:
        rows = [
            ("base model", base.name),
            ("renamed to", base.renamed_to or ""),
            ("architecture", base.architecture or "not known"),
            ("size", f"{size(base.size)}, {amount(base.parameters)} parameters in {counted(base.tensors, 'tensor')}"),
            ("adapters", str(base.adapters)),
            ("source", base.source or ""),
        ]
    else:
        rows = [
            ("revision", ", ".join([revision.reference, *remarks(revision)])),
            ("renamed to", revision.renamed_to or ""),
            ("retracted", revision.retracted.reason if revision.retracted else ""),
            ("message", revision.message),
            ("tags", _tags(revision)),
            ("metrics", ", ".join(metrics(revision.metrics))),
            ("annotations", _detail(revision.annotations)),
            ("published", f"{moment(revision.created_at)} UTC by {revision.author}"),
            ("trained on", revision.trained_on or ""),
            ("parent", f"{revision.parent}, {in_short(revision.parent_known_by)}"),
            ("sum of", ", ".join(f"{one.weight:g} x {one.reference or 'hidden'}" for one in revision.sources)),
            ("rank", ranked(revision.rank)),
            ("size", f"{size(revision.size)}, {amount(revision.parameters)} parameters"),
            ("targets", ", ".join(f"{one.name} ({modules_text(one)})" for one in shown.targets)),
            ("lineage", ", ".join(entry.reference for entry in shown.lineage)),
            ("source", revision.source or ""),
        ]
    rows += [("repo id", shown.repo_id), ("digest", revision.digest if revision else base.digest)]
    rows += [("notice", str(notice)) for notice in shown.notices]
    return _table((), [row for row in rows if row[1]], "row")


def difference_table(found: Difference) -> str:
    """What differs between two revisions, a row each, and their deltas where they were asked for."""
    header = ("what", "name", found.a.reference, found.b.reference)
    rows = [[str(row["section"]), str(row["name"]), *(_side(row, side) for side in "ab")] for row in found.rows()]
    told = _table(header, rows, "difference") if rows else "<p>nothing differs</p>"
    return told if found.deltas is None else told + deltas_table(found.deltas)


def _side(row: Mapping[str, object], side: str) -> str:
    return "" if row[side] is None else value_text(str(row["name"]), row[side])


def statistics_table(found: Statistics) -> str:
    """The figures of each link and of the path, and where the path changes most."""
    header = ("delta", "rank", "norm", "of the base", "stable rank", "effective rank", "90 %", "95 %", "99 %")
    rows = [(link.reference, link.delta) for link in found.links]
    rows.append((f"{found.since}..{found.reference}", found.path))
    return _table(header, [[name, *_figures(delta)] for name, delta in rows], "delta") + _picture(path_map(found))


def _figures(delta: DeltaStatistics) -> list[str]:
    share = "" if delta.relative_frobenius is None else f"{100 * delta.relative_frobenius:.3g} %"
    ranks = (str(rank) for rank in (delta.rank90, delta.rank95, delta.rank99))
    return [str(delta.rank), f"{delta.frobenius:.4g}", share, f"{delta.stable_rank:.3g}",
            f"{delta.effective_rank:.3g}", *ranks]  # fmt: skip


def deltas_table(found: Deltas) -> str:
    """The figures of two deltas: all of them together, then by kind of module."""
    names = [f"{side.since}..{side.reference}" for side in (found.a, found.b)]
    header = ("modules", *names, "cosine", "energy ratio", "undone", "row overlap", "column overlap")
    rows = [["all", *_pair(found)], *([group.name, *_pair(group)] for group in found.kinds)]
    return _table(header, rows, "kind") + _told(nothing_compared(found)) + _picture(modules_map(found))


def _pair(one: DeltaFigures) -> list[str]:
    shares = (one.cosine, one.energy_ratio, one.undone, one.row_overlap, one.column_overlap)
    return [f"{one.frobenius_a:.4g}", f"{one.frobenius_b:.4g}", *map(_share, shares)]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def delta_matrix_table(found: DeltaMatrix) -> str:
    """The cosines of all pairs of children."""
    names = [child.reference.removeprefix(f"{found.path}/") for child in found.children]
    rows = [[name, *map(_share, row)] for name, row in zip(names, found.cosine, strict=True)]
    return _table(("cosine", *names), rows, "child") + _told(nothing_paired(found)) + _picture(children_map(found))


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


def _told(sentences: Iterable[str]) -> str:
    return "".join(f"<p>{escape(clean(sentence))}</p>" for sentence in sentences)


def _picture(heat_map: HeatMap) -> str:
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


def _ago(one: RevisionSummary, now: datetime) -> str:
    passed = age(one.created_at, now)
    return passed if passed == "just now" else f"{passed} ago"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], what: str) -> str:
    return html_table(header, rows, what, len(rows))
