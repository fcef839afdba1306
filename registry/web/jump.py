"""From the field at the head of every page: a reference that was typed opens, and filters can be added by a link."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from registry.catalogue.tree import revisions
from registry.errors import NotFoundError, UsageError
from registry.operations import table
from registry.reference import Path, Reference
from registry.schemas import RevisionSummary
from registry.schemas.parents import level_of
from registry.schemas.requests import SearchRequest
from registry.schemas.search_text import Filter, parse, typed
from registry.web.frame.visit import Visit

EXAMPLES: Final = ("tag:prod", "author:NAME", "acc>0.8", "rank<=16", "behind", "assumed", "since:30d", "target:q_proj")
_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{8,64})")
_LEAST_HEX: Final = 12  # of a digest without "sha256:" before it
_MOST: Final = 10


@dataclass(frozen=True)
class Addition:
    """A filter that can be added, and the address of the search with it."""

    text: str
    href: str


def opened(visit: Visit, text: str | None) -> str | None:
    """The page that a reference leads to which is all that was typed: a path with a slash, a revision, or a digest.

    None: it is none, or names nothing that the visitor sees.
    """
    text = (text or "").strip()
    found = _by_digest(visit, text) if _DIGEST.fullmatch(text) else _by_name(visit, text)
    return None if found is None else visit.links.ref(found)


def _by_name(visit: Visit, text: str) -> str | None:
    try:
        reference = Reference.parse(text)
        if reference.path.is_base:  # a word of many paths
            return None
        with visit.registry.deployment.read() as session:
            revisions.find(session, reference)
    except (UsageError, NotFoundError):
        return None
    return str(reference)


def _by_digest(visit: Visit, text: str) -> str | None:
    digits = text.removeprefix("sha256:")
    if digits == text and len(digits) < _LEAST_HEX:
        return None
    request = SearchRequest(text=f"sha256:{digits}", all_revisions=True)
    found = visit.registry.deployment.page(table.SEARCH, request, None, 2).items
    return found[0].reference if len(found) == 1 else None


def additions(text: str | None, found: Sequence[RevisionSummary], link: Callable[[str], str]) -> tuple[Addition, ...]:
    """Filters that some of what was found meets and that were not typed yet, the most frequent ones."""
    given = parse(text or "").filters
    fresh = dict.fromkeys(one for one in _filters(found) if one not in given)
    before = f"{text.strip()} " if text and text.strip() else ""
    return tuple(Addition(_as_typed(one), link(f"{before}{_as_typed(one)}")) for one in [*fresh][:_MOST])


def _filters(found: Sequence[RevisionSummary]) -> Iterator[Filter]:
    values_of: tuple[tuple[str, list[str], int], ...] = (
        ("tag", [tag for one in found for tag in one.tags], 3),
        ("author", [one.author for one in found if '"' not in one.author], 2),
        ("base", [Path.parse(one.path).base for one in found], 2),
    )
    for name, values, most in values_of:
        counts = Counter(values)
        if name == "tag" or len(counts) > 1:
            yield from (Filter(name, value) for value, _ in counts.most_common(most))
    if any(one.behind for one in found):
        yield Filter("behind")
    if any(one.retracted for one in found):
        yield Filter("retracted")
    if any(level_of(one.parent_known_by) == "assumed" for one in found):
        yield Filter("parent-known-by", "assumed")
    metrics = Counter(name for one in found for name in one.metrics)
    for name, _ in metrics.most_common(1):
        measured = sorted(one.metrics[name] for one in found if name in one.metrics)
        yield Filter("metric", f"{name}>={measured[len(measured) // 2]:.3g}")
    if any(one.created_at > datetime.now(UTC) - timedelta(days=30) for one in found):
        yield Filter("since", "30d")


def _as_typed(one: Filter) -> str:
    if not one.value:
        return one.name
    if one.name == "metric" and parse(one.value).filters == (one,):
        return one.value
    if one == Filter("parent-known-by", "assumed"):
        return one.value
    return typed(one.name, one.value)
