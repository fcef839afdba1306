"""The tables of a registry that several people share: tokens, sessions, uploads, jobs, replicas, followers, uses..."""

from __future__ import annotations

from datetime import date
from typing import Any, Final

from sqlalchemy import ForeignKey, Index, MetaData, Text, UniqueConstraint, literal_column, text
from sqlalchemy.orm import Mapped, mapped_column

import registry.catalogue.database.statistics_tables  # noqa: F401 - so that `metadata` has its tables
from registry.catalogue.database.tables import ORDERED, Digest, Key, Record, Time

_IS_ASKED_FOR: Final = text("kind <> 'notice'")


class TokenRecord(Record):
    """A token. Of its secret only the sha256 is stored.

    `kind` is null for one that was made by hand, which `role` and `scopes` give its rights. Otherwise it acts for an
    identity, of `issuer` and `subject`, whose rights are found when it is used; `role` and `scopes` are for lists.
    `grants` is then the most that this token may, null being all that the identity may; `rule` names the rule of a
    machine.
    """

    __tablename__ = "tokens"
    __table_args__ = (Index(None, "created_at", "id"), Index(None, "issuer", "subject"))

    id: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    digest: Mapped[str] = mapped_column(ORDERED, unique=True)
    name: Mapped[str]
    role: Mapped[str]
    scopes: Mapped[list[str]]
    created_at: Mapped[Time]
    created_by: Mapped[str]
    expires_at: Mapped[Time | None]
    revoked_at: Mapped[Time | None]
    last_used_at: Mapped[Time | None]
    kind: Mapped[str | None] = mapped_column(ORDERED)
    issuer: Mapped[str | None] = mapped_column(ORDERED)
    subject: Mapped[str | None] = mapped_column(ORDERED)
    rule: Mapped[str | None] = mapped_column(ORDERED)
    grants: Mapped[list[Any] | None]


class AccountRecord(Record):
    """Somebody whom the provider vouches for, as of the last sign-in. `name` is for show and identifies nobody.

    Tokens that were made before `ended_at` are dead.
    """

    __tablename__ = "accounts"

    issuer: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    subject: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    name: Mapped[str]
    groups: Mapped[list[str]]
    signed_in_at: Mapped[Time]
    ended_at: Mapped[Time | None]


class AccessRuleRecord(Record):
    """What a group of the provider, or a machine with certain claims, may do.

    `kind` is `group` or `machine`; `lifetime` in seconds is that of a machine's token.
    """

    __tablename__ = "access_rules"

    name: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    kind: Mapped[str]
    issuer: Mapped[str] = mapped_column(ORDERED, index=True)
    group_value: Mapped[str | None]
    audience: Mapped[str | None]
    claims: Mapped[dict[str, Any]]
    role: Mapped[str]
    scopes: Mapped[list[str]]
    lifetime: Mapped[int]
    created_at: Mapped[Time]
    created_by: Mapped[str]


class SignInRecord(Record):
    """A sign-in under way, at the pages or of a device; it is used once.

    `digest` is the sha256 of the state that the browser brings back, or of the device's code, and `code_digest` that of
    the code that a person confirms. `issuer` and `subject` are of who confirmed it.
    """

    __tablename__ = "sign_ins"

    digest: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    kind: Mapped[str]
    code_digest: Mapped[str | None] = mapped_column(ORDERED, unique=True)
    state: Mapped[str]
    data: Mapped[dict[str, Any]]
    issuer: Mapped[str | None]
    subject: Mapped[str | None]
    created_at: Mapped[Time]
    expires_at: Mapped[Time] = mapped_column(index=True)
    polled_at: Mapped[Time | None]


class SessionRecord(Record):
    """Somebody who is signed in at the web pages by a token. Of the secret in the cookie only the sha256 is stored."""

    __tablename__ = "sessions"
    __table_args__ = (Index(None, "token_id", "created_at"),)

    digest: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    token_id: Mapped[str] = mapped_column(ORDERED, ForeignKey("tokens.id", ondelete="CASCADE"))
    created_at: Mapped[Time]
    expires_at: Mapped[Time] = mapped_column(index=True)


