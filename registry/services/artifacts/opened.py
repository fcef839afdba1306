"""Artifacts by reference: looked up, opened, and described for another machine."""

from __future__ import annotations

from dataclasses import dataclass

from registry.catalogue.store import materialisations
from registry.catalogue.tree import old_names
from registry.reference import Reference
from registry.schemas import Fidelity, Options
from registry.schemas.artifacts import KINDS, check_options, is_full
from registry.schemas.form import MeasuredRows
from registry.schemas.transfer import ArtifactPlan
from registry.schemas.weights import text_of
from registry.services.artifacts.build import build_artifact, check_kept
from registry.services.artifacts.commits import Kept, kept_for, open_kept, plain_plan
from registry.services.artifacts.load import path_in
from registry.services.deployment import Deployment
from registry.tensors.artifacts.artifact import Artifact
from registry.tensors.artifacts.plan import Plan
from registry.tensors.lineage.paths import LoadedPath
from registry.tensors.lineage.plan import described, etag

__all__ = ["Asked", "artifact_plan", "ask", "described", "etag", "open_artifact", "open_asked"]


@dataclass(frozen=True)
class Asked:
    """A resolved reference with its options: the path, and the ancestor that ``options.since`` names."""

    path: LoadedPath
    ancestor: LoadedPath | None
    options: Options
    materialised: Kept | None = None  # its materialisation, if it has one
    plan: Plan | None = None  # only if it can be materialised; otherwise the plan is made when it is opened
    renamed_to: str | None = None  # if the reference uses an old name


def ask(deployment: Deployment, ref: str, options: Options) -> Asked:
    """Resolve a reference and its options.

    Raises:
        NotFoundError: the reference names nothing.
        RetractedError: it contains a retracted revision.
        UsageError: a weight is malformed, or of no link that the artifact contains.
    """
    reference = Reference.parse(ref)
    since = None if options.since is None else Reference.parse(options.since)
    with deployment.read() as session:
        path = path_in(session, reference)
        ancestor = None if since is None else path_in(session, since)
        if options.weights is not None:
            check_options(options)
            path = path.weighted(options.weights, ancestor)
            options = options.model_copy(update={"weights": text_of(path.weights)})  # weights of 1 are no weights
        plan = plain_plan(path, options)
        renamed_to = old_names.new_name(session, reference.path)
        return Asked(path, ancestor, options, kept_for(session, path, plan), plan, renamed_to)


def open_artifact(deployment: Deployment, ref: str, options: Options) -> Artifact:
    """The artifact that a reference means; see `registry.operations.registry.Registry.artifact`."""
    asked = ask(deployment, ref, options)
    artifact = open_asked(deployment, asked)
    deployment.note_use(asked.path.reference)
    return artifact


def open_asked(deployment: Deployment, asked: Asked, *, measured: MeasuredRows | None = None) -> Artifact:
    """Open an artifact: its materialisation, or as this machine computes it, with fidelity of the ``measured`` rows.

    Raises:
        UsageError: the options contradict each other or the reference.
        AccuracyError: the requested error can't be reached.
        ConflictError: ``retable_needed``, the base model's target table lacks what the path needs.
    """
    blobs = deployment.artifact_blobs
    if asked.materialised is not None:
        check_kept(blobs, asked.path, asked.options)
        fidelity = _measured_before(deployment, asked, asked.materialised.id)
        if measured == "full" and not is_full(fidelity):
            with _built(deployment, asked, measured) as artifact:
                artifact.measure()
                fidelity = artifact.fidelity()
        return open_kept(blobs, asked.materialised, fidelity)
    return _built(deployment, asked, measured)


def _built(deployment: Deployment, asked: Asked, measured: MeasuredRows | None) -> Artifact:
    blobs, memory = deployment.artifact_blobs, deployment.memory
    return build_artifact(blobs, asked.path, asked.ancestor, asked.options, memory, asked.plan, measured)


def _measured_before(deployment: Deployment, asked: Asked, materialisation_id: str) -> Fidelity | None:
    if not KINDS[asked.options.kind].is_model:
        return None
    with deployment.read() as session:
        return materialisations.fidelity(session, materialisation_id)


def artifact_plan(deployment: Deployment, ref: str, options: Options) -> ArtifactPlan:
    """The description of an artifact that a client needs to fetch it; raises what `ask` and `open_asked` raise."""
    asked = ask(deployment, ref, options)
    with open_asked(deployment, asked) as artifact:
        deployment.note_use(asked.path.reference)
        plan = described(asked.path, asked.ancestor, artifact, with_files=True)
        return plan.model_copy(update={"renamed_to": asked.renamed_to})
