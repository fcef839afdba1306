"""The state of a service: its caller, its tokens, its replicas, and whether its store agrees with its catalogue.

Rows and objects are merged in the order of their keys, so memory use does not grow with the store. Publishing and
collecting continue meanwhile, so anything suspect is checked again before it is reported. ``unreadable`` blobs are
reported apart from ``damaged`` ones, since they may be intact.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Literal

from sqlalchemy.orm import Session

from registry.catalogue.database import events, migrations
from registry.catalogue.database.events import EventFilter
from registry.catalogue.store import blobs as blob_rows
from registry.catalogue.store import materialisations, purge, unreferenced, usage
from registry.catalogue.team import jobs, sessions, tokens
from registry.digest import BlobRef
from registry.errors import IntegrityError, NotAllowedError, UnavailableError
from registry.folders.output import make_private
from registry.progress import Progress
from registry.reference import Path
from registry.schemas import Checked, Damage, Event, Identity, TokenCreated
from registry.schemas.jobs import Health
from registry.schemas.requests import TokenRequest
from registry.schemas.team import EventKind
from registry.services.deployment import DATABASE, Deployment
from registry.storage.driver import BLOBS, BLOCKS, ObjectInfo, blob_key_of, blocks_key
from registry.storage.streams import list_size
from registry.version import __version__

log = logging.getLogger(__name__)

_AT_ONCE: Final = 500
_READERS: Final = 4  # for small blobs latency outweighs reading


def check(deployment: Deployment, *, deep: bool, progress: Progress) -> Checked:
    """Check the store; ``deep`` reads all of it. Damage is part of the result and raises no error.

    Raises:
        UnavailableError: the store or the database can't be used.
    """
    work = _Check(deployment)
    work.look(progress)
    if deep:
        work.read(progress)
    checked = Checked(
        deep=deep,
        blobs=work.blobs,
        bytes=work.bytes,
        damage=tuple(sorted(work.damage.values(), key=lambda one: one.key)),
        orphans=work.orphans,
    )
    _record(deployment, checked)
    return checked


def _record(deployment: Deployment, checked: Checked) -> None:
    """Record when the store was checked, and what was found. A registry that can only be read is checked, too."""
    states = Counter(one.state for one in checked.damage)
    detail = {
        "deep": checked.deep,
        "blobs": checked.blobs,
        "damaged": states["damaged"],
        "unreadable": states["unreadable"],
        "orphans": checked.orphans,
    }
    try:
        deployment.change(lambda session: events.record(session, "fsck", "registry", deployment.principal, detail))
    except (NotAllowedError, UnavailableError) as error:
        if error.code not in {"busy", "read_only", "disk_full"}:
            raise
        log.debug("the check is not recorded: %s", error)


@dataclass(frozen=True)
class _Problem:
    """What is wrong with a blob, as a clause, and whether it is damaged or only could not be read."""

    what: str
    state: Literal["damaged", "unreadable"]


@dataclass
class _Check:
    """The state of a running check."""

    deployment: Deployment
    blobs: int = 0
    bytes: int = 0
    orphans: int = 0
    damage: dict[str, Damage] = field(default_factory=dict)  # by digest

    def look(self, progress: Progress) -> None:
        """Compare the rows with the store's list of objects: blobs first, then block lists."""
        with self.deployment.read() as session:
            progress.begin("Looking for blobs", unreferenced.totals(session)[1])
        objects = _Ahead(self.deployment.blobs.objects())
        for row, size in self._side_by_side(objects, BLOBS):
            self.blobs += 1
            self.bytes += row.size
            if size != row.size:
                self._damaged(row, self._why_incomplete)
            progress.advance(row.size)
        for row, size in self._side_by_side(objects, BLOCKS):
            if list_size(row.size) not in {0, size}:
                self._damaged(row, self._why_incomplete)

    def _side_by_side(self, objects: _Ahead, prefix: str) -> Iterator[tuple[BlobRef, int | None]]:
        """Every row with the size of its object (None: missing); counts objects without a row."""
        unnamed: list[str] = []

        def pass_unnamed(before: str | None) -> None:
            while (one := objects.at(prefix)) is not None and (before is None or blob_key_of(one.key) < before):
                unnamed.append(objects.take().key)
                if len(unnamed) == _AT_ONCE:
                    self._count_orphans(unnamed)
                    unnamed.clear()

        for row in self._rows():
            pass_unnamed(row.key)
            there = (one := objects.at(prefix)) is not None and blob_key_of(one.key) == row.key
            yield row, objects.take().size if there else None
        pass_unnamed(None)
        self._count_orphans(unnamed)

    def _rows(self) -> Iterator[BlobRef]:
        after = ""
        while True:
            with self.deployment.read() as session:
                page = unreferenced.keys(session, after=after, limit=_AT_ONCE)
            yield from (row for row in page if row.digest > purge.REAL)
            if len(page) < _AT_ONCE:
                return
            after = page[-1].key

    def _count_orphans(self, keys: list[str]) -> None:
        """Count the keys that no row names now: a row may have been added since the walk passed it."""
        with self.deployment.read() as session:
            named = purge.named(session, {blob_key_of(key) for key in keys})
        self.orphans += sum(blob_key_of(key) not in named for key in keys)

    def read(self, progress: Progress) -> None:
        """Read all blobs without known damage, and compare their digests."""
        progress.begin("Reading blobs", self.bytes)
        lock = threading.Lock()

        def advance(amount: int) -> None:
            with lock:
                progress.advance(amount)

        def why(row: BlobRef) -> _Problem | None:
            return self._why_other(row, advance)

        rows = (row for row in self._rows() if row.digest not in self.damage)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="fsck") as pool:
            while page := list(islice(rows, _AT_ONCE)):
                for row, problem in zip(page, pool.map(why, page), strict=True):
                    if problem is not None:
                        self._damaged(row, lambda _, problem=problem: problem)  # type: ignore[misc]

    def _why_incomplete(self, row: BlobRef) -> _Problem | None:
        """What is wrong with a blob that seems to be missing or to have another size; None: nothing."""
        return self._why_unreadable(lambda: self._compare_sizes(row))

    def _compare_sizes(self, row: BlobRef) -> str | None:
        blobs = self.deployment.blobs
        size = blobs.size(row.key)
        if size is None:
            return "its file is missing"
        if size != row.size:
            return f"it has {size} bytes instead of {row.size}"
        if list_size(row.size) and blobs.size(blocks_key(row.key)) != list_size(row.size):
            return "the list of its blocks is missing or has another size"
        return None

    def _why_other(self, row: BlobRef, advance: Callable[[int], None]) -> _Problem | None:
        """What is wrong with the bytes of a blob; None: nothing."""

        def read() -> str | None:
            try:
                self.deployment.blobs.check(row, advance=advance)
            except IntegrityError as error:
                return _clause(error)
            return None

        return self._why_unreadable(read)

    def _why_unreadable(self, look: Callable[[], str | None]) -> _Problem | None:
        """What ``look`` finds, or that the blob can't be read; raises if the whole store can't be used."""
        try:
            found = look()
        except (UnavailableError, NotAllowedError) as error:
            self.deployment.blobs.ping()  # raises if the whole store is unavailable
            return _Problem(f"it can't be read: {error}", "unreadable")
        return None if found is None else _Problem(found, "damaged")

    def _damaged(self, row: BlobRef, why: Callable[[BlobRef], _Problem | None]) -> None:
        """Record damage, unless the row is gone or names another object."""
        problem = why(row)
        if problem is None:
            return
        with self.deployment.read() as session:
            now = blob_rows.rows(session, [row.digest]).get(row.digest)
            if now != row:
                return
            taken = unreferenced.takes_down(session, row.digest)
            kept = materialisations.containing(session, row.digest)
        self.damage.setdefault(
            row.digest,
            Damage(
                digest=row.digest,
                key=row.key,
                problem=problem.what,
                takes_down=taken,
                materialisations=kept,
                state=problem.state,
            ),
        )


