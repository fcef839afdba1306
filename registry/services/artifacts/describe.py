"""Describing an artifact: what a client needs to fetch it and to write its receipt. Needs no database."""

from __future__ import annotations

from importlib.metadata import version

from registry.digest import document_digest, hex_of
from registry.schemas.bundles import ArtifactFileEntry, ArtifactPlan
from registry.schemas.receipt import ReceiptLink, ReceiptPlan
from registry.services.lineage import LoadedPath
from registry.tensors.artifacts.artifact import Artifact, ArtifactFile
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT
from registry.version import __version__


def described(
    path: LoadedPath, ancestor: LoadedPath | None, artifact: Artifact, *, with_files: bool = False
) -> ArtifactPlan:
    """The description of an artifact; ``with_files`` adds its files with their headers."""
    plan = artifact.plan
    return ArtifactPlan(
        reference=path.reference,
        kind=plan.kind,
        base=path.base.name,
        since=ancestor.reference if ancestor else None,
        plan=ReceiptPlan.model_validate(plan.document()),
        plan_digest=plan.digest,
        rendering=artifact.rendering,
        numerics=artifact.numerics,
        lineage=tuple(
            ReceiptLink(
                reference=link.reference,
                number=link.number,
                digest=link.digest,
                rank=link.rank,
                scalings=link.scalings,
            )
            for link in path.links
        ),
        notices=artifact.notices,
        truncation=artifact.truncation,
        torch=version("torch"),
        version=__version__,
        artifact_format=ARTIFACT_FORMAT,
        files=tuple(_entry(artifact, file) for file in artifact.files.values()) if with_files else (),
    )


def _entry(artifact: Artifact, file: ArtifactFile) -> ArtifactFileEntry:
    head = None if file.header is None else file.read(0, file.header.size)
    tag = etag(artifact.rendering, file.path)
    return ArtifactFileEntry(path=file.path, size=file.size, etag=tag, header=head, digest=file.digest)


def etag(rendering: str, path: str) -> str:
    """The ETag, without quotes, of an artifact's file; it identifies the bytes, also once they are materialised."""
    return hex_of(document_digest({"rendering": rendering, "file": path}))
