"""What a folder on this machine is: of a merged model the base and the revisions in it, of an adapter its revision.

An adapter is known by the digests of its files, or by its numbers if these were saved again. So the folder that an
adapter was trained on is compared with its possible parents.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from registry.digest import sha256_digest
from registry.errors import InvalidAdapterError, RetractedError
from registry.files.hashed import hash_file
from registry.files.header import TensorEntry, read_header
from registry.files.source import ByteSource, FileSource
from registry.folders.foreign import what_files_are
from registry.folders.local_files import read_start, telling_unreadable
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CONFIG, adapter_folder
from registry.images.about import about_lora
from registry.progress import SILENT, Progress
from registry.reference import Path as TreePath
from registry.schemas import FolderCompared
from registry.schemas.parents import RULE, Identified, MergedFrom, NearPath
from registry.services.publishing.narrowing import narrow_request
from registry.services.publishing.parent_folder import NotComparableError, holds_adapter, look_into
from registry.services.publishing.parent_search import (
    MOST,
    OnBase,
    fittings,
    nearest_of,
    retracted_of,
    search_bases,
    search_parents,
)
from registry.services.publishing.port import Port
from registry.tensors.checkpoint.adapter import LoraAdapterConfig
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.comparison.fingerprint import added, base_sample, same_link, sample_values
from registry.tensors.comparison.narrowing import LISTED
from registry.tensors.lineage.bound import bind_link
from registry.tensors.lineage.inputs import base_weights, path_table
from registry.tensors.lineage.paths import LoadedPath
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink, path_programs
from registry.tensors.table.targets import TargetTable
from registry.transfer.publish_request import MAX_CONFIG, PublishFolder
from registry.transfer.trained_on import (
    UNTIMED,
    Beside,
    TrainedFolder,
    moved_folder,
    or_elsewhere,
    trained_folder,
    trained_on,
)

_DEEPEST: Final = 8  # folders that were trained on one another
_FILES: Final = "it holds the adapter of that revision, file by file"
_NUMBERS: Final = "it holds the adapter of that revision, saved again: all of its numbers are equal"


@dataclass(frozen=True)
class SameLinks:
    """What an adapter's folder is."""

    bases: tuple[str, ...]  # that it fits
    same: tuple[tuple[LoadedPath, str], ...]  # the paths whose last link it is, and how that shows, as a clause
    retracted: tuple[str, ...]  # revisions that it may be, too, whose files a service does not give
    near: tuple[NearPath, ...]  # those that add nearly the same, nearest first
    searched: int
    misfits: tuple[str, ...] = ()  # why it fits none of the base models
    said: str | None = None  # the base model that the metadata of a LoRA file names


def search_trained(
    where: Port, folder: TrainedFolder, beside: Beside, progress: Progress, *, depth: int = 0
) -> FolderCompared:
    """Find the revisions that a folder is, which an adapter was trained on: a merged model, or another adapter.

    Args:
        where: the registry that is searched.
        folder: the folder.
        beside: whether it was written later than the adapter that was trained on it.
        progress: of the search.
        depth: how many folders, each trained on the next one, came before it.
    """
    if not holds_adapter(folder.place):
        return search_parents(where, folder, beside, progress)
    try:
        found = revisions_of(where, folder.place, progress)
    except InvalidAdapterError as problem:
        return FolderCompared(words=folder.words, reason=f"it holds an adapter that can't be read ({problem})")
    if not found.bases:
        return FolderCompared(words=folder.words, reason="it holds an adapter that fits no base model here")
    same = _told_by_its_own(where, found, folder.place, progress, depth) if len(found.same) > 1 else found.same
    nearest = found.near[0] if found.near and not same else None
    return FolderCompared(
        words=folder.words,
        fitting=fittings(where, [path for path, _ in same]),
        nearest=None if nearest is None else nearest.reference,
        distance=0.0 if nearest is None else nearest.distance,
        searched=found.searched,
        proof=same[0][1] if same else None,
        near=() if same else found.near,
        retracted=found.retracted if not same else (),
        rule=RULE,
        whole=bool(same),
        equal=1.0 if same else None,
        newer=beside.times == "newer",
        times=beside.times,
        recorded=beside.recorded,
        covered=beside.covered,
    )


