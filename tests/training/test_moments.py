"""What a trainer's state says of a step, and which one was the best."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from registry.operations.publication import Labels
from registry.training.options import Options
from registry.training.session import best_step, moment_of

HISTORY: list[dict[str, Any]] = [
    {"step": 2, "epoch": 0.5, "loss": 3.0},
    {"step": 2, "epoch": 0.5, "eval_loss": 2.0, "eval_acc": 0.5, "eval_runtime": 1.0},
    {"step": 4, "epoch": 1.0, "loss": 2.5},
    {"step": 4, "epoch": 1.0, "eval_loss": 1.5, "eval_acc": 0.7},
    {"step": 6, "epoch": 1.5, "eval_loss": 1.75, "eval_acc": 0.7},
    {"step": 7, "epoch": 1.75, "loss": 1.0},
]


def state(best: str | None = None) -> Any:
    return SimpleNamespace(log_history=HISTORY, global_step=8, epoch=2.0, best_model_checkpoint=best, best_metric=1.5)


def options(metric: str | None = None, greater_is_better: bool | None = None) -> Options:
    return Options("net/one", "end", None, None, metric, greater_is_better, None, Labels())


def test_a_moment_has_what_was_measured_up_to_it() -> None:
    found = moment_of(state(), 4, "eval_acc")
    assert found.metrics == {"eval_loss": 1.5, "eval_acc": 0.7, "train_loss": 2.5}
    assert (found.score, found.annotations) == (0.7, {"step": "4", "epoch": "1"})
    last = moment_of(state(), 8, "eval_acc")
    assert last.metrics == {"eval_loss": 1.75, "eval_acc": 0.7, "train_loss": 1.0}
    assert last.score is None, "it was measured at another step, of other weights"
    assert last.message == "Step 8, epoch 2"
    assert moment_of(state(), 5, None).annotations == {"step": "5"}


def test_a_policy_is_told_by_the_reward_of_its_rollouts() -> None:
    history = [{"step": step, "loss": 0.0, "reward": reward} for step, reward in ((1, 0.25), (2, 0.75), (3, 0.5))]
    training = SimpleNamespace(
        log_history=[*history, {"step": 3, "train_loss": 0.1}], global_step=3, epoch=None, best_model_checkpoint=None
    )
    found = moment_of(training, 2, "train_reward")
    assert (found.metrics, found.score) == ({"train_loss": 0.0, "train_reward": 0.75}, 0.75)
    assert moment_of(training, 3, "train_reward").metrics == {"train_loss": 0.1, "train_reward": 0.5}
    assert best_step(training, options("train_reward")) == 2
    assert best_step(training, options("reward")) is None, "of an evaluation, and there was none"


@pytest.mark.parametrize(
    ("metric", "greater", "best"),
    [
        (None, None, None),
        ("loss", None, 4),
        ("eval_acc", None, 4),
        ("eval_acc", False, 2),
        ("eval_bleu", None, None),
        ("train_loss", None, 7),
    ],
)
def test_the_best_step_is_told_by_the_metric(metric: str | None, greater: bool | None, best: int | None) -> None:
    """Of equals the earlier one."""
    assert best_step(state(), options(metric, greater)) == best


def test_the_trainers_own_best_counts_where_no_metric_is_given() -> None:
    assert best_step(state("out/checkpoint-6"), options()) == 6
    assert best_step(state("out/elsewhere"), options()) is None


@pytest.mark.parametrize(
    ("metric", "greater", "trainers", "found"),
    [
        (None, None, True, True),
        (None, False, True, False),
        ("loss", None, True, False),
        ("acc", None, False, True),
        (None, None, None, False),
        ("train_reward", None, None, True),
        ("train_loss", None, True, False),
    ],
)
def test_the_direction_is_as_given_or_as_the_trainer_has_it(
    metric: str | None, greater: bool | None, trainers: bool | None, found: bool
) -> None:
    asked = options(metric, greater)
    assert asked.prefers_greater(asked.metric_of(None), trainers) is found


@pytest.mark.parametrize(
    ("metric", "trainers", "found"),
    [
        (None, None, None),
        ("acc", "loss", "eval_acc"),
        ("eval_acc", None, "eval_acc"),
        ("train_reward", "loss", "train_reward"),
        ("train_acc", None, "eval_train_acc"),
        (None, "train_loss", "eval_train_loss"),
    ],
)
def test_a_metric_is_of_an_evaluation_unless_it_is_asked_for_as_of_the_training(
    metric: str | None, trainers: str | None, found: str | None
) -> None:
    """The trainer's own always is: with several sets to evaluate on, ``train`` may be the name of one."""
    assert options(metric).metric_of(trainers) == found
