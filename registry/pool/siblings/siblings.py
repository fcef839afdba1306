"""Several adapters that are trained at once over one frozen parent."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from registry.errors import UsageError
from registry.pool.beside.readers import Readers
from registry.pool.checked_base import PoolRegistry
from registry.pool.siblings.folder import configuration, receipt_of_merged, write_folder
from registry.pool.siblings.hooks import Hooks, Trained
from registry.pool.siblings.losses import Loss, losses_by_sibling, own_loss
from registry.pool.siblings.recipe import read_recipe
from registry.pool.siblings.refusals import Mixing
from registry.pool.siblings.rows import Rows
from registry.pool.siblings.sibling import MakeOptimizer, Pace, Sibling
from registry.pool.siblings.steps import Step
from registry.pool.siblings.trainer import Collate, callback, collator
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
        self._loss = loss or own_loss(model)
        self._mixing = Mixing(model)
        self._siblings: dict[str, Sibling] = {}
        for path, config in configs.items():
            _check_path(path, parent)
            make = _of(optimizer, path) or _adamw(_of(learning_rate, path))
            pace = Pace(make, _of(max_grad_norm, path), _of(accumulate, path))
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
            rows: the sibling of each row of the batch; None runs as the parent. It is faster where the rows of one
                lie beside each other.

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
        found = losses_by_sibling(self._last, outputs, labels, self._loss)
        for name, loss in list(found.items()):
            if not loss.requires_grad:  # an evaluation
                continue
            if not bool(torch.isfinite(loss)):
                sibling = self._siblings[name]
                sibling.put_aside(f"its loss was {float(loss.detach())}, after {sibling.updates} updates")
                del found[name]
            else:
                self._siblings[name].due = True
        return found

    def update(self) -> dict[str, float]:
        """Step the optimizers of those that had a loss, once each has as many batches as it accumulates.

        Returns:
            The norm of the gradient, before it was clipped, of those that were updated. One whose gradient is not
            finite is set aside.
        """
        norms = {name: one.update() for name, one in self._siblings.items() if one.due}
        return {name: norm for name, norm in norms.items() if norm is not None}

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
        """A collator for `transformers.Trainer`: each example says in its field ``sibling`` which path it is for.

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
        """A callback for `transformers.Trainer` that updates siblings, at rates that follow its schedule's shape.

        Example:
            >>> with pool.siblings({"llama/legal/eu": config}, "llama/legal@1") as siblings:
            ...     callbacks = [siblings.callback()]
        """
        return callback(self.update, self.optimizers)

    def loss(self, outputs: object, labels: Any, num_items_in_batch: object = None) -> torch.Tensor:
        """The sum of all losses, as ``compute_loss_func`` of `transformers.Trainer`; each is the mean of its own rows.

        Args:
            outputs: as for `losses`.
            labels: as for `losses`.
            num_items_in_batch: of all rows together: not used.
        """
        del num_items_in_batch
        losses = list(self.losses(outputs, labels).values())
        return torch.stack(losses).sum() if losses else torch.zeros((), requires_grad=torch.is_grad_enabled())

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


def _adamw(learning_rate: float) -> MakeOptimizer:
    return lambda parameters: AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)


def _of(value: Value | Mapping[str, Value], path: str) -> Value:
    """What a sibling gets of an option that is one for all, or by path."""
    if not isinstance(value, Mapping):
        return value
    if path not in value:
        raise UsageError(f"An option is given by path and lacks {path}.")
    return value[path]
