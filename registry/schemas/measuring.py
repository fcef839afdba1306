"""Measuring a base model: the request and the answer."""

from __future__ import annotations

from pydantic import ConfigDict

from registry.schemas.form import Schema


class MeasureBaseRequest(Schema):
    """Take the norms of a base model's weights."""

    base: str

    model_config = ConfigDict(json_schema_extra={"example": {"base": "llama"}})


class BaseMeasured(Schema):
    """Answer of ``base measure``."""

    base: str
    table_digest: str  # of the target table whose weights were measured
    norms: int  # weights, parts of experts and other parameters that have a norm
    measured: bool  # False: the norms were there already, and no weights were read
