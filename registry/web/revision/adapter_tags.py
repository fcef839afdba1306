"""The tags of an adapter on the pages of its revisions: where each is, and a comparison with it one click away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.tree import adapter_tags, tag_moves
from registry.catalogue.tree.adapter_tags import AdapterTags
from registry.catalogue.tree.tag_moves import TagOrder
from registry.reference import Path
from registry.schemas import Shown
from registry.schemas.tags import TagHistory, TagsRequest
from registry.web.frame.visit import Visit
from registry.web.tags import Row, rows

LISTED: Final = 8
"""Tags of an adapter, and tags to compare with."""


@dataclass(frozen=True)
class Compared:
    """A tag that a revision is compared with.

    Args:
        name: ``PATH@prod``.
        label: what the tag is called, with its adapter's name if that is another one.
        number: of the revision that it names.
    """

    name: str
    label: str
    number: int


@dataclass(frozen=True)
class TagsOfAdapter:
    """What the pages of a revision tell of tags.

    Args:
        rows: the tags of its adapter, the first ones.
        more: how many others there are.
        before: tags that named the revision before, and do not now.
        moves: by tag, its moves, of those that name the revision or did.
        compared: tags of its adapter that name other revisions; of an adapter without tags, those of the nearest
            adapter above it that has any.
        above: that adapter.
    """

    rows: tuple[Row, ...]
    more: int
    before: tuple[TagHistory, ...]
    moves: dict[str, TagHistory]
    compared: tuple[Compared, ...]
    above: str | None


def tags_of(visit: Visit, shown: Shown) -> TagsOfAdapter:
    """The tags around a revision."""
    revision = shown.revision
    if revision is None:
        raise AssertionError("only a base model has none")
    names = revision.path.split("/")
    paths = ["/".join(names[:count]) for count in range(len(names), 1, -1)]
    with visit.registry.deployment.read() as session:
        tags = adapter_tags.of_adapters(session, paths)
        own = _rows(visit, session, revision.path, tags.get(revision.path))
    nearest = next((path for path in paths if path in tags), None)
    of_nearest: Sequence[adapter_tags.TagPlace] = () if nearest is None else tags[nearest].first
    own_name = nearest == revision.path
    compared = [
        Compared(f"{nearest}@{tag.name}", tag.name if own_name else f"{names_end(nearest)}@{tag.name}", tag.number)
        for tag in of_nearest
        if nearest is not None and f"{nearest}@{tag.number}" != revision.reference
    ]
    total = tags[revision.path].total if revision.path in tags else 0
    return TagsOfAdapter(
        rows=own,
        more=total - len(own),
        before=tuple(one for one in shown.tag_history if one.points_at != revision.reference),
        moves={one.tag: one for one in shown.tag_history},
        compared=tuple(compared[:LISTED]),
        above=None if own_name else nearest,
    )


def names_end(path: str) -> str:
    """The last name of a path."""
    return path.rpartition("/")[2]


def _rows(visit: Visit, session: Session, path: str, tags: AdapterTags | None) -> tuple[Row, ...]:
    if tags is None:
        return ()
    first = [one.name for one in tags.first[:LISTED]]
    request = TagsRequest(path=str(Path.parse(path)), old_names=True)
    states = {one.tag: one for one in tag_moves.listed(session, request, TagOrder(), only=first)}
    return rows(visit, session, [states[name] for name in first if name in states])
