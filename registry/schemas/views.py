"""What the answers that people meet most say of themselves in Python: a line each, and trees and lists as text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from registry.figures import amount, clean, counted, metrics, number, ranked, short_digest, size

if TYPE_CHECKING:
    from registry.schemas.artifacts import Fetched
    from registry.schemas.difference import DeltaMatrix, Deltas
    from registry.schemas.labels import Exported
    from registry.schemas.publishing import Combined, Rebased
    from registry.schemas.statistics import DenseStatistics, Statistics
    from registry.schemas.tree import (
        BaseAdded,
        BaseSummary,
        FileEntry,
        LineageEntry,
        Log,
        Published,
        Resolved,
        RevisionSummary,
        SearchResult,
        Shown,
        TargetGroup,
        Tree,
        TreeNode,
    )

_NAMED: Final = 3  # revisions that a line names before it only counts them


def revision(one: RevisionSummary) -> str:
    """What is said of a revision alone."""
    return f"<RevisionSummary {_about(one, one.reference)}, on {one.parent}>"


def _about(one: RevisionSummary, name: str) -> str:
    """A revision's name, tags, rank, metrics, and what is wrong with it."""
    head = f"{name} [{', '.join(one.tags)}]" if one.tags else name
    return ", ".join([head, ranked(one.rank), *metrics(one.metrics), *remarks(one)])


def remarks(one: RevisionSummary) -> list[str]:
    """What whoever wants to use a revision should know of it first."""
    return [word for word, holds in (("behind", one.behind), ("retracted", one.retracted)) if holds]


def base(one: BaseSummary) -> str:
    """What is said of a base model."""
    return f"<BaseSummary {_about_base(one)}, {counted(one.adapters, 'adapter')}>"


def _about_base(one: BaseSummary) -> str:
    kind = one.architecture or "architecture not known"
    return f"{one.name}: {clean(kind)}, {amount(one.parameters)} parameters, {size(one.size)}"


def base_added(one: BaseAdded) -> str:
    """What adding a base model did."""
    return f"<BaseAdded {_about_base(one.base)}, {_new(created=one.created)}, {size(one.bytes_stored)} stored>"


def published(one: Published) -> str:
    """What publishing did."""
    new, parent = _new(created=one.created), one.revision.parent
    return f"<Published {one.revision.reference}: {new}, on {parent}, {size(one.bytes_stored)} stored>"


def _new(*, created: bool) -> str:
    return "new" if created else "was there already"


def node(one: TreeNode) -> str:
    """What is said of a part of a tree."""
    return f"<TreeNode {one.path}: {counted(_adapters(one.children), 'adapter')} below>"


def tree(one: Tree) -> str:
    """What is shown of a tree. Its roots are base models, or the requested adapter."""
    bases = sum(root.revision is None for root in one.roots)
    adapters = counted(_adapters(one.roots), "adapter")
    return f"<Tree: {counted(bases, 'base model')}, {adapters}>" if bases else f"<Tree: {adapters}>"


def _adapters(nodes: Iterable[TreeNode]) -> int:
    return sum((one.revision is not None) + _adapters(one.children) for one in nodes)


def indented(roots: Iterable[TreeNode]) -> str:
    """A tree as lines, what lies under a node below it."""
    return "\n".join(_lines(roots, ""))


def _lines(nodes: Iterable[TreeNode], indent: str) -> Iterator[str]:
    for one in nodes:
        name = one.name if indent else one.path
        words = name if one.revision is None else _about(one.revision, f"{name}@{one.revision.number}")
        yield indent + words
        yield from _lines(one.children, f"{indent}  ")


def log(one: Log) -> str:
    """What is said of a log."""
    newest = f", newest @{one.revisions[0].number}" if one.revisions else ""
    return f"<Log of {one.path}: {counted(len(one.revisions), 'revision')}{newest}>"


def found(one: SearchResult) -> str:
    """What is said of what a search found."""
    names = [revision.reference for revision in one.revisions[:_NAMED]]
    more = ["..."] if len(one.revisions) > _NAMED else []
    told = "".join(f"; {notice}" for notice in one.notices) if not one.revisions else ""
    return f"<SearchResult: {', '.join([counted(len(one.revisions), 'revision'), *names, *more])}{told}>"


def listed(revisions: Iterable[RevisionSummary]) -> str:
    """Revisions, a line each."""
    return "\n".join(_about(one, one.reference) for one in revisions)


def shown(one: Shown) -> str:
    """What is said of everything about a revision."""
    about = _about_base(one.base) if one.revision is None else _about(one.revision, one.revision.reference)
    return f"<Shown {about}, {counted(len(one.files), 'file')}, lineage {_path(one.lineage)}>"


def resolved(one: Resolved) -> str:
    """What a reference resolved to."""
    return f"<Resolved {one.reference}: lineage {_path(one.lineage)}>"


def _path(lineage: Sequence[LineageEntry]) -> str:
    return " > ".join(entry.reference for entry in lineage)


def fetched(one: Fetched) -> str:
    """What was fetched, and where it is."""
    files, total = counted(len(one.files), "file"), size(sum(file.size for file in one.files))
    there = "" if one.fresh else ", was there already"
    return f"<Fetched {one.reference} as {one.kind}: {files}, {total}, in {one.folder}{there}>"


