"""What a trainer knows of a moment of its run: step, epoch, metrics, and which checkpoint was the best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.folders.heap.evaluations import figure_of, figures_of_state, is_number, metrics_among
from registry.folders.heap.kinds import CHECKPOINT
from registry.training.options import Options


@dataclass(frozen=True)
class Moment:
    """A step of a run, and what was measured up to it."""

    step: int
    epoch: float | None
    metrics: dict[str, float]
    score: float | None  # by which the best are told

    @property
    def annotations(self) -> dict[str, str]:
        """Step and epoch."""
        return {"step": str(self.step), **({} if self.epoch is None else {"epoch": f"{self.epoch:.6g}"})}

    @property
    def message(self) -> str:
        """What stands beside a revision where nobody gave a message."""
        return f"Step {self.step}" if self.epoch is None else f"Step {self.step}, epoch {self.epoch:.6g}"


def moment_of(state: Any, step: int, metric: str | None) -> Moment:
    """What the state of a trainer says of a step."""
    # Without the trainer's own best: it is a metric of another step.
    metrics = metrics_among(figures_of_state({"log_history": state.log_history}, step))
    score = metrics.get(metric) if metric is not None and _is_measured_at(state, step, metric) else None
    return Moment(step, _epoch_of(state, step), metrics, score)


def _is_measured_at(state: Any, step: int, metric: str) -> bool:
    """Whether the metric was measured at the very step: what was measured before says nothing of these weights."""
    return any(entry.get("step") == step and is_number(figure_of(entry, metric)) for entry in state.log_history)


def _epoch_of(state: Any, step: int) -> float | None:
    if step == state.global_step and is_number(state.epoch):
        return float(state.epoch)
    epochs = [entry.get("epoch") for entry in state.log_history if entry.get("step") == step]
    return next((float(epoch) for epoch in reversed(epochs) if is_number(epoch)), None)


def best_step(state: Any, options: Options) -> int | None:
    """The step that was best: as the trainer has it, or by the metric that was asked for; None: nobody knows."""
    if options.metric is None:
        checkpoint = state.best_model_checkpoint
        match = CHECKPOINT.fullmatch(Path(checkpoint).name) if checkpoint else None
        return int(match[1]) if match else None
    metric = options.metric_of(None) or ""
    greater = options.prefers_greater(metric, None)
    measured = [
        (figure if greater else -figure, -entry["step"])
        for entry in state.log_history
        if is_number(figure := figure_of(entry, metric)) and is_number(entry.get("step"))
    ]
    return -max(measured)[1] if measured else None
