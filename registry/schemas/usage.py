"""What adapters take in the store, beside what as many full checkpoints would take."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict

from registry.schemas.form import Param, Schema
from registry.schemas.frames import frame
from registry.schemas.notebooks import usage_table

if TYPE_CHECKING:
    import pandas


class UsageRequest(Schema):
    """About everything, or all at and under a path."""

    path: Annotated[
        str | None,
        Param(
            min_length=1,
            max_length=512,
            description="BASE or BASE/name/name...",
            examples=("llama/support",),
            help="Only this path and everything under it.",
        ),
    ] = None


class BaseFigures(Schema):
    """What there is of a base model's adapters, as far as the token sees them."""

    revisions: int
    published: int  # bytes of the files of all of these; what they share is stored once, see `Usage`
    full_checkpoints: int  # bytes of as many copies of the base model's weights
    newest: str | None  # the revision that was published last, PATH@N; None: there is none
    last_published_at: datetime | None


class Taken(Schema):
    """What an adapter or a revision takes, in bytes."""

    name: str  # a path, or PATH@N
    revisions: int
    size: int  # all of its files, each stored blob once
    own: int  # of these, what nothing else needs that the token sees


class Usage(Schema):
    """Answer of ``du``, in bytes. What a token does not see counts as if it were not stored."""

    path: str | None
    adapters: tuple[Taken, ...]  # by path; the 10,000 with the most bytes of their own
    revisions: tuple[Taken, ...]  # by path and number; the same
    size: int  # all files of these revisions, each stored blob once
    full_checkpoints: int  # as many copies of the weights of their base models
    materialisations: int  # what only materialisations keep
    collectable: int  # what only deleted revisions and expired materialisations keep, or nothing
    unlisted_adapters: int = 0  # beside those of ``adapters``; the sums count all
    unlisted_revisions: int = 0  # the same

    def _repr_html_(self) -> str:
        """A table of the adapters, in a notebook."""
        return usage_table(self)

    def to_pandas(self, *, revisions: bool = False) -> pandas.DataFrame:
        """A data frame with a row for each adapter, or for each revision, in bytes.

        Raises:
            UnavailableError: ``missing_package``, pandas is not installed.
        """
        rows = [one.model_dump() for one in (self.revisions if revisions else self.adapters)]
        return frame(rows, tuple(Taken.model_fields))

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "path": "llama/support",
                "adapters": [{"name": "llama/support", "revisions": 1, "size": 33566592, "own": 33564672}],
                "revisions": [{"name": "llama/support@1", "revisions": 1, "size": 33566592, "own": 33564672}],
                "size": 33566592,
                "full_checkpoints": 16060522496,
                "materialisations": 0,
                "collectable": 0,
                "unlisted_adapters": 0,
                "unlisted_revisions": 0,
            }
        }
    )
