"""What `transformers.Trainer` needs to train siblings: a collator that says whose rows are, a callback that updates.

The Trainer's own optimizer has nothing to update: the model's parameters are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch.optim import Optimizer

from registry.errors import UsageError
from registry.pool.siblings.hooks import ROWS

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


def callback(update: Callable[[], object], optimizers: Mapping[str, Optimizer]) -> Any:
    """A ``transformers.TrainerCallback`` that updates after each batch, at rates that follow the Trainer's schedule."""
    from transformers import TrainerCallback

    class UpdateSiblings(TrainerCallback):  # type: ignore[misc]
        """Updates siblings where the Trainer updates the model."""

        def __init__(self) -> None:
            self._rates: list[tuple[dict[str, Any], float]] = []

        def on_train_begin(self, args: Any, *_: Any, **__: Any) -> None:
            wrong = next((name for name in ("fp16", "deepspeed", "fsdp") if getattr(args, name, None)), None)
            if wrong is not None or args.n_gpu > 1:
                raise UsageError(
                    f"Siblings are trained by a Trainer on one device without {wrong or 'DataParallel'}, which would "
                    "scale or split the gradients of all of them."
                )
            groups = [group for one in optimizers.values() for group in one.param_groups]
            self._rates = [(group, group["lr"]) for group in groups]

        def on_substep_end(self, *_: Any, **__: Any) -> None:
            update()

        def on_pre_optimizer_step(self, args: Any, *_: Any, lr_scheduler: Any = None, **__: Any) -> None:
            if lr_scheduler is not None and args.learning_rate:
                for group, rate in self._rates:
                    group["lr"] = rate * lr_scheduler.get_last_lr()[0] / args.learning_rate
            update()

    return UpdateSiblings()
