"""Fetching: an artifact written into a folder that appears when it is complete, with a receipt beside its files."""

from __future__ import annotations

import platform
from pathlib import Path

from registry.folders.cache import FetchCache
from registry.folders.filling import absolute, fetched, fill, may_fill, receipt_of_rendering
from registry.folders.receipts import Receipt, ReceiptLink, ReceiptPlan, ReceiptVersions
from registry.progress import Progress
from registry.reference import Reference
from registry.schemas import Fetched, Options, OutputFile
from registry.services.artifacts import build_artifact
from registry.services.deployment import Deployment
from registry.services.paths import LoadedPath, load_path, target_groups_of
from registry.tensors.artifacts.artifact import Artifact
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT
from registry.version import __version__


def fetch(
    deployment: Deployment,
    cache: FetchCache,
    ref: str,
    out: Path | None,
    options: Options,
    *,
    force: bool,
    progress: Progress,
) -> Fetched:
    """Write an artifact into a folder; see `registry.services.protocol.Registry.fetch`.

    Raises:
        ConflictError: ``folder_taken``, the folder holds something else.
        AccuracyError: the asked-for error can't be reached.
        UnavailableError, NotAllowedError: the file system refused; nothing is left behind.
    """
    path = load_path(deployment, Reference.parse(ref))
    ancestor = None if options.since is None else load_path(deployment, Reference.parse(options.since))
    with build_artifact(deployment, path, ancestor, options) as artifact:
        place = cache.place(artifact.rendering) if out is None else absolute(out)
        there = receipt_of_rendering(place, artifact.rendering, artifact.size, progress)
        if there is not None:
            if out is None:
                cache.used(place)
            # other options may mean the same ranks: the report is about what was asked for now
            return fetched(there, place, fresh=False).model_copy(update={"truncation": artifact.truncation})

        def make_receipt(files: tuple[OutputFile, ...]) -> Receipt:
            return _receipt(deployment, artifact, path, ancestor, files)

        replace = may_fill(place, force=force or out is None)
        receipt = fill(place, artifact, make_receipt, replace=replace, progress=progress)
    if out is None:
        cache.shrink(keep=place)
    return fetched(receipt, place, fresh=True)


def _receipt(
    deployment: Deployment,
    artifact: Artifact,
    path: LoadedPath,
    ancestor: LoadedPath | None,
    files: tuple[OutputFile, ...],
) -> Receipt:
    import torch

    plan = artifact.plan
    return Receipt(
        reference=path.reference,
        kind=plan.kind,
        base=path.base.name,
        since=ancestor.reference if ancestor else None,
        plan=ReceiptPlan.model_validate(plan.document()),
        plan_digest=plan.digest,
        rendering=plan.rendering,
        numerics=plan.numerics,
        lineage=tuple(
            ReceiptLink(
                reference=link.row.reference,
                number=link.row.number,
                digest=link.row.digest,
                rank=link.row.rank,
                scalings=tuple(sorted({scale for group in groups for scale in group.scalings})),
            )
            for link, groups in zip(path.links, target_groups_of(deployment, path), strict=True)
        ),
        registry=deployment.url,
        versions=ReceiptVersions(
            registry=__version__,
            artifact_format=ARTIFACT_FORMAT,
            torch=torch.__version__,
            python=platform.python_version(),
        ),
        notices=artifact.notices,
        truncation=artifact.truncation,
        files=files,
    )
