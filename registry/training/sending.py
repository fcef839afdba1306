"""Publishes what a training run has left in its outbox: while it trains, and when the training is over.

One thread does it in parallel to the training, and its failures end nothing: what could not be sent is sent later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from registry.errors import NotFoundError, RegistryError, UnavailableError
from registry.operations.registry import Registry
from registry.schemas import RevisionSummary
from registry.training.outbox import FOLDER, Keep, Outbox, Waiting, too_many

LOG: Final = logging.getLogger("registry.training")
LAST_WAIT: Final = 300.0
"""Seconds that the end of a training run waits for what is being published: other processes of it give up after ten
minutes without the first."""


def send(team: Registry, outbox: Outbox, one: Waiting) -> RevisionSummary:
    """Publish an adapter that waits, or label the revision that this run has published its weights as already.

    Raises:
        RegistryError: as `publish`; it stays in the outbox.
    """
    document, before = one.document, outbox.sent_before(one)
    labelled = None if before is None else _labelled(team, one, before.reference)
    if labelled is not None:
        outbox.done(one, labelled.reference, before=before)
        return labelled
    if document.labels_of is not None:
        raise NotFoundError(f"{document.labels_of} was deleted, and its files are gone: remove {one.place}.")
    published = team.publish(
        one.folder,
        document.path,
        parent=document.parent,
        message=document.message,
        metrics=document.metrics,
        tags=document.tags,
        annotations=document.annotations,
    )
    outbox.done(one, published.revision.reference, created=published.created)
    return published.revision


def _labelled(team: Registry, one: Waiting, reference: str) -> RevisionSummary | None:
    """The revision with the labels of what waits; None: somebody has deleted it."""
    try:
        for tag in one.document.tags:
            team.tag(reference, tag)
        return team.annotate(reference, metrics=one.document.metrics, annotations=one.document.annotations)
    except NotFoundError:
        return None


@dataclass
class Sender:
    """The thread that publishes what is in an outbox.

    Args:
        outbox: what waits.
        connect: opens the registry, once for each time that something is sent.
        keep: which revisions of the run stay.
        tell: called with each published reference.
        above: the path of the parent.
    """

    outbox: Outbox
    connect: Callable[[], Registry]
    keep: Keep
    tell: Callable[[str], None]
    above: str | None = None
    _refused: set[str] = field(default_factory=set)  # what waits because of itself: tried again at the end
    _wake: threading.Event = field(default_factory=threading.Event)
    _last: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin with what waits from before."""
        self._thread = threading.Thread(target=self._work, name="registry-training", daemon=True)
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Something was added."""
        self._wake.set()

    def finish(self, wait: float = LAST_WAIT) -> bool:
        """Try all that waits a last time; False: not all of it is published, or not yet."""
        self._last.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(wait)
        left = self.outbox.waiting()
        if left:
            LOG.error(
                "%d adapters of this run are not published. They wait in %s: `registry publish --resume %s` publishes "
                "them, and so does the next run with this output folder.",
                len(left),
                self.outbox.root,
                self.outbox.root.parent,
            )
        return not left

    def _work(self) -> None:
        self._safely(self._look)
        while True:
            self._wake.wait()
            self._wake.clear()
            last = self._last.is_set()
            if last:
                self._refused.clear()
            self._safely(self._send_all)
            if last:
                return

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except RegistryError as problem:
            LOG.warning("Nothing is published for now; it is tried again. %s", problem)
        except Exception:
            LOG.exception("Nothing is published for now; it is tried again.")

    def _look(self) -> None:
        """Report early what would otherwise be known at the end: that nothing can be published below this parent."""
        if self.above is None:
            return
        try:
            with self.connect() as team:
                team.resolve(self.above)
        except NotFoundError as problem:
            LOG.warning("The parent of what is trained is not there, or this token may not see it. %s", problem)

    def _send_all(self) -> None:
        waiting = [place for place in self.outbox.waiting() if place.name not in self._refused]
        if not waiting:
            return
        with self.connect() as team:
            for place in waiting:
                try:
                    reference = send(team, self.outbox, self.outbox.read(place)).reference
                except UnavailableError:
                    raise  # it would be so for all others
                except RegistryError as problem:
                    self._refused.add(place.name)
                    LOG.error("The adapter in %s is not published: %s", place, problem)
                    continue
                LOG.info("%s is published.", reference)
                self.tell(reference)
            for sent in too_many(self.outbox.run().sent, self.keep):
                self._remove(team, sent.reference)

    def _remove(self, team: Registry, reference: str) -> None:
        """Delete a revision, unless somebody tagged it, trained on it, or requested its weights."""
        try:
            use = team.delete(reference, dry_run=True).use
            if use is not None and use.last_used_at is not None:
                LOG.info("%s stays: it was used.", reference)
                return
            team.delete(reference)
        except UnavailableError:
            raise
        except NotFoundError:
            LOG.info("%s is gone already.", reference)
        except RegistryError as problem:
            LOG.info("%s stays: %s", reference, problem)
            return
        self.outbox.removed(reference)


def publish_waiting(
    team: Registry,
    output: Path,
    *,
    parent: str | None = None,
    refused: Callable[[Path, RegistryError], None],
) -> tuple[RevisionSummary, ...]:
    """Publish all that waits in the output folder of a trainer; what is refused stays in the outbox.

    Args:
        team: the registry.
        output: the trainer's ``output_dir``.
        parent: the revision that it was trained on, if nothing that waits names it.
        refused: is called with the folder of each that is not published, and why.

    Raises:
        NotFoundError: no `RegistryCallback` has used the folder.
        UnavailableError: the registry is away; what was published before stays published.
    """
    outbox = Outbox(output)
    if not outbox.root.is_dir():
        raise NotFoundError(
            f"{output} has no folder {FOLDER}: the output folder of a training with a RegistryCallback is expected."
        )
    revisions = []
    for place in outbox.waiting():
        try:
            one = outbox.read(place)
            if parent is not None:
                one = replace(one, document=one.document.model_copy(update={"parent": parent}))
            revisions.append(send(team, outbox, one))
        except UnavailableError:
            raise
        except RegistryError as problem:
            refused(place, problem)
    return tuple(revisions)
