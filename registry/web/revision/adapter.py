"""An adapter, as one of its revisions: by default the newest. All that it shows is stored: the page starts no work.

Several pages are about a revision, and share the head with its lineage and the links to each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any, Final

from fastapi import Response

from registry.catalogue.tree.aftermath import MESSAGE, Value, ValueChange
from registry.engines.checking import in_short, kept_refusal
from registry.engines.rules import ENGINES, SHOWN_OF
from registry.engines.snippets import Snippet, snippets
from registry.figures import number
from registry.folders.placed_file import WEIGHTS, place_for
from registry.folders.scan import EXACT, form_of
from registry.images.adapter_file import FIELD
from registry.plots.charts import Point, Sparkline
from registry.reference import Path
from registry.schemas import ArtifactKind, RevisionSummary, TargetGroup
from registry.schemas.artifacts import EngineAnswer
from registry.schemas.heat_maps import delta_map, energy_chart
from registry.schemas.statistics import COLUMNS, DeltaStatistics, delta_rows
from registry.services.deployment import Background, background, value_changes
from registry.web.frame.figures import Figure, figure
from registry.web.frame.visit import Visit
from registry.web.revision.adapter_tags import tags_of
from registry.web.revision.card import card_of
from registry.web.revision.previews import previews_of
from registry.web.revision.subject import Subject, subject_of

_STRENGTH: Final = re.compile(r"-?\d{1,3}(\.\d{1,6})?")
LISTED: Final = 24
"""Metrics, annotations and the like of which the page shows so many."""
_FIELDS: Final = (
    "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "target_modules", "target_parameters",
    "layers_to_transform", "modules_to_save", "trainable_token_indices", "rank_pattern", "alpha_pattern",
    "init_lora_weights", "task_type", "peft_type", "peft_version",
)  # fmt: skip
"""Fields of ``adapter_config.json`` that are shown, if they say something."""


def adapter_page(visit: Visit, reference: str) -> Response:
    """A revision: where it comes from, what it changed, and who uses it."""
    subject = subject_of(visit, reference)
    known = background(visit.registry.deployment, subject.reference)
    revision = subject.revision
    changes = value_changes(visit.registry.deployment, Path.parse(revision.path), revision.number)
    return visit.page(
        "adapter.html",
        title=subject.reference,
        api=visit.api("/revisions", ref=reference),
        subject=subject,
        part="tree",
        tags=tags_of(visit, subject.shown),
        lineage={one.reference: one for one in known.lineage},
        words=subject.revision.annotations.get("trigger_words", "").strip(),
        lines=[*_lines(subject.revision)] if FIELD in known.config else (),
        previews=previews_of(visit, subject.revision),
        metrics=[*_metrics(revision, known.lineage, changes)][:LISTED],
        message_change=changes.get(MESSAGE),
        annotation_changes={name: change for (kind, name), change in changes.items() if kind == "annotation"},
        config_changes=[*_config_changes(known)],
        behind=[*_behind(subject)],
        load=_load(visit, subject),
        link=known.link,
        is_exact=form_of({file.path for file in subject.shown.files}) is EXACT,
        change=_change(subject, known),
        energy=_energy(subject, known),
        whole=_whole(subject, known) if len(subject.shown.lineage) > 2 else None,
        config=[*_config(known.config)],
        targets=_targets(subject.shown.targets),
        engines=[*_engines(subject.shown.engines, image=subject.shown.base.is_image_model)],
        listed=LISTED,
        card=card_of(visit, subject),
    )


def _lines(revision: RevisionSummary) -> Iterator[tuple[str, str]]:
    """Lines to copy for a LoRA file of an image model: what each is for, with the strength that its author prefers."""
    name = place_for(FilePath(), revision.path).name.removesuffix(WEIGHTS)
    given = revision.annotations.get("preferred_weight", "")
    weight = given if _STRENGTH.fullmatch(given) and float(given) else ""
    yield "Where ComfyUI and Forge find it", f"registry fetch {revision.reference} --for comfyui -o models/loras/"
    words = revision.annotations.get("trigger_words", "").strip()[:2000]
    yield "In a prompt of Forge", " ".join(part for part in (f"<lora:{name}:{weight or 1}>", words) if part)
    at = f"{revision.reference}:{weight}" if weight else revision.reference
    yield "Merged into the base model", f"registry fetch {at} --as merged -o ./{name}"


@dataclass(frozen=True)
class _Measured:
    """A metric: by how much it differs from the parent's, its values along the lineage, and who wrote it later."""

    name: str
    value: float
    difference: float | None
    chart: Sparkline | None
    change: ValueChange | None


def _metrics(
    revision: RevisionSummary, lineage: Sequence[RevisionSummary], changes: Mapping[Value, ValueChange]
) -> Iterator[_Measured]:
    parent = next((one for one in lineage if one.reference == revision.parent), None)
    for name, value in revision.metrics.items():
        before = None if parent is None else parent.metrics.get(name)
        points = [_point(at, one, name) for at, one in enumerate(lineage)]
        many = sum(point.y is not None for point in points) > 1
        chart = Sparkline(f"{name} along the lineage", f"{number(value)} here.", points, lambda _: "") if many else None
        difference = None if before is None else value - before
        yield _Measured(name, value, difference, chart, changes.get(("metric", name)))


