"""What the services work with: a catalogue, a blob store, and the principal; and what background work left to show."""

from __future__ import annotations

import importlib
import json
import pathlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy.orm import Session

from registry.catalogue.database import events
from registry.catalogue.database.database import Database
from registry.catalogue.database.events import EventFilter, EventPosition
from registry.catalogue.database.prepared import Reader
from registry.catalogue.tree import aftermath, browse, revisions, statistics
from registry.catalogue.tree.aftermath import Value, ValueChange
from registry.catalogue.tree.links import links
from registry.catalogue.tree.statistics import Key
from registry.digest import BlobRef
from registry.operations.operation import A, Item, Listing, Operation, Part, R
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.rights import UNLIMITED, Principal, Rights
from registry.schemas import DeletedRevision, Event, RevisionSummary
from registry.schemas.parents import Policy
from registry.schemas.statistics import DeltaStatistics
from registry.schemas.usage import Interface
from registry.services.loads import UseLog
from registry.storage.blobs import BlobStore

if TYPE_CHECKING:
    from registry.catalogue.tree.cards import CardVersion
    from registry.memory import MemoryCache
    from registry.storage.reading import BlobReader
    from registry.tensors.lineage.paths import Blobs


T = TypeVar("T")
DATABASE: Final = "registry.db"
"""File name of the catalogue in the folder of an embedded registry."""
GRACE: Final = 24 * 3600.0
"""Seconds for which unreferenced bytes are retained: far longer than storing and publishing anything takes."""


@dataclass(frozen=True)
class Deployment:
    """A registry in process, for one principal. A service makes one for each request, with that request's principal."""

    database: Database
    blobs: BlobStore
    principal: Principal
    url: str
    clears_litter: bool = False  # whether publishing removes leftovers of killed writers; else only the collector does
    gc_grace: float = GRACE  # seconds
    parents: Policy = "any"  # which parents of what is published are accepted
    memory: MemoryCache | None = None  # of a service: shared by its requests
    folder: pathlib.Path | None = None  # of an embedded registry
    uses: UseLog | None = None  # None: uses are not counted
    looks: bool = False  # whether a job analyses published revisions afterwards: in a service
    interface: Interface = "fetch"  # that weights are requested through, unless a request names another

    @property
    def actor(self) -> str:
        """The principal's name."""
        return self.principal.name

    @property
    def rights(self) -> Rights:
        """The principal's rights."""
        return self.principal.rights

    def do(self, operation: Operation[R, A], request: R, progress: Progress) -> A:
        """Do an operation by the function that its row names, which takes as many of the three as it needs.

        Raises:
            NotAllowedError: the principal's rights don't allow it.
        """
        operation.right.require(self.rights, request)
        does = _function(operation)
        answer: A = does(*(self, request, progress)[: does.__code__.co_argcount])
        return answer

    def page(self, listing: Listing[R, Item], request: R, after: object | None, limit: int | None) -> Part[Item]:
        """The items of a listing that come after a key, ``limit`` at most; raises what `do` does."""
        listing.right.require(self.rights, request)
        found: Part[Item] = _function(listing)(self, request, after, limit)
        return found

    def read(self) -> AbstractContextManager[Session]:
        """A read transaction with the principal's visibility filter."""
        return self.database.read(self.rights)

    def ask(self, work: Callable[[Reader], T]) -> T:
        """The result of ``work``, which runs one prepared query with the principal's visibility filter."""
        return self.database.ask(work, self.rights)

    def read_everything(self) -> AbstractContextManager[Session]:
        """An unrestricted read transaction: for what is above a scope and is needed to publish into it."""
        return self.database.read(UNLIMITED)

    def change(self, work: Callable[[Session], T]) -> T:
        """Run a write transaction with the principal's visibility filter; ``work`` may be retried.

        Raises:
            NotAllowedError: ``bad_token``, the principal's token was revoked or has expired since the request began.
        """

        from registry.catalogue.team import tokens  # reading needs none of it

        def held(session: Session) -> T:
            tokens.hold(session, self.principal)
            return work(session)

        return self.database.change(held, rights=self.rights)

    def note_use(self, reference: str, interface: Interface | None = None) -> None:
        """Note that the principal requested the weights of a revision (``PATH@N``), or of a base model."""
        if self.uses is not None:
            self.uses.note(reference, interface or self.interface, self.principal)

    def note_load(self, reference: str, *, weights: bool) -> None:
        """Record that the principal loaded a revision (``PATH@N``) from a Hub view, or only resolved a name to it."""
        if self.uses is not None:
            self.uses.loads.note(reference, self.principal, weights=weights)

    def open_blob(self, blob: BlobRef) -> BlobReader:
        """Open a blob for checked reads."""
        return self.blobs.open(blob)

    @property
    def artifact_blobs(self) -> Blobs:
        """The blobs as artifacts read them: through the memory cache, if configured."""
        if self.memory is None:
            return self
        from registry.storage.caching import CachingBlobs

        return CachingBlobs(self.blobs, self.memory)


