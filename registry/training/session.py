"""One training run: what a trainer knows of a moment, which moments are published, with which words, from which copies.

Copies of what a trainer saved: the adapter without the trainer's own state.

What a trainer knows of a moment of its run: step, epoch, metrics, and which checkpoint was the best.

What the folder holds that a training starts from, recorded when it starts: it may be overwritten before the end.

Reading all of it takes as long as the disk does, so a thread does that in parallel to the training.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from pydantic import ValidationError

from registry.errors import InvalidAdapterError
from registry.folders.heaps import CHECKPOINT, figure_of, figures_of_state, is_number, metrics_among
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_folder
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.training.options import Options, look_around, trainer_of
from registry.training.outbox import MOST_WAITING, Keep, Outbox, ToPublish
from registry.training.publishing import adapter_of, loaded_commit, note_commit, note_quantised, save_adapter, unwrapped
from registry.training.sending import Sender
from registry.transfer.trained_on import TrainedRecord, trained_folder, weights_of_folder, write_record

_FILE: Final = ".trained-on.json"


class Recording:
    """The record of one run, stored with the adapters that wait.

    A resumed run retains its first record: if it resumes from another folder, that is not what it was trained on.
    """

    def __init__(self, root: Path, model: Any, adapter: str) -> None:
        self._file = root / _FILE
        self._name: str | None = getattr(model.peft_config[adapter], "base_model_name_or_path", None)
        self._record: TrainedRecord | None = None
        self._thread = threading.Thread(target=self._work, name="registry-trained-on", daemon=True)

    def start(self, *, resumed: bool) -> None:
        """Begin to read the folder, unless a resumed run has a record."""
        self._record = self._before() if resumed else None
        if self._record is None and self._name:
            self._thread.start()

    def lay_beside(self, adapter: Path) -> None:
        """Write the record into an adapter's folder, once it is made; nothing without a folder to record.

        Raises OSError.
        """
        if self._thread.is_alive():
            self._thread.join()
        if self._record is not None:
            write_record(adapter, self._record)

    def _before(self) -> TrainedRecord | None:
        try:
            return TrainedRecord.model_validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            return None

    def _work(self) -> None:
        name = self._name or ""
        folder = trained_folder(json.dumps({"base_model_name_or_path": name}).encode(), Path.cwd())
        if folder is None:
            return
        try:
            digest = weights_of_folder(folder.place)
            if digest is None:
                return
            self._record = TrainedRecord(name=name, digest=digest)
            self._file.write_text(self._record.model_dump_json(indent=2), encoding="utf-8")
        except OSError as problem:
            LOG.warning("What %s holds could not be recorded: %s", folder.words, problem)


@dataclass(frozen=True)
class Moment:
    """A step of a run, and what was measured up to it."""

    step: int
    epoch: float | None
    metrics: dict[str, float]
    score: float | None  # decides which are the best

    @property
    def annotations(self) -> dict[str, str]:
        """Step and epoch."""
        return {"step": str(self.step), **({} if self.epoch is None else {"epoch": f"{self.epoch:.6g}"})}

    @property
    def message(self) -> str:
        """The message of a revision if none was given."""
        return f"Step {self.step}" if self.epoch is None else f"Step {self.step}, epoch {self.epoch:.6g}"


def moment_of(state: Any, step: int, metric: str | None) -> Moment:
    """What the state of a trainer records about a step."""
    # Without the trainer's own best: it is a metric of another step.
    metrics = metrics_among(figures_of_state({"log_history": state.log_history}, step))
    score = metrics.get(metric) if metric is not None and _is_measured_at(state, step, metric) else None
    return Moment(step, _epoch_of(state, step), metrics, score)


def _is_measured_at(state: Any, step: int, metric: str) -> bool:
    """Whether the metric was measured at the very step: an earlier measurement does not describe these weights."""
    return any(entry.get("step") == step and is_number(figure_of(entry, metric)) for entry in state.log_history)


def _epoch_of(state: Any, step: int) -> float | None:
    if step == state.global_step and is_number(state.epoch):
        return float(state.epoch)
    epochs = [entry.get("epoch") for entry in state.log_history if entry.get("step") == step]
    return next((float(epoch) for epoch in reversed(epochs) if is_number(epoch)), None)


def best_step(state: Any, options: Options) -> int | None:
    """The best step: as the trainer has it, or by the requested metric; None: unknown."""
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


_STATE: Final = "trainer_state.json"  # differs between two saves of the same weights, and its figures are metrics


def copy_adapter(checkpoint: Path, into: Path) -> None:
    """Copy what of a checkpoint belongs to a revision.

    Raises:
        InvalidAdapterError, NotFoundError: as `registry.folders.scan.adapter_folder`.
        OSError: a file can't be read or written.
    """
    for one in adapter_folder(checkpoint).files:
        if one.path != _STATE:
            (into / one.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one.file, into / one.path)


def checkpoint_of(output: Path, step: int, adapter: str) -> Path | None:
    """Where a trainer has the adapter's files of a step; None: nowhere."""
    folder = output / f"checkpoint-{step}"
    for place in (folder, folder / adapter):  # by name if it is not PEFT's default
        if (place / ADAPTER_CONFIG).is_file() and (place / ADAPTER_WEIGHTS).is_file():
            return place
    return None


def last_checkpoint(output: Path, adapter: str) -> int | None:
    """The last step of which a trainer has the adapter's files."""
    steps = [int(match[1]) for one in output.iterdir() if (match := CHECKPOINT.fullmatch(one.name))]
    return max((step for step in steps if checkpoint_of(output, step, adapter) is not None), default=None)


def is_sharded(args: Any) -> bool:
    """Whether the weights are spread over processes, so that none of them can save the model alone."""
    return bool(getattr(args, "fsdp", None)) or getattr(args, "deepspeed", None) is not None


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
        """Begin or resume a run; send what waits from before."""
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
        """References of the run's published revisions that were not removed."""
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
        """Store the adapter of a step in the outbox, and have it sent."""
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
            note_quantised(place, self._model)
            self._trained_on.lay_beside(place)

        if not self._outbox.add(document, keep):
            LOG.warning("Step %d is not published: %d earlier ones wait.", step, MOST_WAITING)
            return
        self._sender.wake()

    def _tell(self, reference: str) -> None:
        self._around.tell(reference)
