"""Renders answers about one thing: a revision or base model with what lies around it, a publish, a verify."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from registry.cli.render.lists import copied, tags_of
from registry.cli.render.screen import (
    BEHIND,
    GONE,
    QUIET,
    REFERENCE,
    TAG,
    Line,
    Row,
    Span,
    fields,
    phrase,
    table,
    words,
)
from registry.cli.render.statistics import figures
from registry.figures import amount, clean, counted, metrics, moment, numbers, percent, ranked, short_digest, size
from registry.schemas.parents import in_short, level_of

if TYPE_CHECKING:
    from registry.schemas import (
        BaseAdded,
        DerivedFrom,
        FileEntry,
        LineageEntry,
        Materialisation,
        Published,
        PublishPreview,
        Retraction,
        RevisionSummary,
        Shown,
        Tagged,
        Verified,
    )
    from registry.schemas.artifacts import EngineAnswer, Extraction
    from registry.schemas.labels import CardState
    from registry.schemas.tags import Children, TagHistory, TagMove
    from registry.schemas.tree import CombinedOf
    from registry.schemas.usage import RevisionUse, Use


def children_lines(children: Children | None, width: int | None) -> list[Line]:
    """One line per adapter that was trained on it, and how many are not listed."""
    if children is None:
        return []
    rows = [
        (
            [phrase(one.path, REFERENCE)],
            [words(counted(one.revisions, "revision")), words(f"newest {_number(one.newest)}", QUIET)],
        )
        for one in children.adapters
    ]
    lines = table(rows, width, indent=2)
    more = children.total - len(children.adapters)
    return [*lines, (Span(f"  and {counted(more, 'more adapter')}", QUIET),)] if more else lines


def tag_lines(histories: Sequence[TagHistory], width: int | None) -> list[Line]:
    """One line per move of a tag, newest first, below the tag and what it points at now."""
    rows = []
    for history in histories:
        for index, move in enumerate(history.moves):
            tag = phrase(history.tag, TAG) if not index else Span("")
            rows.append(
                ([tag, Span(moment(move.at), QUIET)], [words(_tag_move(move)), words(f"by {move.actor}", QUIET)])
            )
        if not history.moves:
            rows.append(([phrase(history.tag, TAG), Span("")], [words(f"points at {history.points_at}")]))
    return table(rows, width, indent=2)


def _tag_move(move: TagMove) -> str:
    if move.new is None:
        return f"removed from {_number(move.old)}"
    if move.old is None:
        return f"set to {_number(move.new)}"
    return f"moved from {_number(move.old)} to {_number(move.new)}"


def _number(reference: str | None) -> str:
    """``@3`` of ``PATH@3``: all are of one adapter."""
    return "" if reference is None else f"@{reference.rpartition('@')[2]}"


def materialisation_lines(found: Sequence[Materialisation], width: int | None) -> list[Line]:
    """One line per materialisation."""
    rows = [
        (
            [phrase(one.id), Span(size(one.size))],
            [words(f"as {one.kind}"), words(f"until {moment(one.expires_at)} UTC", QUIET), *_how_near(one)],
        )
        for one in found
    ]
    return table(rows, width, indent=2, right=(1,))


def _how_near(one: Materialisation) -> list[list[Span]]:
    return [] if one.fidelity is None else [words(figures(one.fidelity), QUIET)]


NO_USE: Final = "no use recorded"
_LABELS: Final = {"fetch": "fetch", "hub": "Hub", "vllm": "vLLM"}


def use_items(use: Use | None) -> list[list[Span]]:
    """How often, by how many tokens, through what and when last; nothing if it is not known."""
    if use is None:
        return []
    if use.last_used_at is None:
        return [words(NO_USE, QUIET)]
    items = [words(_often(use))]
    if use.uses:
        items += [words(f"by {counted(use.tokens, 'token')}"), words(f"({_interfaces(use.by_interface)})", QUIET)]
    return [*items, [Span(f"last {moment(use.last_used_at)} UTC")]]


def used_references(references: Iterable[str], used: Sequence[RevisionUse]) -> list[list[Span]]:
    """References, each followed by its use if it was used."""
    by_reference: Mapping[str, RevisionUse] = {one.reference: one for one in used}
    return [[phrase(one, REFERENCE), *_used(by_reference.get(one))] for one in references]


def _used(use: Use | None) -> list[Span]:
    if use is None or use.last_used_at is None:
        return []
    return words(f"(used {_often(use)}, last {moment(use.last_used_at).partition(' ')[0]})", QUIET)


def _often(use: Use) -> str:
    return f"{counted(use.uses, 'time')} in 30 days" if use.uses else "not in 30 days"


def _interfaces(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_LABELS.get(name, clean(name))} {count}" for name, count in counts.items())


Items = list[list[Span]]


def show_lines(shown: Shown, width: int | None) -> list[Line]:
    """Everything about a revision or a base model."""
    lines: list[Line] = []
    if shown.revision is None:
        lines += [(Span(shown.base.name, REFERENCE),), *_base_fields(shown, width)]
    else:
        lines += [(Span(shown.revision.reference, REFERENCE),), *_revision_fields(shown, shown.revision, width)]
        lines += _section("Lineage", _lineage(shown, width))
        targets = [
            (
                [phrase(group.name), Span(counted(group.modules, "module"))],
                [
                    [Span("rank"), Span(", ".join(map(str, group.ranks)))],
                    words(f"scaling {numbers(group.scalings)}", QUIET),
                ],
            )
            for group in shown.targets
        ]
        lines += _section("Targets", table(targets, width, indent=2, right=(1,)))
    lines += _section("Trained on it", children_lines(shown.children, width))
    lines += _section("Tags", tag_lines(shown.tag_history, width))
    lines += _section("Materialisations", materialisation_lines(shown.materialisations, width))
    lines += _section("Files", _files(shown.files, width))
    return lines


def _section(title: str, lines: Sequence[Line]) -> list[Line]:
    return [(), (Span(title, "bold"),), *lines] if lines else []


def _revision_fields(shown: Shown, revision: RevisionSummary, width: int | None) -> list[Line]:
    share = f"({percent(shown.share_of_model)} of the model)"
    pairs: list[tuple[str, Items]] = [
        ("renamed to", [[phrase(revision.renamed_to, REFERENCE)]] if revision.renamed_to else []),
        ("retracted", [words(_retracted(revision.retracted), GONE)] if revision.retracted else []),
        ("behind", [words(_behind(shown.lineage), BEHIND)] if revision.behind else []),
        *_one_a_line("message", revision.message.splitlines()),
        ("tags", tags_of(revision)),
        ("metrics", [[Span(metric)] for metric in metrics(revision.metrics)]),
        *_one_a_line("annotations", [f"{name}={text}" for name, text in sorted(revision.annotations.items())]),
        ("published", [words(f"{moment(revision.created_at)} UTC by {revision.author}")]),
        ("copied", [words(copied(revision.copied_from))] if revision.copied_from else []),
        ("trained on", [words(revision.trained_on or "")]),
        ("parent", [[phrase(revision.parent)], words(in_short(revision.parent_known_by))]),
        ("sum of", [source_spans(one) for one in revision.sources]),
        ("rank", [words(str(revision.rank) if revision.rank else ranked(0))]),
        ("extracted", _extracted(shown.extracted)),
        (
            "quantised",
            [words(f"while it was trained: {shown.trained_quantised.words}")] if shown.trained_quantised else [],
        ),
        ("size", [words(f"{size(revision.size)}, {amount(revision.parameters)} parameters {share}")]),
        ("statistics", _statistics(revision)),
        ("engines", [_engine(one) for one in shown.engines]),
        ("used", use_items(shown.use)),
        ("repo id", _repo(shown)),
        ("card", [words(_card(shown.card))] if shown.card else []),
        ("source", [[phrase(revision.source)]] if revision.source else []),
        ("derived from", _derived(revision.derived_from)),
        ("digest", [[Span(revision.digest)]]),
        *(("notice", [words(notice, BEHIND)]) for notice in map(str, shown.notices)),
    ]
    return fields(pairs, width)


def source_spans(source: CombinedOf) -> list[Span]:
    """A source of a combination, and its weight."""
    if source.reference is None:
        return words(f"{source.weight:g} x a revision that this token may not see")
    return [Span(f"{source.weight:g} x"), phrase(source.reference, REFERENCE)]


def _engine(answer: EngineAnswer) -> list[Span]:
    title = f"{answer.engine} {answer.version}"
    if answer.loads:
        return words(f"{title} yes")
    return words(f"{title} no ({', '.join(dict.fromkeys(answer.reasons))})", BEHIND)


def _statistics(revision: RevisionSummary) -> Items:
    """How much its delta changes the base, and how much of its rank that needs; nothing where that is not kept."""
    kept = revision.statistics
    if not kept:
        return []
    if not kept["energy"]:
        return [words("no delta of factors")]
    of_base = "relative_frobenius" in kept
    norm = f"{percent(kept['relative_frobenius'])} of the base" if of_base else f"norm {kept['frobenius']:.4g}"
    effective = f"effective rank {kept['effective_rank']:.3g}"
    rank = f"rank95 {kept['rank95']:.0f} of {revision.rank}"
    if "relative_quantisation" not in kept:
        return [words(f"{norm},"), words(f"{effective},"), words(rank)]
    quantised = f"quantising the weights in training moved them {kept['relative_quantisation']:.3g} x as far"
    return [words(f"{norm},"), words(f"{effective},"), words(f"{rank},"), words(quantised)]


def _card(card: CardState) -> str:
    if card.edited_at is None:
        return f"README.md of {card.reference}"
    return f"edited {moment(card.edited_at)} UTC by {card.edited_by}"


def _one_a_line(name: str, texts: Sequence[str]) -> list[tuple[str, Items]]:
    return [("" if index else name, [words(text)]) for index, text in enumerate(texts)]


def _retracted(retraction: Retraction) -> str:
    """What was retracted, why, and by whom."""
    return (
        f"{retraction.reference}: {retraction.reason} ({moment(retraction.at)} UTC by {retraction.actor}); its weights "
        "are not available"
    )


def _behind(lineage: Sequence[LineageEntry]) -> str:
    """Which ancestors have newer revisions than the pinned ones."""
    old = [entry for entry in lineage[:-1] if entry.number is not None and entry.newest not in {None, entry.number}]
    return (
        "; ".join(f"pinned to {entry.reference}, newest is @{entry.newest}" for entry in old) or "an ancestor is newer"
    )


def _lineage(shown: Shown, width: int | None) -> list[Line]:
    rows = []
    for entry in shown.lineage:
        items: Items = [words("base model" if entry.number is None else ranked(entry.rank or 0), QUIET)]
        if entry.number is not None and entry.newest not in {None, entry.number}:
            items.append(words(f"newest is @{entry.newest}", BEHIND if entry is not shown.lineage[-1] else QUIET))
        rows.append(([phrase(entry.reference), Span(short_digest(entry.digest), QUIET)], items))
    return table(rows, width, indent=2)


def _files(files: Sequence[FileEntry], width: int | None) -> list[Line]:
    rows = [([Span(size(entry.size)), Span(short_digest(entry.digest), QUIET)], [words(entry.path)]) for entry in files]
    return table(rows, width, indent=2, right=(0,))


def _repo(shown: Shown) -> Items:
    """The repo id in the Hub views, and their names of this revision."""
    names = ", ".join(shown.repo_revisions)
    return [[phrase(shown.repo_id)], words(f"revision {names}" if names else "", QUIET)]


def _base_fields(shown: Shown, width: int | None) -> list[Line]:
    base = shown.base
    pairs: list[tuple[str, Items]] = [
        ("renamed to", [[phrase(base.renamed_to, REFERENCE)]] if base.renamed_to else []),
        ("architecture", [words(base.architecture or "not known")]),
        (
            "size",
            [words(f"{size(base.size)}, {amount(base.parameters)} parameters in {counted(base.tensors, 'tensor')}")],
        ),
        ("adapters", [[Span(str(base.adapters))]]),
        ("added", [words(f"{moment(base.created_at)} UTC")]),
        ("repo id", _repo(shown)),
        ("also known as", [[phrase(repo_id)] for repo_id in base.also_known_as]),
        ("source", [[phrase(base.source)]] if base.source else []),
        ("derived from", _derived(base.derived_from)),
        ("digest", [[Span(base.digest)]]),
        ("table", [[Span(base.table_digest)], words(f"from {base.table_source}", QUIET)]),
        *(("notice", [words(notice, BEHIND)]) for notice in base.notices),
    ]
    return fields(pairs, width)


def _derived(told: DerivedFrom | None) -> Items:
    """What the receipt beside the weights says; without a name if that revision is hidden, or not in this registry."""
    if told is None:
        return []
    from registry.schemas.artifacts import KINDS

    parts = [told.reference or "a revision that is not visible here"]
    parts += [f"after {told.since}"] if told.since else []
    if told.rank is None:
        parts.append(KINDS[told.kind].label)
    parts += [told.dtype] if told.dtype else []
    parts += [f"rank {told.rank}"] if told.rank is not None else []
    parts += [f"error {100 * told.error:.3g} %"] if told.error is not None else []
    return [words(", ".join(parts))]


def published_lines(answer: Published, width: int | None) -> list[Line]:
    """The reference alone first, for scripts; then what was pinned, stored and left out."""
    revision = answer.revision
    stored = f"{size(answer.bytes_stored)}" if answer.created else "nothing, the adapter already has this revision"
    pairs: list[tuple[str, Items]] = [
        ("digest", [[Span(revision.digest)]]),
        (
            "parent",
            [
                [phrase(revision.parent), Span(short_digest(answer.parent_digest), QUIET)],
                [Span(level_of(revision.parent_known_by))],
                words(f"({answer.parent_reason})", QUIET),
            ],
        ),
        ("tags", tags_of(revision)),
        *(("moved", _moved(tag)) for tag in answer.tagged if tag.previous not in {None, tag.reference}),
        ("source", [[phrase(revision.source)]] if revision.source else []),
        ("derived from", _derived(revision.derived_from)),
        ("extracted", _extracted(answer.extracted)),
        ("left out", [words(f"{item.path} ({item.reason})") for item in answer.left_out]),
        ("stored", [words(stored)]),
        ("applied", [words(what) for what in answer.applied]),
        (
            "not applied",
            [words(f"{what}: the revision keeps its current one", BEHIND) for what in answer.not_applied],
        ),
        ("registry", [[phrase(answer.registry)]]),
    ]
    return [(Span(revision.reference, REFERENCE),), *fields(pairs, width)]


def _extracted(report: Extraction | None) -> Items:
    """How an adapter was made of a full model: how near it is, where it is farthest, and what it keeps whole."""
    if report is None:
        return []
    lines = [words(f"from a full model: error {100 * report.error:.3g} % of what it changed,")]
    if report.modules:
        worst = max(report.modules, key=lambda one: one.error)
        lines.append(words(f"{counted(len(report.modules), 'pair')},"))
        lines.append(words(f"at most {100 * worst.error:.3g} % ({worst.module})"))
    if report.values:
        lines.append(words(f"and {counted(len(report.values), 'value')} kept whole", QUIET))
    return lines


def _moved(tag: Tagged) -> Items:
    """A tag with what it points at and what it pointed at before, without their path."""
    now, before = (f"@{(reference or '').rpartition('@')[2]}" for reference in (tag.reference, tag.previous))
    return [words(f"{tag.tag} -> {now},"), words(f"was {before}")]


def preview_lines(preview: PublishPreview, width: int | None) -> list[Line]:
    """The path alone first; then what publishing would do, and the files."""
    there = f"nothing: it already exists, as {preview.reference}" if preview.reference else "publish a new revision"
    digests = set(preview.missing)
    missing = [file for file in preview.files if file.digest in digests]
    pairs: list[tuple[str, Items]] = [
        ("would", [words(there)]),
        ("digest", [[Span(preview.digest)]]),
        (
            "parent",
            [
                [phrase(preview.parent), Span(short_digest(preview.parent_digest), QUIET)],
                [Span(level_of(preview.parent_known_by))],
                words(f"({preview.parent_reason})", QUIET),
            ],
        ),
        ("rank", [words(str(preview.rank) if preview.rank else ranked(0))]),
        ("extracted", _extracted(preview.extracted)),
        ("size", [words(f"{size(preview.size)}, {amount(preview.parameters)} parameters")]),
        ("source", [[phrase(preview.source)]] if preview.source else []),
        ("left out", [words(f"{item.path} ({item.reason})") for item in preview.left_out]),
        ("to store", [words(f"{size(preview.bytes_missing)} in {counted(len(missing), 'file')}")]),
        *(("not checked", [words(what, BEHIND)]) for what in preview.unchecked),
        ("registry", [[phrase(preview.registry)]]),
    ]
    return [(Span(preview.path, REFERENCE),), *fields(pairs, width), *_section("Files", _files(preview.files, width))]


def base_added_lines(answer: BaseAdded, width: int | None) -> list[Line]:
    """The name alone first, for scripts."""
    base = answer.base
    how = {"copy": "copied", "reflink": "by reflink", "link": "as hard links", "none": ""}[answer.stored_by]
    stored = f"{size(answer.bytes_stored)} {how}" if answer.created else "nothing, the same weights are already stored"
    pairs: list[tuple[str, Items]] = [
        (
            "architecture",
            [words(base.architecture or "not known"), words(f"(targets from {base.table_source})", QUIET)],
        ),
        (
            "size",
            [words(f"{size(base.size)}, {amount(base.parameters)} parameters in {counted(base.tensors, 'tensor')}")],
        ),
        ("digest", [[Span(base.digest)]]),
        ("source", [[phrase(base.source)]] if base.source else []),
        ("derived from", _derived(base.derived_from)),
        ("left out", [words(f"{item.path} ({item.reason})") for item in answer.left_out]),
        ("stored", [words(stored)]),
        ("registry", [[phrase(answer.registry)]]),
    ]
    return [(Span(base.name, REFERENCE),), *fields(pairs, width)]


def verified_lines(answer: Verified, width: int | None) -> list[Line]:
    """The result in one line, everything that differs, and what else lies in the folder."""
    subject = f"{answer.reference} as {answer.kind}"
    others = ", ".join(one.path for one in answer.beside if not one.loaded)
    besides: list[Row] = [([Span("beside", QUIET)], [words(f"{others} (not loaded with it)", QUIET)])] if others else []
    if answer.equal:
        how = "byte for byte" if answer.exact else f"within the rounding bound ({answer.not_exact})"
        told = f"{subject}, {counted(answer.files, 'file')}, {how}"
        if answer.combinations:
            same = all(one.state == "same" for one in answer.combinations)
            how = "the same bytes" if same else "the same up to rounding"
            told += f"; {counted(len(answer.combinations), 'combination')} made again: {how}"
        return table([([Span("equal", "green")], [words(told)]), *besides], width)
    rows = [
        ([phrase(wrong.file)], [words(f"{wrong.tensor}:" if wrong.tensor else ""), words(wrong.reason)])
        for wrong in answer.mismatches
    ]
    shown = [*table(rows, width, indent=2), *table(besides, width)]
    return [(Span("differs", "red"), Span(f"  {clean(subject)}")), *shown]
