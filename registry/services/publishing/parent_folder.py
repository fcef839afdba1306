"""Comparing the weights in the folder that an adapter was trained on with those of its possible parents.

Samples leave few of these; what is left is proven by every element, or it is not. If a folder can't be compared, the
reason is reported and nothing is refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from registry.digest import PREFIX
from registry.errors import InvalidBaseError, RegistryError
from registry.files.header import Header, TensorEntry, read_header
from registry.files.source import ByteSource, FileSource, read_range
from registry.folders.foreign import no_folder
from registry.folders.local_files import telling_unreadable
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.progress import SILENT, Progress
from registry.schemas import Fitting, FolderCompared
from registry.schemas.parents import RULE
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.comparison.candidates import Candidate, other_orders
from registry.tensors.comparison.compare import compare
from registry.tensors.comparison.verdict import Limit, Verdict, surely_at_one
from registry.tensors.lineage.bound import bind_link
from registry.tensors.lineage.inputs import base_weights, path_table, replaced_tensors
from registry.tensors.lineage.paths import Blobs, Link, LoadedPath, read_document
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, path_programs
from registry.tensors.quantised.source import is_decoded, plain_weights, rounded_tensors
from registry.tensors.table.targets import TargetTable
from registry.transfer.model_files import MAX_DOCUMENT, check_model, list_model
from registry.transfer.trained_on import Beside, TrainedFolder

Held = dict[str, tuple[ByteSource, TensorEntry]]
_AT_ONCE: Final = 1 << 22  # bytes that are hashed at a time
_MOST_OF_IT: Final = 0.5  # fraction of the base's elements whose tensors must be found by name
_REASONS: Final = {"quantised_base": "it is quantised", "missing_file": "it contains no safetensors weights"}


class NotComparableError(Exception):
    """The weights in a folder can't be compared; the message is the reason as a clause."""


@dataclass(frozen=True)
class _OpenFolder:
    """The weights in a folder, and those that the live links of some paths start from, both open."""

    base: BaseTensors
    named: Held  # those of the folder, by the base's names if they have one
    table: TargetTable
    replaced: frozenset[str]  # tensors of the base model that are not its own any more
    digests: Mapping[str, str]  # of the others

    def is_alike(self, tensor: str) -> bool:
        """Whether the folder has the very bytes of a tensor of the base model."""
        if tensor not in self.digests or tensor not in self.named:
            return False
        (source, found), (_, own) = self.named[tensor], self.base.tensors[tensor]
        if (found.dtype, found.shape) != (own.dtype, own.shape):
            return False
        return _digest(source, found) == self.digests[tensor]


def _beside(blobs: Blobs, path: LoadedPath, found: Held, opened: ExitStack) -> _OpenFolder:
    """The weights in a folder, and those that the live links of a path start from; raises `NotComparableError`."""
    base = BaseTensors(base_weights(blobs, path, opened).tensors)
    named = comparable(base.tensors, found)
    replaced = replaced_tensors(blobs, path)
    indexed = read_document(blobs, path.base.index)["tensors"]
    digests = {name: str(one["digest"]) for name, one in indexed.items() if name not in replaced}
    return _OpenFolder(base, named, path_table(blobs, path), replaced, digests)


def _digest(source: ByteSource, entry: TensorEntry) -> str:
    hashed = hashlib.sha256()
    room = memoryview(bytearray(min(_AT_ONCE, entry.stop - entry.start)))
    for start in range(entry.start, entry.stop, _AT_ONCE):
        part = room[: min(_AT_ONCE, entry.stop - start)]
        source.read_into(start, part)
        hashed.update(part)
    return PREFIX + hashed.hexdigest()


def compare_folder(
    blobs: Blobs,
    paths: Sequence[LoadedPath],
    folder: Path,
    *,
    limit: Limit | None = None,
    progress: Progress = SILENT,
) -> Verdict:
    """Find which of some paths, all of one base model, the weights in a folder belong to.

    Raises:
        NotComparableError: the folder holds nothing comparable.
        What opening the paths raises; see `registry.services.artifacts.build`.
    """
    with ExitStack() as opened:
        held = open_folder(folder, opened)

        def of_one(group: Sequence[LoadedPath]) -> Verdict:
            found = _beside(blobs, group[0], held, opened)
            candidates = candidates_of(blobs, group, opened)
            _check_all_there(candidates, found)
            named = BaseTensors(found.named)
            return compare(candidates, found.base, named, found.table, limit=limit, progress=progress)

        return of_models(paths, of_one)


