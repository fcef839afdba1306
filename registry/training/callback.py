"""The callback for transformers' Trainer, and for all that are made of it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from transformers import TrainerCallback

from registry.app import open_registry
from registry.errors import RegistryError
from registry.training.options import Options, labels_of
from registry.training.session import Session

LOG: Final = logging.getLogger("registry.training")
_Handler = TypeVar("_Handler", bound=Callable[..., None])


def _ends_no_training(handler: _Handler) -> _Handler:
    """What fails in a handler is logged: a training run is worth more than what is published of it."""

    @functools.wraps(handler)
    def handled(*args: Any, **kwargs: Any) -> None:
        try:
            handler(*args, **kwargs)
        except RegistryError as problem:
            LOG.error("The registry's callback goes on without this: %s", problem)
        except Exception:
            LOG.exception("The registry's callback goes on without this.")

    return handled  # type: ignore[return-value] # of the same form


class RegistryCallback(TrainerCallback):  # type: ignore[misc] # of a library without types
    """Publishes the adapter that a Trainer trains: at the end the best, if known, else the last.

    It copies what the trainer saved into ``OUTPUT_DIR/_registry``, and publishes that copy in a thread. A failed
    publish never ends or stops the training: it is logged, waits on the disk, and is tried again at the end, by the
    next run with this folder, and by ``registry publish --resume OUTPUT_DIR``. Only the first process publishes.

    Args:
        path: the adapter's path, ``BASE/name/name``. None: ``REGISTRY_PUBLISH_PATH``.
        every: ``"end"``; ``"save"``, each checkpoint too; or a number N, each N-th step too.
        keep_best: remove all revisions of this run but this many of the best,
        keep_last: and this many of the last. None for both: nothing is removed. What somebody tagged, trained on or
            used stays in any case.
        metric: of evaluations, decides which is the best; ``train_reward`` and ``train_loss`` are of the training.
            None: the trainer's ``metric_for_best_model``.
        greater_is_better: whether more of it is better. None: as the trainer has it, else by its name.
        parent: the revision that it is trained on. None: derived from what the model was loaded from.
        tags: for what the run ends with.
        message: for all revisions. Empty: step and epoch.
        annotations: for all revisions.
        url: as in `registry.connect`.
        token: as in `registry.connect`.

    Raises:
        UsageError: the path is missing, or an option is malformed; before the training begins.
    """

    def __init__(
        self,
        path: str | None = None,
        *,
        every: str | int | None = None,
        keep_best: int | None = None,
        keep_last: int | None = None,
        metric: str | None = None,
        greater_is_better: bool | None = None,
        parent: str | None = None,
        tags: Iterable[str] = (),
        message: str = "",
        annotations: Mapping[str, str] = {},
        url: str | None = None,
        token: str | None = None,
    ) -> None:
        labels = labels_of(message, tags, annotations)
        self.options = Options.chosen(path, every, keep_best, keep_last, metric, greater_is_better, parent, labels)
        self._connect = partial(open_registry, url, token, create=True)
        self._session: Session | None = None

    @property
    def published(self) -> tuple[str, ...]:
        """References of what is published of the run, in order; those that were removed again are left out."""
        return () if self._session is None else self._session.published()

    @_ends_no_training
    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Begin or resume; what waits from before is sent."""
        del control, kwargs
        self._session = None
        if not state.is_world_process_zero:
            return
        if state.is_hyper_param_search:
            LOG.warning("While hyper-parameters are searched, nothing is published: train the best ones again.")
            return
        session = Session(Path(args.output_dir), self.options, args, model, self._connect)
        session.begin(resumed=state.global_step > 0)
        self._session = session

    @_ends_no_training
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take each N-th step, unless it is logged or evaluated first."""
        del args, kwargs
        if self._session is not None and not control.should_evaluate and not control.should_log:
            self._session.step(state)

    @_ends_no_training
    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take each N-th step with what was logged of it, unless it is evaluated next."""
        del args, kwargs
        if self._session is not None and not control.should_evaluate:
            self._session.step(state)

    @_ends_no_training
    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take each N-th step with what was measured."""
        del args, control, kwargs
        if self._session is not None:
            self._session.step(state)

    @_ends_no_training
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take a checkpoint, before a later save removes it."""
        del args, control, kwargs
        if self._session is not None:
            self._session.saved(state)

    @_ends_no_training
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the best, if it is known, else the last; wait until all is published, or can't be."""
        del args, control, kwargs
        if self._session is not None:
            self._session.end(state)
