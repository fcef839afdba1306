"""What a training run publishes of itself: once, with its own figures, and what of it goes again."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

TRAINING: Final = (
    Mutant(
        "a-run-removes-what-was-there-before",
        "too_many",
        "one.final or not one.created",
        "one.final",
        "test_what_the_run_ended_with_and_what_was_there_before_stay",
    ),
    Mutant(
        "what-was-used-is-removed",
        "Sender._remove",
        "use.last_used_at is not None",
        "use.uses < 0",
        "test_what_somebody_tagged_trained_on_or_used_is_not_removed",
    ),
    Mutant(
        "weights-are-the-same-by-their-step",
        "Outbox.sent_before",
        "sent.weights == weights",
        "sent.step == document.step",
        "test_the_same_weights_of_a_run_are_one_revision_that_gets_the_labels",
    ),
    Mutant(
        "an-earlier-evaluation-scores-a-step",
        "_is_measured_at",
        'entry.get("step") == step',
        'entry.get("step") <= step',
        "test_a_moment_has_what_was_measured_up_to_it",
    ),
    Mutant(
        "a-step-is-taken-before-it-is-logged",
        "RegistryCallback.on_step_end",
        " and not control.should_log",
        "",
        "test_each_second_step_is_published_with_what_is_logged_of_it",
    ),
    Mutant(
        "rewards-are-looked-for-in-evaluations",
        "Options.metric_of",
        " or self.metric in OF_TRAINING",
        "",
        "test_a_policy_is_told_by_the_reward_of_its_rollouts",
    ),
    Mutant(
        "what-is-refused-holds-up-the-rest",
        "Sender._send_all",
        "continue",
        "return",
        "test_a_thread_sends_and_what_is_refused_holds_up_nothing",
    ),
    Mutant(
        "a-commit-of-any-hub-is-noted",
        "note_commit",
        'name.startswith(f"{path.base}/")',
        '"/" in name',
        "test_the_commit_of_a_view_that_was_loaded_is_in_the_configuration",
    ),
)
