"""Verifying a fetched folder against a service: every byte again, or, on another arithmetic, every tensor."""

from __future__ import annotations

from pathlib import Path

from registry.client.arithmetic import MakeArithmetic, needed
from registry.client.artifacts import RemoteArtifact, plan_artifact
from registry.client.transport import Transport
from registry.errors import IntegrityError, NotFoundError, UnavailableError
from registry.folders.receipts import read_receipt
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import Verified
from registry.services.comparing import against_artifact, against_receipt, without_repeats


def verify(
    transport: Transport, folder: Path, *, arithmetic: MakeArithmetic | None, room: Path, progress: Progress
) -> Verified:
    """Check a fetched folder; see `registry.services.protocol.Registry.verify`.

    Raises:
        NotFoundError: the folder has no receipt, or the service lacks what the receipt names.
        IntegrityError: the receipt is not one, or its plan is not what the service makes of its lineage.
        UnavailableError: ``numerics``: the folder is of another arithmetic, and comparing needs torch.
    """
    receipt = read_receipt(folder)
    since = None if receipt.since is None else _by_digest(receipt.since, receipt.plan.since)
    # By digest: numbers and names are another registry's.
    ref = _by_digest(receipt.reference, receipt.tip)
    options = receipt.options.model_copy(update={"since": since})
    plan = plan_artifact(transport, ref, options)
    if plan.plan.base != receipt.plan.base:
        raise NotFoundError(
            f"The registry's {plan.base} has other weights than the receipt's base {receipt.plan.base}."
        )
    if plan.plan_digest != receipt.plan_digest:
        raise IntegrityError(
            f"The receipt in {folder} says the plan {receipt.plan_digest}, but the registry's plan for "
            f"{receipt.reference} is {plan.plan_digest}: the base's files differ, or the receipt was changed.",
            code="verify_failed",
        )
    exact = plan.rendering == receipt.rendering
    if not exact and arithmetic is None:
        raise UnavailableError(
            f"{folder} was made with the arithmetic {receipt.numerics} and {transport.url} has {plan.numerics}, so "
            "bytes can't be compared, and torch, which compares values, is not installed here: pip install torch.",
            code="numerics",
        )
    with RemoteArtifact(transport, plan, options, arithmetic=arithmetic, room=room) as artifact:
        compare = None if exact else needed(arithmetic, "compare values").comparison
        progress.begin("Verifying", 2 * artifact.size)
        mismatches = [
            *against_receipt(folder, receipt, progress),
            *against_artifact(folder, artifact.files, compare, progress),
        ]
    return Verified(
        folder=str(folder),
        reference=receipt.reference,
        kind=receipt.kind,
        equal=not mismatches,
        exact=exact,
        files=len(receipt.files),
        mismatches=without_repeats(mismatches),
    )


def _by_digest(reference: str, digest: str | None) -> str:
    path = Reference.parse(reference).path
    return str(TreePath(path.base)) if digest is None else str(Reference(path, digest_prefix=digest))
