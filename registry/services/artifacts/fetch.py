"""Fetching: writing an artifact and its receipt into a folder that appears only when it is complete."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from registry.errors import IntegrityError, NotFoundError
from registry.folders.base_weights import WeightFile, check_weights
from registry.folders.cache import FetchCache
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.progress import Progress
from registry.schemas import Fetched, Options
from registry.schemas.artifacts import is_full
from registry.schemas.form import MeasuredRows
from registry.schemas.kinds import KINDS
from registry.schemas.renaming import old_name_notices
from registry.services.artifacts.build import check_asked
from registry.services.artifacts.opened import Asked, ask, described, open_asked
from registry.services.artifacts.plan import make_plan
from registry.services.artifacts.remembered import machine_fingerprint
from registry.services.deployment import Deployment
from registry.tensors.artifacts.artifact import Artifact
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT, rendering_of
from registry.transfer.fetch import FetchSource, fetched_before, place_of, write_artifact
from registry.transfer.receipts import receipt_of
from registry.version import __version__


def fetch(
    deployment: Deployment,
    cache: FetchCache,
    ref: str,
    out: Path | None,
    options: Options,
    *,
    force: bool,
    base_dir: Path | None = None,
    measured: MeasuredRows = "sample",
    progress: Progress,
) -> Fetched:
    """Write an artifact into a folder; see `registry.operations.registry.Registry.fetch`.

    A registry in process merges on its own stored files. It only checks that those in ``base_dir`` are the same, so
    that other weights are refused as by a client that merges on them.

    Raises:
        NotFoundError, IntegrityError: ``base_dir`` has no such file, or ``wrong_base``.
        ConflictError: ``folder_taken``, the folder holds something else.
        AccuracyError: the requested error can't be reached.
        UnavailableError, NotAllowedError: the file system refused; nothing is left behind.
    """
    asked = ask(deployment, ref, options)
    if base_dir is not None:
        base = asked.path.base
        files = (file for file in base.files if file.path.endswith(".safetensors"))
        wanted = (WeightFile(file.path, file.size, file.digest) for file in files)
        check_weights(base_dir, base.name, wanted, progress)
    there = _there_already(deployment, asked, cache, out, progress)
    if there is not None and (measured == "sample" or is_full(there.fidelity)):
        deployment.note_use(asked.path.reference)
        return there
    with open_asked(deployment, asked, measured=measured) as artifact:
        deployment.note_use(asked.path.reference)
        source = _source(deployment, asked, artifact, artifact.size)
        if measured == "full":
            source = replace(source, measure=artifact.measure)
        return write_artifact(source, cache, out, force=force, progress=progress)


def _source(deployment: Deployment, asked: Asked, artifact: Artifact, size: int) -> FetchSource:
    return FetchSource(
        artifact.rendering,
        size,
        receipt=lambda files: receipt_of(
            described(asked.path, asked.ancestor, artifact), files, deployment.url, artifact.fidelity()
        ),
        open=lambda _: nullcontext(artifact),
        lasting=old_name_notices(asked.path.reference, asked.renamed_to),
    )


def _there_already(
    deployment: Deployment, asked: Asked, cache: FetchCache, out: Path | None, progress: Progress
) -> Fetched | None:
    """The answer where this version has fetched the same into the folder before: it needs no torch. Else None.

    What is only known once the artifact is built, such as its notices, is taken from the receipt. So the receipt has to
    be one that this version wrote, for the same reference.
    """
    options, kept = asked.options, asked.materialised
    if KINDS[options.kind].is_verbatim or options.rank is not None or options.max_error is not None:
        return None  # needs no torch anyway, or the plan depends on values
    check_asked(asked.path, options)
    if out is not None and not os.path.isfile(out.expanduser() / RECEIPT):  # noqa: PTH113 - raises nothing
        return None
    plan = asked.plan or make_plan(asked.path, asked.ancestor, options)
    numerics = machine_fingerprint(cache.folder) if kept is None else kept.numerics
    rendering = rendering_of(plan, numerics)
    try:
        receipt = read_receipt(place_of(rendering, cache, out))
    except (NotFoundError, IntegrityError):
        return None
    since = None if asked.ancestor is None else asked.ancestor.reference
    asked_before = (asked.path.reference, since, __version__, ARTIFACT_FORMAT)
    versions = receipt.versions
    if asked_before != (receipt.reference, receipt.since, versions.registry, versions.artifact_format):
        return None
    artifact = Artifact(plan, (), notices=receipt.notices, truncation=receipt.truncation, numerics=numerics)
    size = sum(file.size for file in receipt.files)
    return fetched_before(_source(deployment, asked, artifact, size), cache, out, progress)
