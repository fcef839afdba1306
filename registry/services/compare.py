"""``diff``: what differs between two revisions, from the catalogue alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy.orm import Session

from registry.catalogue.tree import browse, revisions
from registry.folders.scan import form_of
from registry.reference import Reference
from registry.schemas import FileEntry, LineageEntry, RevisionSummary
from registry.schemas.difference import (
    Difference,
    FileDifference,
    LineageDifference,
    MetricDifference,
    TargetDifference,
    ValueDifference,
)

V = TypeVar("V")

_ABOUT: Final = ("message", "tags", "rank", "parameters", "size", "parent", "trained_on", "source")


def compared(session: Session, first: Reference, second: Reference) -> Difference:
    """What differs between two revisions that the session sees; of hidden ancestors no more than ``show`` tells.

    Raises:
        NotFoundError: one does not exist; offers the nearest.
        UsageError: one is the reference of a base model.
    """
    rows = [revisions.find(session, reference) for reference in (first, second)]
    a, b = (browse.summary(session, row.id) for row in rows)
    targets = _pairs(*({group.name: group for group in browse.targets(session, row.id)} for row in rows))
    there = [_files(session, row.id) for row in rows]
    alike = form_of(there[0]) == form_of(there[1])  # the configuration of a model is no other one of an adapter
    config = _values(*(_flat(json.loads(row.manifest).get("config", {})) for row in rows)) if alike else ()
    files = _pairs(*there)
    lineages = [browse.lineage_entries(session, row.id) for row in rows]
    about = _values(*({name: getattr(one, name) for name in _ABOUT} for one in (a, b)))
    found = Difference(
        a=a,
        b=b,
        identical=False,
        bases=() if lineages[0][0] == lineages[1][0] else (lineages[0][0], lineages[1][0]),
        about=about,
        config=config,
        targets=tuple(TargetDifference(name=name, a=one, b=other) for name, one, other in targets),
        metrics=_metrics(a, b),
        annotations=_values(a.annotations, b.annotations),
        files=tuple(FileDifference(path=name, a=one, b=other) for name, one, other in files),
        lineage=_lineage(*lineages),
    )
    differs = (found.bases, about, config, found.targets, found.metrics, found.annotations, found.files)
    return found.model_copy(update={"identical": not any(differs) and not found.lineage.pinned})


def _values(a: Mapping[str, object], b: Mapping[str, object]) -> tuple[ValueDifference, ...]:
    return tuple(
        ValueDifference(name=name, a=a.get(name), b=b.get(name), in_a=name in a, in_b=name in b)
        for name in sorted(a.keys() | b.keys(), key=lambda name: (_ABOUT.index(name) if name in _ABOUT else 0, name))
        if name not in a or name not in b or _told(a[name]) != _told(b[name])
    )


def _told(value: object) -> str:
    """As JSON: ``True`` is not ``1`` there, nor is ``1`` the same as ``1.0``."""
    return json.dumps(value, sort_keys=True)


def _flat(config: Mapping[str, Any]) -> dict[str, object]:
    """The fields of a configuration, those of an object one by one, as ``rank_pattern.NAME``."""
    found: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    return found


def _pairs(a: Mapping[str, V], b: Mapping[str, V]) -> Iterable[tuple[str, V | None, V | None]]:
    """What differs by name."""
    names = sorted(a.keys() | b.keys())
    return [(name, a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)]


def _files(session: Session, revision_id: int) -> dict[str, FileEntry]:
    found = revisions.files(session, revision_id)
    return {file.path: FileEntry(path=file.path, size=file.size, digest=file.digest) for file in found}


def _metrics(a: RevisionSummary, b: RevisionSummary) -> tuple[MetricDifference, ...]:
    return tuple(
        MetricDifference(name=name, a=one, b=other, difference=None if one is None or other is None else other - one)
        for name, one, other in _pairs(a.metrics, b.metrics)
    )


def _lineage(a: Sequence[LineageEntry], b: Sequence[LineageEntry]) -> LineageDifference:
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    above = [{entry.reference.partition("@")[0]: entry.reference for entry in links[1:-1]} for links in (a, b)]
    pinned = [(path, one, other) for path, one, other in _pairs(*above) if one is not None and other is not None]
    return LineageDifference(
        common=a[shared - 1] if shared else None,
        a=tuple(a[shared:]),
        b=tuple(b[shared:]),
        pinned=tuple(ValueDifference(name=path, a=one, b=other) for path, one, other in pinned),
    )