class ProtectedTagRecord(Record):
    """Tags of a base model's adapters that only admins move."""

    __tablename__ = "protected_tags"

    base_id: Mapped[int] = mapped_column(ForeignKey("base_models.id"), primary_key=True)
    pattern: Mapped[str] = mapped_column(ORDERED, primary_key=True)


class UploadRecord(Record):
    """Bytes that a client sends: where they are until they are checked. `multipart` is the store's own id for it."""

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "owner", "digest"),)

    id: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    digest: Mapped[Digest]
    size: Mapped[int]
    part_size: Mapped[int]
    staging_key: Mapped[str]
    multipart: Mapped[str | None]
    owner: Mapped[str] = mapped_column(ORDERED)
    created_at: Mapped[Time]
    expires_at: Mapped[Time] = mapped_column(index=True)


class JobRecord(Record):
    """Work that takes longer than a request. Who runs it holds a lease; when that ends, another one goes on.

    `attempts` counts how often it was taken up and not given back: work that takes its process down must not go round
    for ever. `subject` is the reference, path or name that the request is about; null: about everything, or unknown,
    because a program of an older schema wrote the row.
    """

    __tablename__ = "operations"
    __table_args__ = (
        Index(None, "state", "created_at"),
        Index(None, "owner", "created_at"),
        Index(None, "kind", "created_at", "id"),
        Index(None, "kind", "state", "created_at", "id"),
        Index("ix_operations_asked_for", "created_at", "id", sqlite_where=_IS_ASKED_FOR),
    )

    id: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    kind: Mapped[str]
    state: Mapped[str] = mapped_column(ORDERED)
    owner: Mapped[str] = mapped_column(ORDERED)
    principal: Mapped[dict[str, Any]]
    request: Mapped[str] = mapped_column(Text)
    stage: Mapped[str]
    done: Mapped[int]
    total: Mapped[int]
    result: Mapped[str | None] = mapped_column(Text)
    problem: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[Time]
    updated_at: Mapped[Time]
    attempts: Mapped[int]
    runner: Mapped[str | None]
    lease_until: Mapped[Time | None]
    subject: Mapped[str | None]


IS_ASKED_FOR: Final = JobRecord.kind != literal_column("'notice'")
"""The condition that somebody requested a job, in the words of its index; each publish makes one of the other kind."""


class ReplicaRecord(Record):
    """A process that answers requests, as it last wrote of itself; each writes its own row every half minute."""

    __tablename__ = "replicas"

    id: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    host: Mapped[str]
    process: Mapped[int]
    worker: Mapped[int | None]
    version: Mapped[str]
    processor: Mapped[str | None]
    numerics: Mapped[str | None]
    started_at: Mapped[Time]
    seen_at: Mapped[Time]
    figures: Mapped[dict[str, Any]]


class MaterialisationRecord(Record):
    """An artifact that is stored: what it is of, which bytes they are, and until when.

    One of each meaning and format, whichever arithmetic made it: so all replicas hand out the same.
    """

    __tablename__ = "materialisations"
    __table_args__ = (UniqueConstraint("revision_id", "plan_digest", "artifact_format"),)

    id: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id", ondelete="CASCADE"))
    kind: Mapped[str]
    rendering: Mapped[Digest]
    plan_digest: Mapped[Digest]
    plan: Mapped[dict[str, Any]]
    numerics: Mapped[str | None]
    artifact_format: Mapped[int]
    notices: Mapped[list[str]]
    created_at: Mapped[Time]
    created_by: Mapped[str]
    expires_at: Mapped[Time] = mapped_column(index=True)


class MaterialisedFile(Record):
    """A file of an artifact that is stored."""

    __tablename__ = "materialised_files"

    materialisation_id: Mapped[str] = mapped_column(
        ORDERED, ForeignKey("materialisations.id", ondelete="CASCADE"), primary_key=True
    )
    path: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[Digest] = mapped_column(ForeignKey("blobs.digest"), index=True)


class UseRecord(Record):
    """How often the weights of a revision were requested on a day in UTC, through one interface, by one token.

    `who` is the id of the token or, without one, the name of the principal. See `registry.services.loads`.
    """

    __tablename__ = "uses"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id", ondelete="CASCADE"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True, index=True)
    interface: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    who: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    count: Mapped[int]
    last_used_at: Mapped[Time]


