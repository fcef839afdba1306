"""Handlers of what runs: reports of followers, and what they have."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.changes import followers
from registry.catalogue.tree import browse
from registry.catalogue.tree import running as rows
from registry.catalogue.tree.running import Now, Place
from registry.errors import UsageError
from registry.operations.operation import Part
from registry.reference import Reference
from registry.schemas.running import Reported, ReportRequest, Running, RunningRequest
from registry.services.deployment import Deployment

_AT_ONCE: Final = 1000  # rows that are read together


def report(deployment: Deployment, request: ReportRequest) -> Reported:
    principal = deployment.principal
    said = followers.read(request, principal)
    return deployment.change(lambda session: followers.report(session, said, principal, service_time()))


def list_running(
    deployment: Deployment, request: RunningRequest, after: tuple[str, str, int] | None, limit: int | None
) -> Part[Running]:
    reference = None if request.ref is None else Reference.parse(request.ref)
    if request.unserved and reference is not None and (reference.number or reference.digest_prefix):
        raise UsageError(f"{reference} is a revision, and served are names: give {reference.path} or a tag of it.")
    at = service_time()
    now, wanted = Now(at, at - followers.KEPT), request.state
    place = None if after is None else Place(*after)
    who = deployment.principal.token or deployment.actor
    found: list[tuple[Place, Running]] = []
    size = _AT_ONCE if limit is None or wanted is not None else limit + 1
    with deployment.read() as session:
        while limit is None or len(found) <= limit:
            if request.unserved:
                some = rows.unserved(session, reference, now, place, size)
            else:
                some = rows.followed(session, reference, who, now, place, size)
            found += [one for one in some if wanted is None or one[1].state == wanted]
            if len(some) < size:
                break
            place = some[-1][0]
        if not found and after is None and reference is not None:
            browse.check_there(session, reference.path)
    if limit is None or len(found) <= limit:
        return Part(tuple(one for _, one in found))
    last = found[limit - 1][0]
    return Part(tuple(one for _, one in found[:limit]), [last.path, last.name, last.follower])


def counts(session: Session) -> dict[str, dict[str, float]]:
    """How many followers there are, and in which states their names are."""
    at = service_time()
    return {name: {**found} for name, found in rows.counts(session, Now(at, at - followers.KEPT))}


def service_time() -> datetime:
    """The time, as this process knows it: never that of a follower."""
    return datetime.now(UTC)
