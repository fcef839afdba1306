"""What links did to the base model, in figures of their deltas: the answer of ``stats``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final, Literal, get_args

from pydantic import Field

from registry.schemas.artifacts import UnmeasuredTensor
from registry.schemas.form import Dtype, Schema
from registry.schemas.frames import blocks_html, frame
from registry.schemas.views import dense_statistics as dense_statistics_line
from registry.schemas.views import statistics as statistics_line

if TYPE_CHECKING:
    import pandas

StatisticName = Literal[
    "energy", "frobenius", "spectral", "stable_rank", "effective_rank", "rank90", "rank95", "rank99",
    "relative_frobenius", "relative_spectral", "relative_quantisation",
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
    relative_quantisation: Annotated[float | None, Field(exclude_if=lambda value: value is None)] = None
    """|W - dequant(Q(W))| / frobenius of the modules that were quantised in training; None where none is known."""


class ExpertStatistics(Figures):
    """The delta of one expert."""

    expert: int


class ModuleStatistics(Figures):
    """The delta of one module, of a bias, or of a parameter of experts with all of its experts together."""

    module: str  # as the base model names it
    kind: str  # what follows the layer in its name: self_attn.q_proj; the whole name without a layer
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


class EstimatedFigure(Schema):
    """A figure that is estimated from a sample, with the ends of its 99 % interval; all the same where it is exact."""

    value: float
    low: float
    high: float


class EstimatedFidelity(Schema):
    """What rounding would leave of a change (`registry.schemas.artifacts.FidelityFigures`); None where it is 0."""

    relative_error: EstimatedFigure | None
    unchanged_share: EstimatedFigure | None
    surviving_share: EstimatedFigure | None


class LinkFidelity(EstimatedFidelity):
    """Of the change of one link, against the weights that it was trained on."""

    reference: str


class PathFidelity(EstimatedFidelity):
    """Of the whole path against the base model, and of each link that the token sees."""

    dtype: Dtype  # that merged weights would have
    read: int  # bytes of the base's rows that were read
    links: tuple[LinkFidelity, ...]  # root first
    left_out: tuple[UnmeasuredTensor, ...]


class Statistics(Schema):
    """Answer of ``stats``: each link that the token sees, and the whole path."""

    reference: str
    since: str  # the base model or the ancestor that the path begins at
    links: tuple[LinkStatistics, ...]  # root first
    path: DeltaStatistics
    fidelity: Annotated[PathFidelity | None, Field(exclude_if=lambda value: value is None)] = None  # if asked for

    def __repr__(self) -> str:
        return statistics_line(self)

    def rows(self) -> Iterator[dict[str, object]]:
        """A row for each module of each link, then of the path, by the names of `COLUMNS`: experts have their own."""
        for link in self.links:
            yield from delta_rows(link.reference, link.delta)
        yield from delta_rows(f"{self.since}..{self.reference}", self.path)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame; ``delta`` is the link, or ``since..reference`` of the path.

        Raises:
            UnavailableError: ``missing_package``, pandas is not installed.
        """
        return frame(list(self.rows()), COLUMNS)

    def _repr_html_(self) -> str:
        from registry.schemas.comparisons import statistics
        from registry.schemas.heat_maps import path_map, picture

        return blocks_html(statistics(self)) + picture(path_map(self))


class MagnitudeRatios(Schema):
    """By how much one link with DoRA rescales the rows of a weight: m / |W + D|, a row each output feature."""

    link: int  # which link of the path, 1 is the first
    least: float
    mean: float
    most: float


class DenseMatrix(Figures):
    """The whole change of one matrix, whatever the links do to it; ``rank`` is that of the change."""

    module: str
    expert: int | None
    kind: str
    depth: int | None
    added: bool  # the change is a sum of products: these are the figures of its factors
    magnitudes: tuple[MagnitudeRatios, ...] = ()  # of links with DoRA, root first
    cosines: tuple[float, ...] = ()  # of each of the first left singular vectors of the tuned weight, see `intruders`
    intruders: int = 0  # how many of the cosines are below the threshold


class DenseStatistics(Figures):
    """Answer of ``stats --dense``: whole changes of the links together, which reads the base model's weights.

    ``cosines`` are, of each of the first `vectors` left singular vectors of a tuned weight, the largest absolute cosine
    with any left singular vector of the weight before: intruder dimensions are those below the threshold
    (arXiv:2410.21228).
    """

    reference: str
    since: str
    vectors: int
    threshold: float
    intruders: int
    matrices: tuple[DenseMatrix, ...]
    missing: tuple[str, ...]  # what is replaced and the base model lacks: it is no change of anything

    def __repr__(self) -> str:
        return dense_statistics_line(self)

    def rows(self) -> Iterator[dict[str, object]]:
        """A row for each matrix, by the names of `DENSE_COLUMNS`."""
        for one in self.matrices:
            row = one.model_dump(include=set(DENSE_COLUMNS))
            row["least_cosine"] = min(one.cosines, default=None)
            row["least_ratio"] = min((link.least for link in one.magnitudes), default=None)
            row["most_ratio"] = max((link.most for link in one.magnitudes), default=None)
            yield {column: row.get(column) for column in DENSE_COLUMNS}

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame.

        Raises:
            UnavailableError: ``missing_package``, pandas is not installed.
        """
        return frame(list(self.rows()), DENSE_COLUMNS)


DENSE_COLUMNS: Final = (
    "module", "kind", "depth", "expert", "added", "rank", *get_args(StatisticName), "least_ratio", "most_ratio",
    "intruders", "least_cosine",
)  # fmt: skip
"""The columns of a table of dense statistics, in this order."""


COLUMNS: Final = (
    "delta", "module", "kind", "depth", "expert", "scaled", "replaced", "rank", *get_args(StatisticName)
)  # fmt: skip
"""The columns of a table of statistics, in this order."""


def delta_rows(name: str, delta: DeltaStatistics) -> Iterator[dict[str, object]]:
    """A row for each module of a delta, by the names of `COLUMNS`: experts have their own."""
    for module in delta.modules:
        whole = module.model_dump(exclude={"experts"}) | {"delta": name, "expert": None}
        yield {column: whole.get(column) for column in COLUMNS}
        for expert in module.experts:
            yield {column: {**whole, **expert.model_dump()}.get(column) for column in COLUMNS}
