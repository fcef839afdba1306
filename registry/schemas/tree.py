"""Base models, revisions and the tree: what publishing and browsing answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from registry.figures import amount, counted, metrics, moment, ranked, short_digest, size
from registry.schemas.artifacts import ArtifactKind, EngineAnswer, Extracted, Materialisation, TrainedQuantised
from registry.schemas.form import LeftOut, Schema, WrittenDtype
from registry.schemas.frames import Column, Described, Listed, blocks_html, frame
from registry.schemas.labels import CardState, RenamedTo
from registry.schemas.parents import level_of
from registry.schemas.tags import Children, Notice, TagHistory, all_notices, is_empty
from registry.schemas.usage import BaseFigures, Use
from registry.schemas.views import base as base_line
from registry.schemas.views import base_added as base_added_line
from registry.schemas.views import found as found_line
from registry.schemas.views import indented as indented_line
from registry.schemas.views import listed as listed_line
from registry.schemas.views import log as log_line
from registry.schemas.views import node as node_line
from registry.schemas.views import published as published_line
from registry.schemas.views import remarks, sentences_html
from registry.schemas.views import resolved as resolved_line
from registry.schemas.views import revision as revision_line
from registry.schemas.views import shown as shown_line
from registry.schemas.views import tree as tree_line

if TYPE_CHECKING:
    import pandas

_Digest = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
_Name = Annotated[str, Field(max_length=512)]
# Absent if empty, as in answers of older services: older clients refuse what they don't know.
_More = Annotated[bool, Field(exclude_if=lambda value: not value, description="Deeper adapters were left out.")]
_Combined = Annotated[bool, Field(exclude_if=lambda value: not value, description="It is a weighted sum of others.")]
_Next = Annotated[
    str | None,
    Field(exclude_if=lambda value: value is None, description="Where the next page begins: ``after`` of its request."),
]


class FileEntry(Schema):
    """A stored file of a base model or a revision."""

    path: str
    size: int
    digest: str


class DerivedFrom(Schema):
    """The origin of weights according to the receipt beside them: not proven, and in no digest.

    What tells which revisions they are is left out of an answer to whom may not see the revision, or where it is not.
    """

    kind: ArtifactKind
    reference: _Name | None = None  # PATH@N, or the base model's name
    digest: _Digest | None = None  # of that revision, or of the base model's weights
    since: _Name | None = None  # the ancestor after which its links were taken
    since_digest: _Digest | None = None
    links: tuple[_Digest, ...] = Field(default=(), max_length=4096)  # revisions that went into it, root first
    weights: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(
        default=(), max_length=4096, exclude_if=lambda value: not value
    )
    """Of each of these, if one is not 1."""
    plan: _Digest | None = None  # of the receipt's plan
    dtype: WrittenDtype | None = None
    rank: int | None = Field(default=None, ge=0, le=1 << 31)  # what a truncation left, at most, in one module
    max_error: float | None = Field(default=None, ge=0, allow_inf_nan=False)  # as requested
    error: float | None = Field(default=None, ge=0, allow_inf_nan=False)  # relative, over all modules


class BaseSummary(Schema):
    """A base model."""

    name: str
    digest: str  # of the weights: dtype, shape and digest of every tensor
    table_digest: str  # of the target table
    architecture: str | None
    table_source: str  # "transformers 5.24.0", "diffusers 0.42.1", "diffusers (shipped)" or "tensor names"
    parameters: int
    tensors: int
    size: int  # of all files
    files: tuple[FileEntry, ...]
    adapters: int
    created_at: datetime
    notices: tuple[str, ...]
    source: str | None = None  # hf:ORG/REPO@COMMIT, and " at ENDPOINT" if that is another; None: a folder
    derived_from: DerivedFrom | None = None
    renamed_to: RenamedTo = None
    also_known_as: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()  # other repo ids
    figures: Annotated[BaseFigures | None, Field(exclude_if=lambda value: value is None)] = None  # if requested

    @property
    def is_image_model(self) -> bool:
        """Whether it is a pipeline of diffusers, or a component of one."""
        return of_diffusers(self.table_source, self.architecture)

    def __repr__(self) -> str:
        return base_line(self)


def of_diffusers(table_source: str, architecture: str | None) -> bool:
    """Whether a base model with these facts is diffusers'; of a table from tensor names the class's name says it."""
    return "diffusers" in table_source or _OF_DIFFUSERS.search(architecture or "") is not None


_OF_DIFFUSERS: Final = re.compile(r"Pipeline$|\dD(Condition)?Model$")


def _told(figures: BaseFigures | None) -> tuple[str, ...]:
    if figures is None:
        return ()
    at = figures.last_published_at
    sizes = f"{size(figures.published)}, as full checkpoints {size(figures.full_checkpoints)}"
    newest = () if at is None else (f"{figures.newest} on {moment(at)} UTC",)
    return (f"{counted(figures.revisions, 'revision')} of {sizes}", *newest)


class Bases(Listed[BaseSummary]):
    """Answer of ``bases``: base models, by name."""

    __slots__ = ()
    described = Described(
        noun="base model",
        columns=(
            Column("name", "base model", style="reference"),
            Column("digest", cell=lambda one: short_digest(one.digest)),
            Column("parameters", "parameters", lambda one: amount(one.parameters), right=True),
            Column("size", "size", lambda one: size(one.size), right=True),
            Column("architecture", "architecture", lambda one: one.architecture or "not known"),
            Column("adapters", "adapters", said=lambda one: counted(one.adapters, "adapter"), style="quiet", free=True),
            Column("figures", cell=lambda one: _told(one.figures), style="quiet", free=True),
            Column("renamed_to", before="->", style="reference"),
            Column("notices", "notices", lambda one: " ".join(one.notices)),
        ),
        screen="name digest parameters size | architecture adapters figures renamed_to",
        heads="NAME | DIGEST | PARAMETERS | SIZE | ARCHITECTURE",
        table="name architecture parameters size adapters notices",
        frame="name architecture parameters tensors size adapters created_at source digest figures.*",
    )


class BaseAdded(Schema):
    """Answer of ``base add``."""

    base: BaseSummary
    created: bool  # False: the same weights existed already
    bytes_stored: int
    stored_by: Literal["copy", "reflink", "link", "none"]
    left_out: tuple[LeftOut, ...]
    registry: str

    def __repr__(self) -> str:
        return base_added_line(self)


class Retabled(Schema):
    """Answer of ``base retable``."""

    base: BaseSummary  # as it is now
    previous: str  # digest of the table before
    changed: bool  # False: this version has nothing new to say, and nothing was written
    changes: tuple[str, ...] = ()  # what the tables differ in
    revisions: int = 0  # below: the plans of their artifacts and the commit ids in Hub views are others from now on
    materialisations: tuple[str, ...] = ()  # PATH@N as KIND: dropped, since they were of plans with the old table


class BaseMeasured(Schema):
    """Answer of ``base measure``."""

    base: str
    table_digest: str  # of the target table whose weights were measured
    norms: int  # their number: of weights, of parts of experts, of other parameters
    measured: bool  # False: they existed already, and no weights were read


class Retraction(Schema):
    """Why a revision is unavailable; it stays in the history."""

    reference: str  # what was retracted: the revision itself or an ancestor
    reason: str
    actor: str
    at: datetime


class CopiedFrom(Schema):
    """The original of a copied revision, as reported by the copier."""

    registry: str
    reference: str  # PATH@N at the source
    author: str
    created_at: datetime


class CombinedOf(Schema):
    """A revision that a combination is made of, and its weight.

    Reference and digest are left out of an answer to whom may not see it.
    """

    reference: str | None  # PATH@N
    digest: str | None
    weight: float


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
    retracted: Retraction | None = None  # of itself, of a source, or of the nearest ancestor of which it holds
    source: str | None = None  # where it was taken from, as of a base model
    parent_known_by: str = "unrecorded"  # receipt, view, compared, given, named, rebased, assumed; later: others
    derived_from: DerivedFrom | None = None
    copied_from: CopiedFrom | None = None  # of a copy; without an admin's rights its author is whoever copied it
    renamed_to: RenamedTo = None  # the path of the adapter's new name
    statistics: dict[str, float] = Field(
        default_factory=dict,
        exclude_if=lambda values: not values,
        description="Of its own delta: those that a search was about; in `show`, all that are kept.",
    )
    sources: tuple[CombinedOf, ...] = Field(
        default=(),
        exclude_if=lambda sources: not sources,
        description="Of a combination: what it is the weighted sum of, over its parent.",
    )

    def __repr__(self) -> str:
        return revision_line(self)


def copied(one: RevisionSummary) -> str:
    """Where a copy comes from, and who published it at the source; empty: it is no copy."""
    if one.copied_from is None:
        return ""
    original = one.copied_from
    when = f"{moment(original.created_at)} UTC"
    return f"from {original.reference} of {original.registry}, published there by {original.author} on {when}"


def _is_retracted(one: RevisionSummary) -> bool:
    return one.retracted is not None


REVISIONS: Final = Described[RevisionSummary](
    noun="revision",
    columns=(
        Column("reference", "revision", style="reference"),
        Column("number", cell=lambda one: f"@{one.number}", style="reference"),
        Column("created_at", "published (UTC)", lambda one: moment(one.created_at)),
        Column("rank", "rank", lambda one: str(one.rank or "-"), right=True),
        Column("ranked", cell=lambda one: ranked(one.rank), right=True),
        Column("size", "size", lambda one: size(one.size), right=True),
        Column("parent", "parent"),
        Column("parent_name", cell=lambda one: one.parent.rpartition("/")[2]),
        Column("author", "author"),
        Column("renamed_to", before="->", style="reference"),
        Column("statistics", cell=lambda one: metrics(one.statistics)),
        Column("known", "known", lambda one: f"parent {level_of(one.parent_known_by)}", "quiet", free=True),
        Column("tags", "tags", lambda one: [f"[{tag}]" for tag in one.tags], "tag"),
        Column("retracted", "", lambda one: ["retracted"] * _is_retracted(one), "gone", _is_retracted),
        Column("behind", "", lambda one: ["behind"] * one.behind, "behind"),
        Column("state", "state", remarks),
        Column("metrics", cell=lambda one: metrics(one.metrics)),
        Column("message", "message", lambda one: one.message.strip().partition("\n")[0], "quiet", free=True),
        Column("source", cell=lambda one: f"from {one.source}" if one.source else "", style="quiet", free=True),
        Column("copied_from", cell=copied, style="quiet", free=True),
        Column("metric", value=lambda one: one.metrics),
        Column("statistic", value=lambda one: one.statistics),
        Column("annotation", value=lambda one: one.annotations),
    ),
    screen="reference ranked size|renamed_to statistics known tags retracted behind metrics message",
    frame="reference path number created_at author message tags parent parent_known_by rank parameters size behind "
    "retracted digest metric.* statistic.* annotation.*",
)
"""What lists say of revisions; of a log, see `registry.schemas.sheets.measured`.

