"""What keeping a registry answers: who acts, tokens, the life of a tree, its store and its database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Final, Literal, get_args

from pydantic import Field

from registry.digest import is_digest
from registry.figures import moment, short_digest
from registry.rights import Role
from registry.schemas.artifacts import Materialisation
from registry.schemas.form import Moment, Param, Schema
from registry.schemas.frames import Column, Described, Listed
from registry.schemas.usage import RevisionUse, Use

EventKind = Literal[
    "annotate",
    "base add",
    "base also-known-as",
    "base delete",
    "base delete undo",
    "base rename",
    "base retable",
    "card",
    "delete",
    "delete undo",
    "fsck",
    "gc",
    "materialise",
    "materialise drop",
    "notice",
    "protect tag",
    "publish",
    "purge",
    "refused",
    "rename",
    "retention clear",
    "retention set",
    "retract",
    "retract undo",
    "tag",
    "token create",
    "token revoke",
    "unprotect tag",
    "untag",
]
"""What an event can be about, as this version writes it."""
KeepReason = Literal[
    "newest", "last", "every", "best", "tagged", "children", "combinations", "materialised", "retracted"
]
"""Why a revision is retained: the newest of all, the three parts of a rule, a tag, what needs it, or its retraction."""

EVENT_KINDS: Final[tuple[EventKind, ...]] = get_args(EventKind)


class Event(Schema):
    """A change of the registry, or a refused request."""

    at: datetime
    action: str  # one of `EVENT_KINDS`; later versions have others
    subject: str
    actor: str
    detail: dict[str, object]
    token: str | None = None  # id of the token, if one was used
    source: str | None = None  # address of the client, if it came over the network


def _pairs(event: Event) -> Iterator[str]:
    """What an event tells, as a terminal shows it."""
    for name, value in sorted(event.detail.items()):
        if value not in (None, "", [], {}):
            yield f"{name}={_in_short(value)}"


def _in_short(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{inner}" for name, inner in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ",".join(str(inner) for inner in value)
    text = str(value)
    return short_digest(text) if is_digest(text) else text


class EventsRequest(Schema):
    """All events, or those that meet every given condition."""

    path: Annotated[
        str | None,
        Param(
            min_length=1,
            max_length=512,
            description="Only what happened to the base model or adapters at and under this path.",
            examples=("llama/support",),
        ),
    ] = None
    after: Annotated[
        Moment | None,
        Param(description="Only what happened at this time or later.", examples=("2026-11-25T09:30:00Z",)),
    ] = None
    actor: Annotated[
        str | None, Param(max_length=512, description="Only what was done under this name.", examples=("ada",))
    ] = None
    kind: Annotated[
        str | None, Param(max_length=64, description="Only events with this action.", examples=("publish",))
    ] = None


MOST_FIRST: Final = 10_000
"""Events that are there already with which following begins, at most."""


class FollowedEvent(Event):
    """An event of those that are followed, and the cursor that leads on from it."""

    cursor: str


class FollowRequest(EventsRequest):
    """Events as they come that meet every given condition, oldest first: after a cursor, or from now on."""

    since: Annotated[
        str | None,
        Param(
            max_length=512,
            description="The cursor of an event, or `start`: what came after it. A header Last-Event-ID goes first.",
            examples=("WyIyMDI2LTExLTI1VDA5OjMwOjAwKzAwOjAwIiwgMV0",),
        ),
    ] = None
    last: Annotated[
        int,
        Param(
            ge=0,
            le=MOST_FIRST,
            description="Without a cursor: begin with so many of the newest events that are there.",
            examples=(10,),
        ),
    ] = 0
    once: Annotated[bool, Param(description="End when all events that are there were sent.", examples=(True,))] = False


class Events(Listed[Event]):
    """Answer of ``events``: newest first."""

    __slots__ = ()
    described = Described(
        noun="event",
        columns=(
            Column("at", "time (UTC)", lambda one: moment(one.at), style="quiet"),
            Column("action", "action"),
            Column("actor", "actor"),
            Column("subject", "subject", style="reference"),
            Column("source", before="from", style="quiet", free=True),
            Column("token", before="token", style="quiet", free=True),
            Column(
                "detail",
                "detail",
                lambda one: [f"{name}={value}" for name, value in one.detail.items()],
                said=lambda one: tuple(_pairs(one)),
                style="quiet",
                free=True,
            ),
        ),
        screen="at action actor | subject source token detail",
        heads="TIME (UTC) | ACTION | ACTOR | SUBJECT",
        table="at action subject actor detail",
        frame="at action subject actor token source detail.*",
    )


class Identity(Schema):
    """Answer of ``whoami``."""

    url: str
    name: str
    role: Role
    scopes: tuple[str, ...]  # empty: everything
    token: str | None  # its id
    expires_at: datetime | None
    version: str  # of this program
    service_version: str | None  # None: not over HTTP


class Token(Schema):
    """A token, as lists show it: never its secret."""

    id: str
    name: str
    role: Role
    scopes: tuple[str, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


def _ending(token: Token) -> str:
    if token.revoked_at is not None:
        return f"revoked {moment(token.revoked_at)}"
    return "" if token.expires_at is None else f"expires {moment(token.expires_at)}"


class Tokens(Listed[Token]):
    """Answer of ``token list``: newest first."""

    __slots__ = ()
    described = Described(
        noun="token",
        columns=(
            Column("id", "id", style=lambda one: "reference" if one.revoked_at is None else "quiet"),
            Column("role", "role"),
            Column("created_at", "created (UTC)", lambda one: moment(one.created_at)),
            Column(
                "last_used_at",
                "last used",
                lambda one: "never" if one.last_used_at is None else moment(one.last_used_at),
            ),
            Column("name", "name"),
            Column(
                "scopes", cell=lambda one: one.scopes or "everything", style=lambda one: "" if one.scopes else "quiet"
            ),
            Column("ending", "ends", _ending, style="quiet", free=True),
        ),
        screen="id role created_at last_used_at | name scopes ending",
        heads="ID | ROLE | CREATED (UTC) | LAST USED | NAME, SCOPES",
        table="id name role scopes created_at last_used_at ending",
        frame="id name role scopes created_at created_by expires_at revoked_at last_used_at",
    )


class TokenCreated(Schema):
    """Answer of ``token create``: the only time that the secret is shown."""

    token: Token
    secret: str = Field(repr=False)  # a notebook would keep it


class ProtectedTag(Schema):
    """Tags of a base model's adapters that only admins move; ``pattern`` as in file names (``prod``, ``release-*``)."""

    base: str
    pattern: str


