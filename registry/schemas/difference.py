"""What differs between two revisions: the answer of ``diff``."""

from __future__ import annotations

from registry.schemas.form import Schema
from registry.schemas.tree import FileEntry, LineageEntry, RevisionSummary, TargetGroup


class ValueDifference(Schema):
    """A named value that differs; ``in_a`` and ``in_b`` say on which side there is one, which may be null."""

    name: str
    a: object = None
    b: object = None
    in_a: bool = True
    in_b: bool = True


class MetricDifference(Schema):
    """A metric that differs, or that only one has."""

    name: str
    a: float | None
    b: float | None
    difference: float | None  # b - a, where both have it


class TargetDifference(Schema):
    """Target modules with one leaf name whose count, ranks or scalings differ, or that only one has."""

    name: str
    a: TargetGroup | None
    b: TargetGroup | None


class FileDifference(Schema):
    """A file that differs, or that only one has."""

    path: str
    a: FileEntry | None
    b: FileEntry | None


class LineageDifference(Schema):
    """Where two lineages part."""

    common: LineageEntry | None  # the last that both have: a revision or the base model; None: other base models
    a: tuple[LineageEntry, ...]  # what follows it, up to the revision itself; nothing where that is the common one
    b: tuple[LineageEntry, ...]
    pinned: tuple[ValueDifference, ...]  # adapters above that both have, by path, pinned to other revisions


class Difference(Schema):
    """Answer of ``diff``: what differs from a to b; empty where nothing does."""

    a: RevisionSummary
    b: RevisionSummary
    identical: bool  # nothing differs but their names, numbers, authors and times
    bases: tuple[LineageEntry, ...]  # the base models of both, where they are not the same
    about: tuple[ValueDifference, ...]  # message, tags, rank, parameters, size, parent, source
    config: tuple[ValueDifference, ...]  # fields of adapter_config.json; of nested ones ``rank_pattern.NAME``
    targets: tuple[TargetDifference, ...]
    metrics: tuple[MetricDifference, ...]
    annotations: tuple[ValueDifference, ...]
    files: tuple[FileDifference, ...]
    lineage: LineageDifference
