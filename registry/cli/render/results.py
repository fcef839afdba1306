"""Renders what a command did or would do: combine, rebase, retention, export, identify and the plan of an import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from registry.cli.render.details import use_items
from registry.cli.render.screen import BEHIND, GONE, QUIET, REFERENCE, TAG, Line, Span, fields, phrase, table, words
from registry.figures import amount, counted, moment, percent, size
from registry.schemas.parents import level_of

if TYPE_CHECKING:
    from registry.schemas.labels import Exported
    from registry.schemas.parents import Identified, MergedFrom
    from registry.schemas.publishing import Combined, ImportDocument, ImportEntry, Rebased, RebasedValue
    from registry.schemas.statistics import ModuleStatistics
    from registry.schemas.team import KeepReason, Retention, RetentionRule


_OF_ANOTHER_BASE: Final = 0.5
"""Of the norm of the weights; what training adds is some hundredths."""

Pair = tuple[str, list[list[Span]]]


def identified_lines(found: Identified, width: int | None) -> list[Line]:
    """The folder; then the paths that it is, or what is nearest."""
    merged = "is" if found.kind == "model" else "trained on"
    pairs: list[Pair] = [
        ("kind", [words("a model" if found.kind == "model" else "an adapter")]),
        ("names", [[phrase(found.trained_on)]] if found.trained_on else []),
        ("fits", [[phrase(name)] for name in found.bases]),
        ("published", [[phrase(name)] for name in found.published]),
        *(pair for one in found.merged for pair in _merged(merged, one)),
    ]
    if found.unknown_order:
        order = f"{', then '.join(found.unknown_order)}: no path here has that order"
        pairs.append(("merged", [words(order, BEHIND)]))
    if found.nearest is not None and found.distance is not None:
        rest = f"{100 * found.distance:.3g} % of its norm is explained by no revision"
        other = ": its base model is hardly one of those here" if found.distance > _OF_ANOTHER_BASE else ""
        pairs.append(("nearest", [[phrase(found.nearest)], words(rest + other, BEHIND)]))
        pairs.append(("fits least", [[phrase(found.tensor)]] if found.tensor and not other else []))
    if found.sum:
        terms = " + ".join(f"{one.weight:.3g} x {' or '.join((one.reference, *one.alike))}" for one in found.sum)
        pairs.append(("looks like", [words(terms), words("by samples: a hint, no proof", BEHIND)]))
    if found.retracted:
        names = ", ".join(found.retracted)
        pairs.append(("may be", [[phrase(names)], words("retracted, so that it was not compared", BEHIND)]))
    if found.reason:
        pairs.append(("not compared", [words(found.reason, BEHIND)]))
    pairs.append(("searched", [words(counted(found.searched, "revision"), QUIET)]))
    return [(Span(found.folder, REFERENCE),), *fields(pairs, width)]


def _merged(name: str, one: MergedFrom) -> Iterator[Pair]:
    yield name, [[phrase(one.reference)], words(one.proof, QUIET)]
    if len(one.links) > 1:
        shown = "in the order that its bits show" if one.order_shows else "other orders give the same"
        yield "links", [words(", then ".join(one.links)), words(f"({shown})", QUIET)]


def combined_lines(found: Combined, width: int | None) -> list[Line]:
    """The new revision, or in a dry run its path; what it is the sum of, over what; how the sources agree."""
    name = found.path if found.revision is None else found.revision.reference
    pairs = [
        ("over", [[phrase(found.over, REFERENCE)]]),
        (
            "sum of",
            [
                [
                    Span(f"{one.weight:g} x"),
                    phrase(one.reference, REFERENCE),
                    *words(f"norm {one.frobenius:.4g}", QUIET),
                ]
                for one in found.sources
            ],
        ),
        ("energy", [words(agreement(found))]),
        ("rank", [[Span(str(found.rank))]]),
        ("size", [words(f"{size(found.size)}, {amount(found.parameters)} parameters")]),
    ]
    return [(Span(name, REFERENCE),), *fields(pairs, width)]


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


def plan_lines(document: ImportDocument, width: int | None) -> list[Line]:
    """One row per folder: what it is, where it goes, and why."""
    entries = {one.folder: one for one in document.entries}
    rows: list[tuple[list[Span], list[list[Span]]]] = [
        (
            [
                phrase(one.folder),
                phrase(one.what),
                Span(one.action, _STYLES.get(one.action, "")),
                phrase(_path(one, entries) or "-", REFERENCE),
            ],
            _about(one),
        )
        for one in document.entries
    ]
    return table(rows, width, header=("FOLDER", "IS", "ACTION", "PATH", "WHY"))


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


def _level(entry: ImportEntry) -> str:
    """How far its parent can be relied on; empty: the plan is of a version that did not say."""
    return "" if entry.parent_known_by is None else f", {level_of(entry.parent_known_by)}"


def _about(entry: ImportEntry) -> list[list[Span]]:
    near = [words(f"{one.parent}: {one.why}", QUIET) for one in entry.candidates]
    labels = [
        *(f"{name}={value:g}" for name, value in entry.metrics.items()),
        *map("=".join, entry.annotations.items()),
    ]
    return [
        *([words(f"parent {entry.parent}{_level(entry)}: {entry.proof}")] if entry.proof else []),
        *([[*([Span(entry.code, GONE)] if entry.code else []), *words(entry.reason)]] if entry.reason else []),
        *near,
        *([words(" ".join(labels), QUIET)] if entry.action == "publish" and labels else []),
    ]


_REASONS: Final[dict[KeepReason, str]] = {"children": "trained on", "combinations": "combined of"}
"""What reasons are called, where that is not their name."""


def retention_lines(answer: Retention, width: int | None) -> list[Line]:
    """The path alone first, for scripts; then the rule, what goes by it, and what stays for which reason."""
    state = "deleted" if answer.done else "would go"
    gone = words(counted(len(answer.revisions), "revision"), BEHIND if answer.revisions else QUIET)
    stay = [words(counted(answer.kept, "revision"))]
    stay += [[Span(f"{_REASONS.get(one.reason, one.reason)}: {one.revisions}", QUIET)] for one in answer.reasons]
    pairs = [
        *_rule_fields(answer.rule),
        (state, [gone]),
        ("numbers", [[Span(run)] for run in runs([int(one.rpartition("@")[2]) for one in answer.revisions])]),
        ("tags", [[phrase(tag, TAG)] for tag in answer.tags]),
        ("used", use_items(answer.use) if answer.revisions else []),
        ("stay", stay),
    ]
    return [(Span(answer.rule.path, REFERENCE),), *fields(pairs, width)]


def cleared_lines(rule: RetentionRule, width: int | None) -> list[Line]:
    """The path alone first, for scripts; then the rule that it had."""
    pairs = [("state", [words("no rule any more: all revisions are kept")]), *_rule_fields(rule)]
    return [(Span(rule.path, REFERENCE),), *fields(pairs, width)]


def _rule_fields(rule: RetentionRule) -> list[tuple[str, Sequence[Sequence[Span]]]]:
    by = words(f"by {rule.set_by}", QUIET)
    return [("keep", [words(one) for one in _parts(rule)]), ("set", [[Span(f"{moment(rule.set_at)} UTC")], by])]


def _parts(rule: RetentionRule) -> Iterator[str]:
    if rule.keep_last is not None:
        yield f"last {rule.keep_last}"
    if rule.keep_every is not None:
        yield f"every {rule.keep_every}"
    yield from (f"best {one}" for one in rule.keep_best)
    if rule.keep_tagged:
        yield "tagged"


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


def rebased_lines(found: Rebased, width: int | None, *, only_new: bool = False) -> list[Line]:
    """The new revision, or in a dry run the old one; which parents; how far the weights move, and where most.

    ``only_new``: the rest was shown before.
    """
    name = found.reference if found.revision is None else found.revision.reference
    head: Line = (Span(name, REFERENCE),)
    if only_new:
        return [head]
    moved = found.moved
    most = sorted((one for one in moved.modules if one.energy), key=lambda one: -one.energy)
    more = [words(f"and {counted(len(most) - _MOST, 'module')} more", QUIET)] if len(most) > _MOST else []
    pairs = [
        ("rebased", [[phrase(found.reference, REFERENCE)]] if found.revision is not None else []),
        ("is on" if found.revision is None else "was on", [[phrase(found.parent, REFERENCE)]]),
        ("onto" if found.revision is None else "is on", [[phrase(found.onto, REFERENCE)]]),
        ("moves", [words(_moves(found))]),
        ("most", [*([phrase(one.module), *words(_norm(one), QUIET)] for one in most[:_MOST]), *more]),
        ("not in it", [words(f"{one.name} is {one.how}", BEHIND) for one in moved.others]),
        ("keeps", [_keeps(one) for one in found.values]),
    ]
    return [head, *fields(pairs, width)]


def _moves(found: Rebased) -> str:
    """How far, against the base model and against what the revision itself adds."""
    moved = found.moved
    base = "" if moved.relative_frobenius is None else f", {percent(moved.relative_frobenius)} of the base model's"
    own = "" if not found.own_frobenius else f", {moved.frobenius / found.own_frobenius:.3g} times its own change"
    return f"norm {moved.frobenius:.4g}{base}{own}"


def _norm(module: ModuleStatistics) -> str:
    share = "" if module.relative_frobenius is None else f", {percent(module.relative_frobenius)}"
    return f"{module.frobenius:.4g}{share}"


def _keeps(value: RebasedValue) -> list[Span]:
    if value.moved:
        return words(f"{value.name}, {value.how}; the parents differ there", BEHIND)
    return words(f"{value.name}, {value.how}")


def dry_run_lines(answer: Exported, width: int | None) -> list[Line]:
    """The target, the files with their sizes, and the card as it is."""
    rows = [([Span("-" if file.size is None else size(file.size), QUIET)], [words(file.path)]) for file in answer.files]
    card: list[Line] = [(Span(harmless(line)),) for line in answer.card.splitlines()]
    return [(Span(harmless(answer.target), REFERENCE),), *table(rows, width, indent=2, right=(0,)), (), *card]


def harmless(text: str) -> str:
    """A text that can't move the cursor or change colours."""
    return "".join(one if one.isprintable() or one == "\t" else "\ufffd" for one in text)