def compare_whole(
    blobs: Blobs, paths: Sequence[LoadedPath], held: Held, opened: ExitStack, progress: Progress
) -> tuple[Verdict, Mapping[str, Sequence[str]]]:
    """Like `compare_folder`, by every element, and with the other orders in which the links may have been merged.

    A path that changes what the folder lacks, or other shapes, is not it, as long as others can be compared.

    Returns:
        The verdict, and the references of the links in the other orders that it names, as they were merged.

    Raises:
        What `compare_folder` raises.
    """
    orders: dict[str, Sequence[str]] = {}

    def of_one(group: Sequence[LoadedPath]) -> Verdict:
        found = _beside(blobs, group[0], held, opened)
        both = list(zip(group, candidates_of(blobs, group, opened), strict=True))
        there = [one for one in both if _lacking(one[1], found) is None]
        if not there:
            _check_all_there([candidate for _, candidate in both], found)
        candidates = [candidate for _, candidate in there]
        for path, candidate in there:
            for order in other_orders(candidate.programs, len(path.live)):
                merged = [path.live[number].reference for number in order.links]
                name = f"{path.reference} in the order {', '.join(merged)}"
                orders[name] = merged
                candidates.append(Candidate(name, order.programs, other_order=True))
        named = BaseTensors(found.named)
        alike = found.is_alike
        return compare(candidates, found.base, named, found.table, whole=True, alike=alike, progress=progress)

    return of_models(paths, of_one), orders


def of_models(paths: Sequence[LoadedPath], of_one: Callable[[Sequence[LoadedPath]], Verdict]) -> Verdict:
    """The verdict on paths whose live links start from several models: the base model, and exact revisions.

    What fits bit for bit is it, whatever else is within rounding of it; so is, by every element, what lies far nearer
    to what merging makes of one than of another.

    Raises:
        NotComparableError: none can be compared; the reason is that of the first.
    """
    groups: dict[str | None, list[LoadedPath]] = {}
    for path in paths:
        groups.setdefault(None if path.exact is None else path.exact.digest, []).append(path)
    verdicts, reasons = [], []
    for group in groups.values():
        try:
            verdicts.append(of_one(group))
        except NotComparableError as problem:
            reasons.append(problem)
    if not verdicts:
        raise reasons[0]
    fitting = sorted((one for one in verdicts if one.fitting), key=lambda one: (one.residual, one.nearest.distance))
    equal = [one for one in fitting if one.nearest.distance == 0 or one.exact]
    chosen = equal or [one for one in fitting if not any(_is_rather(other, one) for other in fitting)]
    names = tuple(name for one in chosen for name in one.fitting)
    first = chosen[0] if chosen else min(verdicts, key=lambda one: one.nearest.distance)
    return replace(first, fitting=names, complete=all(one.complete for one in chosen or verdicts))


def _is_rather(one: Verdict, other: Verdict) -> bool:
    return one.whole and other.whole and surely_at_one(one.residual, other.residual)


def candidates_of(blobs: Blobs, paths: Sequence[LoadedPath], opened: ExitStack) -> list[Candidate]:
    """What some paths make of the one model that their live links start from.

    Raises:
        What `registry.tensors.lineage.bound.bind_link` and `registry.tensors.path.programs.path_programs` raise.
    """
    table = path_table(blobs, paths[0])
    bound: dict[str, BoundLink] = {}
    return [
        Candidate(path.reference, path_programs([_bind(blobs, link, path, opened, bound) for link in path.live], table))
        for path in paths
    ]


