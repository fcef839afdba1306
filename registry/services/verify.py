"""Verifying a fetched folder: its files against its receipt, then every byte against the registry, computed again."""

from __future__ import annotations

from pathlib import Path

from registry.catalogue import revisions
from registry.errors import IntegrityError, NotFoundError
from registry.folders.receipts import Receipt, read_receipt
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import Verified
from registry.services.artifacts import build_artifact
from registry.services.comparing import against_artifact, against_receipt, without_repeats
from registry.services.deployment import Deployment
from registry.services.lineage import LoadedPath
from registry.services.paths import load_path
from registry.tensors.artifacts.closeness import TensorComparison


def verify(deployment: Deployment, folder: Path, progress: Progress) -> Verified:
    """Check a fetched folder; see `registry.services.protocol.Registry.verify`.

    Raises:
        NotFoundError: the folder has no receipt, or the registry lacks what the receipt names.
        IntegrityError: the receipt is not one, or its plan is not what the registry makes of its lineage.
    """
    receipt = read_receipt(folder)
    path = _path(deployment, receipt, receipt.reference, receipt.tip)
    ancestor = None if receipt.since is None else _path(deployment, receipt, receipt.since, receipt.plan.since)
    with build_artifact(deployment, path, ancestor, receipt.options) as artifact:
        if artifact.plan.digest != receipt.plan_digest:
            raise IntegrityError(
                f"The receipt in {folder} says the plan {receipt.plan_digest}, but the registry's plan for "
                f"{receipt.reference} is {artifact.plan.digest}: the base's files differ, or the receipt was changed.",
                code="verify_failed",
            )
        exact = artifact.rendering == receipt.rendering
        progress.begin("Verifying", 2 * artifact.size)
        mismatches = [
            *against_receipt(folder, receipt, progress),
            *against_artifact(folder, artifact.files, None if exact else TensorComparison, progress),
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


def _path(deployment: Deployment, receipt: Receipt, reference: str, digest: str | None) -> LoadedPath:
    """The path that a receipt names, found by digest: numbers and names are another registry's."""
    named = Reference.parse(reference).path
    if digest is None:
        path = load_path(deployment, Reference(TreePath(named.base)))
    else:
        with deployment.read() as session:
            row = revisions.find(session, Reference(named, digest_prefix=digest))
        path = load_path(deployment, Reference(named, number=row.number))
    if path.base.digest != receipt.plan.base:
        raise NotFoundError(
            f"The registry's {path.base.name} has other weights than the receipt's base {receipt.plan.base}."
        )
    return path