def _point(at: int, one: RevisionSummary, name: str) -> Point:
    value = one.metrics.get(name)
    return Point(at, value, one.reference if value is None else f"{one.reference}: {number(value)}")


def _engines(
    answers: Sequence[EngineAnswer], *, image: bool
) -> Iterator[tuple[str, str, EngineAnswer | None, list[str]]]:
    """Each engine for such base models, or that was asked about, with its version, the stored answer, and why not."""
    kept = {one.engine: one for one in answers}
    for name, engine in ENGINES.items():
        answer = kept.get(name)
        if answer is None and SHOWN_OF.get(name) != ("image" if image else "text"):
            continue
        yield engine.title, engine.version, answer, [] if answer is None else in_short(answer)


def _config(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _FIELDS:
        if config.get(name) not in (None, {}, []):
            yield name, _written(config[name])


def _config_changes(known: Background) -> Iterator[tuple[str, str, str]]:
    """Fields of the configuration that differ from its parent's: the name, and what each says."""
    if known.parent_config is not None:
        for name in _FIELDS:
            before, now = (config.get(name) or None for config in (known.parent_config, known.config))
            if before != now:
                yield name, _said(before), _said(now)


def _said(value: Any) -> str:
    return "none" if value is None else _written(value)


def _behind(subject: Subject) -> Iterator[tuple[str, str]]:
    """The adapters above that have newer revisions, nearest first: what it is on, and the newest."""
    for entry in reversed(subject.shown.lineage[1:-1]):
        if entry.newest and entry.number and entry.newest > entry.number:
            yield entry.reference, f"{entry.reference.rpartition('@')[0]}@{entry.newest}"


_HERE: Final = ("cli", "vllm")
"""Tools whose lines are on the page itself; those of all others are one link away."""


@dataclass(frozen=True)
class _Load:
    """How it is loaded: the line that fetches it, the lines of vLLM, and why that can't load it."""

    line: str
    vllm: Snippet | None
    why_not: str | None


def _load(visit: Visit, subject: Subject) -> _Load | None:
    """None: it is retracted, and not handed out."""
    if subject.revision.retracted:
        return None
    exact = any(entry.rank == 0 for entry in subject.shown.lineage[1:])
    kind: ArtifactKind = "merged" if exact else "lora"
    made = snippets(subject.shown, subject.asked, visit.address, kind, (), is_open=visit.is_open)
    rows = {row.name: row for row in made if row.name in _HERE}
    vllm = None if exact else rows.get("vllm")
    answer = next((one for one in subject.shown.engines if one.engine == "vllm"), None)
    line = rows["cli"].steps[0][1].rpartition("\n")[2]
    return _Load(line, vllm, None if vllm is None or answer is None else kept_refusal(answer))


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        value = [f"{name}: {inner}" for name, inner in value.items()]
    if isinstance(value, list):
        more = f" and {len(value) - LISTED} more" if len(value) > LISTED else ""
        return ", ".join(map(str, value[:LISTED])) + more
    return number(value) if isinstance(value, float) else str(value)[:1000]


def _targets(groups: Sequence[TargetGroup]) -> list[tuple[str, str, list[str], int]]:
    """Ranks and scalings, the targets that have them, and how many modules those are."""
    found: dict[tuple[str, str], list[TargetGroup]] = {}
    for group in groups:
        found.setdefault((_written(list(group.ranks)), _written([*map(number, group.scalings)])), []).append(group)
    return [(*key, [one.name for one in same], sum(one.modules for one in same)) for key, same in found.items()]


def _change(subject: Subject, known: Background) -> Figure | None:
    return None if known.link is None else _map(subject.reference, known.link)


def _whole(subject: Subject, known: Background) -> Figure | None:
    return None if known.path is None else _map(f"{subject.shown.base.name}..{subject.reference}", known.path)


def _map(name: str, delta: DeltaStatistics) -> Figure:
    return Figure(delta_map(f"Change by layer, {name}", delta), COLUMNS, delta_rows(name, delta))


def _energy(subject: Subject, known: Background) -> Figure | None:
    if known.link is None or not known.link.energy:
        return None
    rows = [{"rank": rank, "energy": share} for rank, share in enumerate(known.link.energy_by_rank, 1)]
    title = f"Share of the change by rank, {subject.reference}"
    return Figure(energy_chart(title, known.link), ("rank", "energy"), rows)


def _of(make: Callable[[Subject, Background], Figure | None], visit: Visit, reference: str) -> Figure | None:
    subject = subject_of(visit, reference)
    return make(subject, background(visit.registry.deployment, subject.reference))


for _name, _make in (("change", _change), ("path-change", _whole), ("energy", _energy)):
    figure(_name)(partial(_of, _make))
