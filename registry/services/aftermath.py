"""What happened to an adapter and to its revisions since they were published, for the pages about them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from registry.catalogue.database import events
from registry.catalogue.database.events import EventFilter, EventPosition
from registry.catalogue.tree import aftermath, cards, revisions
from registry.catalogue.tree.aftermath import Value, ValueChange
from registry.catalogue.tree.cards import CardVersion
from registry.operations.operation import Part
from registry.reference import Path, Reference
from registry.schemas import DeletedRevision, Event
from registry.services.deployment import Deployment


def value_changes(deployment: Deployment, path: Path, number: int) -> dict[Value, ValueChange]:
    """See `registry.catalogue.tree.aftermath.value_changes`."""
    with deployment.read() as session:
        return aftermath.value_changes(session, path, number)


def deletion_of(deployment: Deployment, reference: Reference) -> DeletedRevision | None:
    """See `registry.catalogue.tree.aftermath.deletion_of`."""
    with deployment.read() as session:
        grace = timedelta(seconds=deployment.gc_grace)
        return aftermath.deletion_of(session, reference, datetime.now(UTC), grace)


def happened(deployment: Deployment, path: Path, before: Any, limit: int) -> Part[Event]:
    """What was done to an adapter and its revisions, not to what is below it; newest first.

    Raises:
        NotFoundError: nothing was, and the adapter does not exist, or is not visible.
        UsageError: no page gave ``before``.
    """
    conditions = EventFilter(path, alone=True)
    with deployment.read() as session:
        found = events.page(session, limit, None if before is None else EventPosition(*before), conditions)
        if not found.events:
            revisions.adapter(session, path)
    return Part(found.events, None if found.next is None else [found.next.at.isoformat(), found.next.place])


def card_versions(deployment: Deployment, path: Path, limit: int) -> tuple[CardVersion, ...]:
    """The texts of an adapter's card that are stored, newest first; raises `NotFoundError`, `UsageError`."""
    with deployment.read() as session:
        return cards.versions(session, revisions.adapter(session, path), limit)
