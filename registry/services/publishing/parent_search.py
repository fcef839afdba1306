"""Searching among all revisions that somebody sees for those whose merged weights a folder has.

Samples strike most of them out, where the registry is; what is left is compared by every element, where the folder is.
See decision 56.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from registry.errors import RetractedError
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, EXACT_WEIGHTS
from registry.progress import SILENT, Progress
from registry.schemas import Fitting, FolderCompared
from registry.schemas.parents import NearPath, PathsLeft
from registry.services.publishing.narrowing import narrow_request
from registry.services.publishing.parent_folder import (
    Held,
    NotComparableError,
    comparable,
    compare_whole,
    measured,
    open_folder,
)
from registry.services.publishing.port import Port
from registry.tensors.arithmetic.dtypes import FLOATS, OPTION_DTYPES
from registry.tensors.comparison.fingerprint import adds_nothing, base_sample, same_link, sample_values
from registry.tensors.comparison.narrowing import LISTED
from registry.tensors.comparison.verdict import Standing, Verdict
from registry.tensors.lineage.bound import bind_link
from registry.tensors.lineage.inputs import base_weights
from registry.tensors.lineage.paths import Blobs, Link, LoadedPath
from registry.tensors.path.programs import BoundLink
from registry.transfer.trained_on import Beside, TrainedFolder

MOST: Final = 64
"""Revisions that are compared by every element; of more that samples don't distinguish, nothing is pinned."""


@dataclass(frozen=True)
class OnBase:
    """What was found on one base model."""

    left: PathsLeft
    paths: Mapping[str, LoadedPath]  # that were compared, by reference
    verdict: Verdict
    nearest: Standing  # of all: the first that samples are near, if nothing fits
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


def search_parents(where: Port, folder: TrainedFolder, beside: Beside, progress: Progress) -> FolderCompared:
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
        fitting=fittings(where, [one.paths[name] for one, name in fits]),
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


def search_bases(where: Port, folder: Path, progress: Progress) -> list[OnBase]:
    """Compare a folder with all revisions on every base model whose tensors it has.

    Raises:
        NotComparableError: it fits no base model; or samples leave too many revisions indistinguishable.
    """
    found, reasons = [], []
    with ExitStack() as opened:
        held = open_folder(folder, opened)
        for name in where.bases():
            try:
                found.append(_on_base(where, where.path(name), folder, held, progress))
            except NotComparableError as problem:
                reasons.append(f"for {name}, {problem}")
    if not found:
        raise NotComparableError("; ".join(reasons) or "there is no base model here")
    return found


def nearest_of(found: Sequence[OnBase]) -> tuple[Standing, tuple[NearPath, ...]]:
    """The nearest path of all, and the nearest ones by samples."""
    near = sorted((near for one in found for near in one.left.near), key=lambda near: near.distance)
    return min((one.nearest for one in found), key=lambda one: one.distance), tuple(near[:LISTED])


def retracted_of(found: Sequence[OnBase]) -> tuple[str, ...]:
    """Retracted revisions that a folder may be those of, and that could not be compared."""
    return tuple(name for one in found for name in one.retracted)


def _on_base(where: Port, root: LoadedPath, folder: Path, held: Held, progress: Progress) -> OnBase:
    with ExitStack() as opened:
        base = base_weights(where, root, opened).tensors
        named = comparable(base, held, grown=True)
        sample = base_sample({name: entry for name, (_, entry) in base.items()})
        left = where.narrow(narrow_request(root.reference, sample_values(sample, named)), progress=progress)
        if len(left.left) > MOST:
            raise NotComparableError(f"{len(left.left)} revisions can't be told apart by samples")
        paths, unread = _paths(where, root, left.left)
        compared = list(paths.values()) or [root]
        verdict, orders = where.compared.once(
            folder, compared, lambda: compare_whole(where, compared, held, opened, progress)
        )
        nearest = verdict.nearest if verdict.fitting else _nearest(where, left.near, verdict, folder, held)
        return OnBase(left, paths, verdict, nearest, orders, _dtype(named), unread)


def _nearest(where: Port, near: Sequence[NearPath], verdict: Verdict, folder: Path, held: Held) -> Standing:
    """The nearest path of all by samples, if nothing fits: the others were struck out, and not compared."""
    if not near:
        return verdict.nearest
    first, known = near[0], verdict.nearest
    if known.name != first.reference:
        try:
            with ExitStack() as opened:
                path = where.path(first.reference)
                known = where.compared.once(folder, [path], lambda: compare_whole(where, [path], held, opened, SILENT))[
                    0
                ].nearest
        except (NotComparableError, RetractedError):
            known = replace(known, tensor="")
    return replace(known, name=first.reference, distance=first.distance)


def _paths(where: Port, root: LoadedPath, names: Sequence[str]) -> tuple[dict[str, LoadedPath], tuple[str, ...]]:
    """The paths of some references, and those that are not given since they were retracted."""
    paths: dict[str, LoadedPath] = {}
    unread = []
    for name in names:
        try:
            paths[name] = root if name == root.reference else where.path(name)
        except RetractedError:
            unread.append(name)
    return paths, tuple(unread)


def fittings(blobs: Blobs, paths: Sequence[LoadedPath]) -> tuple[Fitting, ...]:
    """Paths as what fits, the shallowest first; those that stand for the same function have the same ``weights``."""
    found = sorted(paths, key=lambda path: len(path.links))
    with ExitStack() as opened:
        functions = _Functions(blobs, opened, len(found) > 1)
        return tuple(Fitting(reference=one.reference, digest=one.tip, weights=functions.of(one)) for one in found)


@dataclass(frozen=True)
class _Functions:
    """Digests of what paths mean; if ``looking``, links that do the same, or nothing, are known as such."""

    blobs: Blobs
    opened: ExitStack
    looking: bool
    _known: dict[str, str | None] = field(default_factory=dict)  # what represents a link, by model and files
    _links: dict[str, list[tuple[str, BoundLink]]] = field(default_factory=dict)  # that were compared, by model

    def of(self, path: LoadedPath) -> str:
        """A digest that is the same for paths that stand for the same function."""
        exact = [] if path.exact is None else [path.exact.file(EXACT_WEIGHTS).digest]
        model = " ".join([path.base.digest, *exact])
        links = [files for link in path.live if (files := self._link(path, link, model)) is not None]
        return sha256(" ".join([model, *links]).encode()).hexdigest()

    def _link(self, path: LoadedPath, link: Link, model: str) -> str | None:
        """The files that stand for a link, those of the first that does the same; None: it does nothing."""
        files = " ".join(link.file(name).digest for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
        if not self.looking:
            return files
        key = f"{model} {files}"
        if key not in self._known:
            bound, others = bind_link(self.blobs, link, path, self.opened), self._links.setdefault(model, [])
            same = next((one for one, other in others if same_link(bound, other)), files)
            self._known[key] = None if adds_nothing(bound) else same
            others.append((same, bound))
        return self._known[key]


def _dtype(named: Held) -> str:
    """The dtype of most of a folder's numbers, as options call it."""
    sizes: dict[str, int] = {}
    for _, entry in named.values():
        if entry.dtype in FLOATS:
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.elements
    words = {name: word for word, name in OPTION_DTYPES.items()}
    most = max(sizes, key=lambda name: sizes[name], default="F32")
    return words.get(most, most)
