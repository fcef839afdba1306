"""Bugs planted in rebasing."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

REBASED: Final = (
    Mutant(
        "old-parent-counted-in",
        "_report",
        "replace(one, coefficient=-1.0)",
        "replace(one, coefficient=1.0)",
        "test_the_new_revision_has_the_same_files_and_the_weights_of_its_path",
    ),
    Mutant(
        "dora-rebased",
        "_why_not",
        "if checkpoint.config.use_dora:",
        "if False:",
        "test_a_dora_and_copies_of_the_parent_are_refused",
    ),
    Mutant(
        "rebased-called-given",
        "find_parent",
        "if told.word is not None and said is not None:",
        "if False:",
        "test_the_new_revision_has_the_same_files_and_the_weights_of_its_path",
    ),
    Mutant(
        "retracted-rebased",
        "_to_rebase",
        "retraction.check([found[-1].revision])",
        "pass",
        "test_away_from_a_parent_that_was_retracted",
    ),
)
