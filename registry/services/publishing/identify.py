"""What a folder on this machine is: of a merged model the base and the revisions in it, of an adapter what it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from registry.errors import InvalidAdapterError
from registry.folders.contents import read_start
from registry.folders.errors import telling_unreadable
from registry.folders.foreign import what_files_are
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CONFIG, adapter_folder
from registry.progress import Progress
from registry.schemas.parents import Identified, MergedFrom
from registry.services.lineage import LoadedPath
from registry.services.publishing.parent_adapter import revisions_of
from registry.services.publishing.parent_folder import NotComparableError, holds_adapter
from registry.services.publishing.parent_search import OnBase, Searchable, nearest_of, retracted_of, search_bases
from registry.transfer.adapter_folder import MAX_CONFIG
from registry.transfer.trained_on import moved_folder, trained_folder, trained_on

_WEIGHTS: Final = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}


def identify(where: Searchable, folder: Path, look_in: tuple[Path, ...], progress: Progress) -> Identified:
    """Say what a folder is.

    Args:
        where: the registry that is searched.
        folder: a merged model, or an adapter.
        look_in: where the folder that an adapter was trained on may be by now.
        progress: of the search.

    Raises:
        NotFoundError: there is no such folder.
        InvalidAdapterError: it holds an adapter that can't be read; ``missing_file``, it holds no weights at all.
    """
    if holds_adapter(folder):
        return _adapter(where, folder, look_in, progress)
    with telling_unreadable(folder):
        weights = {file.suffix for file in folder.iterdir()} & _WEIGHTS
    if (folder / ADAPTER_CONFIG).is_file() and ".safetensors" not in weights:
        adapter_folder(folder)  # says what is wrong with it
    if not weights:
        raise InvalidAdapterError(
            f"{folder} holds neither an adapter nor a model: expected are {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}, or "
            "config.json and the *.safetensors of a model. `registry import` looks through folders of such folders.",
            code="missing_file",
        )
    if not (folder / MODEL_CONFIG).is_file() and (foreign := what_files_are(folder)) is not None:
        raise InvalidAdapterError(foreign, code="missing_file")
    return _model(where, folder, folder, progress)


def _adapter(where: Searchable, folder: Path, look_in: tuple[Path, ...], progress: Progress) -> Identified:
    config = read_start(folder / ADAPTER_CONFIG, MAX_CONFIG + 1)
    found = revisions_of(where, folder, progress)
    known = {
        "kind": "adapter",
        "folder": str(folder),
        "trained_on": trained_on(config),
        "bases": found.bases,
        "published": tuple(path.reference for path, _ in found.same),
        "near": () if found.same else found.near,
        "retracted": found.retracted,
    }
    there = trained_folder(config, folder) or (moved_folder(config, look_in) if look_in else None)
    if there is None:
        reason = "the folder that it was trained on is not there; --look-in DIR gives folders to look for it in"
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


def _model(where: Searchable, folder: Path, weights: Path, progress: Progress) -> Identified:
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
    """What was merged: the links that add, after the full fine-tune that they go on, if there is one."""
    return tuple(link.reference for link in path.links[max(0, path.dead - 1) :])
