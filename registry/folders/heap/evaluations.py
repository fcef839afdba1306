"""Figures in the state of a trainer of transformers: the last evaluation up to a step, and what can be a metric."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeGuard

from registry.errors import UsageError
from registry.schemas.texts import check_name

_MOST_METRICS: Final = 32
OF_TRAINING: Final[Mapping[str, tuple[str, ...]]] = {"train_loss": ("loss", "train_loss"), "train_reward": ("reward",)}
"""Metrics of the training itself, and how trainers log them; those of policies log the reward of their rollouts."""


def metrics_among(values: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    """Those of some names and values that can be metrics; of one name the last."""
    metrics: dict[str, float] = {}
    for name, value in values:
        if len(metrics) < _MOST_METRICS and _is_metric(name, value):
            metrics[name] = float(value)
    return metrics


def figures_of_state(state: Mapping[str, Any], step: int | None) -> Iterator[tuple[Any, Any]]:
    """The last evaluation up to the step, None for the end; and what was best, as the trainer counts it."""
    history = state.get("log_history")
    entries = [one for one in history if isinstance(one, dict)] if isinstance(history, list) else []
    if step is not None:
        entries = [one for one in entries if is_number(one.get("step")) and one["step"] <= step]
    last = next((one for one in reversed(entries) if any(str(key).startswith("eval_") for key in one)), {})
    yield from ((key, value) for key, value in last.items() if str(key).startswith("eval_") and is_of_weights(str(key)))
    for metric in OF_TRAINING:
        yield metric, next((one for entry in reversed(entries) if (one := figure_of(entry, metric)) is not None), None)
    yield "best_metric", state.get("best_metric")


def figure_of(entry: Mapping[str, Any], metric: str) -> Any:
    """The figure of a metric in an entry of a trainer's log; None: it has none."""
    return next((entry[name] for name in OF_TRAINING.get(metric, (metric,)) if name in entry), None)


def is_of_weights(name: str) -> bool:
    """Whether a figure is about the weights, and not about the machine."""
    return not name.endswith(("_runtime", "_per_second"))


def _is_metric(name: object, value: object) -> bool:
    if not isinstance(name, str) or not is_number(value):
        return False
    try:
        check_name("Metric name", name)
    except UsageError:
        return False
    return True


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of JSON is a finite number; True is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
