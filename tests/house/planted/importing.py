"""Imports: what is proven, what is undecided, and what has changed since it was planned."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

IMPORTING: Final = (
    Mutant(
        "imports-by-name-alone",
        "old_roots:_LEAST",
        "_LEAST: Final = 2",
        "_LEAST: Final = 1",
        "test_an_old_root_needs_two_folders_that_show_it",
    ),
    Mutant(
        "bases-of-what-kohya-wrote",
        "_check_tensors",
        "if (dialect := dialect_of(places)) is not None and",
        "if (dialect := dialect_of(())) is not None and",
        "test_a_mistake_gets_the_answer_that_helps[base add char kohya]",
    ),
    Mutant(
        "models-with-a-scale-are-adapters",
        "dialect_of",
        "if any(map(dialect.some.fullmatch, names)) and all(map(dialect.every.fullmatch, names)):",
        "if all(map(dialect.every.fullmatch, names)):",
        "test_what_may_be_a_model_is_none",
    ),
    Mutant(
        "imports-not-looked-at-again",
        "Settling._look_again",
        "if len({one.weights for one in fitting}) > 1:",
        "if False:",
        "test_what_equals_a_model_that_was_explained_earlier_is_noticed",
    ),
    Mutant(
        "imports-of-any-base",
        "Settling._may_be_base",
        "min(one.distance for one in found) >= FAR",
        "True",
        "test_it_is_kept_exactly_and_what_stands_on_it_is_proven",
    ),
    Mutant(
        "imports-the-first-base",
        "_settle",
        "other.taken not in tried(",
        "other.taken in tried(",
        "test_the_base_is_the_model_that_the_others_are_made_of",
    ),
    Mutant(
        "imports-full-ones-that-may-be-the-base",
        "FullModels._came_first",
        "return len(used) > 1 or",
        "return True or",
        "test_where_it_is_not_clear_it_is_undecided_with_the_choices",
    ),
    Mutant(
        "imports-full-ones-from-far",
        "full_models:_NEAR",
        "_NEAR: Final = 0.25",
        "_NEAR: Final = 0.5",
        "test_where_it_is_not_clear_it_is_undecided_with_the_choices",
    ),
    Mutant(
        "imports-full-ones-in-any-order",
        "began_at",
        "and 1.5 * square >= _SURE * noise",
        "",
        "test_which_of_two_came_first_has_to_show",
    ),
    Mutant(
        "imports-measure-norms-as-matrices",
        "figures:_apart",
        "weights = spots.stands_for.to(torch.float64)",
        "weights = torch.ones_like(there)",
        "test_it_is_kept_exactly_and_what_stands_on_it_is_proven",
    ),
    Mutant(
        "imports-two-to-one-path",
        "_check_paths",
        "if other != entry.folder:",
        "if False:",
        "test_a_plan_that_can_not_be_done_does_nothing",
    ),
    Mutant(
        "imports-on-what-was-extracted",
        "apply_plan:_check",
        "elif entry.trained_on == above.folder and not _is_exact(above):",
        "elif False:",
        "test_a_plan_that_can_not_be_done_does_nothing",
    ),
    Mutant(
        "imports-what-has-changed",
        "_require_same",
        "if seen != found:",
        "if False:",
        "test_what_has_changed_since_is_refused",
    ),
    Mutant(
        "imports-on-a-changed-model",
        "_Run._with_parent",
        "if (problem := self._model_problem(place)) is not None:",
        "if (problem := None) is not None:",
        "test_what_has_changed_since_is_refused",
    ),
    Mutant(
        "imports-believe-the-plan",
        "_Run._with_parent",
        "return made if entry.proof is not None else made.with_request(parent=parent)",
        "return made.with_request(parent=parent, skip_parent_check=True)",
        "test_a_proof_is_made_again_whatever_a_plan_says",
    ),
    Mutant(
        "imports-untrained-as-another-function",
        "_Functions._link",
        "None if adds_nothing(bound) else same",
        "same",
        "test_what_was_never_trained_makes_no_parent_ambiguous",
    ),
    Mutant(
        "imports-names-of-backups",
        "Settling._original",
        "return not self._uses[place], says_copy(place), -self._uses[place]",
        "return False, False, 0",
        "test_copies_take_neither_names_nor_what_was_trained_on_the_original",
    ),
    Mutant(
        "nearest-is-not-the-first-of-near",
        "parent_search:_nearest",
        "return replace(known, name=first.reference, distance=first.distance)",
        "return verdict.nearest",
        "test_sums_are_named_with_their_weights_among_steps_of_one_training",
    ),
    Mutant(
        "sums-with-the-weights-of-least-squares",
        "_Sums._plain",
        "return typed if typed.square - fit.square < telling else replace(fit, more=telling)",
        "return fit",
        "test_sums_are_named_with_their_weights_among_steps_of_one_training",
    ),
)
