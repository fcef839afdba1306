"""Which revisions on a base model some weights may be those of: by samples, which are stored with each revision.

The samples of revisions that have none yet are made here, a few at a time, so that a repeated request continues.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch

from registry.catalogue.changes import fingerprints
from registry.catalogue.changes.fingerprints import Searched
from registry.catalogue.tree import bases, links, revisions
from registry.catalogue.tree.bases import BaseRow
from registry.errors import InvalidAdapterError, NotFoundError, UsageError
from registry.progress import SILENT, Progress
from registry.reference import Reference
from registry.schemas.parents import NarrowRequest, NearPath, PathsLeft, WeightedLink
from registry.services.artifacts.load import path_to
from registry.services.deployment import Deployment
from registry.services.publishing.parent_folder import candidates_of
from registry.tensors.arithmetic.dtypes import FLOATS
from registry.tensors.arithmetic.threads import run_alone
from registry.tensors.comparison.fingerprint import (
    BaseSample,
    SampledValues,
    base_sample,
    fingerprint,
    is_of,
    replaced_fingerprint,
    replaces,
    sample_values,
    unpacked,
)
from registry.tensors.comparison.narrowing import Chain, Narrowed, narrow, narrow_links
from registry.tensors.lineage.inputs import base_weights, replaced_tensors
from registry.tensors.lineage.paths import LoadedPath
from registry.tensors.path.origins import BaseTensors

_AT_ONCE: Final = 32  # fingerprints that are stored at a time

log = logging.getLogger(__name__)


def narrow_paths(deployment: Deployment, request: NarrowRequest, progress: Progress) -> PathsLeft:
    """The paths on a base model that sampled weights may be those of.

    Raises:
        NotFoundError: the base model does not exist.
        UsageError: the samples are not as many as those of the base model.
    """
    with deployment.read() as session:
        row = bases.get(session, request.base)
        rows = fingerprints.searched(session, row.id)
        root = path_to(session, row, None)
    with ExitStack() as opened:
        ground = _Ground.of(deployment, row, root, opened)
        found = _sampled(request, ground.sample)
        if request.link is not None and not any(request.dtypes):  # nothing that it adds can be detected
            narrowed = Narrowed((), ())
        else:
            prints = ground.fingerprints(rows, progress)
            narrowed = run_alone(lambda: _narrowed(request, ground, ground.chains(rows, prints), found))
    left = narrowed.left
    if request.link is not None:
        with deployment.read() as session:
            having = fingerprints.with_weights(session, row.id, request.link)
        left = tuple(dict.fromkeys((*(one.reference for one in rows if one.id in having), *left)))
    near = tuple(NearPath(reference=one.name, distance=one.distance) for one in narrowed.nearest)
    sums = tuple(WeightedLink(reference=one.name, weight=one.weight, alike=one.alike) for one in narrowed.sum)
    return PathsLeft(left=left, near=near, searched=len(rows), sum=sums)


def sample_revision(deployment: Deployment, ref: str) -> None:
    """Make the samples of a revision, so that the first search does not have to; stored ones stay.

    Args:
        deployment: where it is published.
        ref: ``PATH@N``.

    Raises:
        NotFoundError: the revision does not exist.
    """
    with deployment.read() as session:
        reference = Reference.parse(ref)
        row = bases.get(session, reference.path.base)
        found = links.links(session, reference)
        root = path_to(session, row, None)
    above = tuple(link.revision.id for link in found)
    with ExitStack() as opened:
        _Ground.of(deployment, row, root, opened).fingerprints([Searched(above[-1], ref, above)], SILENT)


def _narrowed(request: NarrowRequest, ground: _Ground, chains: Iterator[Chain], found: SampledValues) -> Narrowed:
    if request.link is not None:
        return narrow_links(chains, found)
    return narrow(chains, found, ground.own, ground.sample)


def narrow_request(base: str, found: SampledValues, link: str | None = None) -> NarrowRequest:
    """Sampled weights as a request; ``link``: they are what an adapter adds, whose weights have this digest."""
    names = {dtype: name for name, dtype in FLOATS.items()}
    return NarrowRequest(
        base=base,
        values=found.values.numpy().astype("<f8").tobytes(),
        dtypes=tuple(None if dtype is None else names[dtype] for dtype in found.dtypes),
        link=link,
    )


def _sampled(request: NarrowRequest, sample: BaseSample) -> SampledValues:
    if len(request.values) != 8 * sample.elements or len(request.dtypes) != len(sample.tensors):
        raise UsageError(
            f"{sample.elements} samples of {len(sample.tensors)} tensors stand for {request.base}, but the request has "
            f"{len(request.values) // 8} of {len(request.dtypes)}."
        )
    unknown = [dtype for dtype in request.dtypes if dtype is not None and dtype not in FLOATS]
    if unknown:
        raise UsageError(f"The dtype {unknown[0]!r} is none of {', '.join(FLOATS)}.")
    values = torch.from_numpy(np.frombuffer(request.values, "<f8").astype(np.float64))
    dtypes = [None if dtype is None else FLOATS[dtype] for dtype in request.dtypes]
    for chosen, dtype in zip(sample.tensors, dtypes, strict=True):
        if dtype is None:
            values[sample.slices[chosen.tensor]] = torch.nan
    return SampledValues(values, dtypes)


@dataclass(frozen=True)
class _Ground:
    """A base model, and the samples that represent it."""

    deployment: Deployment
    row: BaseRow
    base: BaseTensors
    sample: BaseSample

    @classmethod
    def of(cls, deployment: Deployment, row: BaseRow, root: LoadedPath, opened: ExitStack) -> _Ground:
        base = BaseTensors(base_weights(deployment.artifact_blobs, root, opened).tensors)
        return cls(deployment, row, base, base_sample({name: entry for name, (_, entry) in base.tensors.items()}))

    @cached_property
    def own(self) -> SampledValues:
        """The base's own values, which are read once they are needed."""
        return sample_values(self.sample, self.base.tensors)

    def chains(self, rows: Sequence[Searched], prints: Mapping[int, bytes]) -> Iterator[Chain]:
        """The paths whose fingerprints are available, the base model first."""
        own = self.own.values.to(torch.float32)
        yield Chain(self.row.name, [own])
        states = _States(self.sample, prints, own, rows)
        for one in rows:
            found = states.after(one.above)
            if found is not None:
                yield Chain(one.reference, found)

    def fingerprints(self, rows: Sequence[Searched], progress: Progress) -> Mapping[int, bytes]:
        """Fingerprints of all revisions and of their ancestors; missing ones are made, and stored."""
        digest, keys = self.row.table_digest, {key for one in rows for key in one.above}
        with self.deployment.read() as session:
            there = fingerprints.kept(session, keys, digest)
        kept = {key: one for key, one in there.items() if is_of(one, self.sample)}
        missing = sorted(keys.difference(kept))
        if missing:
            progress.begin(f"Sampling the revisions on {self.row.name}", len(missing))
        for start in range(0, len(missing), _AT_ONCE):
            made: dict[int, bytes] = {}
            for key in missing[start : start + _AT_ONCE]:
                one = self._made(key)
                if one is not None:
                    made[key] = one
                progress.advance(1)
            self.deployment.change(lambda session, made=made: fingerprints.keep(session, made, digest))  # type: ignore[misc]
            kept |= made
        return kept

    def _made(self, key: int) -> bytes | None:
        """The fingerprint of a revision; None: it can't be used by the rules of this version, or was deleted."""
        try:
            with self.deployment.read_everything() as session:
                path = path_to(session, self.row, revisions.get(session, key), with_retracted=True)
            with ExitStack() as opened:
                return self._fingerprint(path, opened)
        except (InvalidAdapterError, NotFoundError) as problem:
            log.info("revision %d can't be searched: %s", key, problem)
            return None

    def _fingerprint(self, path: LoadedPath, opened: ExitStack) -> bytes:
        blobs = self.deployment.artifact_blobs
        if path.exact is None:
            programs = candidates_of(blobs, [path], opened)[0].programs
            return run_alone(lambda: fingerprint(programs, self.base, self.sample, self.own.values))
        model = BaseTensors(base_weights(blobs, path, opened).tensors)

        def values(tensors: Collection[str]) -> torch.Tensor:
            """The model's values in these tensors; frames of other tensors are not decoded."""
            there = {name: one for name, one in model.tensors.items() if name in tensors}
            return sample_values(self.sample, there).values

        if not path.live:
            replaced = replaced_tensors(blobs, path)
            return run_alone(lambda: replaced_fingerprint(self.sample, values(replaced), replaced))
        programs = candidates_of(blobs, [path], opened)[0].programs
        return run_alone(lambda: fingerprint(programs, model, self.sample, values(programs.placed())))


