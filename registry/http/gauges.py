"""What is read rather than counted, of this process and of the whole registry: for metrics, and for its own row."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from registry.catalogue.team.jobs import pending
from registry.errors import RegistryError
from registry.memory import MemoryCache
from registry.schemas.jobs import ReplicaFigures
from registry.services.deployment import Deployment
from registry.services.upkeep.health import damage, successes

log = logging.getLogger(__name__)


def of_process(deployment: Deployment) -> Mapping[str, Mapping[str, float]]:
    """Values by name and label that add up over processes."""
    use = deployment.database.pool()
    return {"pool": {"in_use": use.in_use, "idle": use.idle} | ({} if use.size is None else {"most": use.size})}


def figures_of(deployment: Deployment, memory: MemoryCache, *, bodies: int, jobs: int) -> ReplicaFigures:
    """What this process tells of itself in its row."""
    pool, kinds = deployment.database.pool(), memory.use().values()
    return ReplicaFigures(
        cache_hits=sum(use.hits for use in kinds),
        cache_misses=sum(use.misses for use in kinds),
        cache_bytes=sum(use.bytes for use in kinds),
        cache_budget=memory.budget,
        pool_in_use=pool.in_use,
        pool_idle=pool.idle,
        pool_most=pool.size,
        bodies=bodies,
        jobs=jobs,
    )


def of_registry(deployment: Deployment) -> Mapping[str, Mapping[str, float]]:
    """Values by name and label that every process reads alike."""
    try:
        with deployment.database.read() as session:
            return {
                "operations": {"open": pending(session)},
                "last_success_timestamp_seconds": successes(session),
                "damage": damage(session),
            }
    except RegistryError as error:
        log.warning("operations can't be counted, nor the last upkeep found: %s", error)
        return {}
