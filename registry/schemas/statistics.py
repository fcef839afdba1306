"""What links did to the base model, in figures of their deltas: the answer of ``stats``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal, get_args

from registry.schemas.form import Schema
from registry.schemas.frames import frame
from registry.schemas.notebooks import statistics_table
from registry.schemas.views import statistics as statistics_line

if TYPE_CHECKING:
    import pandas

StatisticName = Literal[
    "energy", "frobenius", "spectral", "stable_rank", "effective_rank", "rank90", "rank95", "rank99",
    "relative_frobenius", "relative_spectral",
]  # fmt: skip
"""The names of the figures: in JSON, CSV, search and docs/statistics.md, which has the formulas."""


ChangedHow = Literal["replaced", "rows replaced", "rescaled and added to"]
"""How a module or parameter is changed where its change is no product of factors."""


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
    kind: str  # what follows the layer in its name: self_attn.q_proj; the whole name where there is none
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
    how: ChangedHow


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

    def __repr__(self) -> str:
        return statistics_line(self)

    def rows(self) -> Iterator[dict[str, object]]:
        """A row for each module of each link, then of the path, by the names of `COLUMNS`: experts have their own."""
        for link in self.links:
            yield from _rows(link.reference, link.delta)
        yield from _rows(f"{self.since}..{self.reference}", self.path)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame; ``delta`` is the link, or ``since..reference`` of the path.

        Raises:
            UnavailableError: ``missing_package``, pandas is not installed.
        """
        return frame(list(self.rows()), COLUMNS)

    def _repr_html_(self) -> str:
        return statistics_table(self)


COLUMNS: Final = (
    "delta", "module", "kind", "depth", "expert", "scaled", "replaced", "rank", *get_args(StatisticName)
)  # fmt: skip
"""The columns of a table of statistics, in this order."""


def _rows(name: str, delta: DeltaStatistics) -> Iterator[dict[str, object]]:
    for module in delta.modules:
        whole = module.model_dump(exclude={"experts"}) | {"delta": name, "expert": None}
        yield {column: whole[column] for column in COLUMNS}
        for expert in module.experts:
            yield {column: {**whole, **expert.model_dump()}[column] for column in COLUMNS}
