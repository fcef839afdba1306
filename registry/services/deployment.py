"""What the services work with: a catalogue, a blob store, and the principal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy.orm import Session

from registry.catalogue.database.database import Database
from registry.catalogue.database.prepared import Reader
from registry.digest import BlobRef
from registry.rights import UNLIMITED, Principal, Rights
from registry.schemas.parents import Policy
from registry.schemas.usage import Interface
from registry.services.loads import UseLog
from registry.storage.blobs import BlobStore

if TYPE_CHECKING:
    from registry.memory import MemoryCache
    from registry.services.lineage import Blobs
    from registry.storage.reading import BlobReader

T = TypeVar("T")
DATABASE: Final = "registry.db"
"""File name of the catalogue in the folder of an embedded registry."""
GRACE: Final = 24 * 3600.0
"""Seconds that unreferenced bytes are kept: far longer than storing and publishing anything takes."""


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
    folder: Path | None = None  # of an embedded registry
    uses: UseLog | None = None  # None: uses are not counted
    looks: bool = False  # whether what is published is looked at by a job afterwards: in a service
    interface: Interface = "fetch"  # through what weights are asked for, unless a request says so

    @property
    def actor(self) -> str:
        """The principal's name."""
        return self.principal.name

    @property
    def rights(self) -> Rights:
        """The principal's rights."""
        return self.principal.rights

    def read(self) -> AbstractContextManager[Session]:
        """A read transaction with the principal's visibility filter."""
        return self.database.read(self.rights)

    def ask(self, work: Callable[[Reader], T]) -> T:
        """The result of ``work``, which asks one prepared query with the principal's visibility filter."""
        return self.database.ask(work, self.rights)

    def read_everything(self) -> AbstractContextManager[Session]:
        """An unrestricted read transaction: for what lies above a scope and is needed to publish into it."""
        return self.database.read(UNLIMITED)

    def change(self, work: Callable[[Session], T]) -> T:
        """Run a write transaction with the principal's visibility filter; ``work`` may be retried.

        Raises:
            NotAllowedError: ``bad_token``, the principal's token was revoked or has expired since the request began.
        """

        from registry.catalogue.team import tokens  # whoever only reads needs none of it

        def held(session: Session) -> T:
            tokens.hold(session, self.principal)
            return work(session)

        return self.database.change(held, rights=self.rights)

    def note_use(self, reference: str, interface: Interface | None = None) -> None:
        """Note that the principal asked for the weights of a revision (``PATH@N``), or of a base model."""
        if self.uses is not None:
            self.uses.note(reference, interface or self.interface, self.principal)

    def note_load(self, reference: str, *, weights: bool) -> None:
        """Record that the principal loaded a revision (``PATH@N``) from a Hub view, or was told of it only."""
        if self.uses is not None:
            self.uses.loads.note(reference, self.principal, weights=weights)

    def open_blob(self, blob: BlobRef) -> BlobReader:
        """Open a blob for checked reads."""
        return self.blobs.open(blob)

    @property
    def artifact_blobs(self) -> Blobs:
        """The blobs as artifacts read them: through the memory cache where there is one."""
        if self.memory is None:
            return self
        from registry.storage.caching import CachingBlobs

        return CachingBlobs(self.blobs, self.memory)
