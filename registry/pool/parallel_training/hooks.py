"""Hooks on the modules that siblings train: each sibling's rows get what its factors add, or go through its copy.

The low-rank products of all siblings of one module, forward and backward, in the order of PEFT's sums.

One node of the graph in place of a dozen a sibling: at a few tokens a sibling, passes over whole outputs cost as much
as the products. Values are those of ``out + lora_B(lora_A(x)) * scaling`` in PEFT 0.21, in bits if shapes are alike.

What `transformers.Trainer` needs to train siblings: a collator that assigns rows to siblings, a callback that updates.

The Trainer's own optimizer has nothing to update: the model's parameters are frozen.

What came of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer

from registry.errors import UsageError
from registry.pool.parallel_training.factors import Pair
from registry.pool.parallel_training.rows import CHOICE, Choice, Rows, chosen, join
from registry.pool.parallel_training.sibling import Pace
from registry.pool.weight_readers import is_by_row


@dataclass(frozen=True)
class Part:
    """The rows of one sibling in a batch that is in their order."""

    start: int
    stop: int
    scaling: float


class _AddLowRank(torch.autograd.Function):
    """``out[rows] + s B A x[rows]`` for the rows of each part, in the dtype of ``out``."""

    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, out: torch.Tensor, parts: Sequence[Part], *factors: torch.Tensor
    ) -> torch.Tensor:
        total, inner = out.clone(), []
        for part, a, b in _zipped(parts, factors):  # a part's values stay in the cache from one line to the next
            rows = slice(part.start, part.stop)
            inner.append(functional.linear(x[rows].to(a.dtype), a))
            total[rows] = functional.linear(inner[-1], b).mul_(part.scaling).add_(out[rows].to(a.dtype))
        context.save_for_backward(x, *inner, *factors)
        context.parts = parts
        return total

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        (gradient,), parts = gradients, context.parts
        x, *rest = context.saved_tensors
        inner, factors = rest[: len(parts)], rest[len(parts) :]
        of_x = torch.zeros_like(x) if context.needs_input_grad[0] else None
        of_factors = []
        for (part, a, b), low in zip(_zipped(parts, factors), inner, strict=True):
            rows = slice(part.start, part.stop)
            scaled = gradient[rows].to(b.dtype, copy=True).mul_(part.scaling)
            of_low = scaled @ b
            of_a = of_low.flatten(0, -2).T @ x[rows].to(a.dtype).flatten(0, -2)
            of_factors += [of_a, scaled.flatten(0, -2).T @ low.flatten(0, -2)]
            if of_x is not None:
                of_x[rows] = of_low @ a
        return (of_x, gradient, None, *of_factors)


def _zipped(parts: Sequence[Part], factors: Sequence[torch.Tensor]) -> list[tuple[Part, torch.Tensor, torch.Tensor]]:
    return list(zip(parts, factors[::2], factors[1::2], strict=True))


def add_low_rank(
    x: torch.Tensor, out: torch.Tensor, parts: Sequence[Part], factors: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    """A linear module's output with the products of some siblings added to their rows.

    Args:
        x: the module's input (rows, ..., in), in the order of the parts.
        out: its output (rows, ..., out), in the same order; other rows stay as they are.
        parts: which rows are of which sibling.
        factors: A (rank, in) and B (out, rank) of each part.
    """
    found: torch.Tensor = _AddLowRank.apply(x, out, parts, *(one for pair in factors for one in pair))  # type: ignore[no-untyped-call]
    return found


ROWS: Final = "sibling_rows"
"""The input of the model that assigns its rows to siblings, if a collator wrote it."""

Find = Callable[[Any], Rows]


@dataclass(eq=False)
class Trained:
    """One module, and what each sibling has of it."""

    name: str
    module: nn.Module
    pairs: dict[str, Pair] = field(default_factory=dict)
    copies: dict[str, nn.Module] = field(default_factory=dict)
    turned: bool = False  # whether the rows of the batch may be in another dimension than the first

    def run(self, owner: object, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        """The module's output for the rows of all siblings, from that of the parent."""
        if torch._C._current_graph_task_id() != -1:
            raise UsageError(
                f"The module {self.name!r} is run again in a backward pass, when nobody knows whose rows these are: "
                "siblings can't be trained with gradient checkpointing, switch it off.",
                code="unsupported_model",
            )
        choice = chosen(owner)
        rows = None if choice is None else choice.call or choice.rows
        if rows is None or not any(group.name in self.pairs or group.name in self.copies for group in rows.groups):
            return None
        given = args[0] if args else kwargs.get("input")
        if not isinstance(given, torch.Tensor) or not isinstance(out, torch.Tensor) or len(args) + len(kwargs) != 1:
            raise UsageError(
                f"The module {self.name!r} is called with more than one tensor, or gives more than one: siblings can't "
                "tell rows there. Leave it out.",
                code="unsupported_model",
            )
        given, flat = self._by_rows(given, rows)
        found = self._run(rows, given, out.reshape(*given.shape[:2], -1) if flat else out)
        return found.to(out.dtype).reshape(out.shape)

    def _by_rows(self, given: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, bool]:
        """The input with rows as its first dimension, and whether they were flattened with the positions."""
        unclear = self.turned and given.dim() > 2 and given.shape[1] == rows.count
        if given.shape[0] == rows.count and not unclear and is_by_row(self.name, self.module, [given]):
            return given, False
        length = 0 if rows.length is None or self.turned or given.dim() != 2 else rows.length
        if length and given.shape[0] == rows.count * length:
            return given.reshape(rows.count, length, *given.shape[1:]), True
        raise UsageError(
            f"The module {self.name!r} is given {list(given.shape)}, where the batch has {rows.count} rows: siblings "
            "can't tell whose they are. Leave it out.",
            code="unsupported_model",
        )

    def _run(self, rows: Rows, given: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        given, out = rows.sort(given), rows.sort(out)
        held = [None if group.name is None else self.copies.get(group.name) for group in rows.groups]
        if any(copy is not None for copy in held):
            copied = zip(held, rows.split(given), rows.split(out), strict=True)
            out = join([base if copy is None else self._replaced(copy, part) for copy, part, base in copied])
        pairs = [None if group.name is None else self.pairs.get(group.name) for group in rows.groups]
        if any(pair is not None for pair in pairs):
            out = self._added(rows, pairs, given, out)
        return rows.unsort(out)

    def _replaced(self, copy: nn.Module, given: torch.Tensor) -> torch.Tensor:
        copy.train(self.module.training)
        found: torch.Tensor = copy(given)
        return found

    def _added(self, rows: Rows, pairs: Sequence[Pair | None], given: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        if self.module.training and any(pair is not None and pair.dropout is not None for pair in pairs):
            given_to = zip(pairs, rows.groups, rows.split(given), strict=True)
            dropped = join([part if pair is None else pair.drop(part, group.window) for pair, group, part in given_to])
        else:
            dropped = given
        plain = [(span, pair) for span, pair in zip(rows.spans, pairs, strict=True) if pair and pair.is_plain]
        if plain:
            parts = [Part(*span, pair.scaling) for span, pair in plain]
            out = add_low_rank(dropped, out, parts, [(pair.a, pair.b) for _, pair in plain])
        if any(pair is not None and not pair.is_plain for pair in pairs):
            of_each = zip(pairs, rows.split(dropped), rows.split(out), strict=True)
            out = join([self._applied(pair, base, part) for pair, part, base in of_each])
        return out

    def _applied(self, pair: Pair | None, out: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        if pair is None or pair.is_plain:
            return out
        return pair.apply_to(out, self.module, given, dropped=self.module.training and pair.dropout is not None)


class Hooks:
    """The hooks of some siblings on a model, until they are removed."""

    def __init__(self, model: nn.Module, trained: Iterable[Trained], check: Callable[[], None], find: Find) -> None:
        self._check = check
        self._find = find
        self._handles = [
            model.register_forward_pre_hook(self._enter, with_kwargs=True),
            model.register_forward_hook(self._leave, always_call=True),
        ]
        for one in trained:
            self._handles.append(one.module.register_forward_hook(self._runner(one), with_kwargs=True))

    @contextmanager
    def choosing(self, rows: Rows) -> Iterator[None]:
        """Calls of the model inside of this are for these rows."""
        self._check()
        before = CHOICE.set(Choice(self, rows))
        try:
            yield
        finally:
            CHOICE.reset(before)

    def remove(self) -> None:
        """Give the model its own forwards back."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _runner(self, trained: Trained) -> Callable[..., Any]:
        return lambda _, args, kwargs, out: trained.run(self, args, kwargs, out)

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        written = kwargs.pop(ROWS, None)
        if written is not None:
            CHOICE.set(Choice(self, self._find(written), for_one_call=True))
        choice = chosen(self)
        if choice is not None:
            self._check()
            choice.call = choice.rows.of_call([*args, *kwargs.values()], kwargs.get("attention_mask"))
        return args, kwargs

    def _leave(self, *_: Any) -> None:
        choice = chosen(self)
        if choice is not None:
            choice.call = None
            if choice.for_one_call:
                CHOICE.set(None)


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
"""The field of an example that names its sibling."""

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
    """What a callback needs of siblings."""

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
    """Check that siblings are trained according to the arguments of a Trainer.

    Raises:
        UsageError: they set what would mix siblings or is not done for them, or accumulate otherwise.
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
