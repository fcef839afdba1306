"""Answers about revisions as people read them: what lies around one, the nodes of a tree, a log with its metrics.

Described once: terminals lay the cells out, notebooks show them as tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from registry.figures import (
    BEHIND,
    GONE,
    QUIET,
    TAG,
    Cell,
    Span,
    amount,
    clean,
    counted,
    metrics,
    moment,
    number,
    numbers,
    percent,
    phrase,
    quiet,
    ranked,
    reference,
    short_digest,
    size,
    words,
)
from registry.schemas.frames import Block, Column, Described, Style, note, pairs
from registry.schemas.parents import in_short, level_of
from registry.schemas.tree import REVISIONS, copied
from registry.schemas.weights import as_read

if TYPE_CHECKING:
    from registry.schemas.artifacts import EngineAnswer, Extraction, FidelityFigures, Materialisation
    from registry.schemas.labels import CardState
    from registry.schemas.tags import Children, TagHistory, TagMove
    from registry.schemas.tree import (
        BaseSummary,
        CombinedOf,
        DeletedRevision,
        DerivedFrom,
        FileEntry,
        LineageEntry,
        Log,
        Resolved,
        RevisionSummary,
        SearchResult,
        Shown,
        Tree,
        TreeNode,
    )
    from registry.schemas.usage import RevisionUse, Use


def resolved(answer: Resolved) -> Iterator[Block]:
    """The lineage, root first, with full digests."""
    yield Block(None, [(reference(one.reference), one.digest) for one in answer.lineage], indent=0)


def matching(answer: SearchResult) -> Iterator[Block]:
    """A line for each revision."""
    yield REVISIONS.block(answer.revisions)


def _arrow(renamed_to: str | None) -> Cell:
    """The new name behind an old one."""
    return None if renamed_to is None else (quiet("->"), reference(renamed_to))


def tags_of(revision: RevisionSummary) -> list[Cell]:
    """Tags, each in brackets."""
    return [phrase(f"[{tag}]", TAG) for tag in revision.tags]


def nodes(tree: Tree) -> Iterator[Block]:
    """The nodes of a tree, each under its parent, as notebooks show them."""
    rows: list[Sequence[Cell]] = []

    def add(node: TreeNode, above: TreeNode | None) -> None:
        one = node.revision
        more = (None, None) if one is None else ([*metrics(one.metrics)], moment(one.created_at))
        rows.append((node.path, about_node(node, above, {}), *more))
        for child in node.children:
            add(child, node)

    for root in tree.roots:
        add(root, None)
    yield Block(None, rows, ("path", "newest", "metrics", "published (UTC)"), noun="node")


def about_node(node: TreeNode, above: TreeNode | None, bases: Mapping[str, BaseSummary]) -> list[Cell]:
    """What a tree says of a node after its name."""
    one = node.revision
    if one is None:
        base = bases.get(node.path)
        if base is None:
            return []
        about = [Span(f"{amount(base.parameters)} parameters", QUIET), Span(size(base.size), QUIET)]
        return [_arrow(base.renamed_to), phrase(base.architecture), *about]
    return [
        Span(f"@{one.number}"),
        _arrow(one.renamed_to),
        *tags_of(one),
        Span(ranked(one.rank), QUIET),
        Span(size(one.size), QUIET),
        quiet(f"parent {level_of(one.parent_known_by)}"),
        quiet("sum of " + " + ".join(map(_weighed, one.sources)) if one.sources else ""),
        words(_why_retracted(one), GONE),
        words(_why_behind(one, above), BEHIND),
    ]


def _weighed(source: CombinedOf) -> str:
    """A source of a combination by its last name, and its weight."""
    name = "one that is hidden" if source.reference is None else source.reference.rpartition("/")[2]
    return f"{source.weight:g} {name}"


def _why_retracted(one: RevisionSummary) -> str:
    if one.retracted is None or one.retracted.reference == one.reference:
        return "retracted" if one.retracted else ""
    return f"{one.retracted.reference.rpartition('/')[2]} is retracted"


def _why_behind(one: RevisionSummary, above: TreeNode | None) -> str:
    pinned = one.parent.rpartition("/")[2]
    if not one.behind:
        return ""
    if above is None or above.revision is None:
        return f"behind: pinned to {pinned}"
    if above.revision.reference != one.parent:
        return f"behind: pinned to {pinned}, newest is @{above.revision.number}"
    return f"behind: {pinned} is behind"


_ABOUT: Final = "created_at rank size parent_name author"
_HEADS: Final = "PUBLISHED (UTC)|RANK|SIZE|PARENT|AUTHOR"
_REMARKS: Final = 32  # columns that metrics leave to the remarks, where so many are left beside the other cells
_GAP: Final = 2


def measured(names: Sequence[str], *, about: bool = True) -> Described[RevisionSummary]:
    """The columns of a log, with one for each of these metrics; other metrics are among the remarks.

    Without ``about`` so is when a revision was published, its rank, size, parent and author.
    """
    own = [Column(f"metric{at}", clean(name), *_metric(name), right=True) for at, name in enumerate(names)]
    rest: Column[RevisionSummary] = Column(
        "metrics", cell=lambda one: metrics({name: one.metrics[name] for name in one.metrics.keys() - {*names}})
    )
    chosen = " ".join(one.name for one in own)
    columns, after = (f"{_ABOUT} {chosen}", "") if about else (chosen, _ABOUT)
    return replace(
        REVISIONS,
        columns=(*(one for one in REVISIONS.columns if one.name != "metrics"), rest, *own),
        screen=f"number {columns}|{after} known tags retracted behind metrics message source copied_from",
        heads="|".join(["REV", *([_HEADS] if about else []), *(one.label for one in own), "REMARKS"])
        if columns
        else "",
        table=f"reference created_at rank size parent author {chosen} known tags state message",
    )


def _metric(name: str) -> tuple[Callable[[RevisionSummary], str], Callable[[RevisionSummary], Style]]:
    """The cell of a metric, and its style."""
    return (
        lambda one: number(one.metrics[name]) if name in one.metrics else "-",
        lambda one: "" if name in one.metrics else "quiet",
    )


def log(answer: Log, width: int | None) -> Block:
    """Revisions of one adapter, newest first, and deleted ones; the parent is named by the last part of its path.

    Each metric that fits into the width has a column, the most frequent first. In a narrow terminal, metrics go before
    the other columns, because they serve to be compared.
    """
    counts = Counter(name for one in answer.revisions for name in one.metrics)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    if width is None:
        return _log(answer, names, about=True)
    about = _width(_log(answer, (), about=True)) <= width
    room = width - _width(_log(answer, (), about=about))
    if about and room >= _REMARKS + _GAP:
        room -= _REMARKS + _GAP
    chosen = 0
    for name in names:
        cell, _ = _metric(name)
        room -= _GAP + max(len(clean(name)), *(len(cell(one)) for one in answer.revisions))
        if room < 0:
            break
        chosen += 1
    return _log(answer, names[:chosen], about=about)


def _log(answer: Log, names: Sequence[str], *, about: bool) -> Block:
    block = measured(names, about=about).block(answer.revisions)
    empty = [Span("-", QUIET)] * (len(names) + (len(_ABOUT.split()) if about else 0))
    numbered = [(one.number, row) for one, row in zip(answer.revisions, block.rows, strict=True)]
    numbered += [(one.number, (reference(f"@{one.number}"), *empty, _deleted(one))) for one in answer.deleted]
    rows = [row for _, row in sorted(numbered, key=lambda pair: -pair[0])]
    return replace(block, title=answer.path, rows=rows)


def _width(block: Block) -> int:
    """Of the aligned cells, on a terminal."""
    heads = [Span(word) for word in block.header[:-1]] or [Span("REV")]
    rows = [[cell for cell in row[:-1] if isinstance(cell, Span)] for row in block.rows]
    widths: list[int] = [max(cell.cells for cell in column) for column in zip(heads, *rows, strict=True)]
    return sum(widths) + _GAP * (len(widths) - 1)


def _deleted(gone: DeletedRevision) -> list[Cell]:
    said = "deleted"
    if gone.deleted_at is not None:
        said += f" {moment(gone.deleted_at)}"
    if gone.deleted_by is not None:
        said += f" by {gone.deleted_by}"
    undo = "" if gone.until is None else f"can be restored until {moment(gone.until)}"
    return [words(said, GONE), quiet(undo), quiet((gone.message or "").strip().partition("\n")[0])]


NO_USE: Final = "no use recorded"
_LABELS: Final = {"fetch": "fetch", "hub": "Hub", "vllm": "vLLM"}


def used(use: Use | None) -> Cell:
    """How often, by how many tokens, through what and when last; nothing if it is not known."""
    if use is None or use.last_used_at is None:
        return None if use is None else quiet(NO_USE)
    through = ", ".join(f"{_LABELS.get(name, name)} {count}" for name, count in use.by_interface.items())
    by = (f"by {counted(use.tokens, 'token')}", f"({through})") if use.uses else ("", "")
    return [_often(use), by[0], quiet(by[1]), Span(f"last {moment(use.last_used_at)} UTC")]


def used_references(references: Iterable[str], uses: Sequence[RevisionUse]) -> list[Cell]:
    """References, each followed by its use if it was used."""
    by_reference = {one.reference: one for one in uses}
    return [(reference(one), _used(by_reference.get(one))) for one in references]


def _used(use: Use | None) -> Cell:
    if use is None or use.last_used_at is None:
        return None
    return quiet(f"(used {_often(use)}, last {moment(use.last_used_at).partition(' ')[0]})")


def _often(use: Use) -> str:
    return f"{counted(use.uses, 'time')} in 30 days" if use.uses else "not in 30 days"


def shown(answer: Shown) -> Iterator[Block]:
    """Everything about a revision or a base model."""
    if answer.revision is None:
        yield pairs(answer.base.name, _about_base(answer, answer.base))
    else:
        yield pairs(answer.revision.reference, _about_revision(answer, answer.revision))
        yield Block("Lineage", [_link(answer, entry) for entry in answer.lineage])
        targets = [
            (
                phrase(one.name),
                counted(one.modules, "module"),
                [(Span("rank"), Span(", ".join(map(str, one.ranks)))), quiet(f"scaling {numbers(one.scalings)}")],
            )
            for one in answer.targets
        ]
        yield Block("Targets", targets, right=(1,))
    yield from _trained_on(answer.children)
    yield Block("Tags", [*_tag_moves(answer.tag_history)])
    yield Block("Materialisations", [*map(_materialisation, answer.materialisations)], right=(1,))
    yield files(answer.files)


def _about_revision(answer: Shown, one: RevisionSummary) -> Iterator[tuple[str, Cell]]:
    quantised = answer.trained_quantised
    yield "renamed to", reference(one.renamed_to)
    if why := one.retracted:
        when = f"{moment(why.at)} UTC by {why.actor}"
        yield "retracted", words(f"{why.reference}: {why.reason} ({when}); its weights are not available", GONE)
    yield "behind", words(_behind(answer.lineage), BEHIND) if one.behind else None
    yield from _one_a_line("message", one.message.splitlines())
    yield "tags", tags_of(one)
    yield "metrics", [Span(metric) for metric in metrics(one.metrics)]
    yield from _one_a_line("annotations", [f"{name}={text}" for name, text in sorted(one.annotations.items())])
    yield "published", f"{moment(one.created_at)} UTC by {one.author}"
    yield "copied", copied(one)
    yield "trained on", one.trained_on
    yield "parent", [phrase(one.parent), in_short(one.parent_known_by)]
    yield "sum of", [source_of(source) for source in one.sources]
    yield "rank", str(one.rank) if one.rank else ranked(0)
    yield "extracted", extracted(answer.extracted)
    yield "quantised", f"while it was trained: {quantised.words}" if quantised else None
    share = f"({percent(answer.share_of_model)} of the model)"
    yield "size", f"{size(one.size)}, {amount(one.parameters)} parameters {share}"
    yield "statistics", _statistics(one)
    yield "engines", [_engine(engine) for engine in answer.engines]
    yield "used", used(answer.use)
    yield "repo id", _repo(answer)
    yield "card", _card(answer.card)
    yield "source", phrase(one.source)
    yield "derived from", derived(one.derived_from)
    yield "digest", Span(one.digest)
    yield from (("notice", words(str(notice), BEHIND)) for notice in answer.notices)


def _about_base(answer: Shown, one: BaseSummary) -> Iterator[tuple[str, Cell]]:
    yield "renamed to", reference(one.renamed_to)
    yield "architecture", one.architecture or "not known"
    yield "size", base_size(one)
    yield "adapters", str(one.adapters)
    yield "added", f"{moment(one.created_at)} UTC"
    yield "repo id", _repo(answer)
    yield "also known as", [phrase(repo_id) for repo_id in one.also_known_as]
    yield "source", phrase(one.source)
    yield "derived from", derived(one.derived_from)
    yield "digest", Span(one.digest)
    yield "table", [Span(one.table_digest), quiet(f"from {one.table_source}")]
    yield from (("notice", words(notice, BEHIND)) for notice in one.notices)


def base_size(one: BaseSummary) -> str:
    """The size of a base model."""
    return f"{size(one.size)}, {amount(one.parameters)} parameters in {counted(one.tensors, 'tensor')}"


def _one_a_line(name: str, texts: Sequence[str]) -> list[tuple[str, Cell]]:
    return [("" if index else name, text) for index, text in enumerate(texts)]


def source_of(source: CombinedOf) -> Cell:
    """A source of a combination, and its weight."""
    if source.reference is None:
        return f"{source.weight:g} x a revision that this token may not see"
    return Span(f"{source.weight:g} x"), reference(source.reference)


def _engine(answer: EngineAnswer) -> Cell:
    title = f"{answer.engine} {answer.version}"
    reasons = ", ".join(dict.fromkeys(answer.reasons))
    return f"{title} yes" if answer.loads else words(f"{title} no ({reasons})", BEHIND)


def _statistics(one: RevisionSummary) -> Cell:
    """How much its delta changes the base, and how much of its rank that needs; nothing if that is not stored."""
    kept = one.statistics
    if not kept or not kept["energy"]:
        return "no delta of factors" if kept else None
    of_base = "relative_frobenius" in kept
    found = [
        f"{percent(kept['relative_frobenius'])} of the base" if of_base else f"norm {kept['frobenius']:.4g}",
        f"effective rank {kept['effective_rank']:.3g}",
        f"rank95 {kept['rank95']:.0f} of {one.rank}",
    ]
    if "relative_quantisation" in kept:
        found.append(f"quantising the weights in training moved them {kept['relative_quantisation']:.3g} x as far")
    return [*(f"{text}," for text in found[:-1]), found[-1]]


def _card(card: CardState | None) -> str:
    if card is None or card.edited_at is None:
        return "" if card is None else f"README.md of {card.reference}"
    return f"edited {moment(card.edited_at)} UTC by {card.edited_by}"


def _behind(lineage: Sequence[LineageEntry]) -> str:
    """Which ancestors have newer revisions than the pinned ones."""
    old = [entry for entry in lineage[:-1] if entry.number is not None and entry.newest not in {None, entry.number}]
    return (
        "; ".join(f"pinned to {entry.reference}, newest is @{entry.newest}" for entry in old) or "an ancestor is newer"
    )


def _link(answer: Shown, entry: LineageEntry) -> Sequence[Cell]:
    rank = quiet("base model" if entry.number is None else ranked(entry.rank or 0))
    newer = entry.number is not None and entry.newest not in {None, entry.number}
    style = BEHIND if entry is not answer.lineage[-1] else QUIET
    newest = words(f"newest is @{entry.newest}" if newer else "", style)
    return phrase(entry.reference), Span(short_digest(entry.digest), QUIET), [rank, newest]


def _repo(answer: Shown) -> Cell:
    """The repo id in the Hub views, and their names of this revision."""
    names = ", ".join(answer.repo_revisions)
    return [phrase(answer.repo_id), quiet(f"revision {names}" if names else "")]


def _trained_on(children: Children | None) -> Iterator[Block]:
    """A line for each adapter that was trained on it, and how many are not listed."""
    if children is not None:
        rows: list[Sequence[Cell]] = [
            (reference(one.path), [counted(one.revisions, "revision"), quiet(f"newest {_at(one.newest)}")])
            for one in children.adapters
        ]
        yield Block("Trained on it", rows)
        if more := children.total - len(children.adapters):
            yield note(f"and {counted(more, 'more adapter')}")


def _tag_moves(histories: Sequence[TagHistory]) -> Iterator[Sequence[Cell]]:
    """A row for each move of a tag, newest first, below the tag; or what it points at."""
    for history in histories:
        for index, move in enumerate(history.moves):
            tag = phrase("" if index else history.tag, TAG)
            yield tag, Span(moment(move.at), QUIET), [_tag_move(move), quiet(f"by {move.actor}")]
        if not history.moves:
            yield phrase(history.tag, TAG), None, f"points at {history.points_at}"


def _tag_move(move: TagMove) -> str:
    if move.new is None:
        return f"removed from {_at(move.old)}"
    if move.old is None:
        return f"set to {_at(move.new)}"
    return f"moved from {_at(move.old)} to {_at(move.new)}"


def _at(reference: str | None) -> str:
    """``@3`` of ``PATH@3``: all are of one adapter."""
    return "" if reference is None else f"@{reference.rpartition('@')[2]}"


def _materialisation(one: Materialisation) -> Sequence[Cell]:
    near = quiet(figures(one.fidelity)) if one.fidelity is not None else None
    return one.id, size(one.size), [f"as {one.kind}", quiet(f"until {moment(one.expires_at)} UTC"), near]


def files(entries: Sequence[FileEntry]) -> Block:
    """A row for each file."""
    rows = [(size(one.size), Span(short_digest(one.digest), QUIET), one.path) for one in entries]
    return Block("Files", rows, right=(0,))


def figures(found: FidelityFigures) -> str:
    """What rounding leaves of a change, in words."""
    if found.relative_error is None or found.unchanged_share is None or found.surviving_share is None:
        return "no change"
    return (
        f"{percent(found.surviving_share)} of the change survives, error {percent(found.relative_error)}, "
        f"{percent(found.unchanged_share)} of the elements unchanged"
    )


def derived(told: DerivedFrom | None) -> str:
    """What the receipt beside the weights says; without a name if that revision is hidden, or not in this registry."""
    if told is None:
        return ""
    from registry.schemas.artifacts import KINDS

    parts = [
        told.reference or "a revision that is not visible here",
        f"after {told.since}" if told.since else None,
        f"with the weights {', '.join(map(as_read, told.weights))}" if told.weights else None,
        KINDS[told.kind].label if told.rank is None else None,
        told.dtype,
        f"rank {told.rank}" if told.rank is not None else None,
        f"error {100 * told.error:.3g} %" if told.error is not None else None,
    ]
    return ", ".join(filter(None, parts))


def extracted(report: Extraction | None) -> list[Cell]:
    """How an adapter was made of a full model: how near it is, where it is farthest, and what it keeps whole."""
    if report is None:
        return []
    lines: list[Cell] = [f"from a full model: error {100 * report.error:.3g} % of what it changed,"]
    if report.modules:
        worst = max(report.modules, key=lambda one: one.error)
        lines.append(f"{counted(len(report.modules), 'pair')},")
        lines.append(f"at most {100 * worst.error:.3g} % ({worst.module})")
    if report.values:
        lines.append(quiet(f"and {counted(len(report.values), 'value')} kept whole"))
    return lines
