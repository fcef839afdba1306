"""Paths in a running model."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

INTERRUPTED: Final = "test_interrupted.py"
SWITCHES: Final = "test_random_switches"

POOL: Final = (
    Mutant("pool-late-writer", "Rounds.begin", "while self._working:", "while False:", INTERRUPTED),
    Mutant("pool-never-torn", "LiveWeights._write", "self._now[place] = _TORN\n", "pass\n", INTERRUPTED),
    Mutant("pool-not-put-back", "AdapterPool._become", "self._put_back(before)", "pass", INTERRUPTED),
    Mutant("pool-parted-for-good", "LiveWeights._join", "one.set(self.layout[one.first].get())", "pass", SWITCHES),
    Mutant(
        "pool-no-waiting",
        "Gate.change",
        "while self._inside or",
        "while False or",
        "test_a_merge_waits_for_the_calls_that_run",
    ),
    Mutant(
        "pool-any-bits",
        "checked_base:_is_same",
        "return PREFIX +",
        "return True or PREFIX +",
        "test_one_other_bit_is_another_model",
    ),
    Mutant(
        "pool-other-view-unseen",
        "Watch.check",
        "or not tensor.is_set_to(alias)",
        "",
        "test_every_way_of_writing_is_noticed[cut again]",
    ),
    Mutant(
        "pool-tied-unwatched",
        "Watch.take",
        "self._layout.keys() - self._seen.keys()",
        "own",
        "test_every_way_of_writing_is_noticed[untied]",
    ),
    Mutant(
        "pool-values-not-compared",
        "LiveWeights.check_unchanged",
        "if values:",
        "if False:",
        "test_a_merged_model_that_was_written_to_is_not_unmerged_in_silence",
    ),
    Mutant(
        "pool-written-values-not-kept",
        "LiveWeights.become",
        "self._watch.take(self._own_names())",
        "self._watch.take([])",
        "test_what_the_path_itself_wrote_is_watched_too",
    ),
    Mutant(
        "pool-one-without-turns",
        "Watch.check",
        "(self._turn + 1) % len(names)",
        "0",
        "test_one_written_tensor_is_noticed_within_as_many_uses_as_there_are_tensors",
    ),
    Mutant(
        "pool-torchs-own-error",
        "Calls.around",
        "self._check_unchanged()",
        "pass",
        "test_a_call_that_can_not_run_any_more_says_why",
    ),
    Mutant(
        "siblings-parent-unchecked",
        "Siblings.save",
        "self._check_parent()",
        "pass",
        "test_siblings_of_a_parent_that_was_written_to_are_not_saved",
    ),
    Mutant(
        "pool-route-to-retracted",
        "Centroids._candidates",
        "one.retracted is None and ",
        "",
        "test_the_nearest_answers_and_changes_hold_at_once",
    ),
    Mutant(
        "pool-route-ties",
        "Centroids._nearest",
        "cosine - float(best[1]) < self._margin",
        "False",
        "test_ties_and_what_is_far_away",
    ),
    Mutant(
        "pool-route-labels-of-another-revision",
        "Classifier.route",
        "self._pool.use(revision.reference)",
        "self._pool.use(None)",
        "test_rows_go_where_peft_would_send_them",
    ),
    Mutant(
        "siblings-one-stream",
        "Sibling.__init__",
        '_seed(seed, recipe.path, "dropout")',
        "seed",
        "test_dropout_is_of_the_path",
    ),
    Mutant(
        "siblings-padding-draws",
        "Dropout.__call__",
        "rows if window is None or rows.dim() < 3 else rows[:, window]",
        "rows",
        "test_dropout_does_not_depend_on_who_else_is_there",
    ),
    Mutant(
        "siblings-nan-shared",
        "Siblings.losses",
        "if not bool(torch.isfinite(loss)):",
        "if False:",
        "test_one_with_nan_is_set_aside_and_the_others_do_not_see_it",
    ),
    Mutant(
        "siblings-sum-of-batches",
        "Sibling.update",
        "one.grad.div_(self._batches)",
        "pass",
        "test_steps_are_those_of_peft_alone[llama-5-sgd]",
    ),
    Mutant(
        "siblings-wrong-rows",
        "Rows.unsort",
        "tensor if self.back is None else tensor.index_select(0, self.back)",
        "tensor",
        "test_rows_of_none_run_as_the_parent",
    ),
    Mutant(
        "siblings-unpinned",
        "write_folder",
        '"base_model_name_or_path": parent.reference',
        '"base_model_name_or_path": parent.base',
        "test_the_parent_is_pinned_where_the_folder_is_moved_and_there_are_newer",
    ),
    Mutant("beside-unscaled", "Sum.put_on", "if self.scale is not None:", "if False:", "test_some_variants"),
    Mutant(
        "beside-beams-apart",
        "Selection._group",
        "row * factor + one for row in mine for one in range(factor)",
        "row + one * len(self.rows or ()) for row in mine for one in range(factor)",
        "test_generation",
    ),
    Mutant(
        "beside-one-for-all-threads",
        "Choices.active",
        "self.of_call.get(self.default)",
        "self.default or self.of_call.get(None)",
        "test_blocks_in_blocks_defaults_and_errors",
    ),
    Mutant(
        "beside-on-top-of-merged",
        "Choices.check_unmerged",
        "if self.merged and",
        "if False and",
        "test_merged_and_beside_exclude_each_other",
    ),
    Mutant("beside-never-dropped", "Residents._keep", "while self._bytes > room", "while False", "test_residents.py"),
)
