"""What publishing would do, what it did with each folder of a nested one, and what rebasing a revision does."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from registry.schemas.form import Schema
from registry.schemas.statistics import DeltaStatistics
from registry.schemas.tree import FileEntry, LeftOut, Published, RevisionSummary
from registry.schemas.views import rebased as rebased_line


class PublishPreview(Schema):
    """Answer of ``publish --dry-run``: everything was checked as publishing does, and nothing was stored."""

    path: str
    reference: str | None  # PATH@N, where the adapter has this very revision already
    digest: str
    parent: str  # PATH@N, the base model's name, or the path of a parent that is planned too
    parent_digest: str
    parent_reason: str
    rank: int
    parameters: int
    size: int
    files: tuple[FileEntry, ...]
    left_out: tuple[LeftOut, ...]
    missing: tuple[str, ...]  # digests of what would have to be stored
    bytes_missing: int
    notices: tuple[str, ...]
    unchecked: tuple[str, ...]  # what only publishing itself can check
    source: str | None
    registry: str
    parent_known_by: str = "unrecorded"  # as of a revision


FolderState = Literal["planned", "published", "existing", "refused", "blocked", "skipped"]


class FolderOutcome(Schema):
    """A folder of a nested one: what became of it, or would.

    ``refused``: it can't be published. ``blocked``: one above it was refused. ``skipped``: it is no publish folder.
    """

    folder: str  # below the one that was given
    path: str | None  # where it goes; None: nowhere
    state: FolderState
    preview: PublishPreview | None = None  # of what is planned
    published: Published | None = None
    code: str | None = None  # of the error
    kind: str | None = None  # its class in `registry.errors`
    message: str | None = None  # why it was not published, one sentence
    notices: tuple[str, ...] = ()  # about its place among the others


class RebaseRequest(Schema):
    """Put a revision on another revision of its parent, as a new revision with the same files."""

    ref: str
    onto: str  # a revision of the parent's adapter
    message: str = ""  # empty: says what was rebased
    tags: tuple[str, ...] = ()
    dry_run: bool = False

    model_config = ConfigDict(
        json_schema_extra={"example": {"ref": "llama/support/french@1", "onto": "llama/support@3", "dry_run": True}}
    )


class RebasedValue(Schema):
    """Values of the revision that replace those of its parent."""

    name: str  # module or parameter
    how: Literal["replaced", "rows replaced", "rescaled"]
    moved: bool  # the two parents differ there: the values were trained beside weights that are others now


class Rebased(Schema):
    """Answer of ``rebase``: how far the path's weights move, and the new revision."""

    reference: str  # what was rebased, PATH@N
    parent: str  # that it is pinned to
    onto: str  # that the new revision is pinned to
    moved: DeltaStatistics  # of the new parent's path, less the old one's: what the path's weights move by
    own_frobenius: float  # the norm of what the revision itself adds, to compare with
    values: tuple[RebasedValue, ...] = ()
    refused: str | None = None  # why it can't be rebased; only a dry run answers so
    revision: RevisionSummary | None = None  # the new one; None: a dry run
    created: bool = False  # False: the adapter had this revision already, or a dry run

    def __repr__(self) -> str:
        return rebased_line(self)
