"""How the parent of a revision is known, and what a folder that was trained on shows of it."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from registry.schemas.form import Schema

KNOWN_BY: Final = "^[a-z_]{1,32}$"
"""Words for how a parent is known; later versions have more of them."""


class Fitting(Schema):
    """A revision whose merged weights some weights are, or the base model."""

    reference: str  # PATH@N, or the base model's name
    digest: str  # of the revision, or of the base's weights


class FolderCompared(Schema):
    """What the weights in the folder that an adapter was trained on are: the word of who has the folder."""

    words: str = Field(max_length=4096)  # how to call the folder in a sentence
    reason: str | None = Field(default=None, max_length=4096)  # why they can't be compared
    fitting: tuple[Fitting, ...] = ()  # none: something else than all candidates
    nearest: str | None = None  # reference of the candidate that comes nearest
    distance: float = 0.0  # from there, relative to its norm
    tensor: str | None = None  # where that one fits least
    newer: bool = False  # the folder was written after the adapter
    looked_at: str | None = None  # how much of it, where that is not all that was wanted