In frames sizes are bytes, times are UTC, tags are tuples; what a revision lacks of the named ones is a missing value.
"""


def revisions_html(revisions: tuple[RevisionSummary, ...]) -> str:
    """Revisions in the order given, with a column for each metric that any of them has."""
    from registry.schemas.sheets import measured

    return measured(sorted({name for one in revisions for name in one.metrics})).html(revisions)


class Tagged(Schema):
    """Answer of ``tag`` and ``untag``; ``previous`` is the reference that the tag pointed at before.

    ``reference`` is None where there is no such tag any more, ``previous`` where there was none.
    """

    path: str
    tag: str
    reference: str | None
    previous: str | None


class Published(Schema):
    """Answer of ``publish``."""

    revision: RevisionSummary
    created: bool  # False: the adapter had this revision already
    parent_digest: str  # of the parent revision, or of the base model's weights
    parent_reason: str  # why that parent, one clause
    left_out: tuple[LeftOut, ...]
    bytes_stored: int
    registry: str
    applied: tuple[str, ...] = ()  # if it existed already: what of this call changed its labels
    not_applied: tuple[str, ...] = ()  # and what did not: ``message``, ``source``
    tagged: tuple[Tagged, ...] = ()  # the tags of this call, each with what it pointed at before
    noticed: tuple[Notice, ...] = Field(default=(), alias="notices", exclude_if=is_empty)  # what its weights show
    extracted: Extracted = None  # how it was made of a full model

    @property
    def notices(self) -> tuple[Notice, ...]:
        """All notices: those of ``revision``, and what its weights show."""
        return all_notices(self.revision.notices, self.noticed)

    def __repr__(self) -> str:
        return published_line(self)


class TreeNode(Schema):
    """A base model or an adapter with what lies under it; ``revision`` is its newest (None: a base model)."""

    path: str
    name: str
    revision: RevisionSummary | None
    children: tuple[TreeNode, ...]
    more: _More = False

    def __repr__(self) -> str:
        return node_line(self)

    def __str__(self) -> str:
        return indented_line((self,))


class Tree(Schema):
    """Answer of ``tree``."""

    roots: tuple[TreeNode, ...]
    next: _Next = None

    def adapters(self) -> Iterator[TreeNode]:
        """All adapters, in the order of the tree."""
        waiting = [*reversed(self.roots)]
        while waiting:
            node = waiting.pop()
            if node.revision is not None:
                yield node
            waiting += reversed(node.children)

    def behind(self) -> Tree:
        """What is on an old revision of its parent, or below such, and what is above it."""
        return self.model_copy(update={"roots": _behind(self.roots)})

    def __repr__(self) -> str:
        return tree_line(self)

    def __str__(self) -> str:
        return indented_line(self.roots)

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        from registry.schemas.sheets import nodes

        return blocks_html(nodes(self))

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a row for the newest revision of each adapter, as of `Log`, in the order of the tree."""
        return frame(*REVISIONS.values(node.revision for node in self.adapters() if node.revision is not None))


