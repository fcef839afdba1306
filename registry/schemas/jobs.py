"""Jobs: work that takes longer than a request, as the service shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from registry.schemas import (
    BaseAdded,
    BaseMeasured,
    Checked,
    Collected,
    Materialised,
    Published,
    Retabled,
    Schema,
)
from registry.schemas.protocol import Problem
from registry.schemas.statistics import DenseStatistics

OperationKind = Literal["publish", "base", "materialise", "gc", "fsck", "retable", "measure", "dense", "notice"]
OperationState = Literal["pending", "running", "done", "failed"]


class Looked(Schema):
    """What was done after the publish of a revision: its statistics were computed, and notices about it kept."""

    reference: str


class OperationResult(Schema):
    """The result of an operation; one of the fields is set."""

    published: Published | None = None
    base_added: BaseAdded | None = None
    materialised: Materialised | None = None
    collected: Collected | None = None
    checked: Checked | None = None
    retabled: Retabled | None = None
    measured: BaseMeasured | None = None
    dense: DenseStatistics | None = None
    looked: Looked | None = None


class Operation(Schema):
    """Work that takes longer than a request; any replica continues it if another one stops."""

    id: str
    kind: OperationKind
    state: OperationState
    stage: str  # what is being done, for a progress bar
    done: int  # bytes
    total: int
    created_at: datetime
    updated_at: datetime
    result: OperationResult | None = None
    problem: Problem | None = None
