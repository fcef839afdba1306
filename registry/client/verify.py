"""Verifies a fetched folder against a service: byte by byte, or by tensor if the arithmetic differs."""

from __future__ import annotations

from pathlib import Path

from registry.client.arithmetic import MakeArithmetic, missing, needed
from registry.client.artifacts import RemoteArtifact, measured_by_service, plan_artifact
from registry.client.http.transport import Transport
from registry.errors import UnavailableError
from registry.folders.receipts import receipt_in
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import Verified
from registry.transfer.compare import check_base, check_plan, verified


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
    exact = plan.rendering == receipt.rendering
    if not exact and arithmetic is None:
        raise UnavailableError(
            f"{folder} was made with the arithmetic {receipt.numerics} and {transport.url} has {plan.numerics}, so "
            f"bytes can't be compared, and {missing()}, which compares values, is not installed here: pip install "
            f"{missing()}.",
            code="numerics",
        )
    with RemoteArtifact(transport, plan, options, arithmetic=arithmetic, room=room) as artifact:
        compare = None if exact else needed(arithmetic, "compare values").comparison
        answer = verified(folder, receipt, artifact.files, plan.artifact_format, compare, progress)
        return answer.model_copy(update={"fidelity": measured_by_service(transport, plan)})


def _by_digest(reference: str, digest: str | None) -> str:
    path = Reference.parse(reference).path
    return str(TreePath(path.base)) if digest is None else str(Reference(path, digest_prefix=digest))
