"""The planted bugs still fit the code: `make mutants`, which runs them, takes too long for every change."""

from __future__ import annotations

import pytest

from tests.house.mutants import places
from tests.house.planted import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_exactly_one_place(mutant: Mutant) -> None:
    assert places(mutant) == 1, f"renew the mutant: its text stands {places(mutant)} times in registry/{mutant.file}"
    assert mutant.old != mutant.new


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
