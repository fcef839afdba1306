"""What differs between two revisions: the answer of ``diff``; and their deltas beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Final, Literal

from registry.schemas.form import Schema
from registry.schemas.frames import blocks_html, frame
from registry.schemas.statistics import ChangedHow, OtherChange
from registry.schemas.tree import FileEntry, LineageEntry, RevisionSummary, TargetGroup
from registry.schemas.views import delta_matrix as delta_matrix_line
from registry.schemas.views import deltas as deltas_line
from registry.schemas.views import file_text, modules_text, nothing_compared, nothing_paired, sentences_html

if TYPE_CHECKING:
    import pandas


class ValueDifference(Schema):
    """A named value that differs; ``in_a`` and ``in_b`` say on which side there is one, which may be null."""

    name: str
    a: object = None
    b: object = None
    in_a: bool = True
    in_b: bool = True


class MetricDifference(Schema):
    """A metric that differs, or that only one has."""

    name: str
    a: float | None
    b: float | None
    difference: float | None  # b - a, if both have it


class TargetDifference(Schema):
    """Target modules with one leaf name whose count, ranks or scalings differ, or that only one has."""

    name: str
    a: TargetGroup | None
    b: TargetGroup | None


class FileDifference(Schema):
    """A file that differs, or that only one has."""

    path: str
    a: FileEntry | None
    b: FileEntry | None


class LineageDifference(Schema):
    """Where two lineages part."""

    common: LineageEntry | None  # the last that both have: a revision or the base model; None: other base models
    a: tuple[LineageEntry, ...]  # what follows it, up to the revision itself; nothing if that is the common one
    b: tuple[LineageEntry, ...]
    pinned: tuple[ValueDifference, ...]  # adapters above that both have, by path, pinned to other revisions


class DeltaFigures(Schema):
    """Two deltas of one matrix, or of several as the blocks of a block-diagonal one; None where a figure is 0 / 0."""

    frobenius_a: float
    frobenius_b: float
    cosine: float | None  # 1: the same direction, 0: orthogonal, -1: opposite
    energy_ratio: float | None  # |a + b|^2 / (|a|^2 + |b|^2): above 1 they pile up, below 1 they cancel
    undone: float | None  # -<a, b> / |d|^2, with d as `Deltas.undone_of` says: the share that the other takes back
    row_overlap: float | None  # mean squared cosine of the angles: 1 if the smaller row space is in the larger one
    column_overlap: float | None


class ExpertDifference(DeltaFigures):
    """Two deltas of one expert."""

    expert: int
    row_angles: tuple[float, ...]  # between the row spaces, smallest first, in radians
    column_angles: tuple[float, ...]


class ModuleDifference(DeltaFigures):
    """Two deltas of one module, of a bias, or of a parameter of experts with all of its experts together."""

    module: str  # as the base model names it
    kind: str  # what follows the layer in its name
    depth: int | None  # the layer
    scaled: bool  # a side is DoRA: what is compared is the part that is added
    replaced: bool  # a side replaced values too, which the figures leave out
    row_angles: tuple[float, ...] = ()  # of experts none: each has its own
    column_angles: tuple[float, ...] = ()
    experts: tuple[ExpertDifference, ...] = ()


class GroupDifference(DeltaFigures):
    """Two deltas of all modules of one kind, or of one depth."""

    name: str
    modules: int


class OtherDifference(Schema):
    """What a side does that is no sum of products, so that no figure has it; None: this side does nothing there."""

    name: str  # module or parameter
    a: ChangedHow | Literal["added to"] | None = None
    b: ChangedHow | Literal["added to"] | None = None


class ComparedDelta(Schema):
    """What is compared on one side: the change from one revision, or the base model, to another."""

    reference: str
    since: str


class Deltas(DeltaFigures):
    """The deltas of two revisions beside each other: what each is since the last revision that both have.

    Of a revision and one of its ancestors: what the ancestor is since the base model, beside what followed it. Of a
    revision and itself: its own link, twice.
    """

    a: ComparedDelta
    b: ComparedDelta
    undone_of: Literal["a", "b"]  # the ancestor, if one side is; else a
    modules: tuple[ModuleDifference, ...]
    kinds: tuple[GroupDifference, ...]
    depths: tuple[GroupDifference, ...]
    others: tuple[OtherDifference, ...]

    def __repr__(self) -> str:
        return deltas_line(self)

    def rows(self) -> Iterator[dict[str, object]]:
        """A row for each module by the names of `DELTA_COLUMNS`; experts have their own."""
        for module in self.modules:
            whole = module.model_dump(exclude={"experts"}) | {"expert": None}
            for row in (whole, *(whole | expert.model_dump() for expert in module.experts)):
                smallest = {name: next(iter(row[f"{name}s"]), None) for name in ("row_angle", "column_angle")}
                yield {column: (row | smallest)[column] for column in DELTA_COLUMNS}

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame.

        Raises:
            UnavailableError: ``missing_package``, pandas is not installed.
        """
        return frame(list(self.rows()), DELTA_COLUMNS)

    def _repr_html_(self) -> str:
        from registry.schemas.comparisons import deltas
        from registry.schemas.heat_maps import modules_map, picture

        return blocks_html(deltas(self)) + sentences_html(nothing_compared(self)) + picture(modules_map(self))


