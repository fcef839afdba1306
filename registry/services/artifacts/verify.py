"""Verifying a fetched folder: its files against its receipt, then against the artifact, which is computed again."""

from __future__ import annotations

from pathlib import Path

from registry.catalogue.tree import revisions
from registry.errors import IntegrityError
from registry.folders.receipts import receipt_in
from registry.progress import Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import Verified
from registry.schemas.receipt import Receipt
from registry.services.artifacts.build import build_artifact
from registry.services.artifacts.load import load_path
from registry.services.deployment import Deployment
from registry.tensors.artifacts.numerics import TensorComparison
from registry.tensors.lineage.paths import LoadedPath
from registry.tensors.lineage.plan import described
from registry.transfer.fetched_folder import check_base, check_plan, verified
from registry.transfer.receipt_check import Ours


def verify(deployment: Deployment, folder: Path, progress: Progress) -> Verified:
    """Check a fetched folder; see `registry.operations.registry.Registry.verify`.

    Raises:
        NotFoundError: the folder has no receipt, or the registry lacks what the receipt names.
        IntegrityError: the receipt is malformed, or its plan differs from the registry's plan of its lineage.
    """
    receipt = receipt_in(folder)
    path = _path(deployment, receipt, receipt.reference, receipt.tip)
    ancestor = None if receipt.since is None else _path(deployment, receipt, receipt.since, receipt.plan.since)
    path = path.weighted(receipt.options.weights, ancestor)
    with build_artifact(deployment, path, ancestor, receipt.options, measured="full") as artifact:
        if receipt.plan_digest != artifact.plan.digest and receipt.plan.table != artifact.plan.table:
            raise IntegrityError(
                f"The folder {folder} was made with the target table {receipt.plan.table}, and {path.base.name} has "
                f"{artifact.plan.table}: it was rebuilt since (`registry base retable`); fetch the artifact again.",
                code="verify_failed",
            )
        check_plan(folder, receipt, artifact.plan.digest)
        plan = described(path, ancestor, artifact)
        ours = Ours(plan, deployment.url, artifact.files.keys(), artifact.plan.base_model)
        compare = None if ours.is_exact(receipt) else TensorComparison
        rows = None if receipt.fidelity is None else receipt.fidelity.rows
        answer = verified(folder, receipt, artifact.files, ours, compare, lambda: artifact.fidelity(rows), progress)
        return answer.model_copy(update={"fidelity": artifact.fidelity()})


def _path(deployment: Deployment, receipt: Receipt, reference: str, digest: str | None) -> LoadedPath:
    """The path that a receipt names, found by digest: numbers may be those of another registry."""
    named = Reference.parse(reference).path
    if digest is None:
        path = load_path(deployment, Reference(TreePath(named.base)))
    else:
        with deployment.read() as session:
            row = revisions.find(session, Reference(named, digest_prefix=digest))
        path = load_path(deployment, Reference(named, number=row.number))
    check_base(receipt, path.base.name, path.base.digest)
    return path
