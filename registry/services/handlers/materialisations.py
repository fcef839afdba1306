"""Handlers of artifacts that are kept.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from typing import Any

from registry.catalogue.store.materialisations import ListPosition
from registry.operations import table
from registry.operations.operation import Part, part
from registry.progress import Progress
from registry.schemas import Materialisation, Materialised
from registry.schemas.requests import DropRequest, MaterialisationsRequest, MaterialiseRequest
from registry.services.deployment import Deployment
from registry.services.handlers.handling import does, lists, one_more


@lists(table.MATERIALISATIONS)
def _materialisations(
    deployment: Deployment, request: MaterialisationsRequest, after: Any, limit: int | None
) -> Part[Materialisation]:
    from registry.services import materialise

    last = None if after is None else ListPosition(*after)
    found = materialise.listed(deployment, request.ref, limit=one_more(limit), after=last)
    return part(found, limit, lambda one: (one.reference, one.created_at.isoformat(), one.id))


@does(table.MATERIALISE)
def _materialise(deployment: Deployment, request: MaterialiseRequest, progress: Progress) -> Materialised:
    from registry.services import materialise

    return materialise.materialise(deployment, request, progress)


@does(table.DROP_MATERIALISATION)
def _drop(deployment: Deployment, request: DropRequest, _progress: Progress) -> tuple[Materialisation, ...]:
    from registry.services import materialise

    return materialise.drop(deployment, request.which, request.kind)
