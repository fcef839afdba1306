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
    ``written``, for 16-bit factors, is the relative Frobenius error of the factors as they are written: there their
    rounding counts beside what was left out, and ``max_error`` bounds both. For a DoRA it is ||W - W'||_F / ||D||_F of
    the merged weights, with the magnitude as it is written. In fp32 the rounding is less than 1e-6, or for a DoRA about
    1e-7 ||W||_F / ||D||_F.
``enough_for``
    By relative Frobenius error over all modules (``"0.01"``, ``"0.05"``, ``"0.1"``), the smallest ``--rank`` with which
    the error is no larger.

Zero deltas have no error: their relative errors are 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from registry.schemas import ModuleTruncation, Truncation, TruncationTotal
from registry.tensors.truncation.rank_choice import ModuleSpectrum, enough_rank, relative_error

ASKED_ERRORS: Final = (0.01, 0.05, 0.1)


def report(
    modules: Sequence[ModuleSpectrum],
    ranks: Mapping[str, int],
    *,
    rank: int | None = None,
    max_error: float | None = None,
    scaled: frozenset[str] = frozenset(),
    written: float | None = None,
) -> Truncation:
    """Report what is lost when each module keeps the given rank.

    Args:
        modules: every module of the composed adapter.
        ranks: rank that each keeps, by name (`registry.tensors.truncation.rank_choice.choose_ranks`).
        rank, max_error: what was asked for.
        scaled: modules whose spectra are those of diag(c) B A.
        written: relative error of the factors as they are written, where it was measured.
    """
    entries = [_module(module, ranks[module.module], module.module in scaled) for module in modules]
    return Truncation(
        rank=rank,
        max_error=max_error,
        modules=tuple(sorted(entries, key=lambda entry: entry.module)),
        total=_total(modules, ranks, written),
        enough_for={f"{error:g}": enough_rank(modules, error) for error in ASKED_ERRORS},
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


def _total(modules: Sequence[ModuleSpectrum], ranks: Mapping[str, int], written: float | None) -> TruncationTotal:
    first_left_out = max((module.singular_value(ranks[module.module]) for module in modules), default=0.0)
    return TruncationTotal(
        energy=math.fsum(module.tails[0] for module in modules),
        discarded=math.fsum(module.discarded(ranks[module.module]) for module in modules),
        relative_frobenius=relative_error(modules, ranks),
        relative_spectral=_ratio(first_left_out, max((module.singular_value(0) for module in modules), default=0.0)),
        parameters_before=sum(module.cost * module.rank for module in modules),
        parameters_after=sum(module.cost * ranks[module.module] for module in modules),
        written=written,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