def _behind(nodes: tuple[TreeNode, ...]) -> tuple[TreeNode, ...]:
    cut = (node.model_copy(update={"children": _behind(node.children)}) for node in nodes)
    return tuple(node for node in cut if node.children or (node.revision is not None and node.revision.behind))


class DeletedRevision(Schema):
    """The number of a deleted revision, which is never reused."""

    reference: str  # PATH@N
    number: int
    digest: str | None
    message: str | None
    deleted_at: datetime | None
    deleted_by: str | None
    until: datetime | None  # it can be restored until then; None: not any more


class Log(Schema):
    """Answer of ``log``: revisions of one adapter, newest first."""

    path: str
    revisions: tuple[RevisionSummary, ...]
    deleted: tuple[DeletedRevision, ...] = ()  # if they were requested, by falling numbers

    def __repr__(self) -> str:
        return log_line(self)

    def __str__(self) -> str:
        return listed_line(self.revisions)

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        return revisions_html(self.revisions)

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a row for each revision; raises `UnavailableError` where pandas is not installed."""
        return frame(*REVISIONS.values(self.revisions))


class LineageEntry(Schema):
    """One link of a lineage, root first. The base model is the first entry, without number."""

    reference: str
    digest: str
    number: int | None
    rank: int | None
    newest: int | None  # newest number of that adapter, to see what is behind; None if that may not be seen
    retracted: bool = False  # itself, or what it is combined of: no weights are handed out that contain it
    combined: _Combined = False


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
    repo_revisions: tuple[str, ...] = ()  # its names in the Hub views: r3, tags, and main where it is the newest
    children: Children | None = None  # what was trained on it; None: a service of an earlier version
    tag_history: tuple[TagHistory, ...] = ()  # of at most 20 tags, those that point at it first
    materialisations: tuple[Materialisation, ...] = ()
    use: Use | None = None  # of the revision itself, without what was trained on it; None: a base model
    card: CardState | None = None  # None: the adapter has none
    noticed: tuple[Notice, ...] = Field(default=(), alias="notices", exclude_if=is_empty)  # what its weights show
    extracted: Extracted = None  # how it was made of a full model
    trained_quantised: TrainedQuantised = None  # how the weights were quantised that it was trained on
    engines: tuple[EngineAnswer, ...] = Field(
        default=(),
        exclude_if=lambda answers: not answers,
        description="Of those that were asked about, by the rules of this version.",
    )

    @property
    def notices(self) -> tuple[Notice, ...]:
        """All notices: those of ``revision`` or ``base``, and what its weights show."""
        return all_notices((self.revision or self.base).notices, self.noticed)

    def __repr__(self) -> str:
        return shown_line(self)

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        from registry.schemas.sheets import shown

        return blocks_html(shown(self))


class Resolved(Schema):
    """Answer of ``resolve``: which revision a reference resolves to now, and its lineage."""

    reference: str
    digest: str
    base: str
    base_digest: str
    lineage: tuple[LineageEntry, ...]
    renamed_to: RenamedTo = None

    def __repr__(self) -> str:
        return resolved_line(self)


class SearchResult(Schema):
    """Answer of ``search``: matching revisions, in the order that was asked for."""

    revisions: tuple[RevisionSummary, ...]
    notices: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()  # what was not looked through

    def __repr__(self) -> str:
        return found_line(self)

    def __str__(self) -> str:
        return "\n".join(filter(None, [listed_line(self.revisions), *self.notices]))

    def _repr_html_(self) -> str:
        """A table, in a notebook."""
        return revisions_html(self.revisions) + sentences_html(self.notices)

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame with a row for each revision; raises `UnavailableError` where pandas is not installed."""
        return frame(*REVISIONS.values(self.revisions))
