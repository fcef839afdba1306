"""What every implementation of the registry answers with: one frozen schema an answer.

The CLI's ``--json`` prints these as they are, the HTTP service sends them, the client reads them. Names of fields stay.
Sizes are bytes, times are UTC, digests are ``sha256:hex``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

ArtifactKind = Literal["published", "lora", "merged"]
Dtype = Literal["bf16", "fp16", "fp32"]


class Schema(BaseModel):
    """Base of all schemas: immutable, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class FileEntry(Schema):
    """A stored file of a base model or a revision."""

    path: str
    size: int
    digest: str


class LeftOut(Schema):
    """A file of the given folder that was not taken, and why."""

    path: str
    reason: str


class BaseSummary(Schema):
    """A base model."""

    name: str
    digest: str  # of the weights: dtype, shape and digest of every tensor
    table_digest: str  # of the target table
    architecture: str | None
    table_source: str  # "transformers 5.24.0" or "tensor names"
    parameters: int
    tensors: int
    size: int  # of all files
    files: tuple[FileEntry, ...]
    adapters: int
    created_at: datetime
    notices: tuple[str, ...]


class BaseAdded(Schema):
    """Answer of ``base add``."""

    base: BaseSummary
    created: bool  # False: the same weights were there already
    bytes_stored: int
    stored_by: Literal["copy", "reflink", "link", "none"]
    left_out: tuple[LeftOut, ...]
    registry: str


class RevisionSummary(Schema):
    """A revision, as lists show it."""

    reference: str  # PATH@N
    path: str
    number: int
    digest: str
    parent: str  # PATH@N of the pinned parent, or the base model's name
    behind: bool  # the parent adapter has newer revisions than the pinned one, or an ancestor is behind
    rank: int  # the largest rank of its own pairs
    parameters: int
    size: int
    message: str
    author: str
    created_at: datetime
    tags: tuple[str, ...]
    metrics: dict[str, float]
    annotations: dict[str, str]
    trained_on: str | None  # base_model_name_or_path as the trainer wrote it
    notices: tuple[str, ...]


class Published(Schema):
    """Answer of ``publish``."""

    revision: RevisionSummary
    created: bool  # False: the adapter had this revision already
    parent_digest: str  # of the parent revision, or of the base model's weights
    parent_reason: str  # why that parent, one clause
    left_out: tuple[LeftOut, ...]
    bytes_stored: int
    registry: str


class TreeNode(Schema):
    """A base model or an adapter with what lies under it; ``revision`` is its newest (None: a base model)."""

    path: str
    name: str
    revision: RevisionSummary | None
    children: tuple[TreeNode, ...]


class Tree(Schema):
    """Answer of ``tree``."""

    roots: tuple[TreeNode, ...]


class Log(Schema):
    """Answer of ``log``: revisions of one adapter, newest first."""

    path: str
    revisions: tuple[RevisionSummary, ...]


class LineageEntry(Schema):
    """One link of a lineage, root first. The base model is the first entry, without number."""

    reference: str
    digest: str
    number: int | None
    rank: int | None
    newest: int | None  # newest number of that adapter, to see what is behind


class TargetGroup(Schema):
    """Target modules with one leaf name, as ``show`` groups them."""

    name: str  # the leaf, q_proj
    modules: int
    ranks: tuple[int, ...]  # the distinct ranks, ascending
    scalings: tuple[float, ...]


class Shown(Schema):
    """Answer of ``show``."""

    revision: RevisionSummary | None  # None: the reference names the base model
    base: BaseSummary
    lineage: tuple[LineageEntry, ...]
    targets: tuple[TargetGroup, ...]
    files: tuple[FileEntry, ...]
    share_of_model: float  # size of the revision's weights / size of the base's weights
    repo_id: str


class Resolved(Schema):
    """Answer of ``resolve``: which revision a reference means now, and what its path is made of."""

    reference: str
    digest: str
    base: str
    base_digest: str
    lineage: tuple[LineageEntry, ...]


class SearchResult(Schema):
    """Answer of ``search``: newest matching revision of each adapter, by path."""

    revisions: tuple[RevisionSummary, ...]


class Tagged(Schema):
    """Answer of ``tag`` and ``untag``; ``previous`` is the reference that the tag named before."""

    path: str
    tag: str
    reference: str | None
    previous: str | None


class OutputFile(Schema):
    """A file of a fetched folder."""

    path: str
    size: int
    blake3: str  # hex


class Options(Schema):
    """How an artifact is asked for, beside its reference."""

    kind: ArtifactKind = "lora"
    since: str | None = None  # reference of an ancestor: only the links after it
    dtype: Dtype | None = None
    rank: int | None = None  # cap for each module
    max_error: float | None = None  # bound of ||D - D'|| / ||D|| (Frobenius) over all modules
    uniform: bool = False  # one rank for all modules


class ModuleTruncation(Schema):
    """What truncation left out of one module; D is its delta, diag(c) B A where ``scaled``."""

    module: str
    rank_before: int
    rank_after: int
    energy: float  # ||D||^2 (Frobenius)
    discarded: float  # ||D - D'||^2 (Frobenius)
    relative_frobenius: float
    relative_spectral: float
    scaled: bool  # the path has DoRA links: the error is that of the merged weight


class TruncationTotal(Schema):
    """What truncation left out of all modules together, D being all deltas side by side."""

    energy: float
    discarded: float
    relative_frobenius: float
    relative_spectral: float
    parameters_before: int
    parameters_after: int
    written: float | None = None  # relative_frobenius with the rounding to a 16-bit dtype, where one was asked for


class Truncation(Schema):
    """The report of a truncation: every figure is that of the best pairs of these ranks (Eckart and Young 1936)."""

    rank: int | None
    max_error: float | None
    modules: tuple[ModuleTruncation, ...]
    total: TruncationTotal
    enough_for: dict[str, int]  # relative error ("0.01") -> the smallest --rank that reaches it


class Fetched(Schema):
    """Answer of ``fetch``."""

    reference: str
    kind: ArtifactKind
    folder: str
    rendering: str
    fresh: bool  # False: the folder held this rendering already
    files: tuple[OutputFile, ...]
    notices: tuple[str, ...]
    truncation: Truncation | None = None


class TensorMismatch(Schema):
    """A tensor of a fetched folder that is not what the registry gives."""

    file: str
    tensor: str | None  # None: not a tensor file, or its header
    reason: str


class Verified(Schema):
    """Answer of ``verify``."""

    folder: str
    reference: str
    kind: ArtifactKind
    equal: bool
    exact: bool  # False: compared within the bound, because this machine's arithmetic is another
    files: int
    mismatches: tuple[TensorMismatch, ...]


class Event(Schema):
    """Something that was changed."""

    at: datetime
    action: str
    subject: str
    actor: str
    detail: dict[str, object]