class LoadRecord(Record):
    """A revision that a token loaded in an hour from a Hub view, or was informed of. `who` is as of `UseRecord`.

    See `registry.services.loads`.
    """

    __tablename__ = "loads"

    revision_id: Mapped[int] = mapped_column(ForeignKey("revisions.id", ondelete="CASCADE"), primary_key=True)
    who: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    hour: Mapped[Time] = mapped_column(primary_key=True, index=True)
    weights: Mapped[bool] = mapped_column(primary_key=True)  # False: the answer was only which commit a name means


class PushedFileRecord(Record):
    """A file that was pushed for an adapter and waits for the others of its revision, or an empty repo without a name.

    `data` is a document, or the header of the weights, whose bytes are those of an upload.
    """

    __tablename__ = "pushed_files"

    path: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    owner: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    name: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    data: Mapped[bytes]
    size: Mapped[int]
    upload_id: Mapped[str | None] = mapped_column(ORDERED, ForeignKey("uploads.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[Time] = mapped_column(index=True)


class CardRecord(Record):
    """The card of an adapter, if somebody edited it; without one it is the README.md that was published last."""

    __tablename__ = "cards"

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id", ondelete="CASCADE"), primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    digest: Mapped[Digest]  # of the text
    front_matter: Mapped[dict[str, Any]]
    edited_at: Mapped[Time]
    edited_by: Mapped[str]


class RetentionRecord(Record):
    """Which revisions of an adapter are retained, if somebody set that; the others are deleted."""

    __tablename__ = "retention_rules"

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id", ondelete="CASCADE"), primary_key=True)
    keep_last: Mapped[int | None]
    keep_every: Mapped[int | None]
    keep_best: Mapped[list[str]]  # "max:acc:3"
    keep_tagged: Mapped[bool]
    set_at: Mapped[Time]
    set_by: Mapped[str]


class FollowerRecord(Record):
    """A follower, as it last reported.

    `id` is a random text of its own; only together with `who` (the id of its token or, without one, the name of the
    principal) it names a row, so that nobody can write to another's, or find out that an id exists.
    """

    __tablename__ = "followers"
    __table_args__ = (UniqueConstraint("who", "id"),)

    key: Mapped[Key]
    who: Mapped[str] = mapped_column(ORDERED)
    id: Mapped[str] = mapped_column(ORDERED)
    actor: Mapped[str]
    token: Mapped[str | None]
    kind: Mapped[str]
    name: Mapped[str] = mapped_column(Text)
    version: Mapped[str]
    state: Mapped[Digest]  # of all that it said of names: most reports change nothing of it
    started_at: Mapped[Time]
    seen_at: Mapped[Time]
    lease_until: Mapped[Time] = mapped_column(index=True)


class FollowedRecord(Record):
    """A name that a follower follows: what it has of it, and why not what it wants.

    `tag` and `number` are what the name says after its path, if it does. `since` is when `serves` was first reported.
    """

    __tablename__ = "followed_names"
    __table_args__ = (Index(None, "path", "name", "follower_key"),)

    follower_key: Mapped[int] = mapped_column(ForeignKey("followers.key", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    path: Mapped[str] = mapped_column(ORDERED)
    tag: Mapped[str | None] = mapped_column(ORDERED)
    number: Mapped[int | None]
    serves: Mapped[int | None]
    since: Mapped[Time | None]
    wants: Mapped[int | None]
    code: Mapped[str | None]
    error: Mapped[str | None] = mapped_column(Text)


class Compatibility(Record):
    """For each migration, the newest migration of the oldest program that can still work with it."""

    __tablename__ = "compatibility"

    version: Mapped[str] = mapped_column(ORDERED, primary_key=True)
    oldest: Mapped[str] = mapped_column(ORDERED)


def metadata() -> MetaData:
    """All tables, these and those of `tables` and `statistics_tables`, to be compared with a schema."""
    # Set here and not with the tables: to name an option of PostgreSQL is to import all of its dialect.
    for table in Record.metadata.tables.values():
        for index in table.indexes:
            index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]
    return Record.metadata
