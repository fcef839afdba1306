"""Requests of the operations that carry no weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from registry.errors import UsageError
from registry.rights import Role
from registry.schemas.artifacts import ArtifactKind
from registry.schemas.form import (
    BaseQuantization,
    Dtype,
    EngineName,
    MeasuredRows,
    Param,
    Schema,
    check_name,
)

Ref = Annotated[
    str,
    Param(
        min_length=1,
        max_length=512,
        description="A reference: PATH, PATH@3, PATH@tag or PATH@sha256:...",
        examples=("llama/support@3",),
        help="A revision: PATH, PATH@3, PATH@tag or PATH@sha256:...",
    ),
]
_AT_PATH = Param(
    min_length=1,
    max_length=512,
    description="BASE/name/name...",
    examples=("llama/support",),
    help="An adapter: BASE/name/name...",
)
AtPath = Annotated[str, _AT_PATH]
BaseName = Annotated[str, Param(min_length=1, max_length=128, examples=("llama",))]
TagName = Annotated[str, Param(min_length=1, max_length=128, examples=("prod",), help="The tag.")]
_OfBase = Annotated[str, Param(help="The name of the base model.")]
WithTags = Annotated[bool, Param(description="Also delete revisions that have tags, and those tags.")]
DryRun = Annotated[bool, Param(description="Only list what would be deleted.")]


_BEST: Final = re.compile(r"(max|min):(.+):([1-9][0-9]{0,8})")
_Count = Annotated[int | None, Field(ge=1, le=1 << 31)]

OldNames = Annotated[
    bool,
    Param(
        description="Also what was renamed, under its old name.",
        option="--all",
        help="List old names too: of what was renamed.",
    ),
]


class NoRequest(Schema):
    """A request without parameters."""


class BasesRequest(Schema):
    """The base models."""

    old_names: OldNames = False
    figures: Annotated[
        bool,
        Param(
            description="Also how many revisions each has, how large they are, and which is the newest.",
            help="Also list revisions, their size, and the newest one.",
        ),
    ] = False


class ReferenceRequest(Schema):
    """A reference to a revision or a base model."""

    ref: Ref


class ExportCardRequest(ReferenceRequest):
    """A revision that is to be exported, and how."""

    kind: ArtifactKind = "lora"
    base_model: Annotated[str | None, Param(min_length=1, max_length=200, description="On the Hub.")] = None
    with_names: Annotated[bool, Param(description="Let the card name paths; else it has digests.")] = False


class DiffRequest(Schema):
    """References of two revisions that are compared."""

    a: Ref
    b: Ref
    deltas: Annotated[bool, Param(description="Compare the deltas too, from the factors.")] = False


class StatisticsRequest(Schema):
    """A revision whose path is analysed."""

    ref: Ref
    since: Annotated[str | None, Param(min_length=1, max_length=512)] = None  # an ancestor: only the links after it
    fidelity: Dtype | None = None  # also estimate what rounding to this dtype would leave, from rows of the base


class DenseStatisticsRequest(StatisticsRequest):
    """A revision whose path is analysed with the weights of its base model."""


class CheckRequest(Schema):
    """A revision whose composed adapter an engine is to load."""

    ref: Ref
    engine: EngineName
    max_lora_rank: Annotated[
        int | None,
        Param(ge=1, le=1 << 20, description="The largest rank that the engine is started with.", examples=("16",)),
    ] = None
    since: Annotated[str | None, Param(min_length=1, max_length=512)] = None  # an ancestor: only the links after it
    base_quantization: BaseQuantization | None = None  # of the base model that it is served on, as it is


class PathRequest(Schema):
    """A path: an adapter, or everything at and under it."""

    path: AtPath


class TreeRequest(Schema):
    """Everything, or everything at and under a path; all of it, down to a depth, or a page."""

    path: Annotated[str | None, _AT_PATH] = None
    old_names: OldNames = False
    depth: Annotated[
        int | None, Param(ge=0, le=96, description="Only so many levels below the path, or below the base models.")
    ] = None
    limit: Annotated[
        int | None, Param(ge=1, le=500, description="At most so many adapters, in the order of the tree.")
    ] = None
    after: Annotated[
        str | None,
        Param(min_length=1, max_length=512, description="`next` of the previous page.", examples=("llama/support",)),
    ] = None


class SubtreeRequest(PathRequest):
    """All revisions at and under a path, or a page of them."""

    limit: Annotated[int | None, Param(ge=1, le=10_000, description="At most so many, in the order of the tree.")] = (
        None
    )
    after: Annotated[
        str | None,
        Param(
            min_length=1,
            max_length=512,
            description="The last reference of the previous page.",
            examples=("llama/support@3",),
        ),
    ] = None


def _option(help: str, metavar: str | None = None, **bounds: Any) -> Param:  # noqa: A002 - as it is called there
    return replace(Param(min_length=1, max_length=512, help=help, metavar=metavar), **bounds)


class SearchRequest(Schema):
    """Conditions; a revision has to meet all that are given."""

    text: Annotated[
        str | None,
        _option(
            "Words to find, and filters as the options: 'sweep run tag:prod acc>0.8'.",
            description="Words that all have to be found, and filters: see docs/cli.md, registry search.",
            examples=("sweep run tag:prod",),
        ),
    ] = None
    base: Annotated[str | None, _option("Only adapters of this base model.")] = None
    path: Annotated[
        str | None,
        _option(
            "Only what is at and under this path.",
            description="Only what is at and under it.",
            examples=("llama/support",),
        ),
    ] = None
    depth: Annotated[
        int | None,
        Param(
            ge=0,
            le=96,
            description="Only so many levels below the path, or below the base models.",
            help="Only this many levels below the path.",
        ),
    ] = None
    tag: Annotated[str | None, _option("Only revisions with this tag.")] = None
    author: Annotated[str | None, _option("Only what was published under this name.", "NAME")] = None
    parent_known_by: Annotated[
        str | None,
        _option(
            "Only revisions whose parent is proven, stated or assumed, or known by an exact word: loaded.",
            "WORD",
            min_length=None,
            max_length=32,
            description="How the parent is known: a word as of a revision, or proven, stated or assumed.",
            examples=("assumed",),
        ),
    ] = None
    rank: Annotated[
        str | None,
        _option(
            "Only revisions whose rank meets this: '<=16', '8'.",
            "CONDITION",
            min_length=None,
            max_length=64,
            examples=("<=16",),
        ),
    ] = None
    metric: Annotated[
        str | None,
        _option(
            "Only revisions whose metric meets this: 'acc>0.8'.", "CONDITION", min_length=None, examples=("acc>0.8",)
        ),
    ] = None
    stat: Annotated[
        str | None,
        _option(
            "Only revisions with this statistic: 'rank95<8'; repeatable.",
            "CONDITION",
            min_length=None,
            description="Conditions on statistics of the revision's own delta, separated by commas.",
            examples=("rank95<8,stable_rank>2",),
            repeated=True,
        ),
    ] = None
    target: Annotated[str | None, _option("Only adapters with this target module: q_proj.", "NAME")] = None
    since: Annotated[
        str | None,
        _option(
            "Only what was published since then: 30d, 12h, 2026-11-01.",
            "WHEN",
            max_length=64,
            description="Only what was published since then: a duration before now, or a time of UTC.",
            examples=("30d",),
        ),
    ] = None
    behind: Annotated[
        bool,
        Param(description="Only revisions with an ancestor that has a newer revision.", help="Only what is behind."),
    ] = False
    retracted: Annotated[
        bool,
        Param(
            description="Only revisions that are retracted, or contain one that is.",
            help="Only what is retracted, or contains what is.",
        ),
    ] = False
    sort: Annotated[
        str | None,
        _option(
            "Best first: max:acc, min:loss, min:stat:rank95.",
            "ORDER",
            min_length=None,
            max_length=128,
            description="Best value of this metric first: max:NAME or min:NAME; of a statistic min:stat:NAME.",
            examples=("max:acc",),
        ),
    ] = None
    all_revisions: Annotated[
        bool, Param(description="Every matching revision, not only the newest of each adapter.")
    ] = False
    old_names: OldNames = False


MOST_HASHES: Final = 64


class HashesRequest(Schema):
    """Hashes of files, as pictures name them."""

    hashes: Annotated[
        str,
        Param(
            min_length=8,
            max_length=65 * MOST_HASHES,
            description="The first 10 to 64 hex digits of the sha256 of a file (AutoV2), or of its tensors (AutoV3); "
            "several with commas between them.",
            examples=("1a2b3c4d5e6f",),
        ),
    ]


class UntagRequest(Schema):
    """Remove a tag of an adapter."""

    path: AtPath
    tag: TagName
    expected: Annotated[
        str | None,
        Param(
            max_length=512,
            description="Only if the tag points at this revision now.",
            examples=("@3",),
            option="--if",
            metavar="REV",
            help="Only if the tag points at this revision now: @3.",
        ),
    ] = None


class DeleteRequest(Schema):
    """Delete a revision, named by its number or digest."""

    ref: Ref
    with_tags: WithTags = False
    dry_run: DryRun = False


class DeleteTreeRequest(Schema):
    """Delete an adapter and everything under it."""

    path: AtPath
    with_tags: WithTags = False
    dry_run: DryRun = False


class DeleteBaseRequest(Schema):
    """Delete a base model."""

    name: BaseName
    recursive: Annotated[bool, Param(description="Also delete every revision of its adapters.")] = False
    dry_run: DryRun = False


class ProtectedTagsRequest(Schema):
    """The base model whose protected tags are listed."""

    base: BaseName


class RevokeRequest(Schema):
    """Revoke a token."""

    id: Annotated[
        str,
        Param(
            min_length=1,
            max_length=64,
            pattern="^[A-Za-z0-9_-]+$",
            metavar="ID",
            help="The id of the token, as `token list` shows it.",
        ),
    ]


class MaterialisationsRequest(Schema):
    """All materialisations, those of a revision, or those at and under a path."""

    ref: Annotated[
        str | None,
        Param(
            min_length=1,
            max_length=512,
            description="Only those of this revision or, without number, tag or digest, at and under this path.",
            examples=("llama/support",),
        ),
    ] = None


class DropRequest(Schema):
    """Drop a materialisation, or all of a revision."""

    which: Annotated[
        str, Param(min_length=1, max_length=512, description="An id, or a revision.", examples=("mat_5f2c9a7d1e40",))
    ]
    kind: ArtifactKind | None = None


class MaterialiseRequest(Schema):
    """Precompute an artifact and keep it in the store."""

    ref: str
    kind: ArtifactKind = "lora"
    expires_in: int | None = Field(default=None, ge=1, description="In seconds; default: 30 days.")
    fidelity: MeasuredRows = Field(default="sample", description="Of which rows of a merged model it is measured.")


class GcRequest(Schema):
    """Delete stored bytes that nothing needs any more."""

    dry_run: Annotated[bool, Param(help="Only show what would be collected.")] = False


class RetableRequest(Schema):
    """Rebuild the target table of a base model."""

    base: _OfBase


class MeasureBaseRequest(Schema):
    """Take the norms of a base model's weights."""

    base: _OfBase


