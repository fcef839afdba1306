"""Bugs between clients and services of other versions, in copies between registries, and in what Python shows."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

VERSIONS: Final = (
    Mutant(
        "a-later-answer-refused",
        "Transport.read",
        '"forbid" if kind in EXACT else "ignore"',
        '"forbid"',
        "test_fields_of_a_later_service_are_ignored",
    ),
    Mutant(
        "weights-by-half-of-a-plan",
        "Transport.read",
        '"forbid" if kind in EXACT else "ignore"',
        '"ignore"',
        "test_what_weights_are_made_by_is_read_to_the_last_field",
    ),
    Mutant(
        "an-older-client-acts",
        "_check_client",
        "int(said) < PROTOCOL",
        "int(said) > PROTOCOL",
        "test_a_client_of_the_protocol_before_is_refused_before_anything_is_done",
    ),
    Mutant(
        "a-copied-card-replaces",
        "copy_card",
        "if _is_edited(there):",
        "if there is None:",
        "test_a_card_that_was_edited_there_stays",
    ),
    Mutant(
        "cards-of-ancestors-copied",
        "_Revisions.copy_cards",
        " if one.source in self.chosen.asked",
        "",
        "test_an_edited_card_comes_along",
    ),
    Mutant(
        "a-card-lost-in-a-renaming",
        "copy_details",
        "    _copy_cards(session, renaming)\n",
        "",
        "test_cards_go_along",
    ),
    Mutant(
        "reading-upgrades",
        "Database._check_before_reading",
        "raise self._unfit()",
        "self.prepare()",
        "test_reading_and_what_is_written_beside_it_upgrade_nothing",
    ),
    Mutant(
        "uses-upgrade",
        "Database._check_before_writing",
        "raise self._unfit()",
        "self.prepare()",
        "test_reading_and_what_is_written_beside_it_upgrade_nothing",
    ),
    Mutant(
        "opening-upgrades",
        "LocalRegistry.open",
        "database.create()",
        "database.prepare()",
        "test_what_reads_changes_no_byte_and_says_what_to_type[0004]",
    ),
    Mutant(
        "a-dry-run-upgrades",
        "Operation.writes",
        ' and not getattr(request, "dry_run", False)',
        "",
        "test_every_operation_is_known_to_read_or_to_write",
    ),
    Mutant(
        "a-look-at-the-bytes-upgrades",
        "Operation.writes",
        " and not self.reads",
        "",
        "test_every_operation_is_known_to_read_or_to_write",
    ),
    Mutant(
        "a-writer-is-refused-for-ever",
        "LocalRegistry.do",
        "if operation.writes(request):",
        "if not operation.writes(request):",
        "test_the_first_that_writes_upgrades_and_says_so[tag-0014]",
    ),
    Mutant(
        "the-target-of-a-copy-stays-old",
        "Registry.copy",
        "        to._before_writing()\n",
        "",
        "test_the_first_that_writes_upgrades_and_says_so[copy-0014]",
    ),
    Mutant(
        "shut-out-and-not-told",
        "schema:shuts_out",
        "before < oldest",
        "before > oldest",
        "test_the_first_that_writes_upgrades_and_says_so[tag-0014]",
    ),
    Mutant(
        "a-service-on-an-old-schema",
        "app:serve",
        "            registry.upgrade()\n",
        "",
        "test_python_is_told_by_the_log_and_a_service_upgrades_before_it_answers",
    ),
    Mutant(
        "an-upgrade-without-a-copy",
        "Database._upgraded",
        "state is Schema.OLDER and",
        "state is Schema.ABSENT and",
        "test_an_older_one_is_upgraded_after_a_copy",
    ),
    Mutant(
        "a-copy-that-others-read",
        "sqlite:copy",
        "partial.chmod(stat.S_IMODE(path.stat().st_mode))",
        "partial.chmod(0o644)",
        "test_an_older_one_is_upgraded_after_a_copy",
    ),
)
SHOWN: Final = (
    Mutant(
        "a-bar-that-stays",
        "NotebookProgress.__exit__",
        'self._draw("")',
        "self._draw(self._bar())",
        "test_a_bar_in_a_notebook_that_is_gone_afterwards",
    ),
    Mutant(
        "html-in-a-bar",
        "NotebookProgress._bar",
        "escape(self._what)",
        "self._what",
        "test_a_bar_in_a_notebook_that_is_gone_afterwards",
    ),
    Mutant(
        "a-shell-is-a-notebook",
        "is_notebook",
        'getattr(shell, "kernel", None) is not None',
        "shell is not None",
        "test_an_interactive_shell_is_no_notebook",
    ),
    Mutant(
        "nobody-is-asked-on-connecting",
        "app:connect",
        "reach=True",
        "reach=False",
        "test_connect_says_at_once_that_nobody_answers",
    ),
    Mutant(
        "sides-of-a-frame-turned-round",
        "Difference.rows",
        '_row("metrics", one.name, one.a, one.b)',
        '_row("metrics", one.name, one.b, one.a)',
        "test_bases_events_and_what_is_stored_are_frames_too",
    ),
    Mutant(
        "html-in-a-table",
        "frames:_html_row",
        "escape(clean(text))",
        "clean(text)",
        "schemas:test_views.py",
    ),
    Mutant(
        "an-example-that-is-not-so",
        "views:_about",
        "*metrics(one.metrics), ",
        "",
        "test_the_example_does_what_it_says",
    ),
    Mutant(
        "the-oldest-as-the-limit",
        "Browsing.log",
        "one.number > revisions[-1].number",
        "one.number < revisions[-1].number",
        "test_the_log_of_an_adapter_with_what_was_deleted[embedded]",
    ),
)
