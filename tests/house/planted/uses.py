"""Uses of revisions: what counts, how it is added up, and what is told of it."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

USES: Final = (
    Mutant(
        "a-count-that-replaces",
        "_sum",
        "table.c[amount] + given[amount]",
        "given[amount]",
        "test_batches_add_up_and_the_latest_time_stays[sqlite]",
    ),
    Mutant(
        "the-last-writer-says-when",
        "_sum",
        "new > mine",
        "new != mine",
        "test_batches_add_up_and_the_latest_time_stays[sqlite]",
    ),
    Mutant(
        "one-day-too-many",
        "_first_recent",
        "RECENT_DAYS - 1",
        "RECENT_DAYS",
        "test_days_that_are_no_longer_recent_leave_only_the_last_time[sqlite]",
    ),
    Mutant(
        "each-request-of-a-download-counted",
        "UseLog.note",
        "count if goes_on else count + 1",
        "count + 1",
        "test_a_download_of_many_requests_is_one_use",
    ),
    Mutant(
        "kept-uses-forget-the-new-ones",
        "UseLog._failed",
        "before.count + counted.count",
        "before.count",
        "test_a_service_keeps_what_it_can_not_write",
    ),
    Mutant(
        "verifying-is-a-use",
        "client:verify",
        "is_use=False",
        "is_use=True",
        "test_looking_checking_publishing_and_copying_are_no_uses[http]",
    ),
    Mutant(
        "looking-at-a-model-is-a-use",
        "files:_bytes",
        "query.path.endswith(_WEIGHTS)",
        "True",
        "test_a_download_is_one_use[hf]",
    ),
    Mutant(
        "a-restored-tag-forgotten",
        "tag_moves:_events",
        "IS_DELETION",
        'action == "delete"',
        "test_a_tag_goes_and_comes_back_with_its_revision[sqlite]",
    ),
    Mutant(
        "a-dry-run-deletes",
        "upkeep:delete",
        "if dry_run:",
        "if False:",
        "test_a_dry_run_lists_changes_nothing_and_ends_well[False]",
    ),
)