def exported(one: Exported) -> str:
    """What was exported, and where it is."""
    files, total = counted(len(one.files), "file"), size(sum(file.size or 0 for file in one.files))
    state = " (dry run)" if one.dry_run else "" if one.created else ", was there already"
    return f"<Exported {one.reference} as {one.kind}: {files}, {total}, to {one.target}{state}>"


def artifact(kind: str, files: int, total: int, rendering: str) -> str:
    """What is said of an artifact that is open, of ``total`` bytes."""
    return f"<{kind} artifact: {counted(files, 'file')}, {size(total)}, rendering {short_digest(rendering)}>"


def artifact_file(path: str, total: int) -> str:
    """What is said of a file of an artifact, of ``total`` bytes."""
    return f"<artifact file {path}: {size(total)}>"


def statistics(one: Statistics) -> str:
    """The size of a path's delta, and the rank that would be enough."""
    links = counted(len(one.links), "link")
    enough = f"rank {one.path.rank}, 95 % of the energy in rank {one.path.rank95}"
    return f"<Statistics {one.since}..{one.reference}: {links}, norm {one.path.frobenius:.3g}, {enough}>"


def rebased(one: Rebased) -> str:
    """What was put on what, and how far the path's weights move."""
    state = "not done" if one.revision is None else one.revision.reference
    moves = f"weights move by {one.moved.frobenius:.3g}"
    return f"<Rebased {one.reference}: {state}, from {one.parent} onto {one.onto}, {moves}>"


def combined(one: Combined) -> str:
    """What was combined over what, and how the sources agree."""
    state = "not done" if one.revision is None else one.revision.reference
    sources = " + ".join(f"{source.weight:g} {source.reference}" for source in one.sources)
    ratio = "" if one.energy_ratio is None else f", energy ratio {one.energy_ratio:.3g}"
    return f"<Combined {one.path}: {state}, {sources} over {one.over}{ratio}>"


def deltas(one: Deltas) -> str:
    """What is compared, and whether it agrees."""
    sides = " and ".join(f"{side.since}..{side.reference}" for side in (one.a, one.b))
    ratio = "" if one.energy_ratio is None else f", energy ratio {one.energy_ratio:.3g}"
    if nothing := nothing_compared(one):
        return f"<Deltas {sides}: {nothing[0]}>"
    return f"<Deltas {sides}: cosine {'not defined' if one.cosine is None else f'{one.cosine:.3g}'}{ratio}>"


def nothing_compared(one: Deltas) -> tuple[str, ...]:
    """The sentence that two deltas have nothing in common that has figures; none if they do."""
    zero = [side.reference for side, norm in ((one.a, one.frobenius_a), (one.b, one.frobenius_b)) if not norm]
    if zero:
        who = "Neither" if len(zero) > 1 else f"{zero[0]} does not"
        verb = "changes" if len(zero) > 1 else "change"
        return (f"{who} {verb} anything that has figures: there is nothing to compare.",)
    if not any(module.frobenius_a and module.frobenius_b for module in one.modules):
        return ("No module is changed by both: there is nothing to compare.",)
    return ()


def nothing_paired(one: DeltaMatrix) -> tuple[str, ...]:
    """The sentence that the path has too few children to compare; none if it has enough."""
    count = len(one.children)
    return (f"Pairs are compared, and {one.path} has {counted(count, 'child', 'children')}.",) if count < 2 else ()


def delta_matrix(one: DeltaMatrix) -> str:
    """How many children a matrix is of, and the pair that agrees most."""
    head = f"DeltaMatrix of {one.path}: {counted(len(one.children), 'child', 'children')}"
    cosines = [(cosine, row) for row in one.rows() if isinstance(cosine := row["cosine"], float)]
    if not cosines:
        return f"<{head}, nothing to compare>"
    cosine, row = max(cosines, key=lambda pair: pair[0])
    return f"<{head}, largest cosine {cosine:.3g} of {row['a']} and {row['b']}>"


def dense_statistics(one: DenseStatistics) -> str:
    """The size of a path's whole change, and its intruder dimensions."""
    matrices = counted(len(one.matrices), "matrix", "matrices")
    return (
        f"<DenseStatistics {one.since}..{one.reference}: {matrices}, norm {one.frobenius:.3g}, rank {one.rank}, "
        f"{counted(one.intruders, 'intruder dimension')}>"
    )


def sentences_html(sentences: Iterable[str]) -> str:
    """Sentences as HTML, below a table."""
    return "".join(f"<p>{escape(clean(sentence))}</p>" for sentence in sentences)


def value_text(name: str, value: object) -> str:
    """A value of a revision that differs from another's."""
    if isinstance(value, int) and not isinstance(value, bool) and name in {"size", "parameters"}:
        return size(value) if name == "size" else amount(value)
    if name == "rank" and value == 0:
        return ranked(0)
    if isinstance(value, str):
        return value or '""'
    return "none" if value is None else json.dumps(value)


def modules_text(group: TargetGroup | None) -> str | None:
    """Target modules with one leaf name."""
    if group is None:
        return None
    scalings = ", ".join(map(number, group.scalings))
    return f"{group.modules} x rank {', '.join(map(str, group.ranks))} scaling {scalings}"


def file_text(entry: FileEntry | None) -> str | None:
    """A file of a revision."""
    return None if entry is None else f"{size(entry.size)} {short_digest(entry.digest)}"
