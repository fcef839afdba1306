"""The tags of some adapters together, wherever they point, and how many followers serve what each names.

What a page shows of many adapters is read at once, and of an adapter with any number of tags only the first: those that
are protected by their very name, then by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, and_, func, literal, select
from sqlalchemy.orm import Session, aliased

from registry.catalogue.database.tables import HAS_REVISIONS, Adapter, Revision, Tag
from registry.catalogue.database.team_tables import FollowedRecord, FollowerRecord, ProtectedTagRecord
from registry.catalogue.store.blobs import parts
from registry.catalogue.tree import order
from registry.catalogue.tree.old_names import adapter_is_listed
from registry.reference import Path

FIRST: Final = 20
"""Tags of an adapter, besides those that are protected by their name."""
NAMES: Final = 10
"""Different names of tags in a subtree."""
_LAST: Final = "z" * 65  # comes after every tag, which has at most 64 letters


@dataclass(frozen=True)
class TagPlace:
    """A tag, the number of the revision that it names, and whether it is protected by its very name."""

    name: str
    number: int
    protected: bool


@dataclass(frozen=True)
class AdapterTags:
    """The first tags of an adapter, and how many it has."""

    first: tuple[TagPlace, ...]
    total: int


def of_adapters(session: Session, paths: Collection[str]) -> dict[str, AdapterTags]:
    """The tags of those of some adapters that the session sees and that have any, by path."""
    found: dict[str, dict[str, TagPlace]] = {}
    for some in parts(sorted(set(paths))):
        for query, protected in ((_protected(some), True), (_by_name(some), False)):
            for path, name, number in session.execute(query):
                found.setdefault(path, {}).setdefault(name, TagPlace(name, number, protected))
    counts = {path: len(tags) for path, tags in found.items()}
    # Others have no more than were read.
    for some in parts(sorted(path for path, count in counts.items() if count >= FIRST)):
        query = select(Adapter.path, func.count()).join(Tag, Tag.adapter_id == Adapter.id)
        rows = session.execute(query.where(Adapter.path.in_(some)).group_by(Adapter.path))
        counts |= {row[0]: row[1] for row in rows}
    return {path: AdapterTags(tuple(tags.values()), counts[path]) for path, tags in found.items()}


def _named(paths: Collection[str]) -> Select[*tuple[Any, ...]]:
    query = select(Adapter.path, Tag.name, Revision.number).join(Tag, Tag.adapter_id == Adapter.id)
    return query.join(Revision, Revision.id == Tag.revision_id).where(Adapter.path.in_(paths)).order_by(Tag.name)


def _protected(paths: Collection[str]) -> Select[*tuple[Any, ...]]:
    """Those of which a pattern is the name itself."""
    same = and_(ProtectedTagRecord.base_id == Adapter.base_id, ProtectedTagRecord.pattern == Tag.name)
    return _named(paths).join(ProtectedTagRecord, same)


def _by_name(paths: Collection[str]) -> Select[*tuple[Any, ...]]:
    """The first of each adapter: up to a name that is looked up in the key, so that no others are read."""
    own = aliased(Tag)
    last = select(own.name).where(own.adapter_id == Adapter.id).order_by(own.name).offset(FIRST - 1).limit(1)
    return _named(paths).where(Tag.name <= func.coalesce(last.correlate(Adapter).scalar_subquery(), literal(_LAST)))


def names(session: Session, path: Path | None) -> tuple[tuple[str, int], ...]:
    """The names that most adapters at and under a path, or all, have a tag of, with how many those are."""
    query = select(Tag.name, func.count()).join(Adapter, Adapter.id == Tag.adapter_id)
    query = query.where(HAS_REVISIONS, adapter_is_listed(session))
    if path is not None:
        query = query.where(order.within(path))
    found = session.execute(query.group_by(Tag.name).order_by(func.count().desc(), Tag.name).limit(NAMES))
    return tuple((name, count) for name, count in found)


@dataclass(frozen=True)
class Serving:
    """How many live followers of a tag have what it names, and how many have not."""

    has: int
    lags: int


def serving(session: Session, tags: Mapping[tuple[str, str], int | None], now: datetime) -> dict[str, Serving]:
    """Who serves some tags, by ``PATH@tag``: those that a live follower follows.

    Args:
        session: what it sees.
        tags: by path and tag, what a follower should have: the number that the tag names; None: nothing, as of a
            retracted revision. The session sees their adapters.
        now: the time, by which leases have ended.
    """
    wanted = {f"{path}@{tag}": number for (path, tag), number in tags.items()}
    paths = {path for path, _ in tags}
    found: dict[str, list[int]] = {}
    for name, serves, count in _counted(session, sorted(paths), wanted, now):
        found.setdefault(name, [0, 0])[serves != wanted[name]] += count
    return {name: Serving(has, lags) for name, (has, lags) in found.items()}


def _counted(
    session: Session, paths: Collection[str], names: Collection[str], now: datetime
) -> Iterator[tuple[str, int | None, int]]:
    for some in parts(paths):
        query = (
            select(FollowedRecord.name, FollowedRecord.serves, func.count())
            .join(FollowerRecord, FollowerRecord.key == FollowedRecord.follower_key)
            .where(FollowerRecord.lease_until > now, FollowedRecord.path.in_(some), FollowedRecord.name.in_(names))
        )
        for row in session.execute(query.group_by(FollowedRecord.name, FollowedRecord.serves)):
            yield row[0], row[1], row[2]
