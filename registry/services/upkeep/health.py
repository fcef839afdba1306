"""How a service is: its replicas, its jobs, its store, as far as the database tells. Nothing is computed or guessed."""

from __future__ import annotations

from datetime import UTC, datetime

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


def _last(session: Session, kind: EventKind) -> Event | None:
    return next(iter(events.recent(session, 1, EventFilter(kind=kind))), None)
