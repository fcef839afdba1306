"""Verifies a fetched folder against a service: byte by byte, or by tensor if the arithmetic differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from registry.client.arithmetic import MakeArithmetic, missing, needed
from registry.client.artifacts import RemoteArtifact, measured_by_service, plan_artifact
from registry.client.http.transport import Transport
from registry.errors import NotFoundError, UnavailableError
from registry.folders.receipts import receipt_in
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.reference import Reference, hub_name
from registry.schemas import Shown, Verified
from registry.schemas.bundles import ArtifactPlan
from registry.schemas.receipt import rendering_digest
from registry.transfer.compare import check_base, check_plan, verified
from registry.transfer.receipt_check import Ours


def verify(
    transport: Transport, folder: Path, *, arithmetic: MakeArithmetic | None, room: Path, progress: Progress
) -> Verified:
    """Check a fetched folder; see `registry.operations.registry.Registry.verify`.

    Raises:
        NotFoundError: the folder has no receipt, or the service lacks what the receipt names.
        IntegrityError: the receipt is not one, or its plan is not the service's plan of that lineage.
        UnavailableError: ``numerics``: the folder was made with another arithmetic, and comparing needs torch.
    """
    receipt = receipt_in(folder)
    since = None if receipt.since is None else _by_digest(receipt.since, receipt.plan.since)
    # By digest: numbers and names may be another registry's.
    ref = _by_digest(receipt.reference, receipt.tip)
    options = receipt.options.model_copy(update={"since": since})
    plan = plan_artifact(transport, ref, options, is_use=False)
    check_base(receipt, plan.base, plan.plan.base)
    check_plan(folder, receipt, plan.plan_digest)
    ours = _ours(transport, plan)
    if (why := ours.not_exact(receipt)) is not None and arithmetic is None:
        raise UnavailableError(
            f"{folder} was {why}, so bytes can't be compared, and {missing()}, which compares values, is not installed "
            f"here: pip install {missing()}.",
            code="numerics",
        )
    with RemoteArtifact(transport, plan, options, arithmetic=arithmetic, room=room) as artifact:
        compare = None if why is None else needed(arithmetic, "compare values").comparison
        fidelity = measured_by_service(transport, plan)
        answer = verified(folder, receipt, artifact.files, ours, compare, lambda: fidelity, progress)
        return answer.model_copy(update={"fidelity": fidelity})


def _ours(transport: Transport, plan: ArtifactPlan) -> Ours:
    """What the service says of the artifact, with the name in its README.md that gives the service's rendering."""
    made_of = (plan.plan_digest, plan.artifact_format, plan.numerics)
    known = True
    for name in _names(transport, plan):
        if rendering_digest(*made_of, name) == plan.rendering:
            break
    else:
        known, name = False, None
    return Ours(plan, transport.url, [file.path for file in plan.files], name, base_model_known=known)


def _names(transport: Transport, plan: ArtifactPlan) -> Iterator[str | None]:
    """What README.md may call the model: nothing, the repo id of what it goes on in the views, or its repo on a Hub."""
    yield None
    below = plan.base if plan.since is None else str(Reference.parse(plan.since).path)
    yield TreePath.parse(below).repo_id
    with suppress(NotFoundError):  # a token may see the revision alone
        yield hub_name(plan.base, transport.get("/revisions", Shown, ref=plan.base).base.source)


def _by_digest(reference: str, digest: str | None) -> str:
    path = Reference.parse(reference).path
    return str(TreePath(path.base)) if digest is None else str(Reference(path, digest_prefix=digest))
