"""What of a training run waits to be published, and what is published: a folder in the trainer's output.

::

    OUTPUT_DIR/_registry/            begins with _ so that a push to a Hub leaves it out
        .run.json                    the run's id, and what was published of it
        .trained-on.json             what the folder held that it started from
        .waiting/000000040/          what waits, in the order of steps
            publish.json             path and labels
            adapter/                 a copy of what was saved: the trainer may remove its own

Hidden names, so that publishing OUTPUT_DIR itself takes nothing of it.

Which revisions of a training run are retained, if fewer than all are requested.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, ValidationError

from registry.errors import InvalidAdapterError, UnavailableError
from registry.folders.local_files import hash_found, unwritable
from registry.folders.scan import ADAPTER_WEIGHTS
from registry.progress import SILENT
from registry.schemas.form import Schema

FOLDER: Final = "_registry"
MOST_WAITING: Final = 8
"""Adapters that wait at most: more of them would fill the disk while a registry is away."""
_RUN: Final = ".run.json"
_WAITING: Final = ".waiting"
_MAKING: Final = ".making-"
_DOCUMENT: Final = "publish.json"
_ADAPTER: Final = "adapter"
_STEP_DIGITS: Final = 9


class ToPublish(Schema):
    """With which words an adapter that waits is to be published."""

    format: Literal[1] = 1
    run: str
    path: str
    step: int
    parent: str | None = None
    message: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    tags: tuple[str, ...] = ()
    score: float | None = None  # decides which are the best
    final: bool = False  # what the run ended with
    labels_of: str | None = None  # the words are for a revision of this run: its files are gone, and not needed


class Sent(Schema):
    """A revision that is published of this run."""

    step: int
    reference: str
    weights: str  # digest of the file: the same weights of one run are one revision
    score: float | None = None
    created: bool = True  # False: the registry had it before
    final: bool = False
    removed: bool = False

    @property
    def path(self) -> str:
        """Of the adapter."""
        return self.reference.rpartition("@")[0]


class Run(Schema):
    """What is remembered of a run across restarts."""

    format: Literal[1] = 1
    run: str
    sent: tuple[Sent, ...] = ()


@dataclass(frozen=True)
class Waiting:
    """An adapter that waits."""

    place: Path
    document: ToPublish

    @property
    def folder(self) -> Path:
        """Its publish folder."""
        return self.place / _ADAPTER

    def weights(self) -> str:
        """The digest of its weights."""
        return hash_found(self.folder / ADAPTER_WEIGHTS, SILENT).digest


class Outbox:
    """The folder of one run. One thread adds and another takes: what is added appears whole, by a rename."""

    def __init__(self, output: Path) -> None:
        self.root = output / FOLDER

    def begin(self, *, resumed: bool) -> Run:
        """Prepare the folder: the same run resumes, or another one begins.

        What waits from before stays, also if another run begins.

        Raises:
            UnavailableError, NotAllowedError: the folder can't be written.
        """
        try:
            (self.root / _WAITING).mkdir(parents=True, exist_ok=True)
            for left in self.root.glob(f"{_MAKING}*"):
                shutil.rmtree(left)
        except OSError as problem:
            raise unwritable(self.root, problem) from problem
        if resumed and (self.root / _RUN).is_file():
            return self.run()
        run = Run(run=uuid.uuid4().hex)
        self._keep(run)
        return run

    def run(self) -> Run:
        """What was published of the run.

        Raises:
            UnavailableError: the record can't be read.
        """
        try:
            return Run.model_validate_json((self.root / _RUN).read_bytes())
        except (OSError, ValidationError) as problem:
            raise UnavailableError(
                f"{self.root / _RUN} can't be read, so nobody knows what this run has published: remove it, and the "
                "run begins anew."
            ) from problem

    def add(self, document: ToPublish, save: Callable[[Path], None]) -> bool:
        """Store an adapter that ``save`` writes into a folder; False: too many wait, and it is not the final one.

        Raises:
            UnavailableError, NotAllowedError: the folder can't be written.
            What ``save`` raises.
        """
        if not document.final and len(self.waiting()) >= MOST_WAITING:
            return False
        making = self.root / f"{_MAKING}{uuid.uuid4().hex}"
        try:
            (making / _ADAPTER).mkdir(parents=True)
            save(making / _ADAPTER)
            (making / _DOCUMENT).write_text(document.model_dump_json(indent=2), encoding="utf-8")
            making.rename(self._free(document))
        except OSError as problem:
            raise unwritable(self.root, problem) from problem
        finally:
            shutil.rmtree(making, ignore_errors=True)  # it was renamed already, or is worth nothing
        return True

    def waiting(self) -> list[Path]:
        """The folders of what waits, in the order of steps."""
        place = self.root / _WAITING
        return sorted(place.iterdir()) if place.is_dir() else []

    def read(self, place: Path) -> Waiting:
        """What waits in a folder.

        Raises:
            InvalidAdapterError: ``bad_config``, its document is malformed.
        """
        try:
            return Waiting(place, ToPublish.model_validate_json((place / _DOCUMENT).read_bytes()))
        except (OSError, ValidationError) as problem:
            raise InvalidAdapterError(
                f"{place / _DOCUMENT} can't be read: publish {place / _ADAPTER} by hand, and remove {place}.",
                code="bad_config",
            ) from problem

    def sent_before(self, one: Waiting) -> Sent | None:
        """What its run has published the same weights as, at the same path."""
        run, document = self.run(), one.document
        there = [sent for sent in run.sent if not sent.removed and run.run == document.run]
        if document.labels_of is not None:
            return next((sent for sent in there if sent.reference == document.labels_of), None)
        if not there:
            return None
        weights = one.weights()
        return next((sent for sent in there if sent.weights == weights and sent.path == document.path), None)

    def done(self, one: Waiting, reference: str, *, before: Sent | None = None, created: bool = True) -> None:
        """Note what an adapter that waited is published as, or was ``before``; it does not wait any more.

        Ended between the two, it is published again, which gives the same revision.
        """
        run, document = self.run(), one.document
        if run.run == document.run:  # else it was left by a run before this one
            sent = Sent(
                step=document.step,
                reference=reference,
                weights=one.weights() if before is None else before.weights,
                score=document.score,
                created=created if before is None else before.created,
                final=document.final or (before is not None and before.final),
            )
            others = tuple(other for other in run.sent if other.reference != reference)
            self._keep(run.model_copy(update={"sent": (*others, sent)}))
        gone = one.place.rename(self.root / f"{_MAKING}{uuid.uuid4().hex}")  # at once, so that none sees half of it
        shutil.rmtree(gone)

    def removed(self, reference: str) -> None:
        """Note that a revision of the run was removed again."""
        run = self.run()
        sent = tuple(one.model_copy(update={"removed": one.removed or one.reference == reference}) for one in run.sent)
        self._keep(run.model_copy(update={"sent": sent}))

    def _free(self, document: ToPublish) -> Path:
        name, number = f"{document.step:0{_STEP_DIGITS}d}", 0
        while (place := self.root / _WAITING / f"{name}-{number}").exists():
            number += 1
        return place

    def _keep(self, run: Run) -> None:
        written = self.root / f"{_RUN}.new"
        try:
            written.write_text(run.model_dump_json(indent=2), encoding="utf-8")
            written.replace(self.root / _RUN)
        except OSError as problem:
            raise unwritable(self.root, problem) from problem


@dataclass(frozen=True)
class Keep:
    """How many of the best and of the last revisions stay; without both, all."""

    best: int | None = None
    last: int | None = None
    greater_is_better: bool = False


def too_many(sent: Sequence[Sent], keep: Keep) -> list[Sent]:
    """The revisions of a run that are neither among its best nor among its last, in the order of steps.

    What the run ended with stays, and so do revisions from before it. One without a score can't be ranked: if only the
    best are requested, it stays.
    """
    if keep.best is None and keep.last is None:
        return []
    there = sorted((one for one in sent if not one.removed), key=lambda one: one.step)
    kept = {one.reference for one in there if one.final or not one.created}
    if keep.best is not None:
        judged = [(one.score if keep.greater_is_better else -one.score, one) for one in there if one.score is not None]
        judged.sort(key=lambda pair: pair[0], reverse=True)  # of equals the earlier
        kept |= {one.reference for _, one in judged[: keep.best]}
        if keep.last is None:
            kept |= {one.reference for one in there if one.score is None}
    if keep.last:
        kept |= {one.reference for one in there[-keep.last :]}
    return [one for one in there if one.reference not in kept]
