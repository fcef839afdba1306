"""What publishing would do, and what it did with each folder of a nested one."""

from __future__ import annotations

from typing import Literal

from registry.schemas.form import Schema
from registry.schemas.tree import FileEntry, LeftOut, Published


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
