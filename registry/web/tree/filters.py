"""What revisions are looked for by: the same fields on the pages of a tree and on that of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from registry.http.cursors import cursor_to, position_of
from registry.operations import table
from registry.schemas import RevisionSummary, Schema
from registry.schemas.requests import SearchRequest
from registry.web.frame.visit import Visit

CONDITIONS: Final = ("text", "tag", "metric", "rank", "target", "author", "parent_known_by", "stat")
_LOOKED_AT: Final = 1000  # revisions, for one page of those that are behind


class Filters(Schema):
    """Conditions, an order, and where a page begins."""

    text: str | None = None
    tag: str | None = None
    metric: str | None = None
    rank: str | None = None
    target: str | None = None
    author: str | None = None
    parent_known_by: str | None = None
    stat: str | None = None
    behind: bool = False
    sort: str | None = None
    after: str | None = None

    @property
    def are_given(self) -> bool:
        """Whether there is any condition."""
        return self.behind or any(getattr(self, name) for name in CONDITIONS)

    def query(self, **changes: object) -> dict[str, object]:
        """The query of a page that asks for the same, but for some changes; without the place where it begins."""
        given = {name: value for name, value in self.model_dump(exclude_defaults=True).items() if name != "after"}
        return {name: 1 if value is True else value for name, value in {**given, **changes}.items()}

    def request(self, **about: object) -> SearchRequest:
        """The search for them."""
        return SearchRequest.model_validate({name: getattr(self, name) for name in (*CONDITIONS, "sort")} | about)


@dataclass(frozen=True)
class Found:
    """A page of what was looked for."""

    items: tuple[RevisionSummary, ...]
    next: str | None
    """``after`` of the next page."""


def found(visit: Visit, filters: Filters, request: SearchRequest, limit: int) -> Found:
    """A page of what is looked for.

    Which are behind no index knows: of a thousand that meet all else, those that are. So there may be more where few
    or none were found.
    """
    after = position_of(table.SEARCH, filters.after)
    if not filters.behind:
        part = visit.listed(table.SEARCH, request, after, limit)
        return Found(part.items, _cursor(part.next))
    kept: list[RevisionSummary] = []
    looked = 0
    while True:
        part = visit.listed(table.SEARCH, request, after, limit - len(kept))
        kept += [one for one in part.items if one.behind]
        looked += len(part.items)
        if part.next is None or len(kept) == limit or looked >= _LOOKED_AT:
            return Found(tuple(kept), _cursor(part.next))
        after = table.SEARCH.key(part.next)


def _cursor(key: object | None) -> str | None:
    return None if key is None else cursor_to(key)
