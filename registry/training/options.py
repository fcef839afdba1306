"""What a callback is asked for: by arguments, else by settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from registry.errors import UsageError
from registry.folders.heaps import OF_TRAINING
from registry.operations.publication import Labels
from registry.settings import SETTINGS, read_settings

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
        """What is given, else set, else usual.

        Raises:
            UsageError: there is no path, or something is malformed.
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
        """The name of the metric by which the best is told: of an evaluation, unless it is said to be of the training.

        None: nobody has said one.
        """
        name = self.metric or trainers
        if name is None or name.startswith(_EVAL) or self.metric in OF_TRAINING:
            return name
        return f"{_EVAL}{name}"

    def prefers_greater(self, name: str | None, trainers: bool | None) -> bool:
        """Whether more of the metric is better: as given, as the trainer has it, else as its name tells."""
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
    """Labels that can be kept; raises `UsageError` naming what can't."""
    return Labels.checked(message, {}, tags, annotations)
