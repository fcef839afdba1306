"""Paths in a running model, compiled ones too."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

INTERRUPTED: Final = "test_interrupted.py"

POOL: Final = (
    Mutant("pool-never-torn", "LiveWeights._write", "self._now[place] = _TORN\n", "pass\n", INTERRUPTED),
    Mutant(
        "pool-no-waiting",
        "Gate.change",
        "while self._inside or",
        "while False or",
        "test_a_merge_waits_for_the_calls_that_run",
    ),
    Mutant(
        "pool-any-bits",
        "_is_same",
        "return PREFIX +",
        "return True or PREFIX +",
        "test_one_other_bit_is_another_model",
    ),
    Mutant(
        "pool-tied-unwatched",
        "Watch.take",
        "self._layout.keys() - self._seen.keys()",
        "own",
        "test_every_way_of_writing_is_noticed[untied]",
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
        "siblings-one-stream",
        "Sibling.__init__",
        '_seed(seed, recipe.path, "dropout")',
        "seed",
        "test_dropout_is_of_the_path",
    ),
    Mutant(
        "siblings-mean-of-means",
        "Sibling.take",
        "return labels.used / self._unit if self._unit else 0.0",
        "return 1.0",
        "test_unequal_answers_weigh_as_with_peft_alone[llama-4]",
    ),
    Mutant(
        "siblings-losses-summed-in-logs",
        "Siblings.take_means",
        "seen.total / seen.labels",
        "seen.total",
        "test_unequal_answers_weigh_as_with_peft_alone[llama-4]",
    ),
    Mutant(
        "siblings-first-labels-not-counted",
        "Siblings.update_as_trainer",
        "self._counted not in (None, used)\n",
        "False\n",
        "test_unequal_answers_weigh_as_with_peft_alone[gpt2-2]",
    ),
    Mutant(
        "siblings-unpinned",
        "write_folder",
        '"base_model_name_or_path": parent.reference',
        '"base_model_name_or_path": parent.base',
        "test_the_parent_is_pinned_where_the_folder_is_moved_and_there_are_newer",
    ),
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
_SLOTS: Final = "test_slots_hold_what_was_chosen_last_however_they_were_used_before"
_SWITCHES: Final = "test_switches_compile_nothing_and_equal_the_model_as_it_is"

COMPILED: Final = (
    Mutant("compiled-left-over", "SumSlots.write", "self.b[slot, rank:used] = 0", "pass", _SLOTS),
    Mutant("compiled-token-kept", "embedding_parts", "keep[rows] = 0", "pass", _SWITCHES),
    Mutant("compiled-feature-kept", "_set_features", "given[at] = 0", "pass", _SWITCHES),
    Mutant(
        "compiled-grown-empty",
        "SumSlots.grow",
        "b[slot, :used] = self.b[slot, :used]",
        "pass",
        "test_what_a_path_needs_beyond_its_slots_is_said_and_compiles_once",
    ),
)
