"""Handlers of collecting and checking.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from registry.operations import table
from registry.progress import Progress
from registry.schemas import Checked, Collected
from registry.schemas.requests import FsckRequest, GcRequest
from registry.services.deployment import Deployment
from registry.services.handlers.handling import does


@does(table.GC)
def _gc(deployment: Deployment, request: GcRequest, progress: Progress) -> Collected:
    from registry.services.upkeep.collect import collect

    return collect(deployment, dry_run=request.dry_run, progress=progress, grace=deployment.gc_grace)


@does(table.FSCK)
def _fsck(deployment: Deployment, request: FsckRequest, progress: Progress) -> Checked:
    from registry.services.upkeep.check import check

    return check(deployment, deep=request.deep, progress=progress)
