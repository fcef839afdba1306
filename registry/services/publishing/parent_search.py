"""Searching among all revisions that somebody sees for those whose merged weights a folder has.

Samples strike most of them out, where the registry is; what is left is compared by every element, where the folder is.
See decision 56.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from registry.catalogue.tree import bases
from registry.errors import RetractedError
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, EXACT_WEIGHTS
from registry.progress import Progress
from registry.reference import Reference
from registry.schemas import Fitting, FolderCompared
from registry.schemas.parents import NarrowRequest, NearPath, PathsLeft
from registry.services.artifacts.inputs import base_weights
from registry.services.artifacts.load import path_to
from registry.services.deployment import Deployment
from registry.services.lineage import Blobs, LoadedPath
from registry.services.publishing.narrowing import narrow_paths, narrow_request
from registry.services.publishing.parent_folder import (
    Held,
    NotComparableError,
    comparable,
    compare_whole,
    measured,
    open_folder,
)
from registry.tensors.comparison.narrowing import LISTED
from registry.tensors.comparison.spots import sampled, spots_of
from registry.tensors.comparison.verdict import Standing, Verdict
from registry.tensors.elements.dtypes import FLOATS, OPTION_DTYPES
from registry.transfer.trained_on import Beside, TrainedFolder

MOST: Final = 64
"""Revisions that are compared by every element; of more that samples don't tell apart, nothing is pinned."""


class Searchable(Protocol):
    """A registry that is searched: in process, or behind a service."""

    @property
    def blobs(self) -> Blobs:
        """Where paths are read from."""

    def bases(self) -> Sequence[str]:
        """The names of all base models."""

    def path(self, reference: str) -> LoadedPath:
        """The path to a revision, or a base model alone."""

    def narrow(self, request: NarrowRequest, progress: Progress) -> PathsLeft:
        """See `registry.services.publishing.narrowing.narrow_paths`."""


@dataclass(frozen=True)
class SearchableHere:
    """A registry in process; retracted revisions are compared too, and refused when they are pinned."""

    deployment: Deployment

    @property
    def blobs(self) -> Blobs:
        return self.deployment.artifact_blobs

    def bases(self) -> Sequence[str]:
        with self.deployment.read() as session:
            return [one.name for one in bases.summaries(session)]

    def path(self, reference: str) -> LoadedPath:
        from registry.catalogue.tree import revisions

        parsed = Reference.parse(reference)
        with self.deployment.read() as session:
            row = None if parsed.path.is_base else revisions.find(session, parsed)
            return path_to(session, bases.get(session, parsed.path.base), row, with_retracted=True)

    def narrow(self, request: NarrowRequest, progress: Progress) -> PathsLeft:
        return narrow_paths(self.deployment, request, progress)


@dataclass(frozen=True)
class OnBase:
    """What was found on one base model."""

    left: PathsLeft
    paths: Mapping[str, LoadedPath]  # that were compared, by reference
    verdict: Verdict
    orders: Mapping[str, Sequence[str]]  # other orders of links that were compared, by their names in the verdict
    dtype: str  # of most of the folder, as options call it
    unread: tuple[str, ...] = ()  # that were retracted, so that a service does not give them to compare

    @property
    def retracted(self) -> tuple[str, ...]:
        """Retracted revisions that it may be as well: samples left them, and nothing else explains every bit."""
        return () if self.paths and self.verdict.exact else self.unread

    @property
    def proof(self) -> str:
        """How far the folder equals what fits, as a clause."""
        verdict = self.verdict
        if not verdict.bits:
            off = f"{verdict.others} elements that it leaves alone differ" if verdict.others else ""
            return f"fits within rounding only: {off or f'{100 * verdict.equal:.4g} % equal'}"
        how = f"largest difference {verdict.units:.2g} units in the last place of {self.dtype}"
        return f"equal in {verdict.tensors} of {verdict.of} tensors, {how if verdict.units else 'bit for bit'}"


