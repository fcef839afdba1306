"""Pushes of Hub clients: what is put together, what is refused, and whose parent is taken."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

PUSHED: Final = (
    Mutant(
        "pushes-mix-what-was-given-up",
        "waiting_for",
        "if name in superseded]",
        "if False]",
        "test_a_half_of_a_push_that_was_given_up_is_not_mixed_into_the_next_one",
    ),
    Mutant(
        "a-commit-is-based-on-what-was-newest-once",
        "publish:_insert",
        "if new.after is not None:",
        "if False:",
        "test_of_commits_with_one_parent_one_is_taken",
    ),
    Mutant(
        "two-first-commits-on-nothing",
        "_check_newest",
        "select(Adapter.id).where(Adapter.id == adapter_id).with_for_update()",
        "select(Adapter.id).where(Adapter.id == adapter_id)",
        "test_what_comes_at_once_at_two_services_of_a_team",
    ),
    Mutant(
        "halves-at-once-both-wait",
        "_wait",
        "pushed_files.hold(session, path, deployment.principal)",
        "",
        "test_what_comes_at_once_at_two_services_of_a_team",
    ),
    Mutant(
        "a-publish-forgets-the-next-half",
        "_forget",
        "pushed_files.remove(session, path, me, found if left else None)",
        "pushed_files.remove(session, path, me)",
        "test_a_half_that_comes_while_others_are_published_waits_for_its_own",
    ),
    Mutant(
        "a-presigned-part-of-any-length",
        "sign_part",
        "staging.part_length(number)}",
        "staging.part_length(number)} if False else {}",
        "test_a_presigned_put_takes_the_length_that_was_announced[parts]",
    ),
    Mutant(
        "equal-weights-at-once-are-lost",
        "take_push",
        'error.code == "upload_incomplete"',
        "False",
        "test_equal_weights_at_once_are_there_already[one part]",
    ),
    Mutant(
        "pushes-mix-tokens",
        "pushed_files:of",
        "PushedFileRecord.owner == owner_of(principal),",
        "PushedFileRecord.owner != '',",
        "test_halves_of_two_tokens_are_not_put_together",
    ),
    Mutant(
        "pushes-take-one-of-two-loads",
        "_loaded",
        "if len(told.loaded) == 1 else None",
        "if told.loaded else None",
        "test_of_two_that_were_loaded_none_is_taken",
    ),
    Mutant(
        "pushes-count-loads-of-others",
        "use:loaded",
        "UseRecord.who == who, ",
        "",
        "test_what_another_token_has_loaded_says_nothing",
    ),
    Mutant(
        "pushes-write-over-cards",
        "keep_card",
        "and state.edited_by != me.name",
        "and not state",
        "test_a_card_that_somebody_has_edited_stays",
    ),
    Mutant(
        "pushes-lose-the-rest-of-a-chunk",
        "_Reader._content",
        "max(0, len(piece) - 1) // _QUARTET * _QUARTET",
        "len(piece) // _QUARTET * _QUARTET",
        "test_a_chunk_may_end_anywhere",
    ),
    Mutant(
        "pushes-of-what-was-not-sent",
        "is_complete",
        "return all(there.get(number) == staging.part_length(number) for",
        "return any(True for",
        "test_bytes_that_were_not_sent_or_are_others",
    ),
    Mutant(
        "pushes-of-anybody",
        "place:place_of",
        "    require_publishing(deployment, path)\n",
        "",
        "test_who_may_not",
    ),
    Mutant(
        "pushes-by-lfs-of-clients-that-insist-on-xet",
        "uses_lfs",
        "< _INSISTS or",
        ">= (0, 0) or",
        "test_lfs_is_for_clients_that_are_known_to_use_it",
    ),
    Mutant(
        "a-folder-cleared-before-it-is-locked",
        "_locked_folder",
        "except FileNotFoundError:",
        "except NotADirectoryError:",
        "test_many_at_once_under_one_name_never_clear_each_others_while_it_is_made",
    ),
    Mutant(
        "settings-of-what-is-not-there",
        "settings",
        "        query.repo(session)\n",
        "        pass\n",
        "test_calls_that_are_refused[update_repo_settings]",
    ),
    Mutant(
        "pushes-copy-files-of-no-size",
        "_operation",
        "if large.size is None:",
        "if large.size == -1:",
        "test_calls_that_are_refused[copy]",
    ),
    Mutant(
        "pushes-of-cards-need-a-token",
        "validate_yaml",
        'if "Authorization" in request.headers:',
        "if request:",
        "test_yaml_of_a_card",
    ),
    Mutant(
        "pushes-leave-what-was-published-waiting",
        "push:_published",
        "        _forget(deployment, push.path, parts)\n        kept",
        "        kept",
        "test_the_last_commit",
    ),
    Mutant(
        "pushes-wait-for-ever",
        "pushed_files:of",
        "PushedFileRecord.expires_at > datetime.now(UTC),",
        "PushedFileRecord.expires_at > datetime.min.replace(tzinfo=UTC),",
        "test_what_was_left_is_dropped_after_a_day",
    ),
)