def _bind(blobs: Blobs, link: Link, path: LoadedPath, opened: ExitStack, bound: dict[str, BoundLink]) -> BoundLink:
    """A link with its open file, bound once for all paths, so that paths share the objects of common links."""
    key = f"{link.file(ADAPTER_CONFIG).digest} {link.file(ADAPTER_WEIGHTS).digest}"
    if key not in bound:
        bound[key] = bind_link(blobs, link, path, opened)
    return bound[key]


def open_folder(folder: Path, opened: ExitStack) -> Held:
    """All tensors of the model in a folder, by their names in it; raises `NotComparableError`."""
    if holds_adapter(folder):
        raise NotComparableError("it holds an adapter and no model that this was merged into")
    try:
        with telling_unreadable(folder):
            names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
            # an adapter may have been saved into the folder of the model that it was trained on
            names = [name for name in names if name not in {ADAPTER_CONFIG, ADAPTER_WEIGHTS}]
            listing = list_model(str(folder), names, lambda name: _document(folder, name, names))
            sources = {name: opened.enter_context(FileSource(folder / name)) for name in listing.shards}
            headers: dict[str, Header] = {}

            def header(name: str) -> Header:
                headers[name] = read_header(sources[name], what=name, error=InvalidBaseError)
                return headers[name]

            model = check_model(listing, header, lambda name, one: _bytes_of(sources[name], one))
    except RegistryError as problem:
        raise NotComparableError(_REASONS.get(problem.code, str(problem).rstrip("."))) from problem
    held: Held = {}
    for name, one in headers.items():
        held |= {entry.name: (sources[name], entry) for entry in one.entries.values()}
    return held if model.plain is None else rounded_tensors(plain_weights(model.plain, held))


def _bytes_of(source: ByteSource, entry: TensorEntry) -> bytes:
    return bytes(read_range(source, entry.start, entry.stop))


def holds_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no model.

    Raises:
        NotFoundError: the folder does not exist.
    """
    if not folder.is_dir():
        of_registry = "" if folder.exists() else "; what is in the registry is shown by `registry show`"
        raise no_folder(folder, of_registry)
    weights = {file.name for file in folder.glob("*.safetensors")}
    return ADAPTER_WEIGHTS in weights and (folder / ADAPTER_CONFIG).is_file() and weights == {ADAPTER_WEIGHTS}


def _document(folder: Path, name: str, names: Sequence[str]) -> bytes | None:
    if name not in names:
        return None
    with (folder / name).open("rb") as stream:
        return stream.read(MAX_DOCUMENT + 1)


def by_names_of(base: Mapping[str, object], found: Held) -> Held:
    """The tensors of a folder by the base's names, if either side's names may have an additional leading part."""
    best: Held = {}
    most = 0
    for rename in _renamings(base, found):
        named = {name: found[rename[name]] for name in base if rename.get(name) in found}
        if len(named) > most:
            most = len(named)
            taken = set(rename.values())
            best = {**{name: one for name, one in found.items() if name not in taken}, **named}
    return best


def comparable(base: Mapping[str, tuple[ByteSource, TensorEntry]], found: Held, *, grown: bool = False) -> Held:
    """The tensors of a folder by the base's names, maybe with a ``grown`` vocabulary; raises `NotComparableError`."""
    if _decodes(found) and not _decodes(base):
        raise NotComparableError("it is quantised")
    best = by_names_of(base, found)
    _check_shapes(base, best, grown=grown)
    sizes = {name: entry.elements for name, (_, entry) in base.items()}
    if sum(sizes[name] for name in sizes if name in best) < _MOST_OF_IT * sum(sizes.values()):
        raise NotComparableError("its tensors have other names than those of the base model")
    return best


def _decodes(tensors: Mapping[str, tuple[ByteSource, TensorEntry]]) -> bool:
    return any(is_decoded(source) for source, _ in tensors.values())


def _renamings(base: Mapping[str, object], found: Mapping[str, object]) -> Iterator[dict[str, str]]:
    yield {name: name for name in base}
    for lead, _ in Counter(name.partition(".")[0] for name in found).most_common(4):
        yield {name: name if name in found else f"{lead}.{name}" for name in base}
    for lead, _ in Counter(name.partition(".")[0] for name in base).most_common(4):
        yield {name: name if name in found else name.removeprefix(f"{lead}.") for name in base}


