"""Paths and artifacts as digests: what composing or fetching elsewhere needs."""

from __future__ import annotations

from pydantic import Field

from registry.schemas import (
    ArtifactKind,
    BaseSummary,
    RevisionSummary,
    Schema,
    Truncation,
)
from registry.schemas.form import Base64
from registry.schemas.labels import RenamedTo
from registry.schemas.receipt import ReceiptLink, ReceiptPlan
from registry.schemas.tree import CombinedOf


class BlobEntry(Schema):
    """A stored file with what is needed to check every part of it."""

    path: str
    digest: str
    size: int
    blocks_digest: str


class LinkEntry(Schema):
    """One revision of a path, with its files."""

    reference: str
    digest: str
    files: tuple[BlobEntry, ...]
    summary: RevisionSummary | None = None  # None: above the token's scopes
    rank: int
    scalings: tuple[float, ...]
    manifest: str
    sources: tuple[CombinedOf, ...] = Field(
        default=(), exclude_if=lambda sources: not sources, description="Of a combination: what it is made of."
    )
    whole: bool = True  # False: what lies beside the weights above the token's scopes is left out, of the manifest too


class BaseEntry(Schema):
    """A base model with its files and what was determined when it was added."""

    summary: BaseSummary
    files_digest: str
    files: tuple[BlobEntry, ...]
    index: BlobEntry
    table: BlobEntry


class Bundle(Schema):
    """A path as digests, root first: all that composing it elsewhere, or copying it, needs."""

    reference: str
    base: BaseEntry
    links: tuple[LinkEntry, ...]

    @property
    def renamed_to(self) -> str | None:
        """The new name of the path, if it is an old one and the new one may be seen."""
        summary = self.links[-1].summary if self.links else self.base.summary
        return None if summary is None else summary.renamed_to


class ArtifactFileEntry(Schema):
    """A file of an artifact."""

    path: str
    size: int
    etag: str
    header: Base64 | None  # the first 8 + N bytes of a safetensors file
    digest: str | None = None  # of its bytes, where they are stored


class ArtifactPlan(Schema):
    """An artifact as the service would compute it: what is needed to fetch it and to write its receipt."""

    reference: str  # PATH@N
    kind: ArtifactKind
    base: str
    since: str | None
    plan: ReceiptPlan
    plan_digest: str
    rendering: str
    numerics: str | None
    lineage: tuple[ReceiptLink, ...]
    notices: tuple[str, ...]
    truncation: Truncation | None
    torch: str
    version: str
    artifact_format: int
    files: tuple[ArtifactFileEntry, ...]
    renamed_to: RenamedTo = None
