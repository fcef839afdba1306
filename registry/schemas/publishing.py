"""What publishing would do, and did with each of several folders; plans of imports; what rebasing and combining do."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from registry.schemas.artifacts import Extracted, ReplayedCombination, Truncation
from registry.schemas.form import LeftOut, Schema
from registry.schemas.statistics import DeltaStatistics
from registry.schemas.tree import FileEntry, Published, RevisionSummary
from registry.schemas.views import combined as combined_line
from registry.schemas.views import rebased as rebased_line


class PublishPreview(Schema):
    """Answer of ``publish --dry-run``: everything was checked as publishing does, and nothing was stored."""

    path: str
    reference: str | None  # PATH@N, if the adapter has this very revision already
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
    extracted: Extracted = None


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


IMPORT_FORMAT: Final = 1
IMPORT_HELP: Final = (
    "Edit action: publish (an adapter), full (a full fine-tune), add (a base model), or skip. The others do nothing.",
    "Edit name, metrics and annotations. The path of an adapter is its parent's path and its name.",
    "Edit parent: the folder of another entry, as './runs/support', or what the registry has, as 'llama/support@2'.",
    "proof: applying proves the parent again. Without it the parent is your word; weights may not contradict it.",
    "full keeps a model exactly, below its parent. With rank or max_error it becomes the LoRA that is nearest instead.",
    "questions: whose name is it? Set base to one of its candidates, and all of its folders come in below that.",
)
"""What a plan says at its top to whoever edits it."""
ImportAction = Literal["add", "publish", "full", "skip", "undecided", "refused"]
"""What an import does with a folder: adds a base model, publishes an adapter or a full fine-tune, or leaves it."""


class NearFolder(Schema):
    """What an adapter may belong to, or what a model is nearest to."""

    parent: str  # as in `ImportEntry`
    why: str


class FullSize(Schema):
    """What a full model is beside its base model, and what keeping it exactly takes."""

    base: str  # as in `ImportEntry.parent`
    distance: float  # from it, relative to the norm of its weights, from a sample
    tensors: int  # that differ
    of: int
    size: int  # bytes of these
    stored: int  # bytes that they take, compressed: an estimate, from a sample


class ImportEntry(Schema):
    """A folder that an import has seen, and what is to be done with it."""

    folder: str  # "./" and the place below the source; or hf:ORG/REPO@COMMIT
    what: str  # adapter, base model, merged model, full fine-tune, model, checkpoint, or what else it is
    action: ImportAction
    name: str | None = None  # of the base model; or of the adapter, below its parent
    parent: str | None = None  # "./place" of another entry; else a base model or revision that the registry has
    proof: str | None = None  # why that is the parent, so that applying has to prove it again; None: it is your word
    parent_known_by: str | None = None  # the exact word for that, as it was planned
    reason: str | None = None  # why it is not brought in, or what would settle it
    code: str | None = None  # of the error that publishing gives
    candidates: tuple[NearFolder, ...] = ()
    takes: FullSize | None = None  # of a model that may be a full fine-tune
    rank: int | None = None  # of one: make it the best LoRA of this rank,
    max_error: float | None = None  # or of this error, instead of keeping it exactly
    trained_on: str | None = None  # the folder that the adapter was trained on: "./place", or elsewhere
    metrics: dict[str, float] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    digest: str | None = None  # of the revision that the adapter will be, or of the model's weights
    files: tuple[FileEntry, ...] = ()  # as they were seen: what has changed since is refused


class NamedBase(Schema):
    """A question: which base model adapters mean by the name of a repository that is not here; one answer for all."""

    repo_id: str
    base: str | None = None  # the answer, as in `ImportEntry.parent`; None: not answered, and they stay undecided
    candidates: tuple[str, ...]  # base models that fit, as in `ImportEntry.parent`
    folders: tuple[str, ...]  # of the adapters


class ImportDocument(Schema):
    """A plan of an import, as ``registry import --plan`` writes it: to be read, edited, and applied."""

    format: Literal[1] = IMPORT_FORMAT
    help: tuple[str, ...] = IMPORT_HELP
    registry: str
    source: str  # the folder that was looked through, or hf:ORG
    notices: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()  # about all of it
    questions: Annotated[tuple[NamedBase, ...], Field(exclude_if=lambda value: not value)] = ()
    entries: tuple[ImportEntry, ...]  # parents before their children; an edited plan may have another order


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
    moved: bool  # the two parents differ in it: the values were trained beside weights that are others now


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


class SourceWeight(Schema):
    """A revision to combine, and its weight."""

    ref: str
    weight: float = Field(allow_inf_nan=False)


class CombineRequest(Schema):
    """Publish the weighted sum of the deltas of some revisions over their lowest common ancestor."""

    sources: tuple[SourceWeight, ...] = Field(max_length=256)
    path: str  # of the new revision, directly under the ancestor
    over: str | None = None  # a revision above the lowest common ancestor, or the base model
    rank: int | None = Field(default=None, le=1 << 31)  # as of a copied combination
    max_error: float | None = None
    message: str = ""  # empty: says what was combined
    tags: tuple[str, ...] = ()
    dry_run: bool = False

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "sources": [
                    {"ref": "llama/support/french@1", "weight": 0.5},
                    {"ref": "llama/support/shop@1", "weight": 0.5},
                ],
                "path": "llama/support/mixed",
                "dry_run": True,
            }
        }
    )


class CombinedSource(Schema):
    """A revision that was combined."""

    reference: str  # PATH@N
    digest: str
    weight: float
    frobenius: float  # the norm of what it adds over the ancestor, by its weight


class Combined(Schema):
    """Answer of ``combine``: what was combined over what, how the sources agree, and the new revision."""

    path: str
    over: str  # the common ancestor, PATH@N or the base model's name
    over_digest: str
    sources: tuple[CombinedSource, ...]
    frobenius: float  # the norm of what all of them add together
    energy_ratio: float | None  # its square over the sum of theirs: above 1 they pile up, below 1 they cancel
    rank: int  # the largest of the new revision's pairs
    parameters: int
    size: int  # bytes of its weights
    truncation: Truncation | None = None
    notices: tuple[str, ...] = ()
    revision: RevisionSummary | None = None  # the new one; None: a dry run
    created: bool = False  # False: the adapter had this revision already, or a dry run

    def __repr__(self) -> str:
        return combined_line(self)


class ReplayRequest(Schema):
    """Combine the sources of the combinations in a path again."""

    ref: str


class Replayed(Schema):
    """Answer of ``replay``: the combinations of a path, root first, combined again and compared with what is stored."""

    reference: str
    combinations: tuple[ReplayedCombination, ...] = ()
