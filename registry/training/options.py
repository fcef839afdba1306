"""What a training run is published with: the options of a callback, from arguments or settings, and where it runs.

The git commit, and the runs of W&B and MLflow that are open in this process. None of these programs is imported here: a
run can only be open if the trainer imported them.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from registry.errors import UsageError
from registry.folders.heaps import OF_TRAINING
from registry.operations.publication import Labels
from registry.settings import SETTINGS, read_settings

LOG: Final = logging.getLogger("registry.training")
_SECONDS: Final = 10.0
_TRAINERS: Final = {"trl": "TRL", "axolotl": "axolotl", "llamafactory": "LLaMA-Factory"}
"""By the words that an import has for them."""
_SUMMARY: Final = "registry_revision"
_TAG: Final = "registry.revision"

_Tell = Callable[[str], object]


@dataclass(frozen=True)
class Surroundings:
    """What is known about the environment, and how to write published references into its runs."""

    annotations: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, _Tell] = field(default_factory=dict)  # by the name of the annotation with the run's id

    def with_later(self, later: Surroundings) -> Surroundings:
        """These, and what was found later: a run that ends before the training does is not forgotten."""
        return Surroundings({**self.annotations, **later.annotations}, {**self.told, **later.told})

    def tell(self, reference: str) -> None:
        """Write the reference of a revision into the open runs."""
        for tell in self.told.values():
            try:
                tell(reference)
            except Exception as problem:  # noqa: BLE001 - third-party code; the revision is published all the same
                LOG.warning("A run could not be told that %s is published: %s", reference, problem)


def look_around(args: Any = None, *, again: bool = False) -> Surroundings:
    """What can be found in this process, now.

    Args:
        args: of a trainer, to find also what its loggers write.
        again: the commit is known already: asking for it takes seconds in a large repository.
    """
    annotations: dict[str, str] = {}
    if args is not None and (board := _tensorboard(args)) is not None:
        annotations["tensorboard"] = board
    told: dict[str, _Tell] = {}
    if not again and (commit := _git_commit()) is not None:
        annotations["git"] = commit
    for look in (_wandb, _mlflow):
        try:
            found = look()
        except Exception as problem:  # noqa: BLE001 - third-party code, whose attributes differ between versions
            LOG.warning("A run was not recognised: %s", problem)
            continue
        if found is not None:
            name, text, tell = found
            annotations[name] = text
            told[name] = tell
    return Surroundings(annotations, told)


def _git_commit() -> str | None:
    """The commit of the working directory, ``-dirty`` if files in it differ; None: it has none."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_SECONDS)  # noqa: S603 - no word of it is from outside
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _tensorboard(args: Any) -> str | None:
    """The folder that TensorBoard's events of a trainer are in, below its output; None: it has none."""
    if "tensorboard" not in (args.report_to or ()):
        return None
    output = Path(args.output_dir)
    said = getattr(args, "logging_dir", None) or os.environ.get("TENSORBOARD_LOGGING_DIR")
    try:
        events = list((Path(said) if said else output / "runs").expanduser().rglob("events.out.tfevents.*"))
        newest = max(events, key=lambda file: file.stat().st_mtime, default=None)
    except OSError:
        return None
    if newest is None:
        return None
    return os.path.relpath(newest.parent, output)


def trainer_of(args: Any) -> str:
    """The program that trains, by the class of its arguments or one that it is made of."""
    packages = (kind.__module__.partition(".")[0] for kind in type(args).__mro__)
    return next((_TRAINERS[package] for package in packages if package in _TRAINERS), "transformers Trainer")


def _wandb() -> tuple[str, str, _Tell] | None:
    run: Any = getattr(sys.modules.get("wandb"), "run", None)
    if run is None:
        return None

    def tell(reference: str) -> None:
        run.summary[_SUMMARY] = reference

    # Without an entity if the run is offline.
    return "wandb", "/".join(part for part in (run.entity, run.project, "runs", run.id) if part), tell


def _mlflow() -> tuple[str, str, _Tell] | None:
    mlflow: Any = sys.modules.get("mlflow")
    run = None if mlflow is None else mlflow.active_run()
    if run is None:
        return None
    identity = str(run.info.run_id)

    def tell(reference: str) -> None:
        # By its id: what is active belongs to a thread, and the run may have ended.
        mlflow.MlflowClient().set_tag(identity, _TAG, reference)

    return "mlflow", identity, tell


Value = TypeVar("Value")
_EVAL: Final = "eval_"


@dataclass(frozen=True)
class Options:
    """The options of `registry.training.callback.RegistryCallback`, checked."""

    path: str
    every: str | int
    keep_best: int | None
    keep_last: int | None
    metric: str | None
    greater_is_better: bool | None
    parent: str | None
    labels: Labels  # the tags are for what the run ends with

    @classmethod
    def chosen(
        cls,
        path: str | None,
        every: str | int | None,
        keep_best: int | None,
        keep_last: int | None,
        metric: str | None,
        greater_is_better: bool | None,
        parent: str | None,
        labels: Labels,
    ) -> Options:
        """The given options, else the settings, else the defaults.

        Raises:
            UsageError: the path is missing, or something is malformed.
        """
        settings = read_settings(os.environ)
        chosen = cls(
            path=_checked("publish_path", path) or settings.publish_path or "",
            every=_checked("publish_every", every) or settings.publish_every or "end",
            keep_best=_checked("publish_keep_best", keep_best) or settings.publish_keep_best,
            keep_last=_checked("publish_keep_last", keep_last) or settings.publish_keep_last,
            metric=_checked("publish_metric", metric) or settings.publish_metric,
            greater_is_better=greater_is_better,
            parent=_checked("publish_parent", parent) or settings.publish_parent,
            labels=labels,
        )
        if not chosen.path:
            raise UsageError(
                "Nothing says where the adapter is published: give a path, RegistryCallback('llama/support'), or set "
                "REGISTRY_PUBLISH_PATH."
            )
        return chosen

    def metric_of(self, trainers: str | None) -> str | None:
        """The name of the metric that decides the best: of an evaluation, unless declared as one of the training.

        None: none is configured.
        """
        name = self.metric or trainers
        if name is None or name.startswith(_EVAL) or self.metric in OF_TRAINING:
            return name
        return f"{_EVAL}{name}"

    def prefers_greater(self, name: str | None, trainers: bool | None) -> bool:
        """Whether more of the metric is better: as given, as the trainer has it, else by its name."""
        if self.greater_is_better is not None:
            return self.greater_is_better
        if self.metric is None and trainers is not None:
            return trainers
        return name is not None and not name.endswith("loss")


def _checked(field: str, value: Any) -> Any:
    """A value as its setting takes it; None: it is not given."""
    if value is None:
        return None
    setting = SETTINGS[field]
    parse: Callable[[str], Any] = setting.parse
    try:
        return parse(str(value))
    except ValueError:
        raise UsageError(
            f"RegistryCallback's {field.removeprefix('publish_')} is {value!r}, but {setting.form} is expected."
        ) from None


def labels_of(message: str, tags: Any, annotations: Mapping[str, str]) -> Labels:
    """Labels that can be stored; raises `UsageError` naming what can't."""
    return Labels.checked(message, {}, tags, annotations)
