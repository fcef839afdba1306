"""What proves a parent where the folder that an adapter was trained on is compared."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

_TIMES: Final = "test_times.py"

EVIDENCE: Final = (
    Mutant(
        "overwritten-folder-proves",
        "times_of",
        'return "newer"',
        'return "older"',
        "test_a_folder_that_was_overwritten_since_shows_nothing[in process]",
    ),
    Mutant(
        "newer-folder-called-compared",
        "FolderCompared.word",
        "if self.shows_nothing or self.is_near:",
        "if self.is_near:",
        "test_the_word_of_an_older_client_is_stated_at_most",
    ),
    Mutant(
        "another-adapter-in-the-folder-is-not-seen",
        "Beside.of",
        "_is_covered(there, weights, around)",
        "False",
        "test_a_folder_with_another_adapter_in_it_shows_nothing[in process]",
    ),
    Mutant(
        "newer-folder-pins-one-of-several",
        "of_weights",
        "    if compared.shows_nothing:\n        return None, why_not",
        "    if False:\n        return None, why_not",
        "test_a_folder_that_was_overwritten_since_shows_nothing[in process]",
    ),
    Mutant(
        "newer-folder-silent",
        "FolderCompared.why_not",
        "if self.is_later:\n            return f",
        "if False:\n            return f",
        "test_what_else_is_assumed_says_that_the_folder_is_newer[in process]",
    ),
    Mutant(
        "receipt-fetched-again-proves",
        "GivenReceipt.shows_nothing",
        'self.times == "newer" or self.covered',
        "self.covered",
        "test_a_folder_that_was_fetched_again_since_shows_nothing[in process]",
    ),
    Mutant(
        "given-receipt-always-proves",
        "GivenReceipt.word",
        'return "given" if self.times == "newer" else "receipt"',
        'return "receipt"',
        "test_a_folder_that_was_fetched_again_since_shows_nothing[in process]",
    ),
    Mutant(
        "link-shows-elsewhere", "times:_named", "place.lstat().st_mtime if place.is_symlink()", "0.0 if True", _TIMES
    ),
    Mutant("another-folder-has-the-name", "times:_named", "if one == itself or", "if", _TIMES),
    Mutant("a-folder-above-renamed", "times:_named", " or found.st_ctime > found.st_mtime", "", _TIMES),
    Mutant(
        "receipt-alone-without-times",
        "Beside.of",
        "weights_in(there) or [there / RECEIPT]",
        "weights_in(there)",
        _TIMES,
    ),
    Mutant("order-of-a-copy", "Around.in_one_go", "return True", "return False", _TIMES),
    Mutant(
        "copy-of-an-hour",
        "Around.in_one_go",
        "if moment - at > MOMENT + size / _RATE:",
        "if True:",
        _TIMES,
    ),
    Mutant("touched-adapter", "_is_sure", "if last >= min(one.earliest for one in own):", "if False:", _TIMES),
    Mutant("put-there-later", "_is_sure", "return changed <= saved + MOMENT or (", "return True or (", _TIMES),
    Mutant("times-of-the-future", "times_of", "if max(last, saved) > time.time() + MOMENT:", "if False:", _TIMES),
    Mutant(
        "untimed-called-compared",
        "FolderCompared.word",
        'if self.recorded or self.times == "older" else "compared_untimed"',
        'if True else "compared_untimed"',
        "test_files_of_one_moment_are_stated[in process]",
    ),
    Mutant(
        "copied-receipt-proves",
        "has_own_times",
        "(folder / RECEIPT).stat().st_mtime_ns == last + 1",
        "(folder / RECEIPT).stat().st_mtime_ns >= last + 1",
        "test_a_fetched_folder_shows_that_its_times_are_its_own[in process]",
    ),
    Mutant(
        "record-not-believed",
        "FolderCompared.word",
        'if self.recorded or self.times == "older"',
        'if self.times == "older"',
        "test_what_was_recorded_when_the_training_began_settles_it[in process]",
    ),
    Mutant(
        "record-of-another-folder",
        "_is_recorded",
        "if record.name != trained_on((adapter / ADAPTER_CONFIG).read_bytes()):",
        "if False:",
        "test_what_was_recorded_when_the_training_began_settles_it[in process]",
    ),
    Mutant(
        "record-that-differs-passes",
        "FolderCompared.is_later",
        "return self.recorded is False or (",
        "return (",
        "test_what_was_recorded_when_the_training_began_settles_it[in process]",
    ),
    Mutant(
        "near-duplicate-proves",
        "FolderCompared.is_near",
        "(self.equal or 0.0) < EQUAL",
        "(self.equal or 0.0) < 0.5",
        "test_what_only_fits_within_rounding_is_assumed[in process]",
    ),
    Mutant(
        "within-rounding-called-equal",
        "RoundedBlock.explained",
        "return within | (values == self.values)",
        "return (within == within) | (values == self.values)",
        "test_what_only_fits_within_rounding_is_assumed[in process]",
    ),
    Mutant(
        "near-duplicate-not-searched-for",
        "or_elsewhere",
        "if not found.is_near:",
        "if True:",
        "test_what_only_fits_is_searched_for_among_all_revisions[in process]",
    ),
    Mutant(
        "a-sample-proves",
        "look_into",
        "if verdict.fitting and not sampled:",
        "if False:",
        "test_a_proof_reads_everything_and_samples_only_state[in process]",
    ),
    Mutant(
        "sample-called-compared",
        "FolderCompared.word",
        "if self.rule is None or not self.whole:",
        "if self.rule is None:",
        "test_a_proof_reads_everything_and_samples_only_state[in process]",
    ),
    Mutant(
        "older-client-proves",
        "FolderCompared.word",
        "if self.rule is None or not self.whole:",
        "if not self.whole:",
        "test_the_word_of_an_older_client_is_stated_at_most",
    ),
    Mutant(
        "tensors-alike-by-name",
        "_OpenFolder.is_alike",
        "return _digest(source, found) == self.digests[tensor]",
        "return True",
        "test_a_proof_reads_everything_and_samples_only_state[in process]",
    ),
    Mutant(
        "factors-never-rounded-first",
        "with_rounded_factors",
        "return None if steps == program.steps else replace(program, steps=steps)",
        "return None",
        "test_an_adapter_that_was_rounded_before_it_was_merged[BF16-True]",
    ),
    Mutant(
        "dora-rounded-twice",
        "rounded_block",
        "if values.rescales(number + 1):",
        "if False:",
        "test_a_dora_that_was_merged_step_by_step",
    ),
)
