"""Combining again: what a published combination says that it is made of has to give what is stored."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import links as link_rows
from registry.digest import PREFIX
from registry.errors import InvalidAdapterError, UsageError
from registry.files.header import read_header
from registry.files.source import BytesSource, read_range
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.progress import SILENT, Progress
from registry.reference import Reference
from registry.schemas.artifacts import ReplayedCombination
from registry.schemas.publishing import Replayed, ReplayRequest
from registry.services.artifacts.bound import bind_link
from registry.services.artifacts.load import path_of
from registry.services.combining.chosen import Chosen, chosen_again
from registry.services.combining.made import Made, make
from registry.services.deployment import Deployment
from registry.services.lineage import Link, LoadedPath
from registry.tensors.analysis.statistics import delta_statistics
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.path.programs import BoundLink

_CLOSE: Final = 1e-5
"""Up to here, relative to the norm of the delta, it may be the arithmetic of another machine."""


def replay(deployment: Deployment, request: ReplayRequest, progress: Progress) -> Replayed:
    """Combine again; see `registry.operations.registry.Registry.replay`.

    Raises:
        NotFoundError: the reference names nothing.
        RetractedError: it contains a retracted revision.
        UsageError: it names a base model.
    """
    reference = Reference.parse(request.ref)
    with deployment.read() as session:
        base = base_rows.get(session, reference.path.base)
        if reference.path.is_base:
            raise UsageError(f"{request.ref} is a base model: the reference of an adapter is expected.")
        found = link_rows.links(session, reference)
        path = path_of(base, found)
        each = [(at, chosen_again(session, found[: at + 1])) for at in range(len(found))]
        chosen = [(at, again) for at, again in each if again is not None]
    progress.begin("Combining again", sum(path.links[at].file(ADAPTER_WEIGHTS).size for at, _ in chosen))
    done = []
    for at, again in chosen:
        done.append(_replayed(deployment, replace(path, links=path.links[: at + 1]), again, progress))
    return Replayed(reference=path.reference, combinations=tuple(done))


def _replayed(deployment: Deployment, path: LoadedPath, chosen: Chosen, progress: Progress) -> ReplayedCombination:
    link = path.links[-1]
    with ExitStack() as opened:
        made = make(deployment, chosen, opened)
        if all(_digest(file, progress) == link.file(name).digest for name, file in made.files.items()):
            return ReplayedCombination(reference=link.reference, state="same")
        stored = bind_link(deployment.artifact_blobs, link, path, opened)
        apart = _apart(made, stored) if _same_otherwise(made, stored, link) else None
    if apart is None:
        return ReplayedCombination(reference=link.reference, state="different")
    close = apart <= _CLOSE
    return ReplayedCombination(
        reference=link.reference, state="close" if close else "different", relative_difference=apart
    )


def _digest(file: ArtifactFile, progress: Progress) -> str:
    hashed = hashlib.sha256()
    for chunk in file.chunks():
        hashed.update(chunk)
        progress.advance(len(chunk) if file.path == ADAPTER_WEIGHTS else 0)
    return PREFIX + hashed.hexdigest()


def _same_otherwise(made: Made, stored: BoundLink, link: Link) -> bool:
    """Whether all but the numbers of factors is equal: configuration, names, shapes, and values that are replaced."""
    header = read_header(stored.source, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
    own = made.weights.header
    if (
        own is None
        or own.entries != header.entries
        or _digest(made.files[ADAPTER_CONFIG], SILENT) != link.file(ADAPTER_CONFIG).digest
    ):
        return False
    factors = {name for name in own.entries if ".lora_" in name}
    return all(
        made.weights.read(entry.start, entry.stop) == read_range(stored.source, entry.start, entry.stop)
        for name, entry in own.entries.items()
        if name not in factors
    )


def _apart(made: Made, stored: BoundLink) -> float:
    """The norm of what the two deltas differ by, relative to that of the stored one."""
    # in memory: figures are made on the lanes that the bytes of the file would have to be made on
    source = BytesSource(made.weights.read(), ADAPTER_WEIGHTS)
    header = read_header(source, what=ADAPTER_WEIGHTS, error=InvalidAdapterError)
    again = BoundLink(read_checkpoint(parse_config(made.config), header.entries, made.table), source, -1.0)
    since = len(made.above)
    whole = delta_statistics([*made.above, stored], made.table, since=since).frobenius
    apart = delta_statistics([*made.above, stored, again], made.table, since=since).frobenius
    return apart / whole if whole else float(apart > 0)
