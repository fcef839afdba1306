"""What travels between registries and clients: what is to be added, as digests and headers, uploads, and the commit.

Also paths and artifacts as digests: what composing or fetching on another machine needs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from registry.schemas import (
    KNOWN_BY,
    ArtifactKind,
    BaseSummary,
    DerivedFrom,
    FolderCompared,
    LeftOut,
    RevisionSummary,
    Schema,
    Truncation,
)
from registry.schemas.artifacts import Extracted, TrainedQuantised
from registry.schemas.form import Base64, Moment
from registry.schemas.labels import RenamedTo
from registry.schemas.parents import Times
from registry.schemas.receipt import Receipt, ReceiptLink, ReceiptPlan
from registry.schemas.tags import NoticeCode
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
    digest: str | None = None  # of its bytes, if they are stored


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


class FileClaim(Schema):
    """A file that a client wants to add, as the client describes it."""

    path: str = Field(max_length=512)
    size: int = Field(ge=0)
    digest: str


class Origin(Schema):
    """Where a copied revision comes from, and what is kept of it."""

    registry: str
    reference: str
    author: str
    created_at: Moment
    digest: str  # the target must arrive at the same
    parent_known_by: str = Field(default="unrecorded", pattern=KNOWN_BY)  # as the source records it


class GivenReceipt(Schema):
    """A receipt that shows what an adapter was trained on, and how messages refer to it."""

    receipt: Receipt
    words: str = Field(max_length=4096)
    own: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """It lies beside the adapter, whose files are those that were exported with it."""
    given: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """A person says that it was there when the training began."""
    times: Annotated[Times | None, Field(exclude_if=lambda value: value is None)] = None
    """When the folder that it lies in was written, beside the adapter; None: an older client does not say."""

    covered: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Another adapter lies in that folder, which loaders put on top of its weights."""

    @property
    def shows_nothing(self) -> bool:
        """Whether what was trained on may have been something else than it says, and nobody says that it was not."""
        return (self.times == "newer" or self.covered) and not self.given and not self.own

    @property
    def word(self) -> str:
        """How a parent is known by it."""
        if self.own:
            return "receipt"
        if self.given:
            return "given" if self.times == "newer" else "receipt"
        if self.covered:
            return "assumed"
        return {"older": "receipt", "newer": "assumed"}.get(self.times or "", "receipt_untimed")


MOST_SOURCES: Final = 256
"""Of one combination."""


class SourceClaim(Schema):
    """What a copied combination is made of: a revision by its whole digest, and its weight."""

    ref: str  # PATH@sha256:...
    weight: float = Field(allow_inf_nan=False)


class Truncated(Schema):
    """What a combination was truncated to."""

    rank: int | None = Field(default=None, ge=1, le=1 << 31)
    max_error: float | None = Field(default=None, ge=0, lt=1, allow_inf_nan=False)


class PublishRequest(Schema):
    """An adapter to publish: everything but the weights."""

    path: str
    parent: str | None = None
    skip_parent_check: bool = False  # take ``parent`` for it, whatever else exists
    compared: FolderCompared | None = None
    find_parent: bool = False  # the parent is proven, or the publish refused
    receipt: GivenReceipt | None = None
    message: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    tags: tuple[str, ...] = ()
    annotations: dict[str, str] = Field(default_factory=dict)
    config: Base64  # adapter_config.json
    header: Base64  # the first 8 + N bytes of adapter_model.safetensors
    files: tuple[FileClaim, ...]
    left_out: tuple[LeftOut, ...] = ()
    origin: Origin | None = None
    source: str | None = None  # the repository of a Hub that it was taken from
    derived_from: DerivedFrom | None = None  # what the receipt in its folder says
    quantised: str | None = Field(default=None, pattern="^[ -~]{1,200}$")  # what shows that its base was, in training
    trained_quantised: TrainedQuantised = None  # how it was, as far as that is known
    cached: Annotated[str | None, Field(pattern="^[0-9a-f]{40}$", exclude_if=lambda value: value is None)] = None
    """The only commit of the repository that it was trained on in the publisher's cache of the Hub."""
    nested: bool = False  # ``parent`` was given by no one: it is what stands for the folder above
    strict: tuple[NoticeCode, ...] = ()  # notices that refuse it
    extracted: Extracted = None  # how it was made of a full model
    sources: tuple[SourceClaim, ...] = Field(default=(), max_length=MOST_SOURCES)  # of a copied combination
    truncated: Truncated | None = None  # the same: what it was truncated to


class PublishPlan(Schema):
    """The service's answer to a request before any bytes are uploaded."""

    parent: str
    parent_digest: str
    parent_reason: str
    parent_known_by: str = "unrecorded"
    missing: tuple[str, ...]  # digests that have to be uploaded
    digest: str | None = None  # what the revision's will be; None: the service does not tell
    existing: str | None = None  # PATH@N, if the adapter has this very revision already
    rank: int | None = None
    parameters: int | None = None
    notices: tuple[str, ...] = ()


class BaseRequest(Schema):
    """A base model to add: everything but the weights."""

    name: str
    files: tuple[FileClaim, ...]
    documents: dict[str, Base64]  # config.json, the index, registry.json: those that exist
    headers: dict[str, Base64]  # the first 8 + N bytes of every safetensors file
    small: dict[str, Base64] = Field(default_factory=dict)  # of a quantised model: what says how other tensors are read
    left_out: tuple[LeftOut, ...] = ()
    table: dict[str, Any] | None = None  # a copied base keeps its target table, whatever made it
    origin: str | None = None  # registry that it is copied from
    source: str | None = None  # the repository of a Hub that it was taken from
    derived_from: DerivedFrom | None = None  # what the receipt in its folder says


class BasePlan(Schema):
    """The service's answer for a base model before any bytes are uploaded."""

    existing: BaseSummary | None  # a base model of this name: its weights are compared by digest of its files
    missing: tuple[str, ...]


class UploadRequest(Schema):
    """Bytes that a client is going to upload."""

    digest: str
    size: int = Field(ge=0, le=5 << 40)  # the most that S3 keeps in one object


UploadId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class Upload(Schema):
    """An upload under way. Parts count from 1; all but the last have ``part_size`` bytes."""

    id: str
    digest: str
    size: int
    part_size: int
    parts: int
    there: tuple[int, ...]  # parts that have arrived
    urls: dict[int, str]  # where to PUT parts that are not: presigned, or empty where the service takes them
    expires_at: datetime


class PublishCommit(Schema):
    """Publish now: the request again, and which upload holds which bytes."""

    request: PublishRequest
    uploads: dict[str, UploadId]  # by digest


class BaseCommit(Schema):
    """Add the base model now."""

    request: BaseRequest
    uploads: dict[str, UploadId]
