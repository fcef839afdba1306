"""What a service keeps, counts and tells; its workers, and faults that are taken for others."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

SERVICES: Final = (
    Mutant(
        "a-session-outlives-its-token",
        "sessions:open_session",
        "min(now + lifetime, token.expires_at)",
        "now + lifetime",
        "test_a_session_ends_by_itself_and_never_after_its_token[sqlite]",
    ),
    Mutant(
        "a-session-of-a-revoked-token",
        "admit",
        "row = check(row)",
        "row = row or check(row)",
        "test_revoking_a_token_ends_its_sessions_at_once[sqlite]",
    ),
    Mutant(
        "a-token-is-revoked-under-a-transaction",
        "tokens:hold",
        "held.with_for_update(read=True)",
        "held",
        "test_who_revokes_a_token_waits_for_what_it_has_begun_to_commit[postgresql]",
    ),
    Mutant(
        "a-page-of-jobs-forgets-those-of-the-same-moment",
        "jobs:listing",
        "or_(earlier, and_(JobRecord.created_at == after.created_at, JobRecord.id < after.id))",
        "earlier",
        "team:test_pages_together_are_the_whole[sqlite]",
    ),
    Mutant(
        "a-silent-replica-answers",
        "_replica",
        "now - row.seen_at < SILENT",
        "now - row.seen_at < KEPT",
        "test_one_that_wrote_nothing_for_a_while_does_not_answer_and_is_forgotten_after_a_day[sqlite]",
    ),
    Mutant(
        "a-week-ends-a-day-early",
        "_between",
        "Blob.created_at < begin + _WEEK",
        "Blob.created_at < begin + _WEEK * 6 / 7",
        "test_bytes_are_counted_in_the_week_in_which_they_were_stored[sqlite]",
    ),
    Mutant(
        "an-empty-collection-leaves-no-trace",
        "_Collection.record",
        "if not self.dry_run:",
        "if not self.dry_run and self.blobs:",
        "test_collecting_and_checking_are_recorded",
    ),
    Mutant(
        "old-names-count-twice",
        "bases:_sums",
        "or_(Adapter.base_id.in_(old), adapter_is_listed(session))",
        "Adapter.id.is_not(None)",
        "test_an_old_name_counts_only_under_itself[sqlite]",
    ),
    Mutant(
        "errors-of-drivers-name-their-place",
        "translated",
        "raise placeless(_from_driver(error, where, folder)) from error",
        "raise _from_driver(error, where, folder) from error",
        "test_an_outage_tells_strangers_nothing",
    ),
    Mutant(
        "a-part-of-a-collection-is-its-end",
        "successes",
        'if one.detail.get("done")',
        'if one.detail.get("blobs") is not None',
        "test_successes_are_told_by_ends_and_damage_until_it_was_read_again",
    ),
    Mutant(
        "a-look-takes-back-what-was-read",
        "damage",
        "[*checks[:1], *checks[-1:]] if",
        "checks[:1] if",
        "test_successes_are_told_by_ends_and_damage_until_it_was_read_again",
    ),
    Mutant(
        "a-collection-without-an-end",
        "_Collection.record",
        ' | {"done": True}',
        "",
        "test_collect.py",
    ),
    Mutant(
        "shared-locks-that-keep-each-other-out",
        "opened:_take",
        "if shared else [(0, _SHARERS)]",
        "if False else [(0, _SHARERS)]",
        "test_who_shares_a_lock_keeps_out_who_wants_it_alone[windows]",
    ),
    Mutant(
        "an-empty-folder-that-nothing-replaces",
        "staging:_rename",
        "except FileExistsError:",
        "except NotADirectoryError:",
        "test_a_client_works_where_nothing_of_posix_is",
    ),
)
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
        "retention:_combined",
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
        "_events",
        "IS_DELETION",
        'action == "delete"',
        "test_a_tag_goes_and_comes_back_with_its_revision[sqlite]",
    ),
)
WORKERS: Final = (
    Mutant(
        "what-was-counted-is-counted-again",
        "SharedMetrics.update",
        "sample.value - self._counted.get((family.name, labels), 0.0)",
        "sample.value",
        "test_workers_add_up_and_a_successor_goes_on",
    ),
    Mutant(
        "gauges-of-one-worker-only",
        "SharedMetrics._metric",
        'multiprocess_mode="sum"',
        'multiprocess_mode="max"',
        "test_workers_add_up_and_a_successor_goes_on",
    ),
    Mutant(
        "every-worker-has-all-seats",
        "Limits.divided",
        "getattr(self, name) // workers",
        "getattr(self, name)",
        "test_what_is_refused_beyond_a_number_is_divided",
    ),
    Mutant(
        "interrupt-lost-in-the-hook",
        "_is_in_hook",
        "        if frame.f_code is _interrupt_again.__code__:",
        "        if frame.f_code is None:",
        "test_ctrl_c_that_strikes_the_hook_itself_ends_the_command",
    ),
    Mutant(
        "slots-of-a-killed-worker-stay-taken",
        "Share.__init__",
        "        self._counts[self._index] = 0",
        "        self._counts[self._index] += 0",
        "test_a_killed_worker_leaves_no_place_taken",
    ),
    Mutant(
        "a-hub-client-is-told-what-it-does-not-wait-on",
        "error_answer",
        "_STATUSES.get(error.code)",
        "None",
        "test_it_comes_back_to_a_service_that_has_too_much_to_do",
    ),
)
_READING: Final = "test_who_hangs_up_while_reading_is_no_fault_of_the_service"
_STAYS: Final = "test_what_stays_wrong_on_its_way_is_no_damage"
_LIES: Final = "test_what_is_wrong_where_it_lies_is_damage"
_UPLOAD: Final = "test_what_is_read_of_an_upload_is_what_was_sent"

FAULTS: Final = (
    Mutant(
        "who-is-gone-got-an-answer",
        "_Response._forward",
        "self._scope[SOCKET_WRITER].closed",
        "False",
        "test_who_hangs_up_before_an_answer_is_no_fault_of_the_service",
    ),
    Mutant(
        "asked-the-same-way-again",
        "DividedReader.read_into",
        "middle = len(buffer) * self._look // (_LOOKS + 1)",
        "middle = 0",
        _STAYS,
    ),
    Mutant(
        "another-size-is-only-hard-to-read",
        "BlobReader._try_to_open",
        "return self._told_of(Finding(",
        "return self._told_of(Finding(str(look) + ",
        _LIES,
    ),
    Mutant(
        "headers-of-uploads-are-read-once",
        "agreed",
        "before = look(0)",
        "return look(0)",
        _UPLOAD,
    ),
    Mutant(
        "a-publish-reads-what-nothing-checks",
        "StagedBlob.open",
        "return self._store.open_staged(self.writer, blob, self._digests.block_list)",
        "return self.writer.open()",
        _UPLOAD,
    ),
    Mutant(
        "bytes-without-a-name-are-restored-from-a-backup",
        "StagedReader._confirmed",
        "with keeps(self._driver.place):",
        "if True:",
        "test_bytes_that_the_store_changed_before_they_had_a_name_are_its_fault",
    ),
    Mutant(
        "a-copy-is-what-the-client-sent",
        "S3Uploads.made_other",
        "if staging.joined is None:",
        "if staging.joined is None and False:",
        "test_a_copy_of_something_else_is_the_stores_fault",
    ),
    Mutant(
        "what-a-client-sent-wrong-is-the-stores-fault",
        "S3Uploads.made_other",
        """!= tag.strip('"')""",
        "!= tag",
        "test_what_a_client_sent_wrong_is_no_fault_of_the_store",
    ),
)
