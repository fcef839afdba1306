"""Describes what a command did or would do: publish, verify, combine, rebase, retention, export, identify, an import.

And how the tree is drawn, with guides on a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from registry.cli.render.screen import Line, flow
from registry.figures import (
    BEHIND,
    GONE,
    QUIET,
    TAG,
    Cell,
    Span,
    amount,
    counted,
    items,
    moment,
    percent,
    phrase,
    quiet,
    ranked,
    reference,
    short_digest,
    size,
    words,
)
from registry.schemas.frames import Block, pairs
from registry.schemas.parents import level_of
from registry.schemas.sheets import about_node, base_size, derived, extracted, figures, files, tags_of, used

if TYPE_CHECKING:
    from registry.schemas import (
        BaseAdded,
        BaseSummary,
        Published,
        PublishPreview,
        Tagged,
        Tree,
        TreeNode,
        Truncation,
        Verified,
    )
    from registry.schemas.artifacts import EngineCheck, EngineReason, Fidelity
    from registry.schemas.labels import Exported
    from registry.schemas.parents import Identified, MergedFrom, NamedInPicture
    from registry.schemas.publishing import Combined, ImportDocument, ImportEntry, Rebased
    from registry.schemas.statistics import ModuleStatistics
    from registry.schemas.team import KeepReason, Retention, RetentionRule

_Pairs = Iterator[tuple[str, Cell]]


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
    name = reference(node.path if above is None else node.name)
    under = guides.under(more=bool(node.children))
    room = None if width is None else max(width - len(under), 1)
    first, *rest = flow(items([name, *about_node(node, above, bases)]), room)
    yield (Span(guides.first, QUIET), *first)
    for line in rest:
        yield (Span(under, QUIET), *line)
    for index, child in enumerate(node.children):
        yield from _branch(child, node, bases, width, guides.child(last=index == len(node.children) - 1))
    if node.more:
        yield (Span(guides.child(last=True).first, QUIET), Span("...", QUIET))


def published(answer: Published) -> Iterator[Block]:
    """The reference alone first, for scripts; then what was pinned, stored and left out."""
    one = answer.revision
    stored = size(answer.bytes_stored) if answer.created else "nothing, the adapter already has this revision"
    moved = [tag for tag in answer.tagged if tag.previous not in {None, tag.reference}]
    rows: list[tuple[str, Cell]] = [
        ("digest", Span(one.digest)),
        ("parent", _parent(one.parent, answer.parent_digest, one.parent_known_by, answer.parent_reason)),
        ("tags", tags_of(one)),
        *(("moved", _moved(tag)) for tag in moved),
        ("source", phrase(one.source)),
        ("derived from", derived(one.derived_from)),
        ("extracted", extracted(answer.extracted)),
        ("left out", [f"{item.path} ({item.reason})" for item in answer.left_out]),
        ("stored", stored),
        ("applied", [*answer.applied]),
        ("not applied", [words(f"{what}: the revision keeps its current one", BEHIND) for what in answer.not_applied]),
        ("registry", phrase(answer.registry)),
    ]
    yield pairs(one.reference, rows)


def _parent(name: str, digest: str, known_by: str, reason: str) -> list[Cell]:
    return [(phrase(name), Span(short_digest(digest), QUIET)), Span(level_of(known_by)), quiet(f"({reason})")]


def _moved(tag: Tagged) -> list[Cell]:
    """A tag with what it points at and what it pointed at before, without their path."""
    now, before = (f"@{(one or '').rpartition('@')[2]}" for one in (tag.reference, tag.previous))
    return [f"{tag.tag} -> {now},", f"was {before}"]


def preview(answer: PublishPreview) -> Iterator[Block]:
    """The path alone first; then what publishing would do, and the files."""
    digests = set(answer.missing)
    missing = [file for file in answer.files if file.digest in digests]
    there = f"nothing: it already exists, as {answer.reference}" if answer.reference else "publish a new revision"
    rows: list[tuple[str, Cell]] = [
        ("would", there),
        ("digest", Span(answer.digest)),
        ("parent", _parent(answer.parent, answer.parent_digest, answer.parent_known_by, answer.parent_reason)),
        ("rank", str(answer.rank) if answer.rank else ranked(0)),
        ("extracted", extracted(answer.extracted)),
        ("size", f"{size(answer.size)}, {amount(answer.parameters)} parameters"),
        ("source", phrase(answer.source)),
        ("left out", [f"{item.path} ({item.reason})" for item in answer.left_out]),
        ("to store", f"{size(answer.bytes_missing)} in {counted(len(missing), 'file')}"),
        *(("not checked", words(what, BEHIND)) for what in answer.unchecked),
        ("registry", phrase(answer.registry)),
    ]
    yield pairs(answer.path, rows)
    yield files(answer.files)


def base_added(answer: BaseAdded) -> Iterator[Block]:
    """The name alone first, for scripts."""
    base = answer.base
    how = {"copy": "copied", "reflink": "by reflink", "link": "as hard links", "none": ""}[answer.stored_by]
    stored = f"{size(answer.bytes_stored)} {how}" if answer.created else "nothing, the same weights are already stored"
    rows: list[tuple[str, Cell]] = [
        ("architecture", [base.architecture or "not known", quiet(f"(targets from {base.table_source})")]),
        ("size", base_size(base)),
        ("digest", Span(base.digest)),
        ("source", phrase(base.source)),
        ("derived from", derived(base.derived_from)),
        ("left out", [f"{item.path} ({item.reason})" for item in answer.left_out]),
        ("stored", stored),
        ("registry", phrase(answer.registry)),
    ]
    yield pairs(base.name, rows)


def verification(answer: Verified) -> Iterator[Block | Line]:
    """The result in one line, everything that differs, and what else lies in the folder."""
    subject = f"{answer.reference} as {answer.kind}"
    others = ", ".join(one.path for one in answer.beside if not one.loaded)
    besides = [(Span("beside", QUIET), quiet(f"{others} (not loaded with it)"))] if others else []
    if answer.equal:
        how = "byte for byte" if answer.exact else f"within the rounding bound ({answer.not_exact})"
        told = f"{subject}, {counted(answer.files, 'file')}, {how}"
        if answer.combinations:
            same = all(one.state == "same" for one in answer.combinations)
            how = "the same bytes" if same else "the same up to rounding"
            told += f"; {counted(len(answer.combinations), 'combination')} made again: {how}"
        yield Block(None, [(Span("equal", "green"), told), *besides], indent=0)
        return
    yield (Span("differs", "red"), Span("  "), phrase(subject))
    wrong = [(phrase(one.file), [f"{one.tensor}:" if one.tensor else "", one.reason]) for one in answer.mismatches]
    yield Block(None, wrong)
    yield Block(None, besides, indent=0)


def check(found: EngineCheck) -> Iterator[Block]:
    """Yes, or no with every reason; and the command that writes what loads."""
    limit = "any rank" if found.max_lora_rank is None else f"at most {found.max_lora_rank}"
    rows: list[tuple[str, Cell]] = [
        ("engine", f"{found.engine} {found.version}"),
        ("loads", "yes" if found.loads else words("no", BEHIND)),
        ("rank", "-" if found.rank is None else f"{found.rank} of {limit}"),
        *(pair for reason in found.reasons for pair in _reason(reason)),
        *(("note", note) for note in found.notes),
        ("would do", phrase(found.would_do)),
    ]
    yield pairs(found.reference, rows)


def _reason(reason: EngineReason) -> _Pairs:
    yield reason.code, f"{reason.sentence} {reason.remedy}"
    yield "", quiet(reason.source)


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
    names = [one.tensor for one in found.left_out]
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    left_out = f"left out: {', '.join(names[:2])}{more}"
    rows = "on every 16th row" if found.rows == "sample" else "on all rows"
    if found.surviving_share is None:
        return f"fidelity: nothing of the change could be measured, {left_out}"
    dtypes = ", ".join(sorted({one.dtype for one in found.tensors}))
    named = f"; {left_out}" if names else ""
    return f"fidelity{f' in {dtypes}' if dtypes else ''}, {rows}: {figures(found)}{named}"


_OF_ANOTHER_BASE: Final = 0.5
"""Of the norm of the weights; what training adds is some hundredths."""


def identified(found: Identified) -> Iterator[Block]:
    """The folder; then the paths that it is, or what is nearest."""
    yield pairs(found.folder, _identified(found))


def _identified(found: Identified) -> _Pairs:
    yield "kind", {"model": "a model", "adapter": "an adapter", "picture": "a picture"}[found.kind]
    for named in found.named:
        yield from _named(named)
    yield "names", phrase(found.trained_on)
    yield "fits", [phrase(name) for name in found.bases]
    yield "published", [phrase(name) for name in found.published]
    for one in found.merged:
        yield from _merged("is" if found.kind == "model" else "trained on", one)
    if found.unknown_order:
        yield "merged", words(f"{', then '.join(found.unknown_order)}: no path here has that order", BEHIND)
    if found.nearest is not None and found.distance is not None:
        rest = f"{100 * found.distance:.3g} % of its norm is explained by no revision"
        other = ": its base model is hardly one of those here" if found.distance > _OF_ANOTHER_BASE else ""
        yield "nearest", [phrase(found.nearest), words(rest + other, BEHIND)]
        yield "fits least", None if other else phrase(found.tensor)
    if found.sum:
        terms = " + ".join(f"{one.weight:.3g} x {' or '.join((one.reference, *one.alike))}" for one in found.sum)
        yield "looks like", [terms, words("by samples: a hint, no proof", BEHIND)]
    if found.retracted:
        yield "may be", [phrase(", ".join(found.retracted)), words("retracted, so that it was not compared", BEHIND)]
    yield "not compared", words(found.reason, BEHIND)
    if found.kind != "picture":
        yield "searched", quiet(counted(found.searched, "revision"))


def _named(one: NamedInPicture) -> _Pairs:
    """A model that a picture names."""
    called = " ".join(part for part in (one.name, one.hash) if part)
    yield one.kind, [phrase(called), *map(reference, one.references)]
    if one.retracted:
        yield "may be", [phrase(", ".join(one.retracted)), words("retracted", BEHIND)]
    yield "", words(one.reason, BEHIND)


def _merged(name: str, one: MergedFrom) -> _Pairs:
    yield name, [phrase(one.reference), quiet(one.proof)]
    if len(one.links) > 1:
        shown = "in the order that its bits show" if one.order_shows else "other orders give the same"
        yield "links", [", then ".join(one.links), quiet(f"({shown})")]


def combined(found: Combined) -> Iterator[Block]:
    """The new revision, or in a dry run its path; what it is the sum of, over what; how the sources agree."""
    terms = [(f"{one.weight:g}", reference(one.reference), f"norm {one.frobenius:.4g}") for one in found.sources]
    rows: list[tuple[str, Cell]] = [
        ("over", reference(found.over)),
        ("sum of", [(Span(f"{weight} x"), name, quiet(norm)) for weight, name, norm in terms]),
        ("energy", agreement(found)),
        ("rank", str(found.rank)),
        ("size", f"{size(found.size)}, {amount(found.parameters)} parameters"),
    ]
    yield pairs(found.path if found.revision is None else found.revision.reference, rows)


def agreement(found: Combined) -> str:
    """The energy ratio of the sources, and what it means."""
    norm = f"norm {found.frobenius:.4g} over {found.over}"
    if found.energy_ratio is None:
        return f"{norm}: the sources add nothing"
    if len(found.sources) == 1:
        return norm
    ratio = found.energy_ratio
    meaning = "they pile up" if ratio > 1.1 else "they cancel" if ratio < 0.9 else "nearly orthogonal"
    return f"energy ratio {ratio:.3g} of {counted(len(found.sources), 'source')} ({meaning}), {norm}"


_STYLES: Final = {"undecided": BEHIND, "refused": GONE, "skip": QUIET}


def import_plan(document: ImportDocument) -> Iterator[Block]:
    """One row per folder: what it is, where it goes, and why."""
    entries = {one.folder: one for one in document.entries}
    rows = [
        (
            phrase(one.folder),
            phrase(one.what),
            Span(one.action, _STYLES.get(one.action, "")),
            reference(_path(one, entries) or "-"),
            _about(one),
        )
        for one in document.entries
    ]
    yield Block(None, rows, ("FOLDER", "IS", "ACTION", "PATH", "WHY"), indent=0)


def _path(entry: ImportEntry, entries: Mapping[str, ImportEntry]) -> str | None:
    """Where an entry goes: its name below those of its parents."""
    if entry.action == "add":
        return entry.name
    names: list[str] = []
    at = entry
    while at.action in ("publish", "full") and at.name and at.parent and len(names) <= len(entries):
        names.append(at.name)
        above = entries.get(at.parent)
        if above is None:
            return "/".join([at.parent.partition("@")[0], *reversed(names)])
        at = above
    return "/".join([at.name or "", *reversed(names)]) if names else None


def _about(entry: ImportEntry) -> list[Cell]:
    # A plan of an earlier version does not say how far a parent can be relied on.
    level = "" if entry.parent_known_by is None else f", {level_of(entry.parent_known_by)}"
    labels = [
        *(f"{name}={value:g}" for name, value in entry.metrics.items()),
        *map("=".join, entry.annotations.items()),
    ]
    return [
        f"parent {entry.parent}{level}: {entry.proof}" if entry.proof else None,
        (Span(entry.code or "", GONE), entry.reason) if entry.reason else None,
        *(quiet(f"{one.parent}: {one.why}") for one in entry.candidates),
        quiet(" ".join(labels) if entry.action == "publish" else None),
    ]


_REASONS: Final[dict[KeepReason, str]] = {"children": "trained on", "combinations": "combined of"}
"""What reasons are called, if that is not their name."""


def retention(answer: Retention) -> Iterator[Block]:
    """The path alone first, for scripts; then the rule, what goes by it, and what stays for which reason."""
    stay = [Span(f"{_REASONS.get(one.reason, one.reason)}: {one.revisions}", QUIET) for one in answer.reasons]
    gone = counted(len(answer.revisions), "revision")
    rows: list[tuple[str, Cell]] = [
        *_rule(answer.rule),
        ("deleted" if answer.done else "would go", words(gone, BEHIND if answer.revisions else QUIET)),
        ("numbers", [Span(run) for run in runs([int(one.rpartition("@")[2]) for one in answer.revisions])]),
        ("tags", [phrase(tag, TAG) for tag in answer.tags]),
        ("used", used(answer.use) if answer.revisions else None),
        ("stay", [counted(answer.kept, "revision"), *stay]),
    ]
    yield pairs(answer.rule.path, rows)


def cleared(rule: RetentionRule) -> Iterator[Block]:
    """The path alone first, for scripts; then the rule that it had."""
    yield pairs(rule.path, [("state", "no rule any more: all revisions are kept"), *_rule(rule)])


def _rule(rule: RetentionRule) -> _Pairs:
    numbers = [("last", rule.keep_last), ("every", rule.keep_every), *(("best", best) for best in rule.keep_best)]
    parts = [f"{word} {number}" for word, number in numbers if number is not None]
    yield "keep", [*parts, "tagged" if rule.keep_tagged else None]
    yield "set", [Span(f"{moment(rule.set_at)} UTC"), quiet(f"by {rule.set_by}")]


def runs(numbers: Sequence[int]) -> list[str]:
    """Rising numbers, those that follow each other together: ``["1-99", "101", "103-104"]``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][-1] + 1 == number:
            found[-1] = [found[-1][0], number]
        else:
            found.append([number])
    return ["-".join(map(str, run)) for run in found]