def _function(operation: Operation[Any, Any]) -> Callable[..., Any]:
    module, _, name = operation.does.rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(f".{module}", __package__), name)
    return found


@dataclass(frozen=True)
class Background:
    """A revision and what is stored about its lineage.

    Args:
        lineage: the revisions of its path that the principal sees, root first, each with its stored statistics.
        config: its ``adapter_config.json``.
        parent_config: that of its parent; None: that is the base model, or out of sight.
        link: statistics of its own delta; None: none are stored.
        path: statistics of all deltas of its path; None: none are stored.
    """

    lineage: tuple[RevisionSummary, ...]
    config: Mapping[str, Any]
    parent_config: Mapping[str, Any] | None
    link: DeltaStatistics | None
    path: DeltaStatistics | None


def background(deployment: Deployment, ref: str) -> Background:
    """What is stored about a revision.

    Raises:
        NotFoundError: the reference names nothing.
        UsageError: it names a base model.
    """
    with deployment.read() as session:
        rows = [link.revision for link in links(session, Reference.parse(ref))]
        tip = rows[-1]
        link = Key(tip.id, "link")
        path = link if len(rows) == 1 else Key(tip.id, "path")
        kept = statistics.kept(session, {link, path}, relative=False)
        seen = browse.summaries(session, [row.id for row in rows])
        values = statistics.values_of(session, seen)
    lineage = [seen[row.id].model_copy(update={"statistics": values.get(row.id, {})}) for row in rows if row.id in seen]
    configs = [json.loads(row.manifest).get("config", {}) if row.id in seen else None for row in rows[-2:]]
    parent = configs[0] if len(configs) > 1 else None
    return Background(tuple(lineage), configs[-1] or {}, parent, kept.get(link), kept.get(path))


def recent_metrics(deployment: Deployment, path: Path) -> dict[str, dict[int, float]]:
    """See `registry.catalogue.tree.browse.recent_metrics`."""
    with deployment.read() as session:
        return browse.recent_metrics(session, path)


def deleted_between(
    deployment: Deployment, path: Path, *, above: int, before: int | None, limit: int
) -> tuple[DeletedRevision, ...]:
    """The deleted revisions of an adapter between two numbers, by falling numbers."""
    grace = timedelta(seconds=deployment.gc_grace)
    with deployment.read() as session:
        return browse.deleted(session, path, datetime.now(UTC), grace, above=above, before=before, limit=limit)


def value_changes(deployment: Deployment, path: Path, number: int) -> dict[Value, ValueChange]:
    """See `registry.catalogue.tree.aftermath.value_changes`."""
    with deployment.read() as session:
        return aftermath.value_changes(session, path, number)


def deletion_of(deployment: Deployment, reference: Reference) -> DeletedRevision | None:
    """See `registry.catalogue.tree.aftermath.deletion_of`."""
    with deployment.read() as session:
        grace = timedelta(seconds=deployment.gc_grace)
        return aftermath.deletion_of(session, reference, datetime.now(UTC), grace)


def happened(deployment: Deployment, path: Path, before: Any, limit: int) -> Part[Event]:
    """What was done to an adapter and its revisions, not to what is below it; newest first.

    Raises:
        NotFoundError: nothing was, and the adapter does not exist, or is not visible.
        UsageError: no page gave ``before``.
    """
    conditions = EventFilter(path, alone=True)
    with deployment.read() as session:
        found = events.page(session, limit, None if before is None else EventPosition(*before), conditions)
        if not found.events:
            revisions.adapter(session, path)
    return Part(found.events, None if found.next is None else [found.next.at.isoformat(), found.next.place])


def card_versions(deployment: Deployment, path: Path, limit: int) -> tuple[CardVersion, ...]:
    """The texts of an adapter's card that are stored, newest first; raises `NotFoundError`, `UsageError`."""
    from registry.catalogue.tree import cards  # browsing reads no card

    with deployment.read() as session:
        return cards.versions(session, revisions.adapter(session, path), limit)
