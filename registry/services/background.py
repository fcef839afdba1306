"""What is kept of a revision beside what `show` says: for pages, which start no work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from registry.catalogue.tree import browse, statistics
from registry.catalogue.tree.links import links
from registry.catalogue.tree.statistics import Key
from registry.reference import Path, Reference
from registry.schemas import DeletedRevision, RevisionSummary
from registry.schemas.statistics import DeltaStatistics
from registry.services.deployment import Deployment


@dataclass(frozen=True)
class Background:
    """A revision and what is kept of its lineage.

    Args:
        lineage: the revisions of its path that the principal sees, root first, each with the statistics kept of it.
        config: its ``adapter_config.json``.
        link: statistics of its own delta; None: none are kept.
        path: statistics of all deltas of its path; None: none are kept.
    """

    lineage: tuple[RevisionSummary, ...]
    config: Mapping[str, Any]
    link: DeltaStatistics | None
    path: DeltaStatistics | None


def background(deployment: Deployment, ref: str) -> Background:
    """What is kept of a revision.

    Raises:
        NotFoundError: the reference names nothing.
        UsageError: it names a base model.
    """
    with deployment.read() as session:
        rows = [link.revision for link in links(session, Reference.parse(ref))]
        tip = rows[-1]
        link = Key(tip.id, "link")
        path = link if len(rows) == 1 else Key(tip.id, "path")
        kept = statistics.kept(session, {link, path}, relative=False)
        seen = browse.summaries(session, [row.id for row in rows])
        values = statistics.values_of(session, seen)
    lineage = [seen[row.id].model_copy(update={"statistics": values.get(row.id, {})}) for row in rows if row.id in seen]
    return Background(tuple(lineage), json.loads(tip.manifest).get("config", {}), kept.get(link), kept.get(path))


def recent_metrics(deployment: Deployment, path: Path) -> dict[str, dict[int, float]]:
    """See `registry.catalogue.tree.browse.recent_metrics`."""
    with deployment.read() as session:
        return browse.recent_metrics(session, path)


def deleted_between(
    deployment: Deployment, path: Path, *, above: int, before: int | None, limit: int
) -> tuple[DeletedRevision, ...]:
    """The deleted revisions of an adapter between two numbers, by falling numbers."""
    grace = timedelta(seconds=deployment.gc_grace)
    with deployment.read() as session:
        return browse.deleted(session, path, datetime.now(UTC), grace, above=above, before=before, limit=limit)
