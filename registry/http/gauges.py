"""Gauges that are read when metrics are scraped."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from registry.catalogue.team import jobs
from registry.errors import RegistryError
from registry.services.deployment import Deployment

log = logging.getLogger(__name__)


def gauges(deployment: Deployment) -> Mapping[str, Mapping[str, float]]:
    """Values by name and label."""
    use = deployment.database.pool()
    pool = {"in_use": use.in_use, "idle": use.idle} | ({} if use.size is None else {"most": use.size})
    found: dict[str, Mapping[str, float]] = {"pool": pool}
    try:
        with deployment.database.read() as session:
            found["operations"] = {"open": jobs.pending(session)}
    except RegistryError as error:
        log.warning("operations can't be counted: %s", error)
    return found
