"""The files of a combination, computed from its sources when they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.schemas import Truncation
from registry.services.artifacts.bound import bound_links
from registry.services.artifacts.inputs import Inputs
from registry.services.combining.chosen import Chosen
from registry.services.deployment import Deployment
from registry.tensors.analysis.statistics import delta_statistics
from registry.tensors.artifacts.artifact import ArtifactFile
from registry.tensors.composed.combined import WeighedPath, combined
from registry.tensors.path.origins import BaseTensors
from registry.tensors.path.programs import BoundLink
from registry.tensors.table.targets import TargetTable

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
    """How the adapter is to be loaded, where the sources agree."""
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
