"""Cards: the text about an adapter, published as README.md or edited since."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from registry.schemas.form import ArtifactKind, LeftOut, Schema
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
    state: CardState | None = None  # None: there is no card
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
    loads_on: str | None  # the model that an adapter is loaded on, where a name says it
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