def _clause(error: IntegrityError) -> str:
    """The clause about the damage in a message that also names the blob and what to do."""
    return str(error).partition(" is damaged: ")[2].partition("; ")[0] or str(error)


class _Ahead:
    """An iterator of the store's objects with a peek at the next one."""

    def __init__(self, objects: Iterator[ObjectInfo]) -> None:
        self._objects = objects
        self._next = next(objects, None)

    def at(self, prefix: str) -> ObjectInfo | None:
        """The next object, if its key has this prefix; it is not consumed."""
        return self._next if self._next is not None and self._next.key.startswith(prefix) else None

    def take(self) -> ObjectInfo:
        """Consume the next object."""
        if self._next is None:
            raise AssertionError("taken past the end")
        taken, self._next = self._next, next(self._objects, None)
        return taken


def whoami(deployment: Deployment) -> Identity:
    """See `registry.operations.registry.Registry.whoami`."""
    principal = deployment.principal
    expires_at = None
    if principal.token is not None:
        with deployment.read() as session:
            expires_at = tokens.get(session, principal.token).expires_at
    return Identity(
        url=deployment.url,
        name=principal.name,
        role=principal.rights.role,
        scopes=tuple(map(str, principal.rights.scopes)),
        token=principal.token,
        expires_at=expires_at,
        version=__version__,
        service_version=None,
    )