class Deleted(Schema):
    """Answer of ``delete``; its number is never reused."""

    reference: str
    digest: str
    tags: tuple[str, ...]  # that named it and are gone, or would be: PATH@tag; of an undo: that name it again
    until: datetime | None = None  # it can be given back until then
    undone: bool = False  # it exists again, or existed all the time
    tags_elsewhere: tuple[str, ...] = ()  # of an undo: that named it and name another revision by now
    done: bool = True  # False: only listed
    use: Use | None = None  # who would miss it; None: of an undo


class TokenScope(Schema):
    """A scope of a token."""

    token: str  # its id
    scope: str


class DeletedTree(Schema):
    """Answer of ``delete -r`` and ``base delete``: what was deleted, would be deleted, or was restored."""

    path: str
    revisions: tuple[str, ...]  # PATH@N, parents first
    tags: tuple[str, ...]  # PATH@tag
    done: bool = True  # False: only listed
    until: datetime | None = None  # it can be given back until then
    undone: bool = False
    tags_elsewhere: tuple[str, ...] = ()
    scopes: tuple[TokenScope, ...] = ()  # of tokens: they would hold for another base model of this name
    protected_tags: tuple[str, ...] = ()  # patterns of the base model
    use: Use | None = None  # of all revisions together; None: of an undo
    used: tuple[RevisionUse, ...] = ()  # those of the revisions that were used, in their order


