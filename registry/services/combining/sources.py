"""What is combined, over what: the sources of a combination and the ancestor that their deltas are taken over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.orm import Session

from registry.catalogue.store.blobs import pinned_sources
from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import links as link_rows
from registry.catalogue.tree import old_names
from registry.catalogue.tree.links import LinkRow
from registry.errors import ConflictError, InvalidAdapterError, UsageError
from registry.reference import Path, Reference
from registry.schemas.publishing import CombineRequest, SourceWeight
from registry.services.artifacts.load import path_of
from registry.services.publishing.draft import Combination, PinnedSource
from registry.tensors.lineage.paths import LoadedPath

_LEAST: Final = 1e-9
_MOST: Final = 1e9
"""Of the size of a weight: far beyond, factors that are multiplied by it become 0 or infinite in float32."""


@dataclass(frozen=True)
class Source:
    """A revision to combine, with its path, and its weight."""

    key: int  # of its row
    path: LoadedPath
    weight: float

    @property
    def pinned(self) -> PinnedSource:
        """As a manifest pins it."""
        return PinnedSource(self.key, self.path.reference, self.path.tip, self.weight)


@dataclass(frozen=True)
class Chosen:
    """The sources in the order in which they were given, and the ancestor of all of them."""

    over: LoadedPath
    sources: tuple[Source, ...]
    rank: int | None = None
    max_error: float | None = None

    @property
    def combination(self) -> Combination:
        """As in a manifest."""
        return Combination(tuple(one.pinned for one in self.sources), self.rank, self.max_error)


def choose(session: Session, request: CombineRequest) -> Chosen:
    """What a request means now.

    Raises:
        NotFoundError: a reference names nothing that the session sees.
        RetractedError: a source, or what it was trained on, was retracted.
        UsageError: all weights are 0 or one is of no usual size, the same revision twice, a base model as a source, a
            source that is the ancestor itself, or ``over`` is no ancestor of all sources.
        ConflictError: ``parent_mismatch``, the path does not lie directly under the ancestor.
        InvalidAdapterError: ``not_combinable``, the sources are over different base models.
    """
    _check_weights(request.sources)
    path = Path.parse(request.path)
    old_names.check_current(session, path)
    found = tuple(_source(session, one) for one in request.sources)
    _check_bases(found)
    _check_repeated(found)
    over = _over(session, found, request.over)
    _check_place(path, over, found)
    return Chosen(over, found, request.rank, request.max_error)


def chosen_again(session: Session, found: Sequence[LinkRow]) -> Chosen | None:
    """What the last of some links was made of, its sources be they seen or not; None: it is no combination.

    Raises:
        RetractedError: a source, or what it was trained on, was retracted.
    """
    row = found[-1].revision
    if not row.combined:
        return None
    base = base_rows.get(session, row.base)
    made_of = tuple(
        Source(key, path_of(base, link_rows.links_to(session, key)), weight)
        for key, weight in pinned_sources(session, row.id)
    )
    return Chosen(path_of(base, found[:-1]), made_of, *Combination.options_in(row.manifest))


def _check_weights(given: Sequence[SourceWeight]) -> None:
    if not given:
        raise UsageError("Nothing to combine: give at least one source with its weight, as REF=WEIGHT.")
    if not any(one.weight for one in given):
        raise UsageError("All weights are 0: the combination would change nothing.")
    for one in given:
        if one.weight and not _LEAST <= abs(one.weight) <= _MOST:
            raise UsageError(
                f"The weight of {one.ref} is {one.weight:g}: 0 or a size from {_LEAST:g} to {_MOST:g} is expected, so "
                "that what is written fits float32."
            )


def _source(session: Session, given: SourceWeight) -> Source:
    reference = Reference.parse(given.ref)
    if reference.path.is_base:
        raise UsageError(f"{given.ref} is a base model and has no delta: only revisions of adapters can be combined.")
    found = link_rows.links(session, reference)
    path = path_of(base_rows.get(session, reference.path.base), found)
    return Source(found[-1].revision.id, path, given.weight)


def _check_bases(found: Sequence[Source]) -> None:
    first = found[0].path
    for other in (one.path for one in found[1:]):
        if other.base.name != first.base.name:
            raise InvalidAdapterError(
                f"{first.reference} and {other.reference} can't be combined: they are over different base models, "
                f"{first.base.name} and {other.base.name}.",
                code="not_combinable",
            )


def _check_repeated(found: Sequence[Source]) -> None:
    seen: dict[str, LoadedPath] = {}
    for path in (one.path for one in found):
        if path.tip in seen:
            other = seen[path.tip].reference
            same = "is given twice" if other == path.reference else f"is the same as {other}"
            raise UsageError(f"{path.reference} {same}: give it once, with the sum of the weights.")
        seen[path.tip] = path


def _over(session: Session, found: Sequence[Source], given: str | None) -> LoadedPath:
    """The lowest revision that is above all sources, or the one ``given``, which has to be it or above it."""
    lineages = [tuple(link.digest for link in one.path.links) for one in found]
    if len(lineages) == 1:
        lineages = [lineages[0][:-1]]  # over itself, a single one would be nothing
    count = 0
    while all(count < len(one) and one[count] == lineages[0][count] for one in lineages):
        count += 1
    lowest = _prefix(found[0].path, count)
    if given is not None:
        asked = Reference.parse(given)
        above = () if asked.path.is_base else link_rows.links(session, asked)
        digests = tuple(link.revision.digest for link in above)
        if asked.path.base != lowest.base.name or digests != lineages[0][: min(len(digests), count)]:
            known = ", ".join([lowest.base.name, *(link.reference for link in lowest.links)])
            raise UsageError(f"{given} is not above all sources: --over takes one of {known}.")
        lowest = _prefix(found[0].path, len(digests))
    for one in found:
        if len(one.path.links) == len(lowest.links):
            raise UsageError(
                f"{one.path.reference} is itself the ancestor of the other sources, so that it adds nothing over it: "
                f"leave it out, or give a revision above it, such as --over {_above(one.path)}."
            )
    return lowest


def _prefix(path: LoadedPath, count: int) -> LoadedPath:
    links = path.links[:count]
    return replace(path, reference=links[-1].reference if links else path.base.name, links=links)


def _above(path: LoadedPath) -> str:
    return path.links[-2].reference if len(path.links) > 1 else path.base.name


def _check_place(path: Path, over: LoadedPath, found: Sequence[Source]) -> None:
    """The path has to lie directly under the ancestor, which may have several names."""
    depth = len(over.links)
    names = dict.fromkeys(one.path.links[depth - 1].path for one in found) if depth else {over.base.name: None}
    if str(path.parent) not in names:
        name = next(iter(names))
        lower = "" if not depth else f" With --over, a revision above it, such as {_above(over)}, is taken instead."
        raise ConflictError(
            f"The sources are combined over {over.reference}, so the combination lies directly under {name}: give "
            f"{name}/{path.name if not path.is_base else 'NAME'} instead of {path}.{lower}",
            code="parent_mismatch",
        )
