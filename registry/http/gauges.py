"""Gauges that are read when metrics are scraped: of this process, and of the whole registry."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from registry.catalogue.team import jobs
from registry.errors import RegistryError
from registry.services.deployment import Deployment

log = logging.getLogger(__name__)


def of_process(deployment: Deployment) -> Mapping[str, Mapping[str, float]]:
    """Values by name and label that add up over processes."""
    use = deployment.database.pool()
    return {"pool": {"in_use": use.in_use, "idle": use.idle} | ({} if use.size is None else {"most": use.size})}


def of_registry(deployment: Deployment) -> Mapping[str, Mapping[str, float]]:
    """Values by name and label that every process reads alike."""
    try:
        with deployment.database.read() as session:
            return {"operations": {"open": jobs.pending(session)}}
    except RegistryError as error:
        log.warning("operations can't be counted: %s", error)
        return {}
