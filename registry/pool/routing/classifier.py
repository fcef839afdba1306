"""Routing by a classifier that is published in the tree itself: one label for each path."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import torch

from registry.errors import UsageError
from registry.operations.registry import Registry
from registry.pool.routing.route import Rows, Unclear, check_unclear, count_rows, unclear_row

LABELS: Final = "labels"


class _Pool(Protocol):
    def use(self, ref: str) -> AbstractContextManager[Any]: ...


class Classifier:
    """Routes each row by a classifier of the tree, which the pool runs beside the base like any other path.

    The labels, in the order of the logits, are the annotation ``labels`` of the classifier's revision, a JSON list, or
    given as ``labels``, for example as the model's ``config.id2label``. A label stands for a path: for that in
    ``references``, else for the child of the classifier's path that has its name.

    Args:
        registry: an open registry.
        pool: a pool whose model has the classifier's head: the one that is routed for, or another one.
        ref: the classifier; a tag is resolved at each call.
        logits: calls the pool's model on what is routed, as it was given: a list of texts or an encoded batch. Its
            answer is ``(rows, labels)``.
        labels: the labels, instead of those of the annotation.
        references: what each label stands for; None: the base model.
        minimum: the least probability of the likeliest label that is enough.
        unclear: what becomes of a row below it, or with two labels that are as likely: ``"base"``, or ``"error"``.

    Raises:
        UsageError: an option is malformed.
    """

    def __init__(
        self,
        registry: Registry,
        pool: _Pool,
        ref: str,
        logits: Callable[[Any], torch.Tensor],
        *,
        labels: Sequence[str] | Mapping[int, str] | None = None,
        references: Mapping[str, str | None] | None = None,
        minimum: float = 0.0,
        unclear: Unclear = "base",
    ) -> None:
        check_unclear(unclear)
        self._registry = registry
        self._pool = pool
        self._ref = ref
        self._logits = logits
        self._labels = None if labels is None else _in_order(labels)
        self._references = references
        self._minimum = minimum
        self._unclear: Unclear = unclear

    def route(self, rows: Rows) -> list[str | None]:
        """The reference that the likeliest label of each row stands for; None: the base model.

        Raises:
            NotFoundError, RetractedError, NotAllowedError: the classifier may not be used.
            UsageError: it has no labels or as many as it has no logits, a label stands for nothing, logits are not
                finite; with ``unclear="error"`` a row that is not clear.
        """
        count = count_rows(rows)
        revision = self._registry.show(self._ref).revision
        if revision is None:
            raise UsageError(f"{self._ref} is a base model, and a classifier is a revision of an adapter.")
        labels = _read(revision.reference, revision.annotations) if self._labels is None else self._labels
        meanings = self._meanings(labels, revision.path)
        if not count:
            return []
        with self._pool.use(revision.reference), torch.no_grad():
            logits = self._logits(rows).detach().to("cpu", torch.float64)
        if tuple(logits.shape) != (count, len(labels)):
            raise UsageError(
                f"The logits of {revision.reference} have the shape {tuple(logits.shape)}, and {count} rows with "
                f"{len(labels)} labels are expected."
            )
        return [self._likeliest(row, one, labels, meanings) for row, one in enumerate(logits.softmax(dim=1))]

    def _likeliest(
        self, row: int, probabilities: torch.Tensor, labels: Sequence[str], meanings: Mapping[str, str | None]
    ) -> str | None:
        if not torch.isfinite(probabilities).all():
            raise UsageError(f"The logits of row {row} are not finite.")
        best = float(probabilities.max())
        likeliest = [label for label, one in zip(labels, probabilities.tolist(), strict=True) if one == best]
        if len(likeliest) > 1 or best < self._minimum:
            unclear_row(self._unclear, row, f"the label {' or '.join(map(repr, likeliest))} has probability {best:.3f}")
            return None
        return meanings[likeliest[0]]

    def _meanings(self, labels: Sequence[str], path: str) -> Mapping[str, str | None]:
        if self._references is None:
            return {label: f"{path}/{label}" for label in labels}
        for label in labels:
            if label not in self._references:
                known = ", ".join(map(repr, self._references))
                raise UsageError(f"The label {label!r} of {self._ref} stands for no path; known are {known}.")
        return self._references


def _in_order(labels: Sequence[str] | Mapping[int, str]) -> tuple[str, ...]:
    if not isinstance(labels, Mapping):
        return tuple(labels)
    if sorted(labels) != list(range(len(labels))):
        raise UsageError(f"Labels have the numbers {sorted(labels)}, and 0 to {len(labels) - 1} are expected.")
    return tuple(labels[number] for number in range(len(labels)))


def _read(reference: str, annotations: Mapping[str, str]) -> tuple[str, ...]:
    if LABELS not in annotations:
        raise UsageError(
            f"{reference} has no annotation {LABELS!r}; write its labels as a JSON list, in the order of the logits, "
            "or give `labels`."
        )
    try:
        found = json.loads(annotations[LABELS])
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise UsageError(f"The annotation {LABELS!r} of {reference} is no JSON list of texts.")
    return tuple(found)