def revisions_of(where: Port, folder: Path, progress: Progress) -> SameLinks:
    """Find which revisions an adapter is, on every base model that it fits.

    Raises:
        InvalidAdapterError: the adapter can't be read.
        NotFoundError: the folder does not exist.
    """
    files = {one.path: one.file for one in adapter_folder(folder).files}
    config = read_start(files[ADAPTER_CONFIG], MAX_CONFIG + 1)
    with telling_unreadable(folder):
        digests = sha256_digest(config), hash_file(files[ADAPTER_WEIGHTS], SILENT).digest
    bases: list[str] = []
    same: list[tuple[LoadedPath, str]] = []
    retracted: list[str] = []
    near: list[NearPath] = []
    searched = 0
    with ExitStack() as opened:
        source = opened.enter_context(FileSource(files[ADAPTER_WEIGHTS]))
        header, parsed = read_header(source, what=ADAPTER_WEIGHTS, error=InvalidAdapterError), parse_config(config)
        own = _Own(parsed, header.entries, source, digests)
        for name in where.bases():
            one = _on_base(where, where.path(name), own, progress)
            bases += one.bases
            same += one.same
            retracted += one.retracted
            near += one.near
            searched += one.searched
    near.sort(key=lambda one: one.distance)
    same = [one for one in same if one[1] == _FILES] or same  # whose configuration is the same, too
    said = about_lora(header.metadata).base_named or None
    misfits = () if bases else tuple(own.misfits)
    return SameLinks(tuple(bases), tuple(same), tuple(retracted), tuple(near[:LISTED]), searched, misfits, said)


@dataclass(frozen=True)
class _Own:
    """The folder's adapter."""

    config: LoraAdapterConfig
    entries: Mapping[str, TensorEntry]
    source: ByteSource
    digests: tuple[str, str]  # of the configuration and the weights
    misfits: list[str] = field(default_factory=list)

    def on(self, table: TargetTable, name: str | None = None) -> BoundLink | None:
        """What it does to a model; None: it does not fit, and of the base model of that name it is kept why."""
        try:
            return BoundLink(read_checkpoint(self.config, self.entries, table), self.source)
        except InvalidAdapterError as problem:
            if name is not None:
                self.misfits.append(f"{name}: {problem}")
            return None


def _on_base(where: Port, root: LoadedPath, adapter: _Own, progress: Progress) -> SameLinks:
    """Those on one base model. What only fits a vocabulary that has grown in a full fine-tune is known by its file."""
    same, retracted = [], []
    with ExitStack() as opened:
        base = BaseTensors(base_weights(where, root, opened).tensors)
        sample = base_sample({name: entry for name, (_, entry) in base.tensors.items()})
        table, digests = path_table(where, root), adapter.digests
        fitting = adapter.on(table, root.reference)
        adds = sample_values(sample, {}) if fitting is None else added(path_programs([fitting], table), base, sample)
        left = where.narrow(narrow_request(root.reference, adds, link=digests[1]), progress=progress)
        for name in left.left[:MOST]:
            try:
                path = where.path(name)
            except RetractedError:
                retracted.append(name)
                continue
            link = path.links[-1]
            if digests == (link.file(ADAPTER_CONFIG).digest, link.file(ADAPTER_WEIGHTS).digest):
                same.append((path, _FILES))
            elif (own := adapter.on(path_table(where, path))) is not None and same_link(
                own, bind_link(where, link, path, opened)
            ):
                same.append((path, _NUMBERS))
    bases = (root.reference,) if fitting is not None or same else ()
    return SameLinks(bases, tuple(same), tuple(retracted), left.near, left.searched if bases else 0)


def _told_by_its_own(
    where: Port, found: SameLinks, folder: Path, progress: Progress, depth: int
) -> tuple[tuple[LoadedPath, str], ...]:
    """Of revisions of the same files those whose parent is what the folder's adapter was trained on, if that shows."""
    above = trained_folder(read_start(folder / ADAPTER_CONFIG, MAX_CONFIG + 1), folder)
    if above is None or depth == _DEEPEST:
        return found.same
    parents = {one.digest for one in search_trained(where, above, UNTIMED, progress, depth=depth + 1).fitting}
    told = tuple(one for one in found.same if _parent(one[0]) in parents)
    return told or found.same


def _parent(path: LoadedPath) -> str:
    return path.links[-2].digest if len(path.links) > 1 else path.base.digest


_WEIGHTS: Final = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}


def identify(where: Port, folder: Path, look_in: tuple[Path, ...], progress: Progress) -> Identified:
    """Identify a folder.

    Args:
        where: the registry that is searched.
        folder: a merged model, or an adapter.
        look_in: where the folder that an adapter was trained on may be now.
        progress: of the search.

    Raises:
        NotFoundError: the folder does not exist.
        InvalidAdapterError: it holds an adapter that can't be read; ``missing_file``, it holds no weights at all.
    """
    if holds_adapter(folder):
        return _adapter(where, folder, look_in, progress)
    with telling_unreadable(folder):
        weights = {file.suffix for file in folder.iterdir()} & _WEIGHTS
    if (folder / ADAPTER_CONFIG).is_file() and ".safetensors" not in weights:
        adapter_folder(folder)  # raises the error that describes the fault
    if not weights:
        raise InvalidAdapterError(
            f"{folder} holds neither an adapter nor a model: expected are {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}, or "
            "config.json and the *.safetensors of a model. `registry import` looks through folders of such folders.",
            code="missing_file",
        )
    if not (folder / MODEL_CONFIG).is_file() and (foreign := what_files_are(folder)) is not None:
        raise InvalidAdapterError(foreign, code="missing_file")
    return _model(where, folder, folder, progress)


