"""The receipt of a written artifact, whichever machine computed it."""

from __future__ import annotations

import platform

from registry.schemas import Fidelity, OutputFile
from registry.schemas.bundles import ArtifactPlan
from registry.schemas.receipt import Receipt, ReceiptVersions


def receipt_of(
    plan: ArtifactPlan, files: tuple[OutputFile, ...], registry: str, fidelity: Fidelity | None = None
) -> Receipt:
    """The receipt for ``files``, written by a plan of ``registry``, with what was measured meanwhile."""
    return Receipt(
        reference=plan.reference,
        kind=plan.kind,
        base=plan.base,
        since=plan.since,
        plan=plan.plan,
        plan_digest=plan.plan_digest,
        rendering=plan.rendering,
        numerics=plan.numerics,
        lineage=plan.lineage,
        registry=registry,
        versions=ReceiptVersions(
            registry=plan.version,
            artifact_format=plan.artifact_format,
            torch=plan.torch,
            python=platform.python_version(),
        ),
        notices=plan.notices,
        truncation=plan.truncation,
        files=files,
        fidelity=fidelity,
    )
