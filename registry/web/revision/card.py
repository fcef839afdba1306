"""Cards as HTML: Markdown without HTML of its own, and of the HTML that comes out, only what a text needs."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Final

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

from registry.errors import RegistryError
from registry.operations import table
from registry.schemas.requests import ReferenceRequest
from registry.services.artifacts.readme import front_matter
from registry.web.frame.visit import Visit
from registry.web.revision.subject import Subject

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


@dataclass(frozen=True)
class ShownCard:
    """The text of a card, whether that is all of it, and why it can't be shown."""

    html: Markup | None = None
    whole: bool = True
    problem: str | None = None


def card_of(visit: Visit, subject: Subject) -> ShownCard:
    """The card of the adapter; the page stands without it."""
    if subject.shown.card is None:
        return ShownCard()
    try:
        card = visit.ask(table.CARD, ReferenceRequest(ref=subject.revision.path))
    except RegistryError as problem:
        return ShownCard(problem=str(problem))
    return ShownCard(*card_html(card.text))
