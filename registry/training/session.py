"""One training run: which of its moments are published, and with which words."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.training.checkpoints import checkpoint_of, copy_adapter, is_sharded, last_checkpoint
from registry.training.models import adapter_of, loaded_commit, note_commit, save_adapter, unwrapped
from registry.training.moments import best_step, moment_of
from registry.training.options import Options
from registry.training.outbox import MOST_WAITING, Outbox, ToPublish
from registry.training.retention import Keep
from registry.training.sending import Sender
from registry.training.surroundings import look_around, trainer_of
from registry.training.trained import Recording

LOG: Final = logging.getLogger("registry.training")


class Session:
    """What `registry.training.callback.RegistryCallback` does in one run of a trainer."""

    def __init__(self, output: Path, options: Options, args: Any, model: Any, connect: Callable[[], Registry]) -> None:
        self._output = output.absolute()
        self._options = options
        self._args = args
        self._model = unwrapped(model)
        self._adapter = adapter_of(self._model, None)
        self._path = TreePath.parse(options.path)
        self._metric = options.metric_of(args.metric_for_best_model)
        self._taken: set[int] = set()  # steps that were taken for being the N-th
        self._run = ""
        self._over = False
        self._outbox = Outbox(self._output)
        greater = options.prefers_greater(self._metric, args.greater_is_better)
        keep = Keep(options.keep_best, options.keep_last, greater_is_better=greater)
        self._sender = Sender(self._outbox, connect, keep, self._tell, above=str(self._path.parent))
        self._around = look_around(args)
        self._trained_on = Recording(self._outbox.root, self._model, self._adapter)

    def begin(self, *, resumed: bool) -> None:
        """Begin a run, or go on with it; send what waits from before."""
        self._run = self._outbox.begin(resumed=resumed).run
        self._trained_on.start(resumed=resumed)
        if self._options.keep_best is not None and self._metric is None:
            LOG.warning("Nobody says what the best is, so all revisions stay: set metric or metric_for_best_model.")
        if isinstance(self._options.every, int) and is_sharded(self._args):
            LOG.warning(
                "The weights are spread over processes, so every=%d is not possible; every='save' takes checkpoints.",
                self._options.every,
            )
        self._sender.start()

    def step(self, state: Any) -> None:
        """Take a step, if it is the N-th: from memory, since the trainer need not save it."""
        step = state.global_step
        if self._over or step in self._taken or not self._is_nth(step):
            return
        self._taken.add(step)
        self._take(state, step, self._save)

    def _is_nth(self, step: int) -> bool:
        every = self._options.every
        return isinstance(every, int) and step > 0 and step % every == 0 and not is_sharded(self._args)

    def saved(self, state: Any) -> None:
        """Take the checkpoint that the trainer has just saved."""
        if self._options.every == "save":
            self._take_checkpoint(state, state.global_step)

    def end(self, state: Any) -> None:
        """Take what the run ends with, and wait for all that is being published."""
        self._over = True  # an evaluation may follow, which is of no step
        try:
            self._take_last(state)
        finally:
            self._sender.finish()

    def published(self) -> tuple[str, ...]:
        """References of what is published of the run and there."""
        return tuple(one.reference for one in self._outbox.run().sent if not one.removed)

    def _take_last(self, state: Any) -> None:
        step = best_step(state, self._options)
        if step is not None and checkpoint_of(self._output, step, self._adapter) is None:
            if (before := self._sent_of(step)) is not None:
                self._take(state, step, lambda _: None, final=True, labels_of=before)
                return
            LOG.warning("Step %d was the best, but its checkpoint is gone: the last one is published.", step)
            step = None
        if step is None:
            step = state.global_step
            if checkpoint_of(self._output, step, self._adapter) is None and not is_sharded(self._args):
                self._take(state, step, self._save, final=True)
                return
            if checkpoint_of(self._output, step, self._adapter) is None:
                step = last_checkpoint(self._output, self._adapter) or step
        self._take_checkpoint(state, step, final=True)

    def _sent_of(self, step: int) -> str | None:
        """What a step of this run is published as."""
        sent = self._outbox.run().sent
        return next((one.reference for one in sent if one.step == step and not one.removed), None)

    def _take_checkpoint(self, state: Any, step: int, *, final: bool = False) -> None:
        folder = checkpoint_of(self._output, step, self._adapter)
        if folder is None:
            raise InvalidAdapterError(
                f"{self._output / f'checkpoint-{step}'} has no adapter in it. Where the weights are spread over "
                "processes, trainers write it only if they are told to gather them: stage3_gather_16bit_weights_on_"
                "model_save of DeepSpeed, FULL_STATE_DICT of FSDP.",
                code="missing_file",
            )
        self._take(state, step, lambda place: copy_adapter(folder, place), final=final)

    def _save(self, place: Path) -> None:
        with TemporaryDirectory(dir=place.parent) as made:
            copy_adapter(save_adapter(self._model, self._adapter, Path(made)), place)

    def _take(
        self,
        state: Any,
        step: int,
        save: Callable[[Path], None],
        *,
        final: bool = False,
        labels_of: str | None = None,
    ) -> None:
        """Keep the adapter of a step in the outbox, and have it sent."""
        moment = moment_of(state, step, self._metric)
        labels = self._options.labels
        self._around = self._around.with_later(look_around(self._args, again=True))
        own = {"run": self._run, "trainer": trainer_of(self._args), **moment.annotations}
        document = ToPublish(
            run=self._run,
            path=self._options.path,
            step=step,
            parent=self._options.parent,
            message=labels.message or moment.message,
            metrics=moment.metrics,
            annotations={**self._around.annotations, **own, **labels.annotations},
            tags=labels.tags if final else (),
            score=moment.score,
            final=final,
            labels_of=labels_of,
        )

        def keep(place: Path) -> None:
            save(place)
            note_commit(place, self._path, loaded_commit(self._model))
            self._trained_on.lay_beside(place)

        if not self._outbox.add(document, keep):
            LOG.warning("Step %d is not published: %d earlier ones wait.", step, MOST_WAITING)
            return
        self._sender.wake()

    def _tell(self, reference: str) -> None:
        self._around.tell(reference)
