"""Bugs planted in full fine-tunes that are kept exactly."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

EXACT: Final = (
    Mutant(
        "difference-put-back-by-xor",
        "decode_frame",
        "difference + _as_long(against, folded.size, element)",
        "difference ^ _as_long(against, folded.size, element)",
        "test_all_bytes_come_back",
    ),
    Mutant(
        "frame-of-any-size",
        "decode_frame",
        "if said.content_size != size or said.window_size > max(FRAME, 1 << 10):",
        "if False:",
        "test_a_frame_that_unfolds_to_much_takes_no_memory",
    ),
    Mutant(
        "coded-against-the-next-tensor",
        "against",
        "min(first + count, size)",
        "first + count",
        "test_any_range_is_the_models",
    ),
    Mutant(
        "first-exact-link-counts",
        "LoadedPath.exact",
        "in reversed(self.links)",
        "in self.links",
        "test_the_last_exact_revision_of_a_path_counts",
    ),
    Mutant(
        "exact-as-lora",
        "composed:_build",
        "if exact is not None:",
        "if False:",
        "test_no_lora_equals_it",
    ),
    Mutant(
        "grown-vocabulary-unsaid",
        "take_model_files",
        "if path in _OF_MODEL",
        "if False",
        "test_a_grown_vocabulary_comes_with_its_size",
    ),
    Mutant(
        "links-on-the-bases-rows",
        "inputs:weights_of",
        "if path.exact is None:",
        "if True:",
        "test_links_below_add_to_it",
    ),
    Mutant(
        "model-of-nan-published",
        "check_values",
        "watch(at, chunk)",
        "pass",
        "test_a_model_that_does_not_fit_is_refused",
    ),
    Mutant(
        "parent-published-again",
        "check_exact",
        "if _is_model_of(blobs, parent, model):",
        "if False:",
        "test_its_parent_again_is_refused",
    ),
)
