"""Other repo ids of base models, and what another Hub is asked about."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

NAMES: Final = (
    Mutant(
        "ids-of-sources-before-those-given",
        "base_answering",
        "if _is_given(session, repo_id):",
        "if False:",
        "test_what_is_given_comes_before_sources_and_the_first_of_them_first[sqlite]",
    ),
    Mutant(
        "hidden-names-told-to-another-hub",
        "begins_with_a_base",
        "if seen else _EVERYTHING",
        "if seen else {}",
        "test_what_other_hubs_are_not_asked_about[sqlite]",
    ),
)
