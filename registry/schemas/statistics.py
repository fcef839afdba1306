"""What links did to the base model, in figures of their deltas: the answer of ``stats``."""

from __future__ import annotations

from typing import Literal

from registry.schemas.form import Schema

StatisticName = Literal[
    "energy", "frobenius", "spectral", "stable_rank", "effective_rank", "rank90", "rank95", "rank99",
    "relative_frobenius", "relative_spectral",
]  # fmt: skip
"""The names of the figures: in JSON, CSV, search and docs/statistics.md, which has the formulas."""


class Figures(Schema):
    """Figures of one delta, or of several together as the blocks of one block-diagonal matrix."""

    rank: int  # of the factors: the sum of the links' ranks; of several, the largest
    energy: float  # squared Frobenius norm
    frobenius: float
    spectral: float
    stable_rank: float  # energy / spectral^2; of several, the mean weighted by energy
    effective_rank: float  # exp of the entropy of the energy's shares; of several, the mean weighted by energy
    rank90: int  # the smallest rank, of several the smallest cap, that holds 90 % of the energy
    rank95: int
    rank99: int
    relative_frobenius: float | None = None  # to the Frobenius norm of the base's weights; None where not known
    relative_spectral: float | None = None


class ExpertStatistics(Figures):
    """The delta of one expert."""

    expert: int


class ModuleStatistics(Figures):
    """The delta of one module, of a bias, or of a parameter of experts with all of its experts together."""

    module: str  # as the base model names it
    kind: str  # the last part of its name
    depth: int | None  # the first number in its name: the layer
    scaled: bool  # DoRA: the figures are those of the part that is added, before the weight is rescaled
    replaced: bool  # values were replaced too, which the figures leave out
    experts: tuple[ExpertStatistics, ...] = ()


class GroupStatistics(Schema):
    """The energy of all modules of one kind, or of one depth."""

    name: str
    modules: int
    energy: float
    share: float  # of all energy


class OtherChange(Schema):
    """A change that is no product of factors, and that no figure has."""

    name: str  # module or parameter
    how: Literal["replaced", "rows replaced", "rescaled and added to"]


class DeltaStatistics(Figures):
    """The deltas of all modules, of one link or of a path, and of each."""

    modules: tuple[ModuleStatistics, ...]
    kinds: tuple[GroupStatistics, ...]
    depths: tuple[GroupStatistics, ...]
    energy_by_rank: tuple[float, ...]  # share of the energy that a cap of 1, 2, ... for every module holds
    others: tuple[OtherChange, ...]


class LinkStatistics(Schema):
    """What one link added to what it was trained on."""

    reference: str
    delta: DeltaStatistics


class Statistics(Schema):
    """Answer of ``stats``: each link that the token sees, and the whole path."""

    reference: str
    since: str  # the base model or the ancestor that the path begins at
    links: tuple[LinkStatistics, ...]  # root first
    path: DeltaStatistics