class _States:
    """What paths make of the elements that stand for their base model, after each link that counts."""

    def __init__(
        self, sample: BaseSample, prints: Mapping[int, bytes], own: torch.Tensor, rows: Sequence[Searched]
    ) -> None:
        self._sample, self._prints, self._own = sample, prints, own
        self._children = Counter(one.above[-2] for one in rows if len(one.above) > 1)
        self._shared: dict[tuple[int, ...], list[torch.Tensor] | None] = {}  # those that several continue from

    def after(self, keys: tuple[int, ...]) -> list[torch.Tensor] | None:
        """The values after each link, those of the model that they start from first; None: not all are known."""
        if not keys:
            return [self._own]
        if keys in self._shared:
            return self._shared[keys]
        found = self._made(keys)
        if self._children[keys[-1]]:
            self._shared[keys] = found
        return found

    def _made(self, keys: tuple[int, ...]) -> list[torch.Tensor] | None:
        kept = self._prints.get(keys[-1])
        if kept is None:
            return None
        if replaces(kept, self._sample):
            before: list[torch.Tensor] | None = []
            ground = self._own
        else:
            before = self.after(keys[:-1])
            ground = self._own if before is None else before[0]
        now = unpacked(kept, self._sample, ground)
        return None if before is None or now is None else [*before, now]
