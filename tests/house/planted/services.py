"""What a service tells of itself and to whom: sessions, jobs, replicas, growth, figures of base models."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

SERVICES: Final = (
    Mutant(
        "a-session-without-end",
        "check_session",
        "ends_at is None or ends_at <= datetime.now(UTC)",
        "ends_at is None",
        "test_a_session_ends_by_itself_and_never_after_its_token[sqlite]",
    ),
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
        "a-revoked-token-commits-what-it-has-begun",
        "Deployment.change",
        "tokens.hold(session, self.principal)",
        "",
        "test_a_push_whose_token_ends_meanwhile_publishes_nothing[revoked]",
    ),
    Mutant(
        "a-token-is-revoked-under-a-transaction",
        "tokens:hold",
        "held.with_for_update(read=True)",
        "held",
        "test_who_revokes_a_token_waits_for_what_it_has_begun_to_commit[postgresql]",
    ),
    Mutant(
        "who-signed-out-commits-what-was-begun",
        "tokens:hold",
        "if principal.session is not None:",
        "if False:",
        "test_who_has_signed_out_changes_nothing_any_more[sqlite]",
    ),
    Mutant(
        "jobs-of-everyone-for-any-admin",
        "sees_everyones",
        'principal.rights.role == "admin" and principal.rights.unlimited',
        'principal.rights.role == "admin"',
        "test_one_sees_ones_own_and_an_admin_of_everything_sees_all[sqlite]",
    ),
    Mutant(
        "a-page-of-jobs-forgets-those-of-the-same-moment",
        "job_lists:listing",
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
        "outage-names-its-place",
        "problem",
        "detail=error.outside or str(error),",
        "detail=str(error),",
        "test_an_outage_tells_strangers_nothing",
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
        "health:successes",
        'if one.detail.get("done")',
        'if one.detail.get("blobs") is not None',
        "test_successes_are_told_by_ends_and_damage_until_it_was_read_again",
    ),
    Mutant(
        "a-check-that-found-damage-is-a-success",
        "health:successes",
        " if not _found(one)",
        "",
        "test_successes_are_told_by_ends_and_damage_until_it_was_read_again",
    ),
    Mutant(
        "a-look-takes-back-what-was-read",
        "health:damage",
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
)
