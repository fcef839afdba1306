"""What truncation left out, per module and in total: the document of ``--report`` and of the receipt.

Every figure follows from the singular values of the deltas, so it is the error of the best pairs of these ranks
(Eckart and Young 1936), before the new factors are rounded to the dtype that they are written in.

The document:

``rank``, ``max_error``
    What was asked for; null where it was not.
``modules``
    One entry for each module, by name:
    ``module``; ``rank_before`` and ``rank_after``; ``energy``, the squared Frobenius norm of the delta;
    ``discarded``, the energy left out, so that its root is ||D - D'||_F; ``relative_frobenius``,
    ||D - D'||_F / ||D||_F; ``relative_spectral``, ||D - D'||_2 / ||D||_2; ``scaled``, true where the path has a DoRA
    link there: then D is diag(c) B A, whose error is that of the merged weight.
``total``
    The same over all deltas side by side, that is as the blocks of one block-diagonal matrix: energies add up, and the
    spectral norm is the largest of the modules'. ``parameters_before`` and ``parameters_after`` count factor elements.
``enough_for``
    By relative Frobenius error over all modules (``"0.01"``, ``"0.05"``, ``"0.1"``), the smallest ``--rank`` with which
    the error is no larger.

Zero deltas have no error: their relative errors are 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from registry.tensors.rank_choice import ModuleSpectrum, enough_rank, relative_error

ASKED_ERRORS: Final = (0.01, 0.05, 0.1)


@dataclass(frozen=True)
class ModuleTruncation:
    """What one module lost; the fields are those of the document."""

    module: str
    rank_before: int
    rank_after: int
    energy: float
    discarded: float
    relative_frobenius: float
    relative_spectral: float
    scaled: bool


@dataclass(frozen=True)
class TruncationTotal:
    """What all modules lost together; the fields are those of the document."""

    energy: float
    discarded: float
    relative_frobenius: float
    relative_spectral: float
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class TruncationReport:
    """What truncating a path lost."""

    rank: int | None
    max_error: float | None
    modules: tuple[ModuleTruncation, ...]  # by name
    total: TruncationTotal
    enough_for: tuple[tuple[float, int], ...]  # relative error -> smallest cap

    def document(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return {
            "rank": self.rank,
            "max_error": self.max_error,
            "modules": [asdict(module) for module in self.modules],
            "total": asdict(self.total),
            "enough_for": {f"{error:g}": rank for error, rank in self.enough_for},
        }


def report(
    modules: Sequence[ModuleSpectrum],
    ranks: Mapping[str, int],
    *,
    rank: int | None = None,
    max_error: float | None = None,
    scaled: frozenset[str] = frozenset(),
) -> TruncationReport:
    """Report what is lost when each module keeps the given rank.

    Args:
        modules: every module of the composed adapter.
        ranks: rank that each keeps, by name (`registry.tensors.rank_choice.choose_ranks`).
        rank, max_error: what was asked for.
        scaled: modules whose spectra are those of diag(c) B A.
    """
    entries = [_module(module, ranks[module.module], module.module in scaled) for module in modules]
    return TruncationReport(
        rank,
        max_error,
        tuple(sorted(entries, key=lambda entry: entry.module)),
        _total(modules, ranks),
        tuple((error, enough_rank(modules, error)) for error in ASKED_ERRORS),
    )


def _module(module: ModuleSpectrum, kept: int, scaled: bool) -> ModuleTruncation:
    energy, discarded = module.tails[0], module.discarded(kept)
    return ModuleTruncation(
        module=module.module,
        rank_before=module.rank,
        rank_after=kept,
        energy=energy,
        discarded=discarded,
        relative_frobenius=math.sqrt(discarded / energy) if energy > 0 else 0.0,
        relative_spectral=_ratio(module.singular_value(kept), module.singular_value(0)),
        scaled=scaled,
    )


def _total(modules: Sequence[ModuleSpectrum], ranks: Mapping[str, int]) -> TruncationTotal:
    first_left_out = max((module.singular_value(ranks[module.module]) for module in modules), default=0.0)
    return TruncationTotal(
        energy=math.fsum(module.tails[0] for module in modules),
        discarded=math.fsum(module.discarded(ranks[module.module]) for module in modules),
        relative_frobenius=relative_error(modules, ranks),
        relative_spectral=_ratio(first_left_out, max((module.singular_value(0) for module in modules), default=0.0)),
        parameters_before=sum(module.cost * module.rank for module in modules),
        parameters_after=sum(module.cost * ranks[module.module] for module in modules),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