def _adapter(where: Port, folder: Path, look_in: tuple[Path, ...], progress: Progress) -> Identified:
    config = read_start(folder / ADAPTER_CONFIG, MAX_CONFIG + 1)
    found = revisions_of(where, folder, progress)
    known = {
        "kind": "adapter",
        "folder": str(folder),
        "trained_on": trained_on(config) or found.said,
        "bases": found.bases,
        "published": tuple(path.reference for path, _ in found.same),
        "near": () if found.same else found.near,
        "retracted": found.retracted,
    }
    there = trained_folder(config, folder) or (moved_folder(config, look_in) if look_in else None)
    if there is None:
        reason: str | None = (
            "the folder that it was trained on is not there; --look-in DIR gives folders to look for it in"
        )
        if found.misfits:
            more = f" (and {len(found.misfits) - 1} more)" if len(found.misfits) > 1 else ""
            reason = f"it fits no base model here; {found.misfits[0]}{more}"
        elif not trained_on(config):
            reason = None  # a LoRA file names no folder
        return Identified(searched=found.searched, reason=reason, **known)  # type: ignore[arg-type]
    if not holds_adapter(there.place):
        return _model(where, folder, there.place, progress).model_copy(update=known)
    above = revisions_of(where, there.place, progress)
    merged = tuple(
        MergedFrom(reference=path.reference, links=_links(path), order_shows=False, proof=proof)
        for path, proof in above.same
    )
    unknown = None if merged else "the adapter that it was trained on is no revision here"
    return Identified(searched=above.searched, merged=merged, reason=unknown, **known)  # type: ignore[arg-type]


def _model(where: Port, folder: Path, weights: Path, progress: Progress) -> Identified:
    try:
        found = search_bases(where, weights, progress)
    except NotComparableError as problem:
        return Identified(folder=str(folder), kind="model", searched=0, reason=str(problem))
    searched = sum(one.left.searched for one in found)
    merged = tuple(_merged(one, name) for one in found for name in one.verdict.fitting if name in one.paths)
    turned = [one.orders[name] for one in found for name in one.verdict.fitting if name in one.orders]
    nearest, near = nearest_of(found)
    return Identified(
        folder=str(folder),
        kind="model",
        searched=searched,
        merged=merged,
        unknown_order=() if merged or not turned else tuple(turned[0]),
        nearest=None if merged or turned else nearest.name,
        distance=None if merged or turned else nearest.distance,
        tensor=None if merged or turned else nearest.tensor or None,
        near=near,
        sum=() if merged or turned else next((one.left.sum for one in found if one.left.sum), ()),
        retracted=retracted_of(found),
    )


def _merged(found: OnBase, name: str) -> MergedFrom:
    links = _links(found.paths[name])
    other_orders = any(order.startswith(f"{name} in the order ") for order in found.orders)
    untold = any(order.startswith(f"{name} in the order ") for order in found.verdict.untold)
    return MergedFrom(reference=name, links=links, order_shows=other_orders and not untold, proof=found.proof)


def _links(path: LoadedPath) -> tuple[str, ...]:
    """What was merged: the links that add, after the full fine-tune that they build on, if any."""
    return tuple(link.reference for link in path.links[max(0, path.dead - 1) :])


def with_compared(where: Port, folder: PublishFolder, progress: Progress) -> PublishFolder:
    """The folder, its request extended by what the weights are that the adapter was trained on, if these are available.

    Args:
        where: the registry that has the candidates.
        folder: the adapter's. If the request is to find the parent, all revisions are searched; else the weights are
            compared with the path's first.
        progress: of the comparison.

    Raises:
        NotFoundError: the base model, or the adapter above, does not exist.
    """
    trained_on, beside = folder.trained_on, folder.beside or UNTIMED
    if trained_on is None:
        return folder

    def search() -> FolderCompared:
        return search_trained(where, trained_on, beside, progress)

    if folder.request.find_parent:
        return folder.with_request(compared=search())
    if TreePath.parse(folder.request.path).parent is None:  # which is refused elsewhere
        return folder
    try:
        found = where.candidates(folder.request)
    except NotComparableError as problem:
        return folder.with_request(compared=FolderCompared(words=trained_on.words, reason=str(problem)))
    compared = look_into(where, found, trained_on, beside, sampled=folder.sampled, progress=progress)
    return folder.with_request(compared=or_elsewhere(compared, search))