def create_token(deployment: Deployment, request: TokenRequest, *, form: str | None = None) -> TokenCreated:
    """Create a token. An embedded registry's folder is made private to its owner first.

    Of a ``form``, which browsers may send twice, one is made: see `registry.catalogue.team.tokens.create`.

    Raises:
        NotAllowedError: ``read_only``, the folder belongs to another user.
        UsageError: a scope is not a path, or another field is invalid.
    """
    paths = [Path.parse(scope) for scope in request.scopes]
    if deployment.folder is not None:
        # The database, SQLite's side files, and backups from before an upgrade.
        make_private(deployment.folder, deployment.folder.glob(f"{DATABASE}*"))

    def work(session: Session) -> TokenCreated:
        return tokens.create(
            session,
            deployment.principal,
            request.role,
            name=request.name,
            scopes=paths,
            expires_in=request.expires_in,
            form=form,
        )

    return deployment.change(work)


_MOST: Final = 100  # events that are searched for the end of a collection, and for the last deep check


def health(deployment: Deployment) -> Health:
    """How the service is, in one snapshot."""
    now = datetime.now(UTC)
    with deployment.read() as session:
        asked_for, notices = jobs.counts(session, now - jobs.KEPT)
        return Health(
            version=__version__,
            migration=migrations.version_on(session.connection()),
            newest_migration=migrations.HISTORY[-1],
            replicas=sessions.listing(session, now),
            jobs=asked_for,
            notices=notices,
            bytes=usage.stored(session),
            growth=usage.weeks(session, now.date()),
            last_gc=_last(session, "gc"),
            last_fsck=_last(session, "fsck"),
        )


def successes(session: Session) -> Mapping[str, float]:
    """When ``gc``, ``fsck`` and ``fsck --deep`` last came to their end and found nothing wrong, in seconds since 1970.

    What is not known is left out. A deep check is a check.
    """
    checks = [one for one in _checks(session) if not _found(one)]
    found = {
        "gc": next((one for one in _ends(session) if one.detail.get("done")), None),
        "fsck": next(iter(checks), None),
        "fsck_deep": next((one for one in checks if one.detail.get("deep")), None),
    }
    return {name: one.at.timestamp() for name, one in found.items() if one is not None}


def damage(session: Session) -> Mapping[str, float]:
    """How many blobs are damaged and unreadable, as found by the last deep check and by all later ones.

    A check that only verifies that each blob exists revokes nothing that a deep one found.
    """
    checks: list[Event] = []
    for one in _checks(session):
        checks.append(one)
        if one.detail.get("deep"):
            break
    newest_and_deep = [*checks[:1], *checks[-1:]] if checks and checks[-1].detail.get("deep") else checks[:1]
    return {
        state: float(max(int(str(one.detail.get(state, 0))) for one in newest_and_deep))
        for state in ("damaged", "unreadable")
        if newest_and_deep
    }


def _ends(session: Session) -> tuple[Event, ...]:
    """The newest events of collections: the first is nearly always the end of one."""
    newest = events.recent(session, 1, EventFilter(kind="gc"))
    return newest if newest and newest[0].detail.get("done") else events.recent(session, _MOST, EventFilter(kind="gc"))


def _checks(session: Session) -> tuple[Event, ...]:
    return events.recent(session, _MOST, EventFilter(kind="fsck"))


def _found(check: Event) -> bool:
    return any(check.detail.get(state) for state in ("damaged", "unreadable"))


def _last(session: Session, kind: EventKind) -> Event | None:
    return next(iter(events.recent(session, 1, EventFilter(kind=kind))), None)
