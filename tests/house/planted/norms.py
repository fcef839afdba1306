"""Norms of base models."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

NORMS: Final = (
    Mutant(
        "energy-of-a-split-row",
        "_add_energies",
        "tensor.rows[row] += _energies_of(values[:at].reshape(1, -1))[0]",
        "tensor.rows[row] = _energies_of(values[:at].reshape(1, -1))[0]",
        "test_energies.py",
    ),
    Mutant(
        "bfloat16-in-the-wrong-place",
        "_bfloat16",
        "np.left_shift(half, 16, out=half)",
        "np.left_shift(half, 15, out=half)",
        "test_energies.py",
    ),
    Mutant(
        "energies-by-chunk",
        "EnergyWatch._take",
        "filled = (index + at) % _BLOCK",
        "filled = at % _BLOCK",
        "test_energies.py",
    ),
    Mutant(
        "norm-of-the-first-run",
        "_energy_of",
        "for run in slot.places",
        "for run in slot.places[:1]",
        "factors:test_norms.py",
    ),
    Mutant(
        "norms-of-the-old-table",
        "norms:get",
        ".where(BaseNormsRecord.table_digest == table_digest)",
        ".where(BaseNormsRecord.table_digest != '')",
        "test_a_table_that_was_rebuilt_has_none_until_they_are_taken",
    ),
    Mutant(
        "norms-of-other-weights",
        "norms:get",
        ", BaseModelRecord.digest == digest)",
        ")",
        "test_other_weights_under_the_name_have_their_own",
    ),
    Mutant(
        "norms-kept-for-another-table",
        "new_base:keep",
        "BaseModelRecord.table_digest == norms.table_digest,",
        "",
        "test_a_table_that_is_rebuilt_meanwhile",
    ),
    Mutant(
        "norms-outlive-their-base",
        "purge_base",
        "(BaseFile, BaseRepoId, ProtectedTagRecord, BaseNormsRecord)",
        "(BaseFile, BaseRepoId, ProtectedTagRecord)",
        "test_they_go_with_the_base_and_come_back_with_it",
    ),
)