class Retracted(Schema):
    """Answer of ``retract``: what is unavailable now, or would be."""

    reference: str
    reason: str | None  # None: undone
    descendants: tuple[str, ...]  # PATH@N of every revision that contains it
    tags: tuple[str, ...]  # PATH@tag that name it or one of them
    done: bool = True  # False: only listed
    use: Use | None = None  # of all of these together; None: of an undo
    used: tuple[RevisionUse, ...] = ()  # those of them that were used: the revision itself first


class RetentionRule(Schema):
    """Which revisions of an adapter are kept."""

    path: str
    keep_last: int | None  # so many with the highest numbers; None: the rule does not say
    keep_every: int | None  # those whose numbers can be divided by it; None: the same
    keep_best: tuple[str, ...]  # max:METRIC:N or min:METRIC:N
    keep_tagged: bool  # False: tags keep nothing, unless they are protected
    set_at: datetime
    set_by: str


class KeptFor(Schema):
    """How many revisions are kept for a reason; one that has several is counted for each."""

    reason: KeepReason
    revisions: int


class Retention(Schema):
    """Answer of ``retention set``, ``show`` and ``run``: a rule, and what is deleted by it."""

    rule: RetentionRule
    revisions: tuple[str, ...]  # PATH@N that a run would delete or has deleted, by rising numbers
    tags: tuple[str, ...]  # PATH@tag that name them and go with them
    kept: int  # revisions that stay
    reasons: tuple[KeptFor, ...]  # why they stay
    done: bool = False  # True: they were deleted
    until: datetime | None = None  # they can be restored until then
    use: Use | None = None  # of what would be deleted, together; None: it was deleted


class CollectedBlob(Schema):
    """Stored bytes that no revision needs."""

    digest: str | None  # None: an object that no row names
    key: str
    size: int


class Collected(Schema):
    """Answer of ``gc``."""

    dry_run: bool
    blobs: tuple[CollectedBlob, ...]
    uploads: int  # forgotten uploads
    bytes: int
    kept_for_grace: int  # blobs that nothing needs and that are too young
    materialisations: tuple[Materialisation, ...] = ()  # that were past their time; their blobs' grace begins now
    revisions: tuple[str, ...] = ()  # PATH@N, deleted before the grace period: they can't be given back any more
    bases: tuple[str, ...] = ()  # the same of base models, by name
    unlisted_blobs: int = 0  # beside those of ``blobs``, which are 10,000 at most; ``bytes`` counts all
    unlisted_revisions: int = 0  # the same


class Damage(Schema):
    """A blob that is damaged or unreadable, and what it affects."""

    digest: str
    key: str
    problem: str
    takes_down: tuple[str, ...]  # PATH@N, or names of base models
    materialisations: tuple[str, ...] = ()  # PATH@N as KIND, of those that have it as a file
    state: Literal["damaged", "unreadable"] = "damaged"  # unreadable: it could not be read, and may be sound


class Checked(Schema):
    """Answer of ``fsck``."""

    deep: bool  # the bytes were read, not only looked for
    blobs: int
    bytes: int
    damage: tuple[Damage, ...]
    orphans: int  # objects that no row names: `gc` collects them


class CopiedRevision(Schema):
    """A revision that was copied; ``reference`` is its reference in the target."""

    source: str
    reference: str
    created: bool


class Copied(Schema):
    """Answer of ``copy``."""

    source: str
    target: str
    base: str
    base_created: bool
    revisions: tuple[CopiedRevision, ...]  # parents first
    bytes_copied: int
    notices: tuple[str, ...] = ()


class Upgraded(Schema):
    """Answer of ``db upgrade``."""

    database: str
    before: str | None  # None: it had none
    after: str
    copied_to: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """What a folder's database was like before, beside it."""
    notices: Annotated[tuple[str, ...], Field(exclude_if=lambda value: not value)] = ()
