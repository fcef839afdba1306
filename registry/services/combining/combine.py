"""Publishing the weighted sum of some revisions: made from their factors, and checked as any adapter is."""

from __future__ import annotations

from contextlib import ExitStack

from registry.errors import InvalidAdapterError
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.operations.publication import Labels
from registry.progress import Progress
from registry.reference import Path
from registry.schemas.artifacts import check_ranks
from registry.schemas.publishing import Combined, CombinedSource, CombineRequest
from registry.services.combining.chosen import Chosen, choose
from registry.services.combining.made import Made, make, watched
from registry.services.deployment import Deployment
from registry.services.intake.intake import Intake
from registry.services.publishing.candidates import Candidate, check_draft
from registry.services.publishing.draft import Draft, Files, Said
from registry.services.publishing.publish import publish_draft
from registry.tensors.arithmetic.streamed import Watch
from registry.transfer.claims import Head


def combine(deployment: Deployment, request: CombineRequest, progress: Progress) -> Combined:
    """Combine revisions; see `registry.operations.registry.Registry.combine`. The right to publish was checked before.

    Raises:
        What `registry.services.combining.chosen.choose` and `registry.services.combining.made.make` raise, and what
        publishing the files raises.
    """
    check_ranks(request.rank, request.max_error)
    with deployment.read() as session:
        chosen = choose(session, request)
    with ExitStack() as opened:
        made = make(deployment, chosen, opened)
        draft = _draft(request, chosen, made)
        candidate = check_draft(deployment, draft)
        report = _combined_so(request, chosen, made, candidate)
        if request.dry_run:
            return report

        def take(intake: Intake, _candidate: Candidate, watch: Watch) -> Files:
            progress.begin("Combining", made.weights.size)
            return {
                ADAPTER_CONFIG: intake.made(iter([memoryview(made.config)])),
                ADAPTER_WEIGHTS: intake.made(watched(made.weights, watch)),
            }

        published = publish_draft(deployment, draft, take, progress)
    return report.model_copy(update={"revision": published.revision, "created": published.created})


def _draft(request: CombineRequest, chosen: Chosen, made: Made) -> Draft:
    path, over = Path.parse(request.path), chosen.over
    parent = over.base.name if not over.links else f"{path.parent}@{over.tip}"  # whatever is newer by then
    count = len(chosen.sources)
    # No names of sources: the message is shown to tokens that may not see them.
    message = request.message or f"Combined of {count} revision{'' if count == 1 else 's'}, not trained."
    head = Head(ADAPTER_WEIGHTS, made.header, made.weights.size, InvalidAdapterError)
    return Draft(
        path,
        Said(parent),
        Labels.checked(message, {}, request.tags, {}),
        made.config,
        head,
        combination=chosen.combination,
    )


def _combined_so(request: CombineRequest, chosen: Chosen, made: Made, candidate: Candidate) -> Combined:
    whole, each = made.energies()
    apart = sum(one * one for one in each)
    return Combined(
        path=request.path,
        over=candidate.parent.reference,
        over_digest=candidate.parent.digest,
        sources=tuple(
            CombinedSource(reference=one.path.reference, digest=one.path.tip, weight=one.weight, frobenius=norm)
            for one, norm in zip(chosen.sources, each, strict=True)
        ),
        frobenius=whole,
        energy_ratio=whole * whole / apart if apart else None,
        rank=candidate.checkpoint.rank,
        parameters=candidate.checkpoint.parameters,
        size=made.weights.size,
        truncation=made.truncation,
        notices=made.notices,
    )