DELTA_COLUMNS: Final = (
    "module", "kind", "depth", "expert", "scaled", "replaced", "frobenius_a", "frobenius_b", "cosine", "energy_ratio",
    "undone", "row_overlap", "column_overlap", "row_angle", "column_angle",
)  # fmt: skip
"""The columns of a table of deltas, in this order; the angles are the smallest ones."""


class ChildDelta(Schema):
    """What the current revision of a child added to its parent."""

    reference: str
    parent: str
    frobenius: float
    scaled: bool  # DoRA: the figures are those of the part that is added
    others: tuple[OtherChange, ...]  # what it changed by no sum of products, so that no figure has it


class DeltaMatrix(Schema):
    """Answer of ``diff_children``: the deltas of all pairs of children of a path, by the order of ``children``."""

    path: str
    children: tuple[ChildDelta, ...]  # by path
    cosine: tuple[tuple[float | None, ...], ...]  # None if one of them is zero
    energy_ratio: tuple[tuple[float | None, ...], ...]

    def __repr__(self) -> str:
        return delta_matrix_line(self)

    def rows(self) -> Iterator[dict[str, object]]:
        """A row for each pair by the names of `MATRIX_COLUMNS`."""
        for i, j in combinations(range(len(self.children)), 2):
            a, b = self.children[i], self.children[j]
            values = (a.reference, b.reference, a.frobenius, b.frobenius, self.cosine[i][j], self.energy_ratio[i][j])
            yield dict(zip(MATRIX_COLUMNS, values, strict=True))

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame.

        Raises:
            UnavailableError: ``missing_package``, pandas is not installed.
        """
        return frame(list(self.rows()), MATRIX_COLUMNS)

    def _repr_html_(self) -> str:
        from registry.schemas.comparisons import delta_matrix
        from registry.schemas.heat_maps import children_map, picture

        return blocks_html(delta_matrix(self)) + sentences_html(nothing_paired(self)) + picture(children_map(self))


MATRIX_COLUMNS: Final = ("a", "b", "frobenius_a", "frobenius_b", "cosine", "energy_ratio")
"""The columns of a table of pairs, in this order."""


class Difference(Schema):
    """Answer of ``diff``: what differs from a to b; empty where nothing does."""

    a: RevisionSummary
    b: RevisionSummary
    identical: bool  # nothing differs but their names, numbers, authors and times
    bases: tuple[LineageEntry, ...]  # the base models of both, if they are not the same
    about: tuple[ValueDifference, ...]  # message, tags, rank, parameters, size, parent, source
    config: tuple[ValueDifference, ...]
    """Fields of adapter_config.json, or of config.json where both are exact; of nested ones ``rank_pattern.NAME``."""
    targets: tuple[TargetDifference, ...]
    metrics: tuple[MetricDifference, ...]
    annotations: tuple[ValueDifference, ...]
    files: tuple[FileDifference, ...]
    lineage: LineageDifference
    deltas: Deltas | None = None  # if they were requested

    def rows(self) -> Iterator[dict[str, object]]:
        """A row for each difference by the names of `DIFFERENCE_COLUMNS`; None if a side has no such thing."""
        for entry, side in ((entry, side) for side, entry in enumerate(self.bases)):
            yield _row("base", entry.reference, *_on(side, entry.digest))
        for section in ("about", "config", "annotations"):
            for value in getattr(self, section):
                yield _row(section, value.name, value.a if value.in_a else None, value.b if value.in_b else None)
        yield from (_row("targets", one.name, modules_text(one.a), modules_text(one.b)) for one in self.targets)
        yield from (_row("metrics", one.name, one.a, one.b) for one in self.metrics)
        yield from (_row("files", one.path, file_text(one.a), file_text(one.b)) for one in self.files)
        for side, links in enumerate((self.lineage.a, self.lineage.b)):
            yield from (_row("lineage", entry.reference, *_on(side, entry.digest)) for entry in links)
        yield from (_row("lineage", f"pinned {pin.name}", pin.a, pin.b) for pin in self.lineage.pinned)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a data frame; the deltas, if they were requested, are one of their own.

        Raises:
            UnavailableError: ``missing_package``, pandas is not installed.
        """
        return frame(list(self.rows()), DIFFERENCE_COLUMNS)

    def _repr_html_(self) -> str:
        """Tables, in a notebook; of deltas with a picture."""
        from registry.schemas.comparisons import difference

        without = self.model_copy(update={"deltas": None})
        return blocks_html(difference(without)) + ("" if self.deltas is None else self.deltas._repr_html_())


DIFFERENCE_COLUMNS: Final = ("section", "name", "a", "b")
"""The columns of a table of differences, in this order."""


def _row(section: str, name: str, a: object, b: object) -> dict[str, object]:
    return dict(zip(DIFFERENCE_COLUMNS, (section, name, a, b), strict=True))


def _on(side: int, value: object) -> tuple[object, object]:
    return (None, value) if side else (value, None)
