"""The table of operations: what a registry can do, a row each.

`registry.operations.methods` has a typed method for each row, ``does`` names the function of `registry.services` that
does it, `registry.api.operations` makes its route, and docs/http.md lists it. What carries bytes (artifacts, blobs,
uploads) is written by hand. The keys by which a listing goes on are here, too: what no page gave raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

from registry.errors import UsageError
from registry.operations.operation import READER, Job, Listing, Operation, Right
from registry.reference import Reference
from registry.schemas import (
    BaseAdded,
    BaseMeasured,
    BaseSummary,
    Checked,
    Collected,
    Deleted,
    DeletedRevision,
    DeletedTree,
    Event,
    Identity,
    Materialisation,
    Materialised,
    ProtectedTag,
    Published,
    Resolved,
    Retabled,
    Retention,
    RetentionRule,
    Retracted,
    RevisionSummary,
    Shown,
    Tagged,
    Token,
    TokenCreated,
    Tree,
)
from registry.schemas.artifacts import EngineCheck
from registry.schemas.difference import DeltaMatrix, Difference
from registry.schemas.followed import Where, WhereRequest
from registry.schemas.form import is_plain
from registry.schemas.jobs import Health, Jobs, JobsRequest, JobSummary, Looked
from registry.schemas.labels import (
    AlsoKnownAs,
    AlsoKnownAsRequest,
    Card,
    ExportCard,
    RenameBaseRequest,
    Renamed,
    RenameRequest,
    SetCardRequest,
)
from registry.schemas.parents import HashesFound, NarrowRequest, PathsLeft
from registry.schemas.publishing import Combined, CombineRequest, Rebased, RebaseRequest, Replayed, ReplayRequest
from registry.schemas.requests import (
    AnnotateRequest,
    BasesRequest,
    CheckRequest,
    DeleteBaseRequest,
    DeleteRequest,
    DeleteTreeRequest,
    DenseStatisticsRequest,
    DiffRequest,
    DropRequest,
    ExportCardRequest,
    FsckRequest,
    GcRequest,
    HashesRequest,
    MaterialisationsRequest,
    MaterialiseRequest,
    MeasureBaseRequest,
    NoRequest,
    PathRequest,
    ProtectedTagsRequest,
    ProtectRequest,
    ReferenceRequest,
    RetableRequest,
    RetentionRequest,
    RetractRequest,
    RevokeRequest,
    RunRetentionRequest,
    SearchRequest,
    SetRetentionRequest,
    StatisticsRequest,
    SubtreeRequest,
    TagRequest,
    TokenRequest,
    TreeRequest,
    UndeleteRequest,
    UndoTagRequest,
    UntagRequest,
)
from registry.schemas.running import Reported, ReportRequest, Running, RunningRequest, WhatRuns
from registry.schemas.statistics import DenseStatistics, Statistics
from registry.schemas.tags import Tags, TagsRequest, TagState
from registry.schemas.team import Events, EventsRequest, Tokens
from registry.schemas.transfer import (
    BaseCommit,
    BasePlan,
    BaseRequest,
    Bundle,
    PublishCommit,
    PublishPlan,
    PublishRequest,
)
from registry.schemas.tree import Bases
from registry.schemas.usage import Usage, UsageRequest


def text_key(key: object) -> str:
    """Of a listing that is ordered by texts."""
    if not isinstance(key, str) or not is_plain(key):
        raise ValueError("a text is expected")
    return key


def number_key(key: object) -> int:
    """Of a listing that is ordered by numbers."""
    if not isinstance(key, int) or isinstance(key, bool) or not 0 <= key < 1 << 63:
        raise ValueError("a number is expected")
    return key


def value_key(key: object) -> datetime | float | None:
    """Of what a listing may be ordered by before all else: a time, a number, or nothing."""
    if key is None or (isinstance(key, int | float) and not isinstance(key, bool) and isfinite(key)):
        return None if key is None else float(key)
    return _moment(key)


def keys(*parts: Callable[[object], object]) -> Callable[[object], tuple[object, ...]]:
    """Of a listing that is ordered by several things, each of which has its own key."""

    def read(key: object) -> tuple[object, ...]:
        if not isinstance(key, list) or len(key) != len(parts):
            raise ValueError(f"{len(parts)} values are expected")
        return tuple(part(one) for part, one in zip(parts, key, strict=True))

    return read


def creation_key(key: object) -> tuple[str, int, datetime, str]:
    """Of a listing that is ordered by revision and time: its path and number, the time, and an id."""
    if not isinstance(key, list) or len(key) != 3:
        raise ValueError("three texts are expected")
    reference, created_at, last = map(text_key, key)
    try:
        parsed, moment = Reference.parse(reference), datetime.fromisoformat(created_at).astimezone(UTC)
    except (UsageError, OverflowError):
        raise ValueError("a revision and a time are expected") from None
    if parsed.number is None:
        raise ValueError("a revision is named by its number")
    return str(parsed.path), parsed.number, moment, last


def search_key(key: object) -> tuple[str, int | None, float | None]:
    """Of a search: a path, with the number and the value of a metric if it is ordered by them."""
    if not isinstance(key, list):
        return text_key(key), None, None
    if len(key) != 3:
        raise ValueError("a path, a number and a value are expected")
    path, number, value = key
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value)):
        raise ValueError("a finite number is expected")
    return text_key(path), number_key(number), None if value is None else float(value)


def _moment(key: object) -> datetime:
    try:
        return datetime.fromisoformat(text_key(key)).astimezone(UTC)
    except OverflowError:
        raise ValueError("a time is expected") from None


event_key: Final = keys(_moment, number_key)
"""Of events: the time of one, and which it is of those of this time."""
job_key: Final = keys(_moment, text_key)
"""Of jobs: the time of one, and its id."""


# Browsing

WHOAMI: Final = Operation(
    name="whoami", method="GET", address="/whoami", request=NoRequest, answer=Identity, does="upkeep.health.whoami",
    right=READER, group="browse", about="Who the caller is, with which rights.",
)  # fmt: skip
BASES: Final = Listing(
    name="list_bases", method="GET", address="/bases", request=BasesRequest, answer=tuple[BaseSummary, ...],
    does="handlers.browsing.list_bases", item=BaseSummary, key=text_key, described=Bases.described, right=READER,
    group="browse", refusals=(400,), about="Base models, by name.",
)  # fmt: skip
TREE: Final = Operation(
    name="tree", method="GET", address="/tree", request=TreeRequest, answer=Tree, does="handlers.browsing.tree",
    right=READER, group="browse", refusals=(404,), about="Adapters as a tree, each with its newest revision.",
)  # fmt: skip
LOG: Final = Listing(
    name="log", method="GET", address="/log", request=PathRequest, answer=tuple[RevisionSummary, ...],
    does="handlers.browsing.log", item=RevisionSummary, key=number_key, right=READER, group="browse", refusals=(404,),
    about="Revisions of an adapter, newest first.",
)  # fmt: skip
DELETED: Final = Listing(
    name="deleted_revisions", method="GET", address="/log/deleted", request=PathRequest,
    answer=tuple[DeletedRevision, ...], does="handlers.browsing.deleted_revisions", item=DeletedRevision,
    key=number_key, right=READER, group="browse", refusals=(404,),
    about="Deleted revisions of an adapter, highest number first, which is never reused.",
)  # fmt: skip
SHOW: Final = Operation(
    name="show", method="GET", address="/revisions", request=ReferenceRequest, answer=Shown,
    does="handlers.browsing.show", right=READER, group="browse", refusals=(404,), about="Everything about a revision.",
)  # fmt: skip
DIFF: Final = Operation(
    name="diff", method="GET", address="/diff", request=DiffRequest, answer=Difference, does="handlers.browsing.diff",
    right=READER, group="browse", refusals=(404,), slow=True,
    about="What differs between two revisions; if requested, also how their deltas agree.",
)  # fmt: skip
DIFF_CHILDREN: Final = Operation(
    name="diff_children", method="GET", address="/diff/children", request=PathRequest, answer=DeltaMatrix,
    does="deltas.children_deltas", right=READER, group="browse", refusals=(404,), slow=True,
    about="How the deltas of all pairs of children of a path agree, from the factors alone.",
)  # fmt: skip
STATS: Final = Operation(
    name="stats", method="GET", address="/statistics", request=StatisticsRequest, answer=Statistics,
    does="statistics.statistics", right=READER, group="browse", refusals=(404,), slow=True,
    about="What each link of a path changed: norms and ranks of the deltas, from the factors alone.",
)  # fmt: skip
DENSE_STATS: Final = Job(
    name="dense_stats", method="POST", address="/statistics/dense", request=DenseStatisticsRequest,
    answer=DenseStatistics, does="statistics.dense_statistics",
    right=Right("writer", "path", "have its weights analysed", "ref"), group="browse", refusals=(404,), kind="dense",
    result="dense", reads=True,
    about="What a path changed of the base model's weights, which are read: also what is no product of factors.",
)  # fmt: skip
CHECK: Final = Operation(
    name="check", method="GET", address="/checks", request=CheckRequest, answer=EngineCheck, does="engine_checks.check",
    right=READER, group="browse", refusals=(404, 410), slow=True,
    about="Whether an inference engine loads the composed adapter of a revision, or every reason why not.",
)  # fmt: skip
RESOLVE: Final = Operation(
    name="resolve", method="GET", address="/resolve", request=ReferenceRequest, answer=Resolved,
    does="browse.resolved", right=READER, group="browse", refusals=(404,),
    about="Which revision a reference resolves to now, and its lineage.",
)  # fmt: skip
WHERE: Final = Operation(
    name="where", method="POST", address="/where", request=WhereRequest, answer=tuple[Where, ...],
    does="browse.where", right=READER, group="browse",
    about="Which revisions many names and patterns of names point at now, or why none of them may be served.",
)  # fmt: skip
SEARCH: Final = Listing(
    name="search", method="GET", address="/search", request=SearchRequest, answer=tuple[RevisionSummary, ...],
    does="handlers.browsing.search", item=RevisionSummary, key=search_key, right=READER, group="browse",
    refusals=(404,), about="Matching revisions, of each adapter the newest or all, by path or by a metric.",
)  # fmt: skip
EVENTS: Final = Listing(
    name="events", method="GET", address="/events", request=EventsRequest, answer=tuple[Event, ...],
    does="handlers.browsing.list_events", item=Event, key=event_key, described=Events.described, right=READER,
    group="browse", refusals=(404,),
    about="Changes made to the registry, newest first: all, or those of a path, an actor, a kind, or since a time.",
)  # fmt: skip

# Labels

TAGS: Final = Listing(
    name="list_tags", method="GET", address="/tags", request=TagsRequest, answer=tuple[TagState, ...],
    does="handlers.labels.list_tags", item=TagState, key=keys(value_key, text_key, text_key), described=Tags.described,
    page="Tags", right=READER, group="labels", refusals=(404,), slow=True,
    about="Tags with what they name, since when, what they named before, and how its metrics differ.",
)  # fmt: skip
TAG: Final = Operation(
    name="tag", method="PUT", address="/tags", request=TagRequest, answer=Tagged, does="handlers.labels.tag",
    right=Right("writer", "path", "tag", "ref"), group="labels", refusals=(404, 409),
    idempotent=lambda request: request.expected is None,  # once moved, it does not point at what was expected
    about="Point a tag at a revision, if requested only if it points at the expected one.",
)  # fmt: skip
UNDO_TAG: Final = Operation(
    name="undo_tag", method="POST", address="/tags/undo", request=UndoTagRequest, answer=Tagged,
    does="handlers.labels.undo_tag", right=Right("writer", "path", "tag", "path"), group="labels",
    refusals=(404, 409, 410),
    idempotent=lambda _: False,  # once more would undo the undo
    about="Undo the last change of a tag.",
)  # fmt: skip
UNTAG: Final = Operation(
    name="untag", method="DELETE", address="/tags", request=UntagRequest, answer=Tagged, does="handlers.labels.untag",
    right=Right("writer", "path", "remove tags", "path"), group="labels", refusals=(404, 409),
    idempotent=lambda _: False, about="Remove a tag, if requested only if it points at the expected revision.",
)  # fmt: skip
ANNOTATE: Final = Operation(
    name="annotate", method="POST", address="/annotations", request=AnnotateRequest, answer=RevisionSummary,
    does="handlers.labels.annotate", right=Right("writer", "path", "annotate", "ref"), group="labels", refusals=(404,),
    idempotent=lambda request: not request.unset,  # what was unset can't be unset again
    about="Add or replace metrics and annotations.",
)  # fmt: skip
PROTECTED_TAGS: Final = Operation(
    name="list_protected_tags", method="GET", address="/protected-tags", request=ProtectedTagsRequest,
    answer=tuple[ProtectedTag, ...], does="handlers.labels.list_protected_tags", right=READER, group="labels",
    refusals=(404,), about="The tags of a base model's adapters that only admins can move.",
)  # fmt: skip
PROTECT_TAG: Final = Operation(
    name="protect_tag", method="PUT", address="/protected-tags", request=ProtectRequest,
    answer=tuple[ProtectedTag, ...], does="handlers.labels.protect_tag",
    right=Right("admin", "path", "protect tags", "base"), group="labels", refusals=(404,),
    about="Protect or unprotect tags by a pattern; returns all patterns that are protected now.",
)  # fmt: skip
CARD: Final = Operation(
    name="card", method="GET", address="/cards", request=ReferenceRequest, answer=Card, does="handlers.labels.card",
    right=READER, group="labels", refusals=(404,), about="The card of an adapter, or the README.md of a revision.",
)  # fmt: skip
SET_CARD: Final = Operation(
    name="set_card", method="PUT", address="/cards", request=SetCardRequest, answer=Card,
    does="handlers.labels.set_card", right=Right("writer", "path", "edit the card", "path"), group="labels",
    refusals=(404, 409), about="Edit the card of an adapter, or go back to the published README.md.",
)  # fmt: skip

EXPORT_CARD: Final = Operation(
    name="export_card", method="GET", address="/cards/export", request=ExportCardRequest, answer=ExportCard,
    does="artifacts.readme.exported.export_card", right=READER, group="labels", refusals=(404, 410),
    about="The card of an export of a revision.",
)  # fmt: skip

# Names

RENAME: Final = Operation(
    name="rename", method="POST", address="/renames", request=RenameRequest, answer=Renamed,
    does="handlers.labels.rename_adapter", right=Right("writer", "path", "rename", "path"), group="names",
    refusals=(404, 409), about="Give an adapter and everything under it another last name; the old names go on.",
)  # fmt: skip
RENAME_BASE: Final = Operation(
    name="rename_base", method="POST", address="/bases/rename", request=RenameBaseRequest, answer=Renamed,
    does="handlers.labels.rename_base", right=Right("admin", "path", "rename a base model", "name"), group="names",
    refusals=(404, 409), about="Give a base model and all its adapters another name; the old names go on.",
)  # fmt: skip
ALSO_KNOWN_AS: Final = Operation(
    name="also_known_as", method="PUT", address="/bases/also-known-as", request=AlsoKnownAsRequest, answer=AlsoKnownAs,
    does="handlers.labels.set_also_known_as", right=Right("admin", "path", "give it another repo id", "name"),
    group="names", refusals=(404, 409),
    about="Let a base model answer under another repo id in the Hub views, or no longer.",
)  # fmt: skip

# Tokens

TOKENS: Final = Listing(
    name="list_tokens", method="GET", address="/tokens", request=NoRequest, answer=tuple[Token, ...],
    does="handlers.upkeep.list_tokens", item=Token, key=text_key, described=Tokens.described,
    right=Right("admin", "all", "list tokens"), group="tokens", refusals=(400,), about="All tokens, newest first.",
)  # fmt: skip
CREATE_TOKEN: Final = Operation(
    name="create_token", method="POST", address="/tokens", request=TokenRequest, answer=TokenCreated,
    does="upkeep.health.create_token", right=Right("admin", "all", "create tokens"), group="tokens", refusals=(404,),
    status=201, idempotent=lambda _: False, about="Create a token; its secret is only in this response.",
)  # fmt: skip
REVOKE_TOKEN: Final = Operation(
    name="revoke_token", method="DELETE", address="/tokens/{id}", request=RevokeRequest, answer=Token,
    does="handlers.upkeep.revoke_token", right=Right("admin", "all", "revoke tokens"), group="tokens", refusals=(404,),
    about="Revoke a token immediately.",
)  # fmt: skip

# Publishing, and what registries say to each other

PLAN_PUBLISH: Final = Operation(
    name="plan_publish", method="POST", address="/publishes/plan", request=PublishRequest, answer=PublishPlan,
    does="publishing.publish.plan_publish", right=Right("writer", "path", "publish", "path"), group="publish",
    refusals=(404, 409, 410), slow=True,
    about="Check everything except the weights, and report which bytes are missing.",
)  # fmt: skip
COMMIT_PUBLISH: Final = Job(
    name="commit_publish", method="POST", address="/publishes", request=PublishCommit, answer=Published,
    does="publishing.publish.commit_publish", right=Right("writer", "path", "publish", "request.path"), group="publish",
    refusals=(404, 409, 410), kind="publish", result="published", creates=True,
    about="Read back what was uploaded, check it, and publish.",
)  # fmt: skip
REBASE: Final = Operation(
    name="rebase", method="POST", address="/rebases", request=RebaseRequest, answer=Rebased,
    does="publishing.rebase.rebase", right=Right("writer", "path", "rebase", "ref"), group="publish",
    refusals=(404, 409, 410), slow=True,
    about="Put a revision on another revision of its parent, with the same files, as a new revision.",
)  # fmt: skip
COMBINE: Final = Job(
    name="combine", method="POST", address="/combinations", request=CombineRequest, answer=Combined,
    does="combining.combine.combine", right=Right("writer", "path", "publish", "path"), group="publish",
    refusals=(404, 409, 410), kind="combine", result="combined", creates=True,
    about="Publish the weighted sum of the deltas of some revisions over their lowest common ancestor.",
)  # fmt: skip
REPLAY: Final = Operation(
    name="replay", method="GET", address="/combinations", request=ReplayRequest, answer=Replayed,
    does="combining.combine.replay", right=READER, group="browse", refusals=(404, 410), slow=True,
    about="Combine the sources of the combinations in a path again, and compare with what is stored.",
)  # fmt: skip
PLAN_BASE: Final = Operation(
    name="plan_base", method="POST", address="/bases/plan", request=BaseRequest, answer=BasePlan,
    does="bases.add_remote.plan_base", right=Right("writer", "path", "add a base model", "name"), group="publish",
    refusals=(404, 409), slow=True, takes_process=True,
    about="Check everything except the weights, and report which bytes are missing.",
)  # fmt: skip
COMMIT_BASE: Final = Job(
    name="commit_base", method="POST", address="/bases", request=BaseCommit, answer=BaseAdded,
    does="bases.add_remote.commit_base", right=Right("writer", "path", "add a base model", "request.name"),
    group="publish", refusals=(404, 409), kind="base", result="base_added", creates=True,
    about="Read back what was uploaded, check it, and add the base model.",
)  # fmt: skip
RETABLE: Final = Job(
    name="retable", method="POST", address="/bases/retable", request=RetableRequest, answer=Retabled,
    does="bases.retable.retable", right=Right("admin", "path", "rebuild its target table", "base"), group="publish",
    refusals=(404, 409), kind="retable", result="retabled",
    about="Rebuild the target table of a base model, which changes the plans and commit ids of its paths.",
)  # fmt: skip
MEASURE_BASE: Final = Job(
    name="measure_base", method="POST", address="/bases/measure", request=MeasureBaseRequest, answer=BaseMeasured,
    does="bases.norms.measure", right=Right("writer", "path", "measure its weights", "base"), group="publish",
    refusals=(404,), kind="measure", result="measured",
    about="Take the norms of a base model's weights, where it was added without them or its target table was rebuilt.",
)  # fmt: skip
BUNDLE: Final = Operation(
    name="bundle", method="GET", address="/bundles", request=ReferenceRequest, answer=Bundle,
    does="artifacts.bundles.bundle", right=READER, group="transfer", refusals=(404, 410), tagged=True, slow=True,
    about="A path as digests, with everything needed to compose or copy it.",
)  # fmt: skip
NARROW: Final = Operation(
    name="narrow", method="POST", address="/parents", request=NarrowRequest, answer=PathsLeft,
    does="publishing.narrowing.narrow_paths", right=READER, group="transfer", refusals=(404,), slow=True,
    about="Which paths on a base model some weights may be those of, by samples of them.",
)  # fmt: skip
FIND_HASHES: Final = Operation(
    name="find_hashes", method="GET", address="/hashes", request=HashesRequest, answer=HashesFound,
    does="file_hashes.find_hashes", right=READER, group="browse", refusals=(400,), slow=True,
    about="Which revisions and base models the hashes name that pictures and sites give for a file.",
)  # fmt: skip
SUBTREE: Final = Operation(
    name="subtree", method="GET", address="/subtree", request=SubtreeRequest, answer=tuple[str, ...],
    does="handlers.browsing.list_subtree", right=READER, group="transfer", refusals=(404,),
    about="References of all revisions at and under a path, parents first.",
)  # fmt: skip

# Artifacts that are stored

MATERIALISATIONS: Final = Listing(
    name="list_materialisations", method="GET", address="/materialisations", request=MaterialisationsRequest,
    answer=tuple[Materialisation, ...], does="handlers.upkeep.list_materialisations", item=Materialisation,
    key=creation_key, right=READER, group="artifacts", refusals=(404,),
    about="Materialised artifacts, by path and number.",
)  # fmt: skip
MATERIALISE: Final = Job(
    name="materialise", method="POST", address="/materialisations", request=MaterialiseRequest, answer=Materialised,
    does="materialise.materialise", right=Right("writer", "path", "materialise", "ref"), group="artifacts",
    refusals=(404, 410), kind="materialise", result="materialised", creates=True,
    about="Precompute an artifact and keep it in the store, or extend the time it is kept.",
)  # fmt: skip
DROP_MATERIALISATION: Final = Operation(
    name="drop_materialisation", method="DELETE", address="/materialisations", request=DropRequest,
    answer=tuple[Materialisation, ...], does="materialise.drop", right=Right("writer", what="drop materialisations"),
    group="artifacts", refusals=(404,), idempotent=lambda _: False,
    about="Drop one materialisation, or all of a revision; returns what was dropped.",
)  # fmt: skip

# Deletion. An undo has a route of its own: a service that does not know of it must not take it for another deletion.

DELETE: Final = Operation(
    name="delete", method="DELETE", address="/revisions", request=DeleteRequest, answer=Deleted,
    does="upkeep.deletion.delete", right=Right("writer", "path", "delete", "ref"), group="deletions",
    refusals=(404, 409), idempotent=lambda request: request.dry_run,
    about="Delete a revision that nothing was trained on, named by its number or digest.",
)  # fmt: skip
UNDELETE: Final = Operation(
    name="undelete", method="POST", address="/revisions/undelete", request=UndeleteRequest, answer=Deleted,
    does="upkeep.deletion.undelete", right=Right("writer", "path", "delete", "ref"), group="deletions",
    refusals=(404, 409), about="Restore a deleted revision, within the grace period.",
)  # fmt: skip
DELETE_TREE: Final = Operation(
    name="delete_tree", method="DELETE", address="/tree", request=DeleteTreeRequest, answer=DeletedTree,
    does="upkeep.deletion.delete_tree", right=Right("writer", "path", "delete", "path"), group="deletions",
    refusals=(404, 409), idempotent=lambda request: request.dry_run, about="Delete an adapter and everything under it.",
)  # fmt: skip
UNDELETE_TREE: Final = Operation(
    name="undelete_tree", method="POST", address="/tree/undelete", request=UndeleteRequest, answer=DeletedTree,
    does="upkeep.deletion.undelete_tree", right=Right("writer", "path", "delete", "ref"), group="deletions",
    refusals=(404, 409),
    idempotent=lambda _: False,  # once more would give back the deletion before that one
    about="Restore what the last deletion at and under a path removed, within the grace period.",
)  # fmt: skip
DELETE_BASE: Final = Operation(
    name="delete_base", method="DELETE", address="/bases", request=DeleteBaseRequest, answer=DeletedTree,
    does="upkeep.deletion.delete_base", right=Right("admin", "path", "delete a base model", "name"), group="deletions",
    refusals=(404, 409), idempotent=lambda request: request.dry_run,
    about="Delete a base model without adapters, or together with all its adapters.",
)  # fmt: skip
UNDELETE_BASE: Final = Operation(
    name="undelete_base", method="POST", address="/bases/undelete", request=UndeleteRequest, answer=DeletedTree,
    does="upkeep.deletion.undelete_base", right=Right("admin", "path", "delete a base model", "ref"), group="deletions",
    refusals=(404,), about="Restore a deleted base model and what was deleted with it, within the grace period.",
)  # fmt: skip

# Retention: deletion by rules

RETENTION: Final = Operation(
    name="retention", method="GET", address="/retention", request=RetentionRequest, answer=Retention,
    does="upkeep.retention.show", right=READER, group="deletions", refusals=(404,),
    about="The retention rule of an adapter, and what a run would delete by it now.",
)  # fmt: skip
SET_RETENTION: Final = Operation(
    name="set_retention", method="PUT", address="/retention", request=SetRetentionRequest, answer=Retention,
    does="upkeep.retention.set_rule", right=Right("writer", "path", "set a retention rule", "path"), group="deletions",
    refusals=(404, 409),
    about="Set which revisions of an adapter are kept; tells what a run would delete, and deletes nothing.",
)  # fmt: skip
CLEAR_RETENTION: Final = Operation(
    name="clear_retention", method="DELETE", address="/retention", request=RetentionRequest, answer=RetentionRule,
    does="upkeep.retention.clear", right=Right("writer", "path", "remove a retention rule", "path"), group="deletions",
    refusals=(404,), idempotent=lambda _: False, about="Remove the retention rule of an adapter; returns it.",
)  # fmt: skip
RUN_RETENTION: Final = Job(
    name="run_retention", method="POST", address="/retention/run", request=RunRetentionRequest, answer=Retention,
    does="upkeep.retention.run", right=Right("writer", "path", "delete", "path"), group="deletions", refusals=(404,),
    kind="retention", result="retained",
    about="Delete the revisions that the retention rule of an adapter does not keep.",
)  # fmt: skip

# Keeping

RETRACT: Final = Operation(
    name="retract", method="POST", address="/retractions", request=RetractRequest, answer=Retracted,
    does="handlers.upkeep.retract", right=Right("writer", "path", "retract", "ref"), group="keeping",
    refusals=(404, 409), about="Make a revision and everything that contains it unavailable, or undo that.",
)  # fmt: skip
GC: Final = Job(
    name="gc", method="POST", address="/gc", request=GcRequest, answer=Collected, does="handlers.upkeep.gc",
    right=Right("admin", "all", "collect garbage"), group="keeping", kind="gc", result="collected",
    idempotent=lambda request: request.dry_run, about="Delete the blobs that nothing needs any more.",
)  # fmt: skip
FSCK: Final = Job(
    name="fsck", method="POST", address="/fsck", request=FsckRequest, answer=Checked, does="handlers.upkeep.fsck",
    right=Right("admin", "all", "check the registry"), group="keeping", kind="fsck", result="checked", reads=True,
    about="Check that every row has its blob and, if requested, that every blob has its bytes.",
)  # fmt: skip

DU: Final = Operation(
    name="du", method="GET", address="/usage", request=UsageRequest, answer=Usage, does="handlers.browsing.du",
    right=READER, group="keeping", refusals=(404,), slow=True,
    about="How much storage adapters and revisions use, and how much as many full checkpoints would use.",
)  # fmt: skip

LIST_JOBS: Final = Listing(
    name="list_jobs", method="GET", address="/operations", request=JobsRequest, answer=tuple[JobSummary, ...],
    does="handlers.upkeep.list_jobs", item=JobSummary, key=job_key, described=Jobs.described,
    right=READER, group="keeping",
    about="Long operations, newest first: those of the token, or everyone's for an admin without scopes.",
)  # fmt: skip

HEALTH: Final = Operation(
    name="health", method="GET", address="/health", request=NoRequest, answer=Health, does="upkeep.health.health",
    right=Right("admin", "all", "see how the service is"), group="keeping",
    about="Replicas, long operations, storage, and when it was last collected and checked.",
)  # fmt: skip

# What runs

RUNNING: Final = Listing(
    name="running", method="GET", address="/running", request=RunningRequest, answer=tuple[Running, ...],
    does="handlers.running.list_running", item=Running, key=keys(text_key, text_key, number_key),
    described=WhatRuns.described, page="Running", right=READER, group="keeping", refusals=(404,), slow=True,
    about="What followers serve of the names that they follow, and how far behind it is; or the names nobody serves.",
)  # fmt: skip
REPORT: Final = Operation(
    name="report", method="POST", address="/running", request=ReportRequest, answer=Reported,
    does="handlers.running.report", right=READER, group="keeping", refusals=(409,),
    about="Of a follower: what it serves of the names that it follows. Counts for as long as the answer says.",
)  # fmt: skip

# What a service requests of itself: no route leads to it.

NOTICE: Final = Job(
    name="notice", method="POST", address="", request=ReferenceRequest, answer=Looked, does="handlers.browsing.notice",
    right=READER, group="keeping", kind="notice", result="looked",
    about="Run the retention rule of its path, compute its statistics, and keep notices about it: after each publish.",
)  # fmt: skip

OPERATIONS: Final[tuple[Operation[Any, Any], ...]] = (
    WHOAMI, BASES, TREE, LOG, DELETED, SHOW, DIFF, DIFF_CHILDREN, STATS, DENSE_STATS, CHECK, RESOLVE, WHERE, SEARCH,
    EVENTS,
    TAGS, TAG, UNDO_TAG, UNTAG, ANNOTATE, PROTECTED_TAGS, PROTECT_TAG, CARD, SET_CARD, EXPORT_CARD,
    RENAME, RENAME_BASE, ALSO_KNOWN_AS,
    TOKENS, CREATE_TOKEN, REVOKE_TOKEN,
    PLAN_PUBLISH, COMMIT_PUBLISH, REBASE, COMBINE, REPLAY, PLAN_BASE, COMMIT_BASE, RETABLE, MEASURE_BASE,
    BUNDLE, NARROW, FIND_HASHES, SUBTREE,
    MATERIALISATIONS, MATERIALISE, DROP_MATERIALISATION,
    DELETE, UNDELETE, DELETE_TREE, UNDELETE_TREE, DELETE_BASE, UNDELETE_BASE,
    RETENTION, SET_RETENTION, CLEAR_RETENTION, RUN_RETENTION,
    RETRACT, GC, FSCK, DU, LIST_JOBS, HEALTH,
    RUNNING, REPORT,
)  # fmt: skip
JOBS: Final = (*(operation for operation in OPERATIONS if isinstance(operation, Job)), NOTICE)
