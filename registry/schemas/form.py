"""How all schemas are: immutable, unknown fields refused. And the words that options take."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

ArtifactKind = Literal["published", "lora", "merged"]
Dtype = Literal["bf16", "fp16", "fp32"]


class Schema(BaseModel):
    """Base of all schemas: immutable, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