def search_parents(where: Searchable, folder: TrainedFolder, beside: Beside, progress: Progress) -> FolderCompared:
    """Find the revisions whose merged weights a folder has, or which are nearest.

    Args:
        where: the registry that is searched.
        folder: of a merged model.
        beside: whether it was written later than the adapter that was trained on it.
        progress: of the search.
    """
    try:
        found = search_bases(where, folder.place, progress)
    except NotComparableError as problem:
        return FolderCompared(words=folder.words, reason=str(problem))
    fits = [(one, name) for one in found for name in one.verdict.fitting if name in one.paths]
    turned = [one.orders[name] for one in found for name in one.verdict.fitting if name in one.orders]
    nearest, near = nearest_of(found)
    first = fits[0][0] if fits else found[0]
    return FolderCompared(
        words=folder.words,
        fitting=tuple(fitting(one.paths[name]) for one, name in fits),
        nearest=nearest.name,
        distance=nearest.distance,
        tensor=nearest.tensor,
        searched=sum(one.left.searched for one in found),
        proof=fits[0][0].proof if fits else None,
        order=() if fits or not turned else tuple(turned[0]),
        near=near,
        retracted=retracted_of(found),
        **measured(first.verdict, beside),
    )


def search_bases(where: Searchable, folder: Path, progress: Progress) -> list[OnBase]:
    """Compare a folder with all revisions on every base model whose tensors it has.

    Raises:
        NotComparableError: it fits no base model; or too many revisions can't be told apart by samples.
    """
    found, reasons = [], []
    with ExitStack() as opened:
        held = open_folder(folder, opened)
        for name in where.bases():
            try:
                found.append(_on_base(where, where.path(name), held, progress))
            except NotComparableError as problem:
                reasons.append(f"for {name}, {problem}")
    if not found:
        raise NotComparableError("; ".join(reasons) or "there is no base model here")
    return found


def nearest_of(found: Sequence[OnBase]) -> tuple[Standing, tuple[NearPath, ...]]:
    """The nearest path of all that were compared, and the nearest of all by samples."""
    near = sorted((near for one in found for near in one.left.near), key=lambda near: near.distance)
    return min((one.verdict.nearest for one in found), key=lambda one: one.distance), tuple(near[:LISTED])


def retracted_of(found: Sequence[OnBase]) -> tuple[str, ...]:
    """Retracted revisions that a folder may be those of, and that could not be compared."""
    return tuple(name for one in found for name in one.retracted)


def _on_base(where: Searchable, root: LoadedPath, held: Held, progress: Progress) -> OnBase:
    with ExitStack() as opened:
        base = base_weights(where.blobs, root, opened).tensors
        named = comparable(base, held, grown=True)
        spots = spots_of({name: entry for name, (_, entry) in base.items()})
        left = where.narrow(narrow_request(root.reference, sampled(spots, named)), progress)
        if len(left.left) > MOST:
            raise NotComparableError(f"{len(left.left)} revisions can't be told apart by samples")
        paths, unread = _paths(where, root, left.left)
        verdict, orders = compare_whole(where.blobs, list(paths.values()) or [root], held, opened, progress)
        return OnBase(left, paths, verdict, orders, _dtype(named), unread)


def _paths(where: Searchable, root: LoadedPath, names: Sequence[str]) -> tuple[dict[str, LoadedPath], tuple[str, ...]]:
    """The paths of some references, and those that are not given since they were retracted."""
    paths: dict[str, LoadedPath] = {}
    unread = []
    for name in names:
        try:
            paths[name] = root if name == root.reference else where.path(name)
        except RetractedError:
            unread.append(name)
    return paths, tuple(unread)


def fitting(path: LoadedPath) -> Fitting:
    """A path as what fits."""
    return Fitting(reference=path.reference, digest=path.tip, weights=_same_weights(path))


def _same_weights(path: LoadedPath) -> str:
    """A digest that is the same for paths of the same files, whatever their revisions are called."""
    files = [link.file(name).digest for link in path.live for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    exact = [] if path.exact is None else [path.exact.file(EXACT_WEIGHTS).digest]
    return sha256(" ".join([path.base.digest, *exact, *files]).encode()).hexdigest()


def _dtype(named: Held) -> str:
    """The dtype of most of a folder's numbers, as options call it."""
    sizes: dict[str, int] = {}
    for _, entry in named.values():
        if entry.dtype in FLOATS:
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.elements
    words = {name: word for word, name in OPTION_DTYPES.items()}
    most = max(sizes, key=lambda name: sizes[name], default="F32")
    return words.get(most, most)