def _check_shapes(base: Mapping[str, tuple[ByteSource, TensorEntry]], named: Held, *, grown: bool) -> None:
    for name, (_, entry) in base.items():
        if name not in named or entry.dtype not in FLOATS:
            continue
        other = named[name][1]
        if other.dtype not in FLOATS:
            raise NotComparableError(f"its tensor {name!r} is of the dtype {other.dtype}")
        if other.shape != entry.shape:
            vocabulary = other.shape[1:] == entry.shape[1:] and len(entry.shape) == 2
            if grown and vocabulary and other.shape[0] > entry.shape[0]:
                continue
            what = "another vocabulary: " if vocabulary else "other shapes: "
            raise NotComparableError(
                f"it has {what}{name!r} has the shape {list(other.shape)}, in the base model {list(entry.shape)}"
            )


def _check_all_there(candidates: Sequence[Candidate], found: _OpenFolder) -> None:
    """Check that the folder has every tensor of the base that a candidate changes."""
    for candidate in candidates:
        if (tensor := _lacking(candidate, found)) is not None:
            raise NotComparableError(f"it lacks the tensor {tensor!r}, which {candidate.name} changes")


def _lacking(candidate: Candidate, found: _OpenFolder) -> str | None:
    """A tensor of the base that a candidate changes and the folder lacks."""
    changed = (name for name in candidate.programs.by_tensor() if name in found.base.tensors)
    lacking = next((name for name in changed if name not in found.named), None)
    if lacking is not None:
        return lacking
    # of tied weights that the base's files hold twice, a model may be saved with one
    return next((name for name in sorted(found.replaced) if not _held(name, found)), None)


def _held(name: str, found: _OpenFolder) -> bool:
    module = name.removesuffix(".weight")
    group = found.table.tie_group(module) if module in found.table.targets else ()
    return name in found.named or any(f"{other}.weight" in found.named for other in group)


def look_into(
    blobs: Blobs,
    paths: Sequence[LoadedPath],
    folder: TrainedFolder,
    beside: Beside,
    *,
    sampled: bool = False,
    limit: Limit | None = None,
    progress: Progress = SILENT,
) -> FolderCompared:
    """Compare the folder that an adapter was trained on with its possible parents, or report why that is impossible.

    Args:
        blobs: where the paths are read from.
        paths: all of one base model.
        folder: the folder that the adapter's configuration names.
        beside: whether it was written later than the adapter.
        sampled: leave it at samples, which prove nothing.
        limit: how much of these is read at most.
        progress: of the comparison.
    """
    try:
        verdict = compare_folder(blobs, paths, folder.place, limit=limit, progress=progress)
        orders: Mapping[str, Sequence[str]] = {}
        if verdict.fitting and not sampled:
            with ExitStack() as opened:
                left = [path for path in paths if path.reference in verdict.fitting]
                verdict, orders = compare_whole(blobs, left, open_folder(folder.place, opened), opened, progress)
    except NotComparableError as problem:
        return FolderCompared(words=folder.words, reason=str(problem))
    digests = {path.reference: path.tip for path in paths}
    turned = [orders[name] for name in verdict.fitting if name in orders]
    fitting = [name for name in verdict.fitting if name in digests]
    return FolderCompared(
        words=folder.words,
        fitting=tuple(Fitting(reference=name, digest=digests[name]) for name in fitting),
        nearest=verdict.nearest.name,
        distance=verdict.nearest.distance,
        tensor=verdict.nearest.tensor,
        looked_at=None if verdict.complete else f"{verdict.tensors} of {verdict.of} tensors",
        order=() if fitting or not turned else tuple(turned[0]),
        **measured(verdict, beside),
    )


def measured(verdict: Verdict, beside: Beside) -> dict[str, Any]:
    """The facts that decide how much a comparison proves."""
    return {
        "rule": RULE,
        "whole": verdict.whole,
        "equal": verdict.equal,
        "others": verdict.others,
        "newer": beside.times == "newer",
        "times": beside.times,
        "recorded": beside.recorded,
        "covered": beside.covered,
    }
