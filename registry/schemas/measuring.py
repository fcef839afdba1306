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
    norms: int  # how many there are: of weights, of parts of experts, of other parameters
    measured: bool  # False: they were there already, and no weights were read

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "base": "llama",
                "table_digest": "sha256:3a8d5f0c1e9b7d2a4f6c8e0b1d3f5a7c9e2b4d6f8a0c1e3b5d7f9a2c4e6b8d01",
                "norms": 146,
                "measured": True,
            }
        }
    )
