"""What names point at, asked for all at once; and what following them does, a line a step."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field

from registry.schemas.form import Schema

MOST_NAMES: Final = 1000
"""That one request asks of, and that one answer tells of."""

_Name = Annotated[str, Field(min_length=1, max_length=512)]


class WhereRequest(Schema):
    """Names whose targets are asked for."""

    names: Annotated[
        tuple[_Name, ...],
        Field(
            min_length=1,
            max_length=MOST_NAMES,
            description="References such as PATH@prod or PATH@3, and patterns BASE/*@TAG, in which * stands for any "
            "text of a path, also over several names.",
        ),
    ]

    model_config = ConfigDict(json_schema_extra={"example": {"names": ["llama/support@prod", "llama/*@prod"]}})


class Where(Schema):
    """Where a name points now: at a revision, or at nothing that may be served, for a reason."""

    name: str  # as it was asked for; of a pattern, PATH@TAG of each that matches
    reference: str | None = None  # PATH@N; of a base model, its name
    digest: str | None = None  # of the revision, or of the base model
    code: str | None = None  # of the error, if there is none: not_found, retracted, not_allowed, bad_name, usage
    problem: str | None = None  # its sentence

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "llama/support@prod",
                "reference": "llama/support@2",
                "digest": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "code": None,
                "problem": None,
            }
        }
    )


StepKind = Literal["in_place", "brought", "switched", "dropped", "removed", "failed"]
"""Nothing to do; files are there; the name leads to them; the name is gone; files are gone; it did not work."""


class Step(Schema):
    """What `registry follow` did, or found, about a name; a line of ``--json``."""

    at: datetime
    does: StepKind
    name: str | None  # None: it is about a folder that no name leads to, or about all names
    reference: str | None = None  # PATH@N
    before: str | None = None  # PATH@N that the name led to
    code: str | None = None  # of the error
    problem: str | None = None  # its sentence
    engine: str | None = None  # its address, where engines are followed
