"""Several adapters that are trained at once over one frozen parent."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from registry.errors import UsageError
from registry.pool.checked_base import PoolRegistry
from registry.pool.parallel_training.hooks import Collate, Hooks, Step, Trained, callback, collator
from registry.pool.parallel_training.recipe import Mixing, configuration, read_recipe, receipt_of_merged, write_folder
from registry.pool.parallel_training.rows import (
    CountedLoss,
    Labels,
    Loss,
    Rows,
    labels_of,
    losses_by_sibling,
    own_loss,
    weighted,
)
from registry.pool.parallel_training.sibling import MakeOptimizer, Pace, Seen, Sibling
from registry.pool.weight_readers import Readers
from registry.reference import Path as TreePath
from registry.reference import Reference

Value = TypeVar("Value")


class Siblings:
    """Adapters in training over one parent, which is merged into the model and frozen; `AdapterPool.siblings` makes it.

    A batch holds rows of any of them. The gradients of each are those that it would have had alone: its loss is the
    mean over its own rows, and clipping, optimizer, dropout and accumulation are its own.
    """

    def __init__(
        self,
        model: nn.Module,
        registry: PoolRegistry,
        parent: str,
        configs: Mapping[str, object],
        *,
        seed: int = 0,
        learning_rate: float | Mapping[str, float] = 1e-4,
        weight_decay: float | Mapping[str, float] = 0.0,
        optimizer: MakeOptimizer | Mapping[str, MakeOptimizer] | None = None,
        max_grad_norm: float | Mapping[str, float | None] | None = 1.0,
        accumulate: int | Mapping[str, int] = 1,
        loss: Loss | None = None,
        closed: Callable[[], None] = lambda: None,
        check_parent: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the factors; see `AdapterPool.siblings`."""
        if not configs:
            raise UsageError("No siblings are given: a configuration for at least one path is expected.")
        self._model, self._registry, self._parent = model, registry, parent
        self._closed = closed
        self._check_parent = check_parent
        self._loss = own_loss(model) if loss is None else CountedLoss(loss)
        self._batch = Labels(0, 0)  # what the Trainer's batches had since the last update, rows of all
        self._counted: int | None = None  # what the Trainer counted in them
        self._mixing = Mixing(model)
        self._siblings: dict[str, Sibling] = {}
        for path, config in configs.items():
            _check_path(path, parent)
            make, decay = _of(optimizer, path), _of(weight_decay, path)
            if make is not None and decay:
                raise UsageError(
                    f"{path}: weight_decay is of AdamW, and an optimizer of your own is given: set it there."
                )
            pace = Pace(make, _of(learning_rate, path), decay, _of(max_grad_norm, path), _of(accumulate, path))
            self._siblings[path] = Sibling(model, read_recipe(path, config), pace, seed)
        self._frozen = [one for one in model.parameters() if one.requires_grad]
        for one in self._frozen:
            one.requires_grad = False
        self._last: Rows | None = None
        self._hooks: Hooks | None = Hooks(model, self._trained(), self._mixing.check, self._written)

    @property
    def parent(self) -> str:
        """The revision that is merged, ``PATH@N``, or the base model's name."""
        return self._parent

    @property
    def paths(self) -> tuple[str, ...]:
        """All siblings, in the order in which they were given."""
        return tuple(self._siblings)

    @property
    def set_aside(self) -> dict[str, str]:
        """Siblings that are not trained any more, as a loss or gradient of theirs was not finite, and why."""
        return {name: one.set_aside for name, one in self._siblings.items() if one.set_aside is not None}

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizer of each, for schedulers of learning rates."""
        return {name: one.optimizer for name, one in self._siblings.items()}

    def named_parameters(self, path: str) -> dict[str, nn.Parameter]:
        """What is trained of one sibling, by name."""
        return self._sibling(path).named_parameters()

    @contextmanager
    def rows(self, rows: Sequence[str | None]) -> Iterator[None]:
        """Run the model for these rows: for a loop of your own, with `losses` and `update`.

        Args:
            rows: the sibling of each row of the batch; None runs as the parent. It is faster if the rows of one
                are contiguous.

        Raises:
            UsageError: a name is not one of the siblings; ``unsupported_model``: something mixes rows, such as the
                model's own dropout; in a call of the model, where the batch has another number of rows.

        Example:
            >>> with pool.siblings({"llama/legal/eu": config, "llama/legal/us": config}, "llama/legal@1") as siblings:
            ...     with siblings.rows(["llama/legal/eu", "llama/legal/us"]):
            ...         out = model(ids)
            ...     losses = siblings.losses(out, labels=ids)
            ...     sum(losses.values()).backward()
            ...     step = siblings.update()
            >>> sorted(step)
            ['llama/legal/eu', 'llama/legal/us']
        """
        self._last = self._rows(rows)
        with self._open().choosing(self._last):
            yield

    def losses(self, outputs: object, labels: Any) -> dict[str, torch.Tensor]:
        """The loss of each sibling in the last batch, to be summed; one that is not finite is set aside and left out.

        Each is the mean over its labels. Where batches are accumulated, its gradient weighs as much as these are many:
        what a sibling is updated by is the mean over all labels since the last update. One without labels is left out.

        Args:
            outputs: what the model gave for the batch, called without labels.
            labels: of the batch, an entry a row: a tensor, or tensors by name for a loss that takes these.

        Raises:
            UsageError: the model has no loss function that is known to need no more than this, and none was given; or
                the last batch had another number of rows.
        """
        if self._last is None:
            raise UsageError("Run the model for rows of siblings first: `with siblings.rows([...])`.")
        if self._loss is None:
            raise UsageError(
                f"The loss of {type(self._model).__name__} is not known: give `loss=`, a function of one sibling's "
                "logits and labels, to `pool.siblings`."
            )
        found = {}
        for name, (loss, counted) in losses_by_sibling(self._last, outputs, labels, self._loss).items():
            sibling, training = self._siblings[name], loss.requires_grad
            weight = sibling.take(counted) if training else 1.0
            if not counted.used:
                continue
            value = float(loss.detach())
            if not training or math.isfinite(value):
                sibling.seen[training].add(value, counted.used)
                found[name] = weighted(loss, weight)
            else:
                sibling.put_aside(f"its loss was {value}, after {sibling.updates} updates")
        return found

    def update(self, *, complete: bool = False) -> dict[str, float]:
        """Step the optimizers of those that had a loss, once each has as many batches as it accumulates.

        Args:
            complete: step those that have fewer, too, as after the last batch of an epoch.

        Returns:
            The norm of the gradient, before it was clipped, of those that were updated. One whose gradient is not
            finite is set aside.
        """
        norms = {name: one.update(complete=complete) for name, one in self._siblings.items() if one.due or complete}
        return {name: norm for name, norm in norms.items() if norm is not None}

    def update_as_trainer(self) -> None:
        """Step all optimizers where the Trainer steps its own; for the callback.

        Raises:
            UsageError: the Trainer counted other labels than the losses were taken of.
        """
        used, given = self._batch
        if self._counted not in (None, used, given):
            raise UsageError(
                f"The Trainer counted {self._counted} labels for an update, and losses were taken of {used} in its "
                f"batches: `siblings.loss` has to be its compute_loss_func, and no batch may be left out."
            )
        # some versions count the first label of each row too, whatever the model predicts
        by_given = self._counted not in (None, used)
        self._batch, self._counted = Labels(0, 0), None
        for one in self._siblings.values():
            one.update(complete=True, given=by_given)

    def forget(self) -> None:
        """Drop the gradients of batches that nobody was updated for; for the callback."""
        self._batch, self._counted = Labels(0, 0), None
        for one in self._siblings.values():
            one.forget()

    def take_means(self, *, training: bool) -> dict[str, float]:
        """The mean loss of each sibling over its labels since the last time; for the callback."""
        found = {}
        for name, one in self._siblings.items():
            seen, one.seen[training] = one.seen[training], Seen()
            if seen.labels:
                found[name] = seen.total / seen.labels
        return found

    @property
    def paces(self) -> dict[str, Pace]:
        """How each is updated."""
        return {name: one.pace for name, one in self._siblings.items()}

    def step(self, batch: Mapping[str, Any], rows: Sequence[str | None]) -> Step:
        """One forward and one backward for a batch that holds rows of several, and the updates that are due.

        Args:
            batch: the model's inputs, and ``labels``.
            rows: as for `rows`.

        Raises:
            UsageError: what `rows` and `losses` raise.

        Example:
            >>> with pool.siblings({"llama/legal/eu": config, "llama/legal/us": config}, "llama/legal@1") as siblings:
            ...     step = siblings.step({"input_ids": ids, "labels": ids}, ["llama/legal/eu", "llama/legal/us"])
            >>> sorted(step.losses)
            ['llama/legal/eu', 'llama/legal/us']
        """
        inputs = dict(batch)
        if "labels" not in inputs:
            raise UsageError("The batch has no labels.")
        labels, before = inputs.pop("labels"), self.set_aside
        with self.rows(rows):
            outputs = self._model(**inputs)
        losses = self.losses(outputs, labels)
        norms: dict[str, float] = {}
        if losses:
            torch.autograd.backward(list(losses.values()))
            norms = self.update()
        aside = {name: why for name, why in self.set_aside.items() if name not in before}
        return Step({name: float(loss.detach()) for name, loss in losses.items()}, norms, aside)

    def collator(self, collate: Collate) -> Collate:
        """A collator for `transformers.Trainer`: each example names its path in its field ``sibling``.

        Args:
            collate: collates the examples without that field.

        Example:
            >>> from transformers import default_data_collator
            >>> with pool.siblings({"llama/legal/eu": config}, "llama/legal@1") as siblings:
            ...     collate = siblings.collator(default_data_collator)
            ...     batch = collate([{"input_ids": [1, 2], "labels": [1, 2], "sibling": "llama/legal/eu"}])
            >>> sorted(batch)
            ['input_ids', 'labels', 'sibling_rows']
        """
        return collator(self.paths, collate)

    def callback(self) -> Any:
        """A callback for `transformers.Trainer`: updates siblings when it updates, at rates of its schedule's shape.

        It writes the mean loss of each since the last log as ``loss/PATH`` into what is logged, and of an evaluation as
        ``eval_loss/PATH``.

        Raises:
            UsageError: when the training begins, its arguments set what siblings don't do, or accumulate otherwise.

        Example:
            >>> with pool.siblings({"llama/legal/eu": config}, "llama/legal@1") as siblings:
            ...     callbacks = [siblings.callback()]
        """
        return callback(self)

    def loss(self, outputs: object, labels: Any, num_items_in_batch: object = None) -> torch.Tensor:
        """All losses as one, ``compute_loss_func`` of `transformers.Trainer`; each is the mean of its own rows.

        Its gradient is that of their sum. Its value is the mean over all labels where the Trainer counted them, as it
        logs it for one model, else the sum.

        Args:
            outputs: as for `losses`.
            labels: as for `losses`.
            num_items_in_batch: the labels of all rows in the batches until the next update, as the Trainer counts them.
        """
        before = {name: one.seen[True].total for name, one in self._siblings.items()}
        losses = self.losses(outputs, labels)
        total = torch.stack(list(losses.values())).sum() if losses else torch.zeros((), requires_grad=True)
        counts = self._loss is not None and self._loss.count is not None
        if num_items_in_batch is None or self._loss is None or not counts or not torch.is_grad_enabled():
            return total
        more = labels_of(labels, self._loss)
        self._batch = Labels(self._batch.used + more.used, self._batch.given + more.given)
        self._counted = int(num_items_in_batch)  # type: ignore[call-overload]
        taken = sum(self._siblings[name].seen[True].total - before[name] for name in losses)
        return weighted(total, 1.0, taken / max(self._counted, 1))

    def save(self, path: str, out: str | PathLike[str]) -> Path:
        """Write one sibling as a PEFT folder; a receipt in it pins the parent, for when it is published.

        Args:
            path: the sibling.
            out: the folder, which is absent or empty.

        Raises:
            UsageError: it was set aside.
            ConflictError: ``folder_taken``.
            IntegrityError: ``model_changed``: it was not trained on the parent, whose weights something else changed.
        """
        self._check_parent()
        sibling = self._sibling(path)
        if sibling.set_aside is not None:
            raise UsageError(f"{path} was set aside: {sibling.set_aside}.")
        receipt = receipt_of_merged(self._registry, self._parent, self._model)
        config = configuration(sibling.recipe, self._model, {name: sibling.modules[name] for name in sibling.pairs})
        return write_folder(Path(out), config, sibling.tensors(), receipt)

    def publish(self, paths: Iterable[str] | None = None, **options: Any) -> tuple[str, ...]:
        """Publish siblings, each as the next revision of its path, on the parent that is merged.

        Args:
            paths: which; None: all that were not set aside.
            options: of `Registry.publish`, as ``message``, ``tags`` and ``strict``, for each of them.

        Returns:
            Their references, ``PATH@N``.

        Raises:
            UsageError: one of ``paths`` was set aside.
            RegistryError: what `Registry.publish` raises.
        """
        named = [name for name in self.paths if name not in self.set_aside] if paths is None else list(paths)
        published = []
        with tempfile.TemporaryDirectory(prefix="siblings-") as made:
            folders = {name: self.save(name, Path(made) / str(number)) for number, name in enumerate(named)}
            for name, folder in folders.items():
                published.append(self._registry.publish(folder, name, **options).revision.reference)
        return tuple(published)

    def state_dict(self) -> dict[str, Any]:
        """Values, optimizers and dropout of all, to go on later; not the gradients of batches that are accumulated."""
        return {name: one.state() for name, one in self._siblings.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict` of siblings of the same configurations.

        Raises:
            UsageError: these are others.
        """
        if set(state) != set(self._siblings):
            raise UsageError(f"The state is of {', '.join(sorted(state))}, and not of {', '.join(self.paths)}.")
        for name, one in self._siblings.items():
            one.restore(state[name])

    def close(self) -> None:
        """Let go of the model: it has what was merged before, and its parameters may be trained as before."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
            for one in self._frozen:
                one.requires_grad = True
            self._closed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{len(self._siblings)} siblings on {self._parent}, {len(self.set_aside)} set aside>"

    def _open(self) -> Hooks:
        if self._hooks is None:
            raise UsageError("These siblings are closed.")
        return self._hooks

    def _sibling(self, path: str) -> Sibling:
        if path not in self._siblings:
            raise UsageError(f"{path!r} is none of the siblings: {', '.join(self.paths)}.")
        return self._siblings[path]

    def _rows(self, names: Sequence[str | None]) -> Rows:
        """Rows of the siblings that are still trained; those of others run as the parent."""
        return Rows.of([name if name is not None and self._sibling(name).set_aside is None else None for name in names])

    def _written(self, written: Any) -> Rows:
        """Rows that a collator wrote into a batch, as numbers of siblings."""
        self._last = self._rows([self.paths[number] if number >= 0 else None for number in written.tolist()])
        return self._last

    def _trained(self) -> list[Trained]:
        found: dict[str, Trained] = {}
        turned = Readers(self._model).turned
        for path, sibling in self._siblings.items():
            for name, module in sibling.modules.items():
                one = found.setdefault(name, Trained(name, module, turned=turned))
                if name in sibling.pairs:
                    one.pairs[path] = sibling.pairs[name]
                else:
                    one.copies[path] = sibling.copies[name]
        return list(found.values())


def _check_path(path: str, parent: str) -> None:
    above = TreePath.parse(path).parent
    if above is None or above != Reference.parse(parent).path:
        raise UsageError(f"{path} is no child of {parent}, which it is to be trained on: its path is PARENT/NAME.")


def _of(value: Value | Mapping[str, Value], path: str) -> Value:
    """What a sibling gets of an option that is one for all, or by path."""
    if not isinstance(value, Mapping):
        return value
    if path not in value:
        raise UsageError(f"An option is given by path and lacks {path}.")
    return value[path]
