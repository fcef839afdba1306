"""How all schemas are: immutable, unknown fields refused. And the words that options take, and forms of values."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    WithJsonSchema,
)

from registry.schemas.brief import brief

ArtifactKind = Literal["published", "lora", "merged"]
Dtype = Literal["bf16", "fp16", "fp32"]
EngineName = Literal["vllm", "sglang", "peft", "transformers"]
MeasuredRows = Literal["sample", "full"]


class Schema(BaseModel):
    """Base of all schemas: immutable, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, serialize_by_alias=True)

    def __repr__(self) -> str:
        return brief(self)

    def __str__(self) -> str:
        return repr(self)

    def __dir__(self) -> list[str]:
        """Fields, and what users call, for the completion of shells: not all that pydantic keeps for itself."""
        ours = {name for name in super().__dir__() if not name.startswith("_")} - _OF_PYDANTIC
        return [*ours, "model_dump", "model_dump_json"]


_OF_PYDANTIC = frozenset(dir(BaseModel))


class LeftOut(Schema):
    """A file of the given folder that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Param:
    """Bounds of a field that travels as a query parameter; calls in Python are not held to them."""

    min_length: int | None = None
    max_length: int | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    pattern: str | None = None
    description: str | None = None
    examples: tuple[str, ...] | None = None


def _decoded(value: object) -> object:
    """Text from JSON as the bytes that it stands for; bytes, given in Python, are themselves."""
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(lambda data: base64.b64encode(data).decode("ascii"), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
"""Bytes: as they are in Python, base64 in JSON."""


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it lies outside the years 1 to 9999") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
"""A time that a client says: with its zone, and in UTC from then on."""
