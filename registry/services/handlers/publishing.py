"""Handlers of publishing, and of what another registry asks.

Tensor code is imported where it is needed, so that browsing starts fast.
"""

from __future__ import annotations

from registry.catalogue.tree.subtree import subtree
from registry.operations import table
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import BaseAdded, BaseMeasured, Published, Retabled
from registry.schemas.bundles import Bundle
from registry.schemas.parents import NarrowRequest, PathsLeft
from registry.schemas.publishing import Combined, CombineRequest, Rebased, RebaseRequest, Replayed, ReplayRequest
from registry.schemas.requests import MeasureBaseRequest, ReferenceRequest, RetableRequest, SubtreeRequest
from registry.schemas.transfer import (
    BaseCommit,
    BasePlan,
    BaseRequest,
    PublishCommit,
    PublishPlan,
    PublishRequest,
)
from registry.services.deployment import Deployment
from registry.services.handlers.handling import does


@does(table.PLAN_PUBLISH)
def _plan_publish(deployment: Deployment, request: PublishRequest, _progress: Progress) -> PublishPlan:
    from registry.services.publishing.publish import plan_publish

    return plan_publish(deployment, request)


@does(table.COMMIT_PUBLISH)
def _commit_publish(deployment: Deployment, request: PublishCommit, progress: Progress) -> Published:
    from registry.services.publishing.publish import commit_publish

    return commit_publish(deployment, request, progress)


@does(table.NARROW)
def _narrow(deployment: Deployment, request: NarrowRequest, progress: Progress) -> PathsLeft:
    from registry.services.publishing.narrowing import narrow_paths

    return narrow_paths(deployment, request, progress)


@does(table.REBASE)
def _rebase(deployment: Deployment, request: RebaseRequest, progress: Progress) -> Rebased:
    from registry.services.publishing.rebase import rebase

    return rebase(deployment, request, progress)


@does(table.COMBINE)
def _combine(deployment: Deployment, request: CombineRequest, progress: Progress) -> Combined:
    from registry.services.combining.combine import combine

    return combine(deployment, request, progress)


@does(table.REPLAY)
def _replay(deployment: Deployment, request: ReplayRequest, progress: Progress) -> Replayed:
    from registry.services.combining.replay import replay

    return replay(deployment, request, progress)


@does(table.PLAN_BASE)
def _plan_base(deployment: Deployment, request: BaseRequest, _progress: Progress) -> BasePlan:
    from registry.services.bases.add_remote import plan_base

    return plan_base(deployment, request)


@does(table.COMMIT_BASE)
def _commit_base(deployment: Deployment, request: BaseCommit, progress: Progress) -> BaseAdded:
    from registry.services.bases.add_remote import commit_base

    return commit_base(deployment, request, progress)


@does(table.RETABLE)
def _retable(deployment: Deployment, request: RetableRequest, progress: Progress) -> Retabled:
    from registry.services.bases.retable import retable

    return retable(deployment, request.base, progress)


@does(table.MEASURE_BASE)
def _measure_base(deployment: Deployment, request: MeasureBaseRequest, progress: Progress) -> BaseMeasured:
    from registry.services.bases.norms import measure

    return measure(deployment, request.base, progress)


@does(table.BUNDLE)
def _bundle(deployment: Deployment, request: ReferenceRequest, _progress: Progress) -> Bundle:
    from registry.services.artifacts.bundles import bundle

    return bundle(deployment, request.ref)


@does(table.SUBTREE)
def _subtree(deployment: Deployment, request: SubtreeRequest, _progress: Progress) -> tuple[str, ...]:
    after = None if request.after is None else Reference.parse(request.after)
    with deployment.read() as session:
        return subtree(session, Path.parse(request.path), after=after, limit=request.limit)
