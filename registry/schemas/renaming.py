"""Other names of adapters and base models: requests, answers, and what is said where an old name is used."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from registry.schemas.form import Schema

RenamedTo = Annotated[str | None, Field(exclude_if=lambda value: value is None)]
"""The new name, of an old one, where it may be seen. Absent otherwise, as in answers of services without renaming."""


class RenameRequest(Schema):
    """Give an adapter, with everything under it, another last name."""

    path: str
    name: str

    model_config = ConfigDict(json_schema_extra={"example": {"path": "llama/support", "name": "help"}})


class RenameBaseRequest(Schema):
    """Give a base model, with all its adapters, another name."""

    name: str
    new: str

    model_config = ConfigDict(json_schema_extra={"example": {"name": "llama", "new": "llama-1b"}})


class AlsoKnownAsRequest(Schema):
    """Let a base model answer under another repo id in the Hub views, or no longer."""

    name: str
    repo_id: str
    remove: bool = False

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
