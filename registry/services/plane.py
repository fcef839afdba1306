"""The plane of a base model's adapters: which share of its weights each touches, and how many directions matter."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from registry.catalogue.tree import bases, statistics
from registry.figures import number
from registry.plots.charts import Axis
from registry.plots.scatter import Dot, Reference, Scatter
from registry.services.artifacts.load import path_of
from registry.services.deployment import Deployment
from registry.tensors.lineage.paths import target_table
from registry.tensors.table.targets import TargetTable

MOST: Final = 20_000


@dataclass(frozen=True)
class Place:
    """The newest revision of an adapter in the plane."""

    path: str
    share: float
    """Of the base model's weights, those of the modules that its pairs are for."""
    effective_rank: float


@dataclass(frozen=True)
class Plane:
    """Where the adapters of a base model are.

    Args:
        base: the base model.
        places: of the adapters whose statistics are stored.
        missing: adapters, in the order of the tree, whose statistics are not computed yet.
        full_rank: the largest rank that a change of a weight can have, as full fine-tuning may.
    """

    base: str
    places: tuple[Place, ...]
    missing: tuple[str, ...]
    full_rank: int

    def scatter(self, at: str, href: Callable[[str], str]) -> Scatter:
        """The plane as a drawing, in which ``at`` is marked; ``href`` is the page of a path."""
        dots = [
            Dot(
                x=one.effective_rank,
                y=one.share,
                label=one.path.removeprefix(f"{self.base}/"),
                href=href(one.path),
                told=f"{one.path}: effective rank {number(one.effective_rank)}, {_percent(one.share)} of the weights",
                shade=4,
                current=one.path == at,
            )
            for one in self.places
        ]
        return Scatter(
            title=f"The adapters of {self.base}",
            about="Each adapter by the effective rank of what it changed, and by the share of weights it touches.",
            x=Axis("effective rank of its delta", low=1.0, logarithmic=True),
            y=Axis("share of the weights it touches", _percent, low=0.0, high=1.0),
            dots=dots,
            what="adapters",
            reference=Reference(float(self.full_rank), 1.0, "full fine-tuning"),
        )


def plane(deployment: Deployment, name: str) -> Plane:
    """The plane of a base model, from stored statistics: nothing is computed for it.

    Raises:
        NotFoundError: the base model does not exist.
    """
    with deployment.read() as session:
        base = bases.get(session, name)
    table = target_table(deployment.artifact_blobs, path_of(base, ()).base)
    with deployment.read() as session:
        found = statistics.touched(session, name, mean_sizes(table), MOST)
    total = max(1, base.parameters)
    return Plane(
        base=name,
        places=tuple(
            Place(one.path, min(1.0, one.weights / total), one.effective_rank)
            for one in found
            if one.effective_rank is not None
        ),
        missing=tuple(one.path for one in found if one.effective_rank is None),
        full_rank=max((min(target.out_features, target.in_features) for target in table.targets.values()), default=1),
    )


def mean_sizes(table: TargetTable) -> Mapping[str, float]:
    """How many weights a module has on average, by the last name of modules: those of one name differ in few models."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for module, target in table.targets.items():
        sizes[module.rpartition(".")[2]].append(math.prod(target.shape))
        for one in target.fused:
            sizes[one.name].append(one.experts * one.out_features * one.in_features)
    return {name: sum(several) / len(several) for name, several in sizes.items()}


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
