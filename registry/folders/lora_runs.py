"""The output folder of one training of a LoRA for an image model: its checkpoints, in the order of their steps.

Each trainer names them in its own way; the one without a number is what was saved at the end. What the metadata of a
file says of its step and epoch counts before its name. Needs no torch. Sources: sd-scripts ``train_util.py``,
ai-toolkit ``BaseSDTrainProcess``, OneTrainer ``TrainProgress``, diffusers' examples.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from registry.errors import InvalidAdapterError, UsageError
from registry.figures import command
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.folders.foreign import no_folder
from registry.folders.local_files import telling_unreadable
from registry.folders.lora_beside import is_beside
from registry.folders.lora_files import ENDING, holds_lora, only_weights
from registry.folders.nested import Nesting, Node
from registry.folders.scan import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    README,
    is_publish_folder,
    is_trainer_state,
    reason_by_name,
)
from registry.images.about import about_lora
from registry.reference import Path as TreePath
from registry.schemas import LeftOut

_NAMES: Final = (
    re.compile(r"(?P<run>.*?)-step(?P<step>\d{8})"),  # sd-scripts, by steps
    re.compile(r"(?P<run>.*?)-?\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-save-(?P<step>\d+)-(?P<epoch>\d+)-\d+"),  # OneTrainer
    re.compile(r"(?P<run>.+?)_(?P<step>\d{9})"),  # ai-toolkit
    re.compile(r"(?P<run>.+?)-(?P<epoch>\d{6})"),  # sd-scripts, by epochs
)
_FOLDERS: Final = re.compile(r"checkpoint-(?P<step>\d+)|step[-_]?(?P<step2>\d+)|epoch[-_]?(?P<epoch>\d+)")
_STATE: Final = re.compile(r".*-state|optimizer\.\w+|.*\.(pt|pth|bin|ckpt)")
_NAMED: Final = 4


@dataclass(frozen=True)
class Saved:
    """What was saved at a moment of a training."""

    place: str  # in the output folder
    file: Path  # a LoRA file, or the folder of an adapter
    run: str  # as the trainer calls the training; empty: of a folder, which has no name for it
    step: int | None
    epoch: int | None
    last: bool  # it has no number

    @property
    def moment(self) -> str:
        """Its epoch and step, as words."""
        parts = (("epoch", self.epoch), ("step", self.step))
        return ", ".join(f"{name} {number}" for name, number in parts if number is not None)

    def annotations(self) -> dict[str, str]:
        """As annotations of a revision."""
        return {name: str(at) for name, at in (("step", self.step), ("epoch", self.epoch)) if at is not None}


def checkpoints_of(folder: Path, path: TreePath) -> Nesting:
    """The checkpoints in the output folder of one training as revisions of one adapter, the first saved one first.

    Raises:
        NotFoundError: the folder does not exist.
        InvalidAdapterError: one is damaged.
        UsageError: it has no checkpoints, they are of several trainings, or nothing tells their order.
        UnavailableError: something can't be read.
    """
    with telling_unreadable(folder):
        if not folder.is_dir():
            raise no_folder(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    found = [Saved(".", folder, "", None, None, last=True)] if is_publish_folder(folder) else []
    own = {ADAPTER_CONFIG, ADAPTER_WEIGHTS, README} if found else set()
    left: list[LeftOut] = []
    for entry in entries:
        if entry.name in own:
            continue
        saved = _saved(Path(entry.path), entry.name)
        if isinstance(saved, Saved):
            found.append(saved)
        else:
            left.append(LeftOut(path=entry.name.encode("utf-8", "backslashreplace").decode(), reason=saved))
    if not found:
        raise UsageError(
            f"publish -r takes a base model, whose paths the nesting gives, or the output folder of one training: "
            f"{folder} holds no LoRA files and no checkpoint folders, which would become revisions of {path}. Nested "
            f"adapters are published with {command('registry', 'publish', '-r', folder, path.base)}."
        )
    ordered = in_order(folder, found)
    left = [one for one in left if not any(is_beside(one.path, other.place) for other in found)]
    nodes = tuple(Node(one.file, one.place, path, None, None, one.annotations(), one.moment) for one in ordered)
    return Nesting(nodes, tuple(left))


def _saved(place: Path, name: str) -> Saved | str:
    """A checkpoint; or why it is none."""
    with telling_unreadable(place):
        if place.is_symlink():
            return "a symbolic link"
        if not place.is_dir():
            if place.suffix != ENDING or not holds_lora(place):
                return _what_else(name)
            return _file(place, name)
        number = _FOLDERS.fullmatch(name)
        names = [one.name for one in os.scandir(place)]
        weights = only_weights(names)
        if is_publish_folder(place) and (number is not None or name == "final"):
            return _numbered(name, place, "", number)
        if number is not None and weights is not None and holds_lora(place / weights):
            return _with_metadata(_numbered(name, place / weights, "", number))
        return "trainer state" if _STATE.fullmatch(name) else "a folder that is no checkpoint"


def _what_else(name: str) -> str:
    if is_trainer_state(name) or _STATE.fullmatch(name):
        return "trainer state"
    return reason_by_name(name) or "no LoRA file"


def _file(place: Path, name: str) -> Saved:
    stem = name.removesuffix(ENDING)
    match = next((match for one in _NAMES if (match := one.fullmatch(stem)) is not None), None)
    run = stem if match is None else match["run"]
    return _with_metadata(_numbered(name, place, run, match))


def end_of_run(name: str) -> str | None:
    """What a trainer calls the file that it saves at the end, by the name of a checkpoint; None: it is none."""
    stem = name.removesuffix(ENDING)
    match = next((match for one in _NAMES if (match := one.fullmatch(stem)) is not None), None)
    return f"{match['run']}{ENDING}" if match is not None and match["run"] else None


def _numbered(name: str, file: Path, run: str, match: re.Match[str] | None) -> Saved:
    said = {} if match is None else match.groupdict()
    step, epoch = said.get("step") or said.get("step2"), said.get("epoch")
    at, of = (None if number is None else int(number) for number in (step, epoch))
    return Saved(name, file, run, at, of, last=match is None)


def _with_metadata(one: Saved) -> Saved:
    with FileSource(one.file) as source:
        header = read_header(source, what=str(one.file), error=InvalidAdapterError)
    about = about_lora(header.metadata)
    step = one.step if about.step is None else about.step
    epoch = one.epoch if about.epoch is None else about.epoch
    return replace(one, step=step, epoch=epoch)


def in_order(folder: Path, found: list[Saved]) -> list[Saved]:
    """Checkpoints of one training by their steps, else by their epochs; what was saved at the end comes last.

    Raises:
        UsageError: they are of several trainings; nothing tells their order; or the end came before another one.
    """
    runs = sorted({one.run for one in found if one.run})
    if len(runs) > 1:
        raise UsageError(
            f"{folder} holds LoRA files of {len(runs)} trainings, by their names: {_listed(runs)}. Checkpoints of one "
            "become revisions of one adapter: move them into a folder of their own, or publish each file by its path."
        )
    last, others = [one for one in found if one.last], [one for one in found if not one.last]
    if len(last) > 1:
        raise UsageError(
            f"{folder} holds {_listed([one.place for one in last])}, which both have no number: which one was saved at "
            "the end is not known. Move one of them away."
        )
    for kind in ("step", "epoch"):
        numbers: dict[str, int | None] = {one.place: getattr(one, kind) for one in found}
        counted = {numbers[one.place] for one in others}
        if None not in counted and len(counted) == len(others):
            ordered = sorted(others, key=lambda one: numbers[one.place] or 0)
            end = numbers[last[0].place] if last else None
            if end is not None and ordered and end < (numbers[ordered[-1].place] or 0):
                raise UsageError(
                    f"{last[0].place} says {last[0].moment}, and {ordered[-1].place} {ordered[-1].moment}: it was not "
                    "saved at the end of this training. Move one of them away."
                )
            return [*ordered, *last]
    raise UsageError(
        f"Nothing tells the order of {_listed([one.place for one in others])} in {folder}: some have a step and some "
        "an epoch, or two have the same. Publish them one by one."
    )


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