_MOST: Final = 5  # modules that are listed


def rebased(found: Rebased, *, only_new: bool = False) -> Iterator[Block]:
    """The new revision, or in a dry run the old one; which parents; how far the weights move, and where most.

    ``only_new``: the rest was shown before.
    """
    name = found.reference if found.revision is None else found.revision.reference
    yield pairs(name, () if only_new else _rebased(found))


def _rebased(found: Rebased) -> _Pairs:
    moved, dry = found.moved, found.revision is None
    yield "rebased", None if dry else reference(found.reference)
    yield "is on" if dry else "was on", reference(found.parent)
    yield "onto" if dry else "is on", reference(found.onto)
    base = "" if moved.relative_frobenius is None else f", {percent(moved.relative_frobenius)} of the base model's"
    own = "" if not found.own_frobenius else f", {moved.frobenius / found.own_frobenius:.3g} times its own change"
    yield "moves", f"norm {moved.frobenius:.4g}{base}{own}"
    most = sorted((one for one in moved.modules if one.energy), key=lambda one: -one.energy)
    more = f"and {counted(len(most) - _MOST, 'module')} more" if len(most) > _MOST else ""
    yield "most", [*((phrase(one.module), quiet(_norm(one))) for one in most[:_MOST]), quiet(more)]
    yield "not in it", [words(f"{one.name} is {one.how}", BEHIND) for one in moved.others]
    changed = [(f"{one.name}, {one.how}", one.moved) for one in found.values]
    yield "keeps", [words(f"{how}; the parents differ there", BEHIND) if moved else how for how, moved in changed]


def _norm(module: ModuleStatistics) -> str:
    share = "" if module.relative_frobenius is None else f", {percent(module.relative_frobenius)}"
    return f"{module.frobenius:.4g}{share}"


def dry_run(answer: Exported) -> Iterator[Block | Line]:
    """The target, the files with their sizes, and the card as it is."""
    rows = [(Span("-" if file.size is None else size(file.size), QUIET), file.path) for file in answer.files]
    yield Block(harmless(answer.target), rows, right=(0,))
    yield ()
    for line in answer.card.splitlines():
        yield (Span(harmless(line)),)


def harmless(text: str) -> str:
    """A text that can't move the cursor or change colours."""
    return "".join(one if one.isprintable() or one == "\t" else "\ufffd" for one in text)
