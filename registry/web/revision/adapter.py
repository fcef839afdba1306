"""An adapter, as one of its revisions: by default the newest. All that it shows is stored: the page starts no work.

Several pages are about a revision, and share the head with its lineage and the links to each other. Cards are Markdown
without HTML of its own, and of the HTML that comes out, only what a text needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any, Final

import nh3
from fastapi import Response
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

from registry.engines.checking import in_short
from registry.engines.rules import ENGINES, SHOWN_OF
from registry.errors import RegistryError, UsageError
from registry.figures import number
from registry.folders.placed_file import WEIGHTS, place_for
from registry.folders.scan import EXACT, form_of
from registry.images.adapter_file import FIELD
from registry.operations import table
from registry.plots.charts import Point, Sparkline
from registry.reference import Reference
from registry.schemas import RevisionSummary, Shown, TargetGroup
from registry.schemas.artifacts import EngineAnswer
from registry.schemas.heat_maps import delta_map, energy_chart
from registry.schemas.requests import ReferenceRequest
from registry.schemas.statistics import COLUMNS, DeltaStatistics, delta_rows
from registry.services.artifacts.readme import front_matter
from registry.services.deployment import Background, background
from registry.web.frame.figures import Figure, figure
from registry.web.frame.visit import Visit
from registry.web.revision.adapter_tags import tags_of
from registry.web.revision.previews import previews_of


@dataclass(frozen=True)
class Subject:
    """A revision, as it was requested.

    Args:
        asked: the reference in the address: ``llama/support@prod`` stays what it is in links.
        shown: everything about it.
        may_write: whether the visitor may change its labels.
    """

    asked: str
    shown: Shown
    may_write: bool

    @property
    def revision(self) -> RevisionSummary:
        """The revision."""
        if self.shown.revision is None:
            raise AssertionError("only a base model has none")
        return self.shown.revision

    @property
    def reference(self) -> str:
        """``PATH@N``."""
        return self.revision.reference

    @property
    def pinned(self) -> str:
        """``PATH@sha256:...``: what stays the same whatever is published or tagged."""
        return f"{self.revision.path}@{self.revision.digest}"


def subject_of(visit: Visit, reference: str) -> Subject:
    """The revision that a reference names.

    Raises:
        NotFoundError: the visitor sees none.
        UsageError: it names a base model, or is no reference.
    """
    path = Reference.parse(reference).path
    if path.is_base:
        raise UsageError(f"{reference} is a base model, which has no such page: open the page of an adapter below it.")
    shown = visit.ask(table.SHOW, ReferenceRequest(ref=reference))
    return Subject(reference, shown, visit.may("writer", str(path)))


SHOWN: Final = 24_000
"""Characters of a card on a page; of more, the beginning."""
MOST: Final = 40_000
"""Characters of its HTML."""
_ABOVE: Final = 2
"""Levels of headings of the page above those of a card."""
_TAGS: Final = {
    "a", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s", "strong",
    "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_ATTRIBUTES: Final[dict[str, set[str]]] = {"a": {"href"}, "ol": {"start"}}
_SCHEMES: Final = {"http", "https", "mailto"}


def card_html(text: str) -> tuple[Markup, bool]:
    """A card without its front matter, and whether that is all of it."""
    _, body = front_matter.split(text)
    shown = body[:SHOWN]
    while len(found := _cleaned(shown)) > MOST:
        shown = shown[: len(shown) // 2]
    return Markup(found), shown == body  # noqa: S704 - nh3 wrote it


def _cleaned(text: str) -> str:
    return nh3.clean(
        _markdown().render(text),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_own_links_only,
        url_schemes=_SCHEMES,
        set_tag_attribute_values={"pre": {"tabindex": "0"}},  # it may have to be scrolled
        link_rel="nofollow noopener noreferrer",
    )


def _own_links_only(_tag: str, attribute: str, value: str) -> str | None:
    """A link that names its scheme: one without leads to a page of ours, which the card's author did not mean."""
    return value if attribute != "href" or value.lower().startswith(("http://", "https://", "mailto:")) else None


@cache
def _markdown() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    made.add_render_rule("image", _as_link)
    made.core.ruler.push("fit", lambda state: _fit(state.tokens))
    return made


def _fit(tokens: Sequence[Token]) -> None:
    """Put headings below those of the page, without a gap, and give links without a text their address as one."""
    last = _ABOVE
    for token in tokens:
        if token.type == "heading_open":
            last = min(6, int(token.tag[1:]) + _ABOVE, last + 1)
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{last}"
        for opened, closed in pairwise(token.children or ()):
            if (opened.type, closed.type) == ("link_open", "link_close"):
                closed.type, closed.content = "text", str(opened.attrs.get("href", ""))
                opened.type, opened.content = "text", ""


def _as_link(
    _renderer: RendererHTML,
    tokens: Sequence[Token],
    at: int,
    _options: Mapping[str, Any],
    _env: MutableMapping[str, Any],
) -> str:
    """An image as a link to it, since pages load nothing from elsewhere; in another link as its text."""
    source = str(tokens[at].attrs.get("src", ""))
    told = f"Image: {tokens[at].content or source}"
    depth = sum({"link_open": 1, "link_close": -1}.get(token.type, 0) for token in tokens[:at])
    return str(escape(told) if depth else Markup('<a href="{}">{}</a>').format(source, told))


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
        metrics=[*_metrics(subject.revision, known.lineage)][:LISTED],
        link=known.link,
        is_exact=form_of({file.path for file in subject.shown.files}) is EXACT,
        change=_change(subject, known),
        energy=_energy(subject, known),
        whole=_whole(subject, known) if len(subject.shown.lineage) > 2 else None,
        config=[*_config(known.config)],
        targets=_targets(subject.shown.targets),
        engines=[*_engines(subject.shown.engines, image=subject.shown.base.is_image_model)],
        listed=LISTED,
        card=_card(visit, subject),
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


def _metrics(
    revision: RevisionSummary, lineage: Sequence[RevisionSummary]
) -> Iterator[tuple[str, float, float | None, Sparkline | None]]:
    """Each metric with its difference from the parent's, and its values along the lineage."""
    parent = next((one for one in lineage if one.reference == revision.parent), None)
    for name, value in revision.metrics.items():
        before = None if parent is None else parent.metrics.get(name)
        points = [_point(at, one, name) for at, one in enumerate(lineage)]
        many = sum(point.y is not None for point in points) > 1
        chart = Sparkline(f"{name} along the lineage", f"{number(value)} here.", points, lambda _: "") if many else None
        yield name, value, None if before is None else value - before, chart


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


@dataclass(frozen=True)
class _Card:
    """The text of a card, whether that is all of it, and why it can't be shown."""

    html: Markup | None = None
    whole: bool = True
    problem: str | None = None


def _card(visit: Visit, subject: Subject) -> _Card:
    """The card of the adapter; the page stands without it."""
    if subject.shown.card is None:
        return _Card()
    try:
        card = visit.ask(table.CARD, ReferenceRequest(ref=subject.revision.path))
    except RegistryError as problem:
        return _Card(problem=str(problem))
    return _Card(*card_html(card.text))


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
