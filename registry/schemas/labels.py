"""Names and texts: other names of adapters and base models, and cards, published as README.md or edited since."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from registry.schemas.artifacts import ArtifactKind
from registry.schemas.form import LeftOut, Param, Schema
from registry.schemas.views import exported as exported_line

MAX_CARD: Final = 256 << 10


"""Bytes of a card."""


class CardState(Schema):
    """Which text is the card of an adapter."""

    source: Literal["edited", "published"]
    digest: str  # of the text
    reference: str | None = None  # the revision with which it was published
    edited_at: datetime | None = None
    edited_by: str | None = None


class Card(Schema):
    """Answer of ``card``. A path without a card has an empty text."""

    path: str
    text: str
    digest: str  # of the text; `SetCardRequest.expected` takes it
    state: CardState | None = None  # None: it has no card
    metadata: dict[str, Any] = Field(default_factory=dict)  # the front matter of the text


class SetCardRequest(Schema):
    """Edit the card of an adapter."""

    path: str
    text: str | None = Field(default=None, description="Null: the published README.md is the card again.")
    expected: str | None = Field(default=None, description="Refuse if the card has another digest by now.")


class ExportCard(Schema):
    """Answer of ``export_card``: the card of an export, and what its files may say."""

    reference: str  # PATH@N
    text: str
    base_model: str | None  # the base model as the front matter names it; None: nothing names it
    loads_on: str | None  # the model that an adapter is loaded on, if a name says it
    lineage: tuple[str, ...]  # digests: of the base model's weights and of the revisions, root first
    left_out: tuple[str, ...]  # metrics whose names hold a name of the path
    notices: tuple[str, ...] = ()
    other_names: tuple[str, ...] = ()  # paths that revisions of the lineage had before a rename, or have since

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "reference": "llama/support@3",
                "text": '---\nbase_model: "meta-llama/Llama-3.2-1B"\n---\n\n# Composed adapter\n',
                "base_model": "meta-llama/Llama-3.2-1B",
                "loads_on": "meta-llama/Llama-3.2-1B",
                "lineage": ["sha256:" + "1f" * 32, "sha256:" + "2e" * 32],
                "left_out": ["acc_support"],
                "notices": [],
                "other_names": ["llama/help"],
            }
        }
    )


class ExportedFile(Schema):
    """A file of an export."""

    path: str
    size: int | None  # None: the receipt, in a dry run


class Exported(Schema):
    """Answer of ``export``."""

    reference: str  # PATH@N
    kind: ArtifactKind
    target: str  # the folder, or hf:ORG/REPO
    commit: str | None  # of the repository; None: a folder, or a dry run
    url: str | None  # of the repository's page
    public: bool | None  # whether everybody sees the repository; None: a folder
    created: bool  # False: the target held these very files already, or it is a dry run
    dry_run: bool
    card: str
    files: tuple[ExportedFile, ...]
    left_out: tuple[LeftOut, ...]
    notices: tuple[str, ...]

    def __repr__(self) -> str:
        return exported_line(self)


RenamedTo = Annotated[str | None, Field(exclude_if=lambda value: value is None)]


"""The new name, of an old one, if it may be seen. Absent otherwise, as in answers of services without renaming."""


class RenameRequest(Schema):
    """Give an adapter, with everything under it, another last name."""

    path: Annotated[str, Param(help="An adapter: BASE/name/name...")]
    name: Annotated[str, Param(help="The new last name of the path.")]

    model_config = ConfigDict(json_schema_extra={"example": {"path": "llama/support", "name": "help"}})


class RenameBaseRequest(Schema):
    """Give a base model, with all its adapters, another name."""

    name: Annotated[str, Param(help="The name of the base model.")]
    new: Annotated[str, Param(help="Its new name.")]

    model_config = ConfigDict(json_schema_extra={"example": {"name": "llama", "new": "llama-1b"}})


class AlsoKnownAsRequest(Schema):
    """Let a base model answer under another repo id in the Hub views, or no longer."""

    name: Annotated[str, Param(help="The name of the base model.")]
    repo_id: Annotated[str, Param(help="A repo id of a Hub: ORG/NAME.")]
    remove: Annotated[bool, Param(help="Take the repo id away.")] = False

    model_config = ConfigDict(
        json_schema_extra={"example": {"name": "llama", "repo_id": "unsloth/Llama-3.2-1B", "remove": False}}
    )


class AlsoKnownAs(Schema):
    """Answer of ``base also-known-as``: the repo ids of a base model that are not its path's."""

    base: str
    source: str | None  # it answers under the repo in it, too
    repo_ids: tuple[str, ...]  # given by admins

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "base": "llama",
                "source": "hf:meta-llama/Llama-3.2-1B@4e20de362430cd3b72f300e6b0f18e50e7166e08",
                "repo_ids": ["unsloth/Llama-3.2-1B"],
            }
        }
    )


class ProtectedTagLeft(Schema):
    """A protected tag of the old name that the new one does not have: an admin sets it."""

    reference: str  # PATH@N, of the new name
    tag: str


class Renamed(Schema):
    """Answer of ``rename`` and ``base rename``."""

    path: str  # the old name, which stays
    renamed_to: str
    adapters: int  # that have a new name
    revisions: int
    tags_left: tuple[ProtectedTagLeft, ...] = ()
    materialisations: int = 0  # that stay with the old name only
    already: bool = False  # it had been renamed so before, and nothing was changed

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "path": "llama/support",
                "renamed_to": "llama/help",
                "adapters": 2,
                "revisions": 5,
                "tags_left": [{"reference": "llama/help@3", "tag": "prod"}],
                "materialisations": 1,
                "already": False,
            }
        }
    )


def old_name_notices(reference: str, renamed_to: str | None) -> tuple[str, ...]:
    """The notice where something is used by an old name; none otherwise."""
    if renamed_to is None:
        return ()
    old = reference.partition("@")[0]
    return (f"{old} was renamed to {renamed_to}: the old name goes on, but nothing can be published to it.",)
