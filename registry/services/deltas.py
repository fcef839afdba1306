"""Deltas of revisions beside each other: of two of them since the last one that both have, and of a path's children."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Literal

from sqlalchemy.orm import Session

from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import links as link_rows
from registry.catalogue.tree import nodes
from registry.catalogue.tree.nodes import Section
from registry.errors import UsageError
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas.difference import ComparedDelta, DeltaMatrix, Deltas
from registry.services.artifacts.load import path_of
from registry.services.deployment import Deployment
from registry.services.lineage import LoadedPath

if TYPE_CHECKING:  # torch is imported once something is to be computed
    from registry.tensors.analysis.deltas import SinceLink
    from registry.tensors.path.programs import BoundLink
    from registry.tensors.table.targets import TargetTable

MOST_CHILDREN: Final = 64
"""Of one path that are compared at once: the work grows with their square."""


def deltas(deployment: Deployment, a: str, b: str, progress: Progress) -> Deltas:
    """What two revisions are since the last revision that both have, compared from the factors alone.

    Args:
        deployment: the registry.
        a, b: revisions. Where one is an ancestor of the other, what it is since the base model is compared with what
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


def children_deltas(deployment: Deployment, path: str, progress: Progress) -> DeltaMatrix:
    """The own links of the newest revisions of a path's children, compared all with all.

    Only children that the principal sees are compared.

    Args:
        deployment: the registry.
        path: an adapter or a base model.
        progress: of the matrices that they change.

    Raises:
        NotFoundError: there is nothing at the path.
        UsageError: it has more than `MOST_CHILDREN` children.
        InvalidAdapterError: a link is invalid by the rules of this version, or a delta is not finite.
    """
    parent = Path.parse(path)
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
    """The number of the first link that counts on each side, and of which delta shares are told."""
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
        from registry.services.artifacts.inputs import Inputs

        return Inputs(self._blobs, path, self._opened).table

    def since(self, path: LoadedPath, number: int) -> SinceLink:
        """What the links of a path from ``number`` on do.

        Raises:
            InvalidAdapterError: a link is invalid by the rules of this version.
        """
        from registry.services.artifacts.bound import bound_links
        from registry.services.artifacts.inputs import Inputs
        from registry.tensors.analysis.deltas import SinceLink

        inputs = Inputs(self._blobs, path, self._opened)
        for link in path.links:
            if link.digest not in self._links:
                (self._links[link.digest],) = bound_links(inputs, [link])
        name = ComparedDelta(
            reference=path.reference, since=path.links[number - 1].reference if number else path.base.name
        )
        return SinceLink(name, [self._links[link.digest] for link in path.links], number)
