"""What a client and the service say to each other, beyond the answers of `registry.schemas`.

The client tells what it wants to publish by names, digests and headers; the service checks all of that, says which
bytes are missing and where they go, and publishes after it has read them back. Bytes in JSON are base64.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from registry.folders.receipts import Receipt, ReceiptLink, ReceiptPlan
from registry.schemas import (
    ArtifactKind,
    BaseAdded,
    BaseSummary,
    Checked,
    Collected,
    LeftOut,
    Materialised,
    Published,
    RevisionSummary,
    Schema,
    Truncation,
)


def _decoded(value: object) -> object:
    """Text from JSON as the bytes that it stands for; bytes, given in Python, are themselves."""
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(lambda data: base64.b64encode(data).decode("ascii"), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
"""Bytes: as they are in Python, base64 in JSON."""


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it lies outside the years 1 to 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time that a client says: with its zone, and in UTC from then on."""

PROTOCOL: Final = 2
API: Final = "/api/v1"
VIEWS: Final[dict[str, ArtifactKind]] = {"hf": "merged", "hf-lora": "lora", "hf-published": "published"}
"""The Hub-compatible views: where each is below the service's address, and what it hands out of a path."""
VERSION_HEADER: Final = "X-Registry-Version"
PROTOCOL_HEADER: Final = "X-Registry-Protocol"


class Problem(Schema):
    """An error as the service sends it (RFC 9457, application/problem+json)."""

    type: str  # urn:adapter-registry:error:CODE
    title: str  # what the code means
    status: int
    detail: str  # the sentence
    code: str
    kind: str  # the class of `registry.errors`
    request: str | None = None  # id of the request, to find it in the log
    retry_after: int | None = None  # seconds


class FileClaim(Schema):
    """A file that a client wants to add: what it says of its bytes."""

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


class GivenReceipt(Schema):
    """A receipt that shows what an adapter was trained on, and how to call it in a sentence."""

    receipt: Receipt
    words: str = Field(max_length=4096)


class PublishRequest(Schema):
    """An adapter to publish: everything but the weights."""

    path: str
    parent: str | None = None
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


class PublishPlan(Schema):
    """What the service makes of a request before any byte travels."""

    parent: str
    parent_digest: str
    parent_reason: str
    missing: tuple[str, ...]  # digests that have to be uploaded


class BaseRequest(Schema):
    """A base model to add: everything but the weights."""

    name: str
    files: tuple[FileClaim, ...]
    documents: dict[str, Base64]  # config.json, the index, registry.json: those that are there
    headers: dict[str, Base64]  # the first 8 + N bytes of every safetensors file
    left_out: tuple[LeftOut, ...] = ()
    table: dict[str, Any] | None = None  # a copied base keeps its target table, whatever made it
    origin: str | None = None  # registry that it is copied from
    source: str | None = None  # the repository of a Hub that it was taken from


class BasePlan(Schema):
    """What the service makes of a base model before any byte travels."""

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
    there: tuple[int, ...]  # parts that are there
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


OperationKind = Literal["publish", "base", "materialise", "gc", "fsck"]
OperationState = Literal["pending", "running", "done", "failed"]


class OperationResult(Schema):
    """What an operation answered; one of them is set."""

    published: Published | None = None
    base_added: BaseAdded | None = None
    materialised: Materialised | None = None
    collected: Collected | None = None
    checked: Checked | None = None


class Operation(Schema):
    """Work that takes longer than a request: any replica goes on with it where another one stopped."""

    id: str
    kind: OperationKind
    state: OperationState
    stage: str  # what is being done, for a progress bar
    done: int  # bytes
    total: int
    created_at: datetime
    updated_at: datetime
    result: OperationResult | None = None
    problem: Problem | None = None


class MaterialiseRequest(Schema):
    """Keep an artifact in the store."""

    ref: str
    kind: ArtifactKind = "lora"
    expires_in: int | None = Field(default=None, ge=1, description="seconds; 30 days where it is left out")


class GcRequest(Schema):
    """Collect what nothing needs."""

    dry_run: bool = False


class FsckRequest(Schema):
    """Check the store."""

    deep: bool = False


class TagRequest(Schema):
    """Let a tag name a revision."""

    ref: str
    tag: str


class AnnotateRequest(Schema):
    """Add or replace metrics and annotations."""

    ref: str
    metrics: dict[str, float] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class RetractRequest(Schema):
    """Retract a revision, or undo that."""

    ref: str
    reason: str = ""
    undo: bool = False


class TokenRequest(Schema):
    """A new token."""

    name: str = Field(default="", max_length=128)
    role: Literal["reader", "writer", "admin"]
    scopes: tuple[str, ...] = ()
    expires_in: int | None = Field(default=None, ge=1, description="seconds")


class ProtectRequest(Schema):
    """Protect the tags of a base model's adapters that match a pattern."""

    base: str
    pattern: str
    remove: bool = False


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


class BaseEntry(Schema):
    """A base model with its files and what was worked out when it was added."""

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


class ArtifactFileEntry(Schema):
    """A file of an artifact."""

    path: str
    size: int
    etag: str
    header: Base64 | None  # the first 8 + N bytes of a safetensors file
    digest: str | None = None  # of its bytes, where they are stored


class ArtifactPlan(Schema):
    """An artifact as the service would make it: what is needed to fetch it and to write its receipt."""

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
