"""Bugs of full models: what changed, the best pairs of it, and what is refused."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

FULL: Final = (
    Mutant(
        "error-of-what-was-asked",
        "HeldDelta.exact",
        "if self._held is not None and self._exact:",
        "if self._held is not None:",
        "test_what_float32_does_not_hold_counts_in_the_error",
    ),
    Mutant(
        "one-pass-is-enough",
        "best_pair:directions",
        "if before - error <= ENOUGH * error:",
        "if before:",
        "test_best_pair.py",
    ),
    Mutant(
        "begins-narrower-than-the-rank",
        "best_pair:_Search.__init__",
        "width = min(_LANES * math.ceil((rank + OVERSAMPLED) / _LANES), size)",
        "width = _LANES",
        "test_more_equal_singular_values_than_a_pass_takes_are_all_found",
    ),
    Mutant(
        "ranks-one-above",
        "_Spectrum.lowest",
        "for rank in range(1, len(self.left_out))",
        "for rank in range(2, len(self.left_out))",
        "test_best_pair.py",
    ),
    Mutant(
        "rounded-parent-is-a-change",
        "Delta._differs",
        "if made is not None and torch.equal(made, found):",
        "if made is None:",
        "test_the_parent_itself_is_refused_as_this_registry_and_others_merge_it",
    ),
    Mutant(
        "parent-is-the-base",
        "_Walk.delta",
        "self._parent.programs.get(slot) or ",
        "",
        "test_a_parent_is_its_exact_weights_and_what_only_rounding_changed_is_left_out",
    ),
    Mutant(
        "embedding-not-turned",
        "oriented",
        "if transposed:",
        "if False:",
        "test_at_full_rank_every_kind_of_layer_is_the_full_model[llama]",
    ),
    Mutant(
        "experts-of-one-expert",
        "LinkMaker.add_experts",
        "filled_b[:, : b.shape[1], expert] = b",
        "filled_b[:, : b.shape[1], 0] = b",
        "test_at_full_rank_every_kind_of_layer_is_the_full_model[mixtral]",
    ),
    Mutant(
        "report-about-another-parent",
        "_check_extracted",
        "if extracted.parent != parent.digest:",
        "if False:",
        "test_a_report_about_another_parent_or_other_pairs_is_refused",
    ),
    Mutant(
        "tensors-that-are-not-there",
        "_check_there",
        "if tensor not in named and tensor not in shared and not (is_head and heads):",
        "if False:",
        "test_what_is_no_full_model_of_the_base_is_refused_by_name[missing-incomplete_model]",
    ),
)
