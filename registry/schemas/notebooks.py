"""Trees, lists and statistics as tables of HTML, which notebooks show. Everything that people wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Final

from registry.figures import age, clean, counted, metrics, number, size
from registry.schemas.views import remarks

if TYPE_CHECKING:
    from registry.schemas.difference import DeltaFigures, DeltaMatrix, Deltas
    from registry.schemas.statistics import DeltaStatistics, Statistics
    from registry.schemas.tree import RevisionSummary, Tree, TreeNode

_MOST: Final = 500  # rows: a notebook keeps what it shows


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


def revisions_table(revisions: Sequence[RevisionSummary]) -> str:
    """Revisions in the order given, with a column for each metric that any of them has."""
    now = datetime.now(UTC)
    names = sorted({name for one in revisions for name in one.metrics})
    header = ("revision", "published", "author", "parent", "rank", "size", "tags", *names, "message")
    return _table(header, [_revision(one, names, now) for one in revisions], "revision")


def _revision(one: RevisionSummary, names: Sequence[str], now: datetime) -> list[str]:
    values = [number(one.metrics[name]) if name in one.metrics else "" for name in names]
    told = ", ".join([one.reference, *remarks(one)])
    message = one.message.strip().partition("\n")[0]
    return [told, _ago(one, now), one.author, one.parent, str(one.rank), size(one.size), _tags(one), *values, message]


def _tags(one: RevisionSummary) -> str:
    return ", ".join(one.tags)


def statistics_table(found: Statistics) -> str:
    """The figures of each link and of the path."""
    header = ("delta", "rank", "norm", "of the base", "stable rank", "effective rank", "90 %", "95 %", "99 %")
    rows = [(link.reference, link.delta) for link in found.links]
    rows.append((f"{found.since}..{found.reference}", found.path))
    return _table(header, [[name, *_figures(delta)] for name, delta in rows], "delta")


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
    return _table(header, rows, "kind")


def _pair(one: DeltaFigures) -> list[str]:
    shares = (one.cosine, one.energy_ratio, one.undone, one.row_overlap, one.column_overlap)
    return [f"{one.frobenius_a:.4g}", f"{one.frobenius_b:.4g}", *map(_share, shares)]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def delta_matrix_table(found: DeltaMatrix) -> str:
    """The cosines of all pairs of children."""
    names = [child.reference.removeprefix(f"{found.path}/") for child in found.children]
    rows = [[name, *map(_share, row)] for name, row in zip(names, found.cosine, strict=True)]
    return _table(("cosine", *names), rows, "child")


def _ago(one: RevisionSummary, now: datetime) -> str:
    passed = age(one.created_at, now)
    return passed if passed == "just now" else f"{passed} ago"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], what: str) -> str:
    shown = [_row("td", row) for row in rows[:_MOST]]
    more = len(rows) - _MOST
    rest = f"<p>and {counted(more, f'more {what}', f'more {what}s')}</p>" if more > 0 else ""
    return f"<table><thead>{_row('th', header)}</thead><tbody>{''.join(shown)}</tbody></table>{rest}"


def _row(cell: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{escape(clean(text))}</{cell}>' for text in texts)}</tr>"
