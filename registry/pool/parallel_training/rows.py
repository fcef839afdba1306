"""Which rows of a batch belong to which sibling, and the loss of each, with its labels counted.

Rows are taken by slices and put together again by concatenation, never multiplied by masks: a NaN in the rows of one
sibling must not reach those of another. If each sibling's rows are contiguous, the parts are views.

The loss of a sibling is the model's own loss function on its rows, so that means are over these alone.

A mean over the labels of a batch is no mean over those of several batches, where these have different numbers of them.
So the labels of each loss are counted, as `transformers.Trainer` counts them, and its gradient weighs as much as they.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Final, NamedTuple

import torch
from torch import nn

from registry.errors import UsageError


@dataclass(frozen=True, eq=False)
class Group:
    """The rows of one sibling in a batch; None: those that run as the parent alone."""

    name: str | None
    rows: tuple[int, ...]
    window: slice | None = None
    """From the first to the last position that is not padding in any of its rows; None: all."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a batch, by sibling."""

    count: int
    groups: tuple[Group, ...]
    order: torch.Tensor | None  # rows by group, where they do not lie so
    back: torch.Tensor | None
    length: int | None = None  # positions of a row, once the model was called

    @classmethod
    def of(cls, names: Sequence[str | None]) -> Rows:
        """The rows of a batch whose row ``i`` is of ``names[i]``."""
        found: dict[str | None, list[int]] = {}
        for row, name in enumerate(names):
            found.setdefault(name, []).append(row)
        order = torch.tensor([row for rows in found.values() for row in rows])
        sorted_already = bool((order == torch.arange(len(names))).all())
        groups = tuple(Group(name, tuple(rows)) for name, rows in found.items())
        if sorted_already:
            return cls(len(names), groups, None, None)
        return cls(len(names), groups, order, order.argsort())

    def of_call(self, inputs: Iterable[Any], mask: object) -> Rows:
        """The same for one call of the model, whose inputs give the lengths of rows and their padding.

        Raises:
            UsageError: the batch has another number of rows.
        """
        tensors = [one for one in inputs if isinstance(one, torch.Tensor) and one.dim() >= 2]
        if not any(one.shape[0] == self.count for one in tensors):
            counts = ", ".join(sorted({str(one.shape[0]) for one in tensors})) or "no"
            raise UsageError(f"rows names {self.count} rows, but the batch has {counts} rows.")
        length = next(one.shape[1] for one in tensors if one.shape[0] == self.count)
        device = next(one.device for one in tensors)
        moved = [None if one is None else one.to(device) for one in (self.order, self.back)]
        groups = self.groups
        if isinstance(mask, torch.Tensor) and mask.shape == (self.count, length):
            groups = tuple(replace(one, window=_window(mask[list(one.rows)])) for one in self.groups)
        return replace(self, groups=groups, order=moved[0], back=moved[1], length=length)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Where the rows of each group begin and end, in the order of groups."""
        stops = list(accumulate(len(group.rows) for group in self.groups))
        return tuple(zip([0, *stops], stops, strict=False))

    def sort(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows in the order of groups."""
        return tensor if self.order is None else tensor.index_select(0, self.order)

    def unsort(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rows in the order of groups, in that of the batch again."""
        return tensor if self.back is None else tensor.index_select(0, self.back)

    def split(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The rows of each group, of rows in the order of groups."""
        return (tensor,) if len(self.groups) == 1 else _split(tensor, [len(group.rows) for group in self.groups])

    def by_name(self, batch: Mapping[str, Any] | torch.Tensor) -> dict[str, Any]:
        """What each sibling has of a tensor, or of the tensors of a batch that have one entry a row."""
        if isinstance(batch, torch.Tensor):
            parts = self.split(self.sort(batch))
            return {group.name: part for group, part in zip(self.groups, parts, strict=True) if group.name is not None}
        whole = {
            field: one
            for field, one in batch.items()
            if isinstance(one, torch.Tensor) and one.shape[:1] == (self.count,)
        }
        split = {field: self.by_name(one) for field, one in whole.items()}
        names = [group.name for group in self.groups if group.name is not None]
        return {name: {field: parts[name] for field, parts in split.items()} for name in names}


def _split(tensor: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, ...]:
    found: tuple[torch.Tensor, ...] = torch.split(tensor, sizes)
    return found


def join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts one after the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _window(mask: torch.Tensor) -> slice | None:
    used = mask.bool().any(0).nonzero()
    return None if used.numel() == 0 else slice(int(used[0]), int(used[-1]) + 1)


@dataclass(eq=False)
class Choice:
    """Rows, and whose they are: models of several pools may be trained alternately."""

    owner: object
    rows: Rows
    call: Rows | None = None  # the same for the call of the model that runs
    for_one_call: bool = False


CHOICE: ContextVar[Choice | None] = ContextVar("siblings", default=None)


def chosen(owner: object) -> Choice | None:
    """The choice that an owner's model runs for; None: the parent alone."""
    choice = CHOICE.get()
    return choice if choice is not None and choice.owner is owner else None


Loss = Callable[[torch.Tensor, Any], torch.Tensor]
"""From the outputs and the labels of one sibling's rows."""

IGNORED: Final = -100
"""The label of a position that no loss is taken of."""

_OWN: Final = frozenset(
    {"ForCausalLM", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForImageClassification"}
)
"""Losses of transformers that are computed from logits and labels alone."""


class Labels(NamedTuple):
    """How many labels some rows have."""

    used: int  # those that the mean is over
    given: int  # all but the ignored ones: of a causal model the first position of each row too, which predicts nothing


ONE: Final = Labels(1, 1)
"""Of a loss that nothing is known of: each batch weighs the same."""


@dataclass(frozen=True)
class CountedLoss:
    """A loss, and how its labels are counted."""

    compute: Loss
    count: Callable[[torch.Tensor], Labels] | None = None  # None: it is not known what the mean is over


def own_loss(model: nn.Module) -> CountedLoss | None:
    """The model's own loss function; None: it has none that is known to need logits and labels alone."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "loss_function") or not _is_known(model):
        return None
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(config, "vocab_size", None) or getattr(text, "vocab_size", None)

    def loss(logits: torch.Tensor, labels: Any) -> torch.Tensor:
        # every loss function takes what it needs of these by name
        compute: Callable[..., object] = getattr(model, "loss_function")  # noqa: B009 - a property of transformers' models
        found = compute(logits=logits, pooled_logits=logits, labels=labels, config=config, vocab_size=size)
        return _scalar(found)

    shifted = (getattr(model, "loss_type", None) or "ForCausalLM") == "ForCausalLM"
    return CountedLoss(loss, _count_shifted if shifted else _count)


def _count_shifted(labels: torch.Tensor) -> Labels:
    return Labels(int((labels[..., 1:] != IGNORED).sum()), int((labels != IGNORED).sum()))


def _count(labels: torch.Tensor) -> Labels:
    given = int((labels != IGNORED).sum())
    return Labels(labels.numel() if labels.is_floating_point() else given, given)


def _is_known(model: nn.Module) -> bool:
    kind = getattr(model, "loss_type", None)
    if kind is not None:
        return kind in _OWN
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # GPT2LMHeadModel and its like, whose names don't show it
    return type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def labels_of(labels: Any, loss: CountedLoss) -> Labels:
    """How many labels some rows have."""
    return ONE if loss.count is None or not isinstance(labels, torch.Tensor) else loss.count(labels)


class _Weighted(torch.autograd.Function):
    """A loss that is shown as one number and whose gradient has a weight."""

    @staticmethod
    def forward(context: Any, loss: torch.Tensor, weight: float, shown: float | None) -> torch.Tensor:
        context.weight = weight
        return loss.clone() if shown is None else torch.full_like(loss, shown)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0] * context.weight, None, None


def weighted(loss: torch.Tensor, weight: float, shown: float | None = None) -> torch.Tensor:
    """A loss whose gradient is multiplied by a weight.

    Args:
        loss: the loss.
        weight: of its gradient.
        shown: its value. None: as it is.
    """
    if weight == 1 and shown is None:
        return loss
    found: torch.Tensor = _Weighted.apply(loss, weight, shown)  # type: ignore[no-untyped-call]
    return found


def losses_by_sibling(
    rows: Rows, outputs: object, labels: Any, loss: CountedLoss
) -> dict[str, tuple[torch.Tensor, Labels]]:
    """The loss of each sibling that has rows in a batch, and how many labels it is of.

    Args:
        rows: the batch.
        outputs: the logits, or what has them as ``logits`` or under that name.
        labels: a tensor, or tensors by name, with an entry a row.
        loss: from one sibling's outputs and labels to a number, the mean over these.

    Raises:
        UsageError: outputs or labels have another number of rows.
    """
    logits = outputs if isinstance(outputs, torch.Tensor) else _logits(outputs)
    parts = rows.by_name(_checked(rows, "The outputs", logits))
    if isinstance(labels, torch.Tensor):
        _checked(rows, "The labels", labels)
    said = rows.by_name(labels)
    return {name: (_scalar(loss.compute(parts[name], said[name])), labels_of(said[name], loss)) for name in parts}


def _logits(outputs: object) -> torch.Tensor:
    found = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if not isinstance(found, torch.Tensor):
        raise UsageError("The model's outputs have no logits: give siblings the tensor that its loss is computed from.")
    return found


def _checked(rows: Rows, what: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.shape[:1] != (rows.count,):
        raise UsageError(f"{what} are of the shape {list(tensor.shape)}, where {rows.count} rows are expected.")
    return tensor


def _scalar(found: object) -> torch.Tensor:
    if not isinstance(found, torch.Tensor) or found.numel() != 1:
        raise UsageError("A loss is expected to be one number for the rows of one sibling.")
    return found.reshape(())
