"""Jobs that a form asks for."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Response

from registry.http.dependencies import service_of
from registry.operations.operation import Job
from registry.schemas import Schema
from registry.services.jobs import submit
from registry.web.frame.visit import Visit

_WAITS: Final = 0.5  # seconds for a job that ends soon


def start(visit: Visit, asked: Job[Any, Any], request: Schema) -> Response:
    """Have a job done by the service, and go to its page; one that is under way already is not begun again."""
    deployment = visit.registry.deployment
    found = service_of(visit.request).runner.run_until(deployment, submit(deployment, asked, request).id, _WAITS)
    return visit.go(visit.links(f"/jobs/{found.id}"))
