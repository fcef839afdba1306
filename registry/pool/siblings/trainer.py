"""What `transformers.Trainer` needs to train siblings: a collator that says whose rows are, a callback that updates.

The Trainer's own optimizer has nothing to update: the model's parameters are frozen.

What came of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
from torch.optim import Optimizer

from registry.errors import UsageError
from registry.pool.siblings.hooks import ROWS
from registry.pool.siblings.sibling import Pace


@dataclass(frozen=True)
class Step:
    """What a batch did to each sibling that had rows in it.

    Example:
        >>> Step({"llama/support/code": 2.5}, {"llama/support/code": 0.9}).losses
        {'llama/support/code': 2.5}
    """

    losses: Mapping[str, float] = field(default_factory=dict)
    """The mean loss over a sibling's own rows."""
    grad_norms: Mapping[str, float] = field(default_factory=dict)
    """The norm of the gradient before it was clipped, of those that were updated."""
    set_aside: Mapping[str, str] = field(default_factory=dict)
    """Why siblings are not trained any more, of those that this batch was the last of."""


FIELD: Final = "sibling"
"""The field of an example that says which sibling it is for."""

Collate = Callable[[list[dict[str, Any]]], Any]


def collator(paths: Sequence[str], collate: Collate) -> Collate:
    """A collator that takes the sibling out of each example, and writes the rows into what ``collate`` makes."""
    numbers = {path: number for number, path in enumerate(paths)}

    def with_rows(examples: list[dict[str, Any]]) -> Any:
        named = [str(example.get(FIELD)) for example in examples]
        unknown = [name for name in named if name not in numbers]
        if unknown:
            raise UsageError(
                f"An example's {FIELD!r} is {unknown[0]!r}, which is none of the siblings. Give every example the path "
                "of one, and the Trainer remove_unused_columns=False."
            )
        batch = collate([{name: one for name, one in example.items() if name != FIELD} for example in examples])
        batch[ROWS] = torch.tensor([numbers[name] for name in named])
        return batch

    return with_rows


class Trainable(Protocol):
    """What a callback asks of siblings."""

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """By path."""

    @property
    def paces(self) -> dict[str, Pace]:
        """By path."""

    def update_as_trainer(self) -> None:
        """Step all optimizers."""

    def forget(self) -> None:
        """Drop gradients."""

    def take_means(self, *, training: bool) -> dict[str, float]:
        """The mean loss of each since the last time."""


def callback(siblings: Trainable) -> Any:
    """A ``transformers.TrainerCallback`` that updates siblings when the Trainer updates, and logs their losses."""
    from transformers import TrainerCallback

    class UpdateSiblings(TrainerCallback):  # type: ignore[misc]
        """Updates siblings where the Trainer updates the model."""

        def __init__(self) -> None:
            self._rates: list[tuple[dict[str, Any], float]] = []

        def on_train_begin(self, args: Any, *_: Any, **__: Any) -> None:
            check_arguments(args, siblings.paces)
            siblings.forget()
            groups = [group for one in siblings.optimizers.values() for group in one.param_groups]
            self._rates = [(group, group["lr"]) for group in groups]

        def on_pre_optimizer_step(self, args: Any, *_: Any, lr_scheduler: Any = None, **__: Any) -> None:
            if lr_scheduler is not None and args.learning_rate:
                for group, rate in self._rates:
                    group["lr"] = rate * lr_scheduler.get_last_lr()[0] / args.learning_rate
            siblings.update_as_trainer()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            siblings.forget()  # of an accumulation that was broken off

        def on_log(self, args: Any, state: Any, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:  # noqa: ARG002
            for key in [one for one in logs or {} if one == "loss" or (one.endswith("_loss") and one != "train_loss")]:
                found = siblings.take_means(training=key == "loss")
                more = {f"{key}/{path}": mean for path, mean in found.items()}
                for written in (logs, *state.log_history[-1:]):
                    if written is not None and key in written:
                        written.update(more)

    return UpdateSiblings()


def check_arguments(args: Any, paces: Mapping[str, Pace]) -> None:
    """Check that siblings are trained as the arguments of a Trainer say.

    Raises:
        UsageError: they ask for what would mix siblings or is not done for them, or accumulate otherwise.
    """
    wrong = next((name for name in ("fp16", "deepspeed", "fsdp") if getattr(args, name, None)), None)
    if wrong is not None or args.n_gpu > 1 or args.world_size > 1:
        raise UsageError(
            f"Siblings are trained by a Trainer on one device without {wrong or 'DataParallel'}, which would "
            "scale or split the gradients of all of them."
        )
    for name in ("label_smoothing_factor", "neftune_noise_alpha"):
        if getattr(args, name, None):
            raise UsageError(f"Siblings are trained without {name}: their losses are the model's own. Leave it out.")
    for path, pace in paces.items():
        if pace.accumulate != args.gradient_accumulation_steps:
            raise UsageError(
                f"{path} accumulates {pace.accumulate} batches, and the Trainer's gradient_accumulation_steps is "
                f"{args.gradient_accumulation_steps}: give `pool.siblings` the same `accumulate`, as siblings "
                "are updated when the Trainer updates."
            )
        if args.weight_decay and pace.optimizer is None and pace.weight_decay != args.weight_decay:
            raise UsageError(
                f"{path} has a weight_decay of {pace.weight_decay:g}, and the Trainer's is {args.weight_decay:g}, "
                "which siblings do not take: give it to `pool.siblings`."
            )
