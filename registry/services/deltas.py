"""What differs between revisions: in the catalogue, and in their deltas.

Deltas of two revisions are compared since the last one that both have; those of a path's children, each with each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from sqlalchemy.orm import Session

from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import browse, nodes, revisions
from registry.catalogue.tree import links as link_rows
from registry.catalogue.tree.nodes import Section
from registry.errors import UsageError
from registry.folders.scan import form_of
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import FileEntry, LineageEntry, RevisionSummary
from registry.schemas.difference import (
    ComparedDelta,
    DeltaMatrix,
    Deltas,
    Difference,
    FileDifference,
    LineageDifference,
    MetricDifference,
    TargetDifference,
    ValueDifference,
)
from registry.schemas.requests import PathRequest
from registry.services.artifacts.load import path_of
from registry.services.deployment import Deployment
from registry.tensors.lineage.paths import LoadedPath

if TYPE_CHECKING:
    from registry.tensors.analysis.deltas import SinceLink
    from registry.tensors.path.programs import BoundLink
    from registry.tensors.table.targets import TargetTable


V = TypeVar("V")

_ABOUT: Final = ("message", "tags", "rank", "parameters", "size", "parent", "trained_on", "source")


def compared(session: Session, first: Reference, second: Reference) -> Difference:
    """What differs between two revisions that the session sees; of hidden ancestors no more than ``show`` returns.

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


@dataclass(frozen=True)
class Beside:
    """A revision among others.

    Args:
        one: it.
        config: the fields of its configuration, those of an object one by one.
    """

    one: RevisionSummary
    config: Mapping[str, object]


def beside(session: Session, references: Sequence[Reference]) -> tuple[Beside, ...]:
    """Some revisions that the session sees, each once, in the order given.

    Raises:
        NotFoundError: one does not exist; offers the nearest.
        UsageError: one is the reference of a base model.
    """
    rows = {row.id: row for row in (revisions.find(session, reference) for reference in references)}
    found = browse.summaries(session, list(rows))
    return tuple(
        Beside(found[key], _flat(json.loads(row.manifest).get("config", {})))
        for key, row in rows.items()
        if key in found
    )


def _values(a: Mapping[str, object], b: Mapping[str, object]) -> tuple[ValueDifference, ...]:
    return tuple(
        ValueDifference(name=name, a=a.get(name), b=b.get(name), in_a=name in a, in_b=name in b)
        for name in sorted(a.keys() | b.keys(), key=lambda name: (_ABOUT.index(name) if name in _ABOUT else 0, name))
        if name not in a or name not in b or _told(a[name]) != _told(b[name])
    )


def _told(value: object) -> str:
    """As JSON: in JSON, ``True`` is not ``1``, nor is ``1`` the same as ``1.0``."""
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


MOST_CHILDREN: Final = 64
"""Of one path that are compared at once: the work grows with their square."""


def deltas(deployment: Deployment, a: str, b: str, progress: Progress) -> Deltas:
    """What two revisions are since the last revision that both have, compared from the factors alone.

    Args:
        deployment: the registry.
        a, b: revisions. If one is an ancestor of the other, what it is since the base model is compared with what
            followed it; a revision and itself are compared by its own link.
        progress: of the matrices that both change.

    Raises:
        NotFoundError: a reference names nothing.
        UsageError: one is a base model, or they are on different base models.
        InvalidAdapterError: a link is invalid by the rules of this version, or a delta is not finite.
    """
    with deployment.read() as session:
        first, second = (_path(session, Reference.parse(ref)) for ref in (a, b))
    if _digests_of_base(first) != _digests_of_base(second):
        raise UsageError(
            f"{first.reference} and {second.reference} are on different base models, {first.base.name} and "
            f"{second.base.name}, so their deltas can't be compared. Ask without deltas for all else that differs."
        )
    from registry.tensors.analysis.deltas import compare_deltas

    since_a, since_b, undone_of = _spans(first, second)
    with ExitStack() as opened:
        links = _OpenLinks(deployment, opened)
        sides = (links.since(first, since_a), links.since(second, since_b))
        return compare_deltas(*sides, links.table(first), undone_of=undone_of, progress=progress)