class FsckRequest(Schema):
    """Check the store."""

    deep: Annotated[bool, Param(help="Read all stored bytes and compare their digests.")] = False


_EXPECTED = Field(default=None, description="Only if the tag points at this revision now: @3, or none.")


class TagRequest(Schema):
    """Point a tag at a revision."""

    ref: str
    tag: str
    expected: str | None = _EXPECTED


class UndoTagRequest(Schema):
    """Undo the last change of a tag."""

    path: str
    tag: str
    expected: str | None = _EXPECTED


class AnnotateRequest(Schema):
    """Add, replace or unset metrics and annotations, or replace the message."""

    ref: str
    metrics: dict[str, float] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    message: str | None = None
    unset: tuple[str, ...] = ()  # names of metrics and annotations


class RetractRequest(Schema):
    """Retract a revision, or undo that."""

    ref: str
    reason: str = ""
    undo: bool = False
    dry_run: bool = False


class UndeleteRequest(Schema):
    """Restore what was deleted: a revision, what was last deleted at and under a path, or a base model."""

    ref: str


class TokenRequest(Schema):
    """A new token."""

    name: str = Field(default="", max_length=128)
    role: Role
    scopes: tuple[str, ...] = ()
    expires_in: int | None = Field(default=None, ge=1, description="seconds")


