"""How a service is: its replicas, its jobs, its store, as far as the database tells. Nothing is computed or guessed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.database import events, migrations, schema
from registry.catalogue.database.events import EventFilter
from registry.catalogue.store import growth
from registry.catalogue.team import job_lists, jobs, replicas
from registry.schemas import Event
from registry.schemas.jobs import Health
from registry.schemas.team import EventKind
from registry.services.deployment import Deployment
from registry.version import __version__

_MOST: Final = 100  # events that are looked at for the end of a collection, and for the last deep check


def health(deployment: Deployment) -> Health:
    """How the service is, in one snapshot."""
    now = datetime.now(UTC)
    with deployment.read() as session:
        asked_for, notices = job_lists.counts(session, now - jobs.KEPT)
        return Health(
            version=__version__,
            migration=schema.version_on(session.connection()),
            newest_migration=migrations.HISTORY[-1],
            replicas=replicas.listing(session, now),
            jobs=asked_for,
            notices=notices,
            bytes=growth.stored(session),
            growth=growth.weeks(session, now.date()),
            last_gc=_last(session, "gc"),
            last_fsck=_last(session, "fsck"),
        )


def successes(session: Session) -> Mapping[str, float]:
    """When ``gc``, ``fsck`` and ``fsck --deep`` last came to their end and found nothing wrong, in seconds since 1970.

    What is not known is left out. A deep check is a check.
    """
    checks = [one for one in _checks(session) if not _found(one)]
    found = {
        "gc": next((one for one in _ends(session) if one.detail.get("done")), None),
        "fsck": next(iter(checks), None),
        "fsck_deep": next((one for one in checks if one.detail.get("deep")), None),
    }
    return {name: one.at.timestamp() for name, one in found.items() if one is not None}


def damage(session: Session) -> Mapping[str, float]:
    """How many blobs are damaged and unreadable, as the checks since the last deep one, and that one, found them.

    One that only sees that each blob is there takes back nothing of what a deep one read.
    """
    checks: list[Event] = []
    for one in _checks(session):
        checks.append(one)
        if one.detail.get("deep"):
            break
    newest_and_deep = [*checks[:1], *checks[-1:]] if checks and checks[-1].detail.get("deep") else checks[:1]
    return {
        state: float(max(int(str(one.detail.get(state, 0))) for one in newest_and_deep))
        for state in ("damaged", "unreadable")
        if newest_and_deep
    }


def _ends(session: Session) -> tuple[Event, ...]:
    """The newest events of collections: the first is nearly always the end of one."""
    newest = events.recent(session, 1, EventFilter(kind="gc"))
    return newest if newest and newest[0].detail.get("done") else events.recent(session, _MOST, EventFilter(kind="gc"))


def _checks(session: Session) -> tuple[Event, ...]:
    return events.recent(session, _MOST, EventFilter(kind="fsck"))


def _found(check: Event) -> bool:
    return any(check.detail.get(state) for state in ("damaged", "unreadable"))


def _last(session: Session, kind: EventKind) -> Event | None:
    return next(iter(events.recent(session, 1, EventFilter(kind=kind))), None)