def children_deltas(deployment: Deployment, request: PathRequest, progress: Progress) -> DeltaMatrix:
    """The own links of the newest revisions of a path's children, compared all with all.

    Only children that the principal sees are compared.

    Args:
        deployment: the registry.
        request: names an adapter or a base model.
        progress: of the matrices that they change.

    Raises:
        NotFoundError: nothing exists at the path.
        UsageError: it has more than `MOST_CHILDREN` children.
        InvalidAdapterError: a link is invalid by the rules of this version, or a delta is not finite.
    """
    parent = Path.parse(path := request.path)
    with deployment.read() as session:
        found = nodes.tree(session, Section(parent, depth=1, limit=MOST_CHILDREN + 2)).roots[0].children
        if len(found) > MOST_CHILDREN:
            raise UsageError(
                f"{path} has more than {MOST_CHILDREN} children, which is the most that are compared at once. Compare "
                "those that you mean two at a time: registry diff A B --deltas."
            )
        paths = [
            _path(session, Reference.parse(child.revision.reference)) for child in found if child.revision is not None
        ]
    if not paths:
        return DeltaMatrix(path=path, children=(), cosine=(), energy_ratio=())
    from registry.tensors.analysis.inner_products import delta_matrix

    with ExitStack() as opened:
        links = _OpenLinks(deployment, opened)
        sides = [links.since(one, len(one.links) - 1) for one in paths]
        return delta_matrix(path, sides, links.table(paths[0]), progress=progress)


def _path(session: Session, reference: Reference) -> LoadedPath:
    base = base_rows.get(session, reference.path.base)
    return path_of(base, link_rows.links(session, reference), with_retracted=True)


def _digests_of_base(path: LoadedPath) -> tuple[str, str]:
    return path.base.digest, path.base.table_digest


def _spans(a: LoadedPath, b: LoadedPath) -> tuple[int, int, Literal["a", "b"]]:
    """The number of the first link that counts on each side, and the side of whose delta shares are reported."""
    mine, other = ([link.digest for link in path.links] for path in (a, b))
    shared = next((n for n, (one, two) in enumerate(zip(mine, other, strict=False)) if one != two), None)
    if shared is not None:
        return shared, shared, "a"
    if len(mine) == len(other):
        return len(mine) - 1, len(other) - 1, "a"
    return (0, len(mine), "a") if len(mine) < len(other) else (len(other), 0, "b")


class _OpenLinks:
    """Links of several paths, each opened once, until ``opened`` is closed."""

    def __init__(self, deployment: Deployment, opened: ExitStack) -> None:
        self._blobs = deployment.artifact_blobs
        self._opened = opened
        self._links: dict[str, BoundLink] = {}

    def table(self, path: LoadedPath) -> TargetTable:
        """The target table of a path's base model."""
        from registry.tensors.lineage.inputs import Inputs

        return Inputs(self._blobs, path, self._opened).table

    def since(self, path: LoadedPath, number: int) -> SinceLink:
        """What the links of a path from ``number`` on do.

        Raises:
            InvalidAdapterError: a link is invalid by the rules of this version.
        """
        from registry.tensors.analysis.deltas import SinceLink
        from registry.tensors.lineage.bound import bound_links
        from registry.tensors.lineage.inputs import Inputs

        inputs = Inputs(self._blobs, path, self._opened)
        for link in path.links:
            if link.digest not in self._links:
                (self._links[link.digest],) = bound_links(inputs, [link])
        name = ComparedDelta(
            reference=path.reference, since=path.links[number - 1].reference if number else path.base.name
        )
        return SinceLink(name, [self._links[link.digest] for link in path.links], number)
