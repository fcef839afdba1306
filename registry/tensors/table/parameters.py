"""What a parameter of the running model is in the files: a tensor, runs of rows, or the matrices of experts.

And which names are one parameter, since their weight is tied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol


class Tied(Protocol):
    """A module that may share its weight with others (`registry.tensors.table.targets.Target`)."""

    @property
    def module(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def tensor(self) -> str | None: ...
    @property
    def tie(self) -> str | None: ...


def joined(groups: Iterable[Sequence[str]]) -> list[list[str]]:
    """Groups that share a member, joined; in the order of first mention."""
    found: list[list[str]] = []
    for names in groups:
        touching = [group for group in found if any(name in group for name in names)]
        merged = list(dict.fromkeys([*(name for group in touching for name in group), *names]))
        found = [group for group in found if group not in touching]
        found.append(merged)
    return found


def tie_groups(targets: Mapping[str, Tied]) -> dict[str, tuple[str, ...]]:
    """Module -> the modules that share its weight, the one that holds it first, for all that are tied."""

    def holders_first(module: str) -> tuple[bool, bool, str]:
        return (targets[module].tensor is None, targets[module].kind != "embedding", module)

    pairs = ((one.module, one.tie) for one in targets.values() if one.tie is not None)
    groups = (tuple(sorted(group, key=holders_first)) for group in joined(pairs))
    return {module: group for group in groups for module in group}


def tied_parameters(ties: Mapping[str, str | None] | None, targets: Mapping[str, Tied]) -> dict[str, str]:
    """`TargetTable.ties` without the weights of modules, which `Target.tie` gives: these have changes of their own."""
    weights = {f"{one.module}.weight" for one in targets.values() if one.tie is not None}
    return {name: holder for name, holder in (ties or {}).items() if holder and name not in weights}


AS_STORED: Final = (1, 1)


@dataclass(frozen=True, order=True)
class Run:
    """Rows ``first`` to ``first + rows`` of a file tensor that is seen as a matrix.

    With a `grid` (a, b) they come in groups of a * b, each stored as a rows of b and meant as b rows of a.
    """

    tensor: str
    first: int
    rows: int
    grid: tuple[int, int] = AS_STORED

    @property
    def in_order(self) -> bool:
        """Whether the parameter has the rows in the order in which they are stored."""
        return 1 in self.grid

    @property
    def group(self) -> int:
        """Rows that change places among themselves only."""
        return 1 if self.in_order else self.grid[0] * self.grid[1]

    def stored(self, row: int) -> int:
        """Where in the run the parameter's row is stored; both are counted from the run's first."""
        if self.in_order:
            return row
        a, b = self.grid
        group, (j, i) = row // self.group, divmod(row % self.group, a)
        return group * self.group + i * b + j

    def meant(self, stored: int) -> int:
        """The parameter's row that is in row ``stored`` of the tensor."""
        return Run(self.tensor, self.first, self.rows, self.grid[::-1]).stored(stored)

    def cut(self, start: int, stop: int) -> Run | None:
        """The run of the parameter's rows ``start`` to ``stop`` of this one; None where it is none."""
        if start == 0 and stop == self.rows:
            return self
        return Run(self.tensor, self.first + start, stop - start) if self.in_order else None


@dataclass(frozen=True)
class Piece:
    """Where some output features of one expert of a fused parameter lie in the files: one whole matrix of a tensor.

    ``matrix`` counts the matrices of a tensor of three dimensions, (experts, rows, columns); 0 for a tensor of two.
    """

    tensor: str
    expert: int
    out: tuple[int, int]  # output features of the expert's matrix that it holds
    matrix: int = 0
    transposed: bool = False  # stored (in, out)


@dataclass(frozen=True)
class FusedParameter:
    """A parameter of the running model that holds one matrix an expert (``target_parameters``).

    ``pieces`` is empty where the files keep it in a form that is not followed.
    """

    name: str  # gate_up_proj
    experts: int
    out_features: int
    in_features: int
    transposed: bool  # the running model keeps (experts, in, out) instead of (experts, out, in)
    pieces: tuple[Piece, ...] = ()  # by expert, then by output feature; together they cover all


@dataclass(frozen=True)
class FileParameter:
    """A parameter or buffer of the running model that the files hold: one tensor as it is, or runs of rows."""

    tensor: str  # where it has runs, its own name
    shape: tuple[int, ...]
    runs: tuple[Run, ...] = ()  # where transformers cuts, joins or reorders rows on loading


def fused_document(parameter: FusedParameter) -> dict[str, Any]:
    """A list for each piece: a base has tens of thousands of them."""
    return {
        "name": parameter.name,
        "experts": parameter.experts,
        "out_features": parameter.out_features,
        "in_features": parameter.in_features,
        "transposed": parameter.transposed,
        "pieces": [[held.tensor, held.expert, *held.out, held.matrix, held.transposed] for held in parameter.pieces],
    }


def fused_from(document: Mapping[str, Any]) -> FusedParameter:
    """Read what `fused_document` wrote."""
    pieces = (
        Piece(tensor, expert, (first, stop), matrix, transposed)
        for tensor, expert, first, stop, matrix, transposed in document["pieces"]
    )
    return FusedParameter(**{**document, "pieces": tuple(pieces)})


def runs_document(held: FileParameter) -> list[Any]:
    """Shape and runs of a parameter that has runs."""
    return [list(held.shape), *([run.tensor, run.first, run.rows, *run.grid] for run in held.runs)]


def runs_from(name: str, document: Sequence[Any]) -> FileParameter:
    """Read what `runs_document` wrote."""
    shape, *runs = document
    found = (Run(tensor, first, rows, (a, b)) for tensor, first, rows, a, b in runs)
    return FileParameter(name, tuple(shape), tuple(found))