class ProtectRequest(Schema):
    """Protect the tags of a base model's adapters that match a pattern."""

    base: Annotated[str, Param(help="The base model whose adapters' tags are protected.")]
    pattern: Annotated[str, Param(help="A tag, or a pattern as in file names: prod, 'release-*'.")]
    remove: Annotated[bool, Param(help="Let everyone with write access move them again.")] = False


@dataclass(frozen=True)
class Best:
    """So many revisions with the largest or the smallest values of a metric."""

    mode: Literal["max", "min"]
    metric: str
    count: int

    @classmethod
    def parse(cls, text: str) -> Best:
        """Read ``max:acc:3``.

        Raises:
            UsageError: it has another form; ``bad_name``, no metric can be called that.
        """
        found = _BEST.fullmatch(text)
        if found is None:
            raise UsageError(f"{text!r} does not say what is best: max:METRIC:N or min:METRIC:N is expected, such as "
                             "max:acc:3.")  # fmt: skip
        mode: Literal["max", "min"] = "max" if found[1] == "max" else "min"
        return cls(mode, check_name("Metric name", found[2]), int(found[3]))


class SetRetentionRequest(Schema):
    """Set which revisions of an adapter are kept; what no part of the rule keeps is deleted by a run."""

    path: str
    keep_last: _Count = None  # so many with the highest numbers
    keep_every: _Count = None  # those whose numbers can be divided by it
    keep_best: tuple[str, ...] = Field(default=(), max_length=16)  # max:METRIC:N or min:METRIC:N
    keep_tagged: bool = True

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"path": "llama/support", "keep_last": 10, "keep_every": 1000, "keep_best": ["max:acc:3"]}
        }
    )


class RetentionRequest(Schema):
    """The path of an adapter that has a retention rule."""

    path: AtPath


class RunRetentionRequest(Schema):
    """Delete what the retention rule of an adapter keeps no longer."""

    path: Annotated[str, Param(help=_AT_PATH.help)]
    dry_run: Annotated[bool, Param(help="Only list what would be deleted.")] = False

    model_config = ConfigDict(json_schema_extra={"example": {"path": "llama/support", "dry_run": True}})


def check_rule(path: str, keep_last: int | None, keep_every: int | None, keep_best: Iterable[str]) -> tuple[Best, ...]:
    """What is best by a rule that keeps something.

    Raises:
        UsageError: it keeps nothing, or does not say clearly what is best.
    """
    best = tuple(map(Best.parse, keep_best))
    if keep_last is None and keep_every is None and not best:
        raise UsageError(
            f"The retention rule of {path} is empty, and would delete all revisions but the newest: give "
            "--keep-last N, --keep-every N or --keep-best max:METRIC:N."
        )
    return best
