"""Bugs planted in retention rules."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

RETENTION: Final = (
    Mutant(
        "older-of-equal-ones-kept",
        "_keys_of_best",
        "-one.number)",
        "one.number)",
        "test_retained.py",
    ),
    Mutant(
        "retracted-among-the-last",
        "kept_by_rule",
        "if not one.is_retracted",
        "if one.number",
        "test_retained.py",
    ),
    Mutant(
        "hidden-combination-does-not-keep",
        "_combined",
        ".join(RevisionSource, RevisionSource.source_id == own.id)",
        ".join(RevisionSource, RevisionSource.revision_id == own.id)",
        "test_what_needs_a_revision_counts_where_it_is_not_seen",
    ),
    Mutant(
        "chosen-once-for-all-parts",
        "_delete_by_parts",
        "still = [one.id for one in _choice(session, *found).going if one.id in part]",
        "still = list(part)",
        "test_what_is_needed_by_now_stays",
    ),
    Mutant(
        "run-locks-nothing",
        "hold_revisions",
        ".with_for_update()",
        "",
        "test_a_run_waits_for_who_publishes_below",
    ),
    Mutant(
        "rule-outlives-its-adapter",
        "clear_where_nothing_is_left",
        "Adapter.live_revisions == 0",
        "Adapter.live_revisions < 0",
        "test_a_rule_ends_with_its_adapter_and_is_not_copied",
    ),
)
