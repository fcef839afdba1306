"""Renders lists, the tree, and the log of an adapter, with metrics in columns to be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from registry.cli.render.screen import (
    BEHIND,
    GAP,
    GONE,
    QUIET,
    REFERENCE,
    TAG,
    Line,
    Row,
    Span,
    flow,
    phrase,
    table,
    words,
)
from registry.figures import amount, clean, metrics, moment, number, ranked, size
from registry.schemas.frames import Column, Described, Item
from registry.schemas.parents import level_of

if TYPE_CHECKING:
    from registry.schemas import (
        BaseSummary,
        CopiedFrom,
        DeletedRevision,
        Log,
        Resolved,
        Retraction,
        RevisionSummary,
        SearchResult,
        Tree,
        TreeNode,
    )
    from registry.schemas.tree import CombinedOf


def tags_of(revision: RevisionSummary) -> list[list[Span]]:
    """Tags, each in brackets."""
    return [[phrase(f"[{tag}]", TAG)] for tag in revision.tags]


def remarks(revision: RevisionSummary, values: Mapping[str, float]) -> list[list[Span]]:
    """Remarks on a revision in a list: tags, retracted, behind, some metrics, the first line of its message."""
    items = tags_of(revision)
    if revision.retracted:
        items.append([Span("retracted", GONE)])
    if revision.behind:
        items.append([Span("behind", BEHIND)])
    items += _values(values)
    items.append(words(revision.message.strip().partition("\n")[0], QUIET))
    return items


def _values(values: Mapping[str, float]) -> list[list[Span]]:
    return [[Span(value)] for value in metrics(values)]


def copied(original: CopiedFrom) -> str:
    """Where a copy comes from, and who published it there."""
    return (
        f"from {original.reference} of {original.registry}, published there by {original.author} on "
        f"{moment(original.created_at)} UTC"
    )


def search_lines(found: SearchResult, width: int | None) -> list[Line]:
    """One line per revision."""
    rows = [
        ([Span(revision.reference, REFERENCE), Span(ranked(revision.rank)), Span(size(revision.size))], items)
        for revision in found.revisions
        for named in [[*_arrow(revision.renamed_to), *_values(revision.statistics)]]
        for known in [words(f"parent {level_of(revision.parent_known_by)}", QUIET)]
        for items in [[*named, known, *remarks(revision, revision.metrics)]]
    ]
    return table(rows, width, right=(1, 2))


def resolve_lines(resolved: Resolved, width: int | None) -> list[Line]:
    """The lineage, root first, with full digests."""
    rows = [([Span(entry.reference, REFERENCE)], [[Span(entry.digest)]]) for entry in resolved.lineage]
    return table(rows, width)


_STYLES: Final = {
    "": "", "reference": REFERENCE, "tag": TAG, "quiet": QUIET, "behind": BEHIND, "gone": GONE,
}  # fmt: skip


def listed_lines(
    described: Described[Item],
    items: Iterable[Item],
    width: int | None,
    *,
    header: bool = True,
    least: Sequence[int] = (),
) -> list[Line]:
    """A line for each item, as its answer is described; ``least`` are widths that the columns have at least."""
    fixed, _, rest = described.screen.partition("|")
    columns, after = described.chosen(fixed), described.chosen(rest)
    rows = [
        (
            [phrase(" ".join(column.texts(one)), _STYLES[column.style_of(one)]) for column in columns],
            [_item(column, text, one) for column in after for text in column.texts(one, said=True) if text],
        )
        for one in items
    ]
    heads = [head.strip() for head in described.heads.split("|")] if header else ()
    right = [place for place, column in enumerate(columns) if column.right]
    return table(rows, width, header=heads, right=right, least=least)


def _item(column: Column[Item], text: str, one: Item) -> list[Span]:
    style = _STYLES[column.style_of(one)]
    return [*words(column.before, QUIET), *(words(text, style) if column.free else [phrase(text, style)])]


def tree_lines(tree: Tree, bases: Mapping[str, BaseSummary], width: int | None, *, guides: bool) -> Iterator[Line]:
    """The lines of the ``tree`` command; without ``guides`` (in a pipe) by indentation only."""
    for root in tree.roots:
        yield from _branch(root, None, bases, width, _Guides("", "", on=guides))


class _Guides:
    """The guides left of a node: ``first`` before its name, ``rest`` before everything below it."""

    def __init__(self, first: str, rest: str, *, on: bool) -> None:
        self.first, self.rest, self.on = first, rest, on

    def child(self, *, last: bool) -> _Guides:
        if not self.on:
            return _Guides(self.rest + "  ", self.rest + "  ", on=False)
        return _Guides(self.rest + ("└── " if last else "├── "), self.rest + ("    " if last else "│   "), on=True)

    def under(self, *, more: bool) -> str:
        return self.rest + ("│   " if self.on and more else "    ")


def _branch(
    node: TreeNode, above: TreeNode | None, bases: Mapping[str, BaseSummary], width: int | None, guides: _Guides
) -> Iterator[Line]:
    # A subtree begins with its whole path, which shows its place in the tree.
    name = node.path if above is None else node.name
    about = _about_base(node, bases) if node.revision is None else _about_revision(node.revision, above)
    under = guides.under(more=bool(node.children))
    room = None if width is None else max(width - len(under), 1)
    first, *rest = flow([[phrase(name, REFERENCE)], *about], room)
    yield (Span(guides.first, QUIET), *first)
    for line in rest:
        yield (Span(under, QUIET), *line)
    for index, child in enumerate(node.children):
        yield from _branch(child, node, bases, width, guides.child(last=index == len(node.children) - 1))
    if node.more:
        yield (Span(guides.child(last=True).first, QUIET), Span("...", QUIET))


def _about_base(node: TreeNode, bases: Mapping[str, BaseSummary]) -> list[list[Span]]:
    base = bases.get(node.path)
    if base is None:
        return []
    about = _arrow(base.renamed_to)
    about += [[phrase(base.architecture)]] if base.architecture else []
    return [*about, [Span(f"{amount(base.parameters)} parameters", QUIET)], [Span(size(base.size), QUIET)]]


def _arrow(renamed_to: str | None) -> list[list[Span]]:
    """The new name behind an old one."""
    return [] if renamed_to is None else [[Span("->", QUIET), phrase(renamed_to, REFERENCE)]]


def _about_revision(revision: RevisionSummary, above: TreeNode | None) -> list[list[Span]]:
    about = [
        [Span(f"@{revision.number}")],
        *_arrow(revision.renamed_to),
        *tags_of(revision),
        [Span(ranked(revision.rank), QUIET)],
        [Span(size(revision.size), QUIET)],
        words(f"parent {level_of(revision.parent_known_by)}", QUIET),
    ]
    if revision.sources:
        about.append(words("sum of " + " + ".join(map(_weighed, revision.sources)), QUIET))
    if revision.retracted:
        about.append([*words(_why_retracted(revision, revision.retracted), GONE)])
    if revision.behind:
        about.append([*words(_why_behind(revision, above), BEHIND)])
    return about


def _weighed(source: CombinedOf) -> str:
    """A source of a combination by its last name, and its weight."""
    name = "one that is hidden" if source.reference is None else source.reference.rpartition("/")[2]
    return f"{source.weight:g} {name}"


def _why_retracted(revision: RevisionSummary, retraction: Retraction) -> str:
    if retraction.reference == revision.reference:
        return "retracted"
    return f"{retraction.reference.rpartition('/')[2]} is retracted"


def _why_behind(revision: RevisionSummary, above: TreeNode | None) -> str:
    pinned = revision.parent.rpartition("/")[2]
    if above is None or above.revision is None:
        return f"behind: pinned to {pinned}"
    if above.revision.reference != revision.parent:
        return f"behind: pinned to {pinned}, newest is @{above.revision.number}"
    return f"behind: {pinned} is behind"


_ABOUT: Final = ("PUBLISHED (UTC)", "RANK", "SIZE", "PARENT", "AUTHOR")
_NONE: Final = Span("-", QUIET)
_REMARKS: Final = 32  # columns that metrics leave to the remarks, where so many are left beside the other cells


@dataclass(frozen=True)
class _Columns:
    """What is in columns beside the number; the rest is among the remarks."""

    about: bool  # when it was published, rank, size, parent, author
    metrics: tuple[str, ...]

    @property
    def header(self) -> tuple[str, ...]:
        return ("REV", *(_ABOUT if self.about else ()), *map(clean, self.metrics))


def log_lines(log: Log, width: int | None) -> list[Line]:
    """Revisions of one adapter, newest first, and deleted ones; the parent is named by the last part of its path.

    Each metric that fits into the width has a column, the most frequent first. In a narrow terminal, metrics go before
    the other columns, because they are there to be compared.
    """
    columns = _fitting(log, width)
    numbered: list[tuple[int, Row]] = [(one.number, _row(one, columns)) for one in log.revisions]
    numbered += [(one.number, _deleted_row(one, columns)) for one in log.deleted]
    rows = [row for _, row in sorted(numbered, key=lambda pair: -pair[0])]
    header = columns.header
    right = {
        at for at, name in enumerate(header) if name in {"RANK", "SIZE"} or at >= len(header) - len(columns.metrics)
    }
    heads = (*header, "REMARKS") if len(header) > 1 else ()
    return [(Span(log.path, REFERENCE),), *table(rows, width, header=heads, right=right)]


def _fitting(log: Log, width: int | None) -> _Columns:
    """The columns that fit, the most frequent metrics first."""
    counts = Counter(name for one in log.revisions for name in one.metrics)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    if width is None:
        return _Columns(about=True, metrics=tuple(names))
    plain = _Columns(about=_width(log, _Columns(about=True, metrics=())) <= width, metrics=())
    room = width - _width(log, plain)
    if plain.about and room >= _REMARKS + GAP:
        room -= _REMARKS + GAP
    chosen: list[str] = []
    for name in names:
        room -= GAP + max(len(clean(name)), *(_metric(one, name).cells for one in log.revisions))
        if room < 0:
            break
        chosen.append(name)
    return _Columns(plain.about, tuple(chosen))


def _width(log: Log, columns: _Columns) -> int:
    """Of the aligned cells, on a terminal."""
    rows = [_row(one, columns)[0] for one in log.revisions] + [_deleted_row(one, columns)[0] for one in log.deleted]
    heads = [Span(word) for word in columns.header]
    widths: list[int] = [max(cell.cells for cell in column) for column in zip(heads, *rows, strict=True)]
    return sum(widths) + GAP * (len(widths) - 1)


def _row(revision: RevisionSummary, columns: _Columns) -> Row:
    first = Span(f"@{revision.number}", REFERENCE)
    about = [
        Span(moment(revision.created_at)),
        Span(str(revision.rank or "-")),
        Span(size(revision.size)),
        phrase(revision.parent.rpartition("/")[2]),
        phrase(revision.author),
    ]
    values = [_metric(revision, name) for name in columns.metrics]
    rest = {name: value for name, value in revision.metrics.items() if name not in columns.metrics}
    items = [
        words(f"parent {level_of(revision.parent_known_by)}", QUIET),
        *remarks(revision, rest),
        words(f"from {revision.source}" if revision.source else "", QUIET),
        words(copied(revision.copied_from) if revision.copied_from else "", QUIET),
    ]
    if columns.about:
        return [first, *about, *values], items
    return [first, *values], [*([cell] for cell in about), *items]


def _metric(revision: RevisionSummary, name: str) -> Span:
    return Span(number(revision.metrics[name])) if name in revision.metrics else _NONE


def _deleted_row(gone: DeletedRevision, columns: _Columns) -> Row:
    said = "deleted"
    if gone.deleted_at is not None:
        said += f" {moment(gone.deleted_at)}"
    if gone.deleted_by is not None:
        said += f" by {gone.deleted_by}"
    undo = "" if gone.until is None else f"can be restored until {moment(gone.until)}"
    items = [words(said, GONE), words(undo, QUIET), words((gone.message or "").strip().partition("\n")[0], QUIET)]
    empty: Sequence[Span] = [_NONE] * (len(columns.header) - 1)
    return [Span(f"@{gone.number}", REFERENCE), *empty], items
