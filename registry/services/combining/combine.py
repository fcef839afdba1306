"""Publishing the weighted sum of some revisions, and combining again what was published.

The sum is made from the factors, when its files are read, and checked as any adapter is. What a published combination
names as its sources has to give what is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import links as link_rows
from registry.digest import PREFIX
from registry.errors import InvalidAdapterError, UsageError
from registry.files.header import read_header
from registry.files.source import BytesSource, read_range
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.operations.publication import Labels
from registry.progress import SILENT, Progress
from registry.reference import Path, Reference
from registry.schemas import Truncation
from registry.schemas.artifacts import ReplayedCombination, check_ranks
from registry.schemas.publishing import Combined, CombinedSource, CombineRequest, Replayed, ReplayRequest
from registry.services.artifacts.load import path_of
from registry.services.combining.sources import Chosen, choose, chosen_again
from registry.services.deployment import Deployment
from registry.services.intake.intake import Intake
from registry.services.publishing.candidates import Candidate, check_draft
from registry.services.publishing.draft import Draft, Files, Said
from registry.services.publishing.publish import publish_draft
from registry.tensors.analysis.statistics import delta_statistics
from registry.tensors.arithmetic.streamed import Watch
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.composed.combined import WeighedPath, combined
from registry.tensors.lineage.bound import bind_link, bound_links
from registry.tensors.lineage.inputs import Inputs
from registry.tensors.lineage.paths import Link, LoadedPath
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink
from registry.tensors.table.targets import TargetTable
from registry.transfer.publish_request import Head

DTYPE = "F32"
"""Of all tensors of a combination, whatever its sources have."""


@dataclass(frozen=True)
class Made:
    """A combination as files, with the paths that it is made of."""

    files: Mapping[str, ArtifactFile]  # adapter_config.json and adapter_model.safetensors
    truncation: Truncation | None
    notices: tuple[str, ...]
    above: Sequence[BoundLink]
    paths: Sequence[WeighedPath]
    table: TargetTable

    @property
    def config(self) -> bytes:
        """The bytes of adapter_config.json."""
        return self.files[ADAPTER_CONFIG].read()

    @property
    def weights(self) -> ArtifactFile:
        """adapter_model.safetensors."""
        return self.files[ADAPTER_WEIGHTS]

    @property
    def header(self) -> bytes:
        """The first bytes of adapter_model.safetensors, up to the first tensor."""
        assert self.weights.header is not None, "a file of tensors has a header"
        return self.weights.read(0, self.weights.header.size)

    def energies(self) -> tuple[float, tuple[float, ...]]:
        """Norms ||D||_F of what all sources add together, and of what each adds, by the weights."""
        since = len(self.above)
        each = tuple(
            delta_statistics([*self.above, *path.weighed], self.table, since=since).frobenius for path in self.paths
        )
        links = [link for path in self.paths for link in path.weighed]
        return delta_statistics([*self.above, *links], self.table, since=since).frobenius, each


def make(deployment: Deployment, chosen: Chosen, opened: ExitStack) -> Made:
    """Lay the files of a combination out; ranks that depend on values are found here.

    Raises:
        InvalidAdapterError: ``not_combinable`` or ``not_composable``; see `registry.tensors.composed.combined`.
        UsageError, AccuracyError: the options of truncation.
    """
    depth = len(chosen.over.links)
    inputs = Inputs(deployment.artifact_blobs, chosen.sources[0].path, opened)
    above = bound_links(inputs, chosen.sources[0].path.links[:depth])
    paths = []
    for one in chosen.sources:
        own = bound_links(Inputs(deployment.artifact_blobs, one.path, opened), one.path.links[depth:])
        paths.append(WeighedPath(one.path.reference, tuple(own), one.weight))
    base = BaseTensors(inputs.base_weights().tensors)
    composition = combined(above, paths, base, inputs.table)
    truncation = None
    if chosen.rank is not None or chosen.max_error is not None:
        truncation = composition.truncate(rank=chosen.rank, max_error=chosen.max_error, dtype=DTYPE)
    files = composition.files(dtype=DTYPE, base_repo=None, hints=_hints(paths))
    return Made(
        {file.path: file for file in files}, truncation, tuple(composition.notices), above, tuple(paths), inputs.table
    )


def _hints(paths: Sequence[WeighedPath]) -> dict[str, Any]:
    """How the adapter is to be loaded, if the sources agree."""
    found: dict[str, Any] = {}
    for key in ("task_type", "auto_mapping"):
        said = [path.links[-1].checkpoint.config.document.get(key) for path in paths]
        if said[0] is not None and all(one == said[0] for one in said):
            found[key] = said[0]
    return found


def watched(file: ArtifactFile, watch: Any) -> Iterator[memoryview]:
    """The bytes of a file, each shown to ``watch`` with its place before it comes out."""
    at = 0
    for chunk in file.chunks():
        watch(at, chunk)
        at += len(chunk)
        yield chunk


def combine(deployment: Deployment, request: CombineRequest, progress: Progress) -> Combined:
    """Combine revisions; see `registry.operations.registry.Registry.combine`. The right to publish was checked before.

    Raises:
        What `registry.services.combining.sources.choose` and `registry.services.combining.combine.make` raise, and what
        publishing the files raises.
    """
    check_ranks(request.rank, request.max_error)
    with deployment.read() as session:
        chosen = choose(session, request)
    with ExitStack() as opened:
        made = make(deployment, chosen, opened)
        draft = _draft(request, chosen, made)
        candidate = check_draft(deployment, draft)
        report = _combined_so(request, chosen, made, candidate)
        if request.dry_run:
            return report

        def take(intake: Intake, _candidate: Candidate, watch: Watch) -> Files:
            progress.begin("Combining", made.weights.size)
            return {
                ADAPTER_CONFIG: intake.made(iter([memoryview(made.config)])),
                ADAPTER_WEIGHTS: intake.made(watched(made.weights, watch)),
            }

        published = publish_draft(deployment, draft, take, progress)
    return report.model_copy(update={"revision": published.revision, "created": published.created})


def _draft(request: CombineRequest, chosen: Chosen, made: Made) -> Draft:
    path, over = Path.parse(request.path), chosen.over
    parent = over.base.name if not over.links else f"{path.parent}@{over.tip}"  # whatever is newer by then
    count = len(chosen.sources)
    # No names of sources: the message is shown to tokens that may not see them.
    message = request.message or f"Combined of {count} revision{'' if count == 1 else 's'}, not trained."
    head = Head(ADAPTER_WEIGHTS, made.header, made.weights.size, InvalidAdapterError)
    return Draft(
        path,
        Said(parent),
        Labels.checked(message, {}, request.tags, {}),
        made.config,
        head,
        combination=chosen.combination,
    )


def _combined_so(request: CombineRequest, chosen: Chosen, made: Made, candidate: Candidate) -> Combined:
    whole, each = made.energies()
    apart = sum(one * one for one in each)
    return Combined(
        path=request.path,
        over=candidate.parent.reference,
        over_digest=candidate.parent.digest,
        sources=tuple(
            CombinedSource(reference=one.path.reference, digest=one.path.tip, weight=one.weight, frobenius=norm)
            for one, norm in zip(chosen.sources, each, strict=True)
        ),
        frobenius=whole,
        energy_ratio=whole * whole / apart if apart else None,
        rank=candidate.checkpoint.rank,
        parameters=candidate.checkpoint.parameters,
        size=made.weights.size,
        truncation=made.truncation,
        notices=made.notices,
    )


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
