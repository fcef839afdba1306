"""Collecting unreferenced data past a grace period, concurrently with publishers and other collectors.

First, deletions past the grace are purged, and can't be undone from then on. Then the rows of unreferenced blobs are
removed, in short transactions that check them again, and after them their objects: a later publisher of the same bytes
finds no row and stores them under another key. Last come old objects that no row names, left by killed publishers and
collectors: they get a tombstone before they are removed, so that no row can name them any more. Even the shortest grace
period loses no published data; if it is shorter than a publish takes, publishers have to retry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from sqlalchemy.orm import Session

from registry.catalogue.changes import details, materialise
from registry.catalogue.database import events
from registry.catalogue.store import materialisations, purge, unreferenced, uploads
from registry.catalogue.store.materialisations import MaterialisationRow
from registry.catalogue.store.uploads import UploadRow
from registry.catalogue.team import jobs
from registry.catalogue.tree import commits
from registry.digest import BlobRef
from registry.progress import Progress
from registry.schemas import Collected, CollectedBlob, Materialisation
from registry.services.deployment import GRACE, Deployment
from registry.storage.driver import ObjectInfo, blob_key_of
from registry.storage.staging import Staging

T = TypeVar("T")

_AT_ONCE: Final = 100
_ROUND: Final = 10_000  # blobs that are examined together, and objects that are found before they are removed
LISTED: Final = 10_000
"""The most blobs and revisions that an answer lists; a run may collect a million."""
_MOST_UPLOADS: Final = 1_000_000
_REMOVERS: Final = 8  # threads, since a remote store has a high latency for each deletion


def collect(deployment: Deployment, *, dry_run: bool, progress: Progress, grace: float = GRACE) -> Collected:
    """Remove what was not referenced for ``grace`` seconds; ``dry_run`` only reports it."""
    work = _Collection(deployment, datetime.now(UTC) - timedelta(seconds=grace), dry_run=dry_run)
    work.collect_materialisations()
    work.end_deletions()
    work.collect_rows(progress)
    work.collect_orphans(progress)
    work.collect_uploads()
    work.record_commits()
    work.record()
    return Collected(
        dry_run=dry_run,
        blobs=tuple(work.collected),
        uploads=work.uploads,
        bytes=work.bytes,
        kept_for_grace=work.young,
        materialisations=tuple(work.materialisations),
        revisions=tuple(sorted(work.revisions)),
        bases=tuple(work.bases),
        unlisted_blobs=work.blobs - len(work.collected),
        unlisted_revisions=work.purged - len(work.revisions),
    )


@dataclass
class _Collection:
    """The state of a running collection."""

    deployment: Deployment
    before: datetime
    dry_run: bool
    collected: list[CollectedBlob] = field(default_factory=list)
    blobs: int = 0  # with those that are not listed
    bytes: int = 0
    uploads: int = 0
    young: int = 0
    materialisations: list[Materialisation] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)  # purged ones
    purged: int = 0  # with those that are not listed
    bases: list[str] = field(default_factory=list)
    released: int = 0  # in a dry run: blobs whose grace would begin now

    def collect_materialisations(self) -> None:
        """Remove the rows of expired materialisations. The grace period of blobs that only they used begins now."""
        now = datetime.now(UTC)
        if self.dry_run:
            with self.deployment.read() as session:
                found = materialisations.expired(session, now, limit=_MOST_UPLOADS)
                self.released = materialisations.count_released(session, now)
            self.materialisations += [row.shown for row in found]
            return
        while page := self._expired_materialisations(now):
            self.materialisations += [row.shown for row in self._forget_materialisations(page, now)]

    def _expired_materialisations(self, now: datetime) -> Sequence[MaterialisationRow]:
        with self.deployment.read() as session:
            return materialisations.expired(session, now, limit=_AT_ONCE)

    def _forget_materialisations(
        self, page: Sequence[MaterialisationRow], now: datetime
    ) -> Sequence[MaterialisationRow]:
        def work(session: Session) -> Sequence[MaterialisationRow]:
            gone = materialise.forget(session, page, now)
            self._note(session, materialisations=len(gone))
            return gone

        return self.deployment.change(work)

    def end_deletions(self) -> None:
        """Purge the revisions and base models whose deletion is past the grace period."""
        with self.deployment.read() as session:
            bases = purge.expired_bases(session, self.before)
            if self.dry_run:
                self.bases += bases
                self.revisions += purge.expired_references(session, self.before, LISTED)
                self.purged = purge.count_expired(session, self.before)
                return
        while gone := self.deployment.change(self._purge_revisions):
            self.revisions += gone[: LISTED - len(self.revisions)]
            self.purged += len(gone)
        for name in bases:
            self.bases += self.deployment.change(partial(self._purge_base, name))

    def _purge_revisions(self, session: Session) -> Sequence[str]:
        keys = purge.expired(session, self.before, _AT_ONCE)
        return purge.purge(session, keys, purge.GRACE_OVER, self.deployment.principal)

    def _purge_base(self, name: str, session: Session) -> Sequence[str]:
        """Purge a base model; its name, or nothing if it was restored meanwhile."""
        why, principal = purge.GRACE_OVER, self.deployment.principal
        _, gone = purge.purge_base(session, name, why, principal, before=self.before)
        return [name] if gone else []

    def collect_rows(self, progress: Progress) -> None:
        """Remove the rows of unreferenced blobs, and then their objects."""
        self.young += self.released
        after: str | None = purge.REAL
        while after is not None:
            with self.deployment.read() as session:
                end = unreferenced.end_of(session, after, _ROUND)
                self.young += unreferenced.count_in_grace(session, self.before, after=after, end=end)
                found = unreferenced.unneeded(session, self.before, after=after, end=end, foreseen=self.dry_run)
            self._collect(found, progress)
            after = end

    def _collect(self, found: Sequence[BlobRef], progress: Progress) -> None:
        if found:
            progress.begin("Collecting", sum(row.size for row in found))
        for part in _parts(found):
            gone: Sequence[BlobRef] = part if self.dry_run else self._forget(part)
            self._remove(row.key for row in gone)
            self._list(CollectedBlob(digest=row.digest, key=row.key, size=row.size) for row in gone)
            progress.advance(sum(row.size for row in part))

    def _list(self, collected: Iterable[CollectedBlob]) -> None:
        """Count what was collected, and list it up to `LISTED`."""
        for one in collected:
            self.blobs += 1
            self.bytes += one.size
            if len(self.collected) < LISTED:
                self.collected.append(one)

    def _forget(self, part: list[BlobRef]) -> Sequence[BlobRef]:
        """Remove rows; the removed ones, without those that a publisher uses again."""

        def work(session: Session) -> Sequence[BlobRef]:
            gone = unreferenced.forget(session, [row.digest for row in part], self.before)
            self._note(session, blobs=len(gone), size=sum(row.size for row in gone))
            return gone

        return self.deployment.change(work)

    def collect_orphans(self, progress: Progress) -> None:
        """Remove old objects that no row names: left by killed publishers and collectors, or damaged and replaced."""
        for orphans in _parts(self._orphans(), _ROUND):
            progress.begin("Deleting leftover objects", sum(one.size for one in orphans))
            for part in _parts(orphans):
                gone = part if self.dry_run else self._condemn(part)
                self._remove(one.key for one in gone)
                self._list(CollectedBlob(digest=None, key=one.key, size=one.size) for one in gone)
                progress.advance(sum(one.size for one in part))

    def _condemn(self, part: list[ObjectInfo]) -> list[ObjectInfo]:
        """Add tombstones; the objects that got one, without those that a row names since they were listed."""
        keys = {blob_key_of(one.key) for one in part}

        def work(session: Session) -> list[ObjectInfo]:
            condemned = purge.add(session, keys)
            gone = [one for one in part if blob_key_of(one.key) in condemned]
            self._note(session, blobs=len(gone), size=sum(one.size for one in gone))
            return gone

        return self.deployment.change(work)

    def _orphans(self) -> Iterator[ObjectInfo]:
        young: set[str] = set()
        for part in _parts(self.deployment.blobs.objects()):
            with self.deployment.read() as session:
                named = purge.named(session, {blob_key_of(one.key) for one in part})
            for one in part:
                key = blob_key_of(one.key)
                if key in named:
                    continue
                # A block list is written before its blob (and listed after it), and counts as young as its blob.
                if one.modified >= self.before or key in young:
                    young.add(key)
                else:
                    yield one
        self.young += len(young)

    def _remove(self, keys: Iterable[str]) -> None:
        if self.dry_run:
            return
        with ThreadPoolExecutor(_REMOVERS, thread_name_prefix="gc") as pool:
            for _ in pool.map(self.deployment.blobs.delete, keys):
                pass

    def collect_uploads(self) -> None:
        """Remove expired uploads, and what killed writers left in the store."""
        now = datetime.now(UTC)
        while found := self._expired(now):
            self.uploads += len(found)
            if self.dry_run:
                return
            for upload in found:
                # Bytes first: if this is killed in between, the row still leads to them.
                self.deployment.blobs.drop_staging(
                    Staging(upload.staging_key, upload.multipart, upload.size, upload.part_size)
                )
            self._forget_uploads([upload.id for upload in found])
        self._clear_store(now)

    def record_commits(self) -> None:
        """Record the digits of commits that programs of an older schema left out, so that no lookup computes them."""
        while not self.dry_run and self.deployment.change(lambda session: commits.write_missing(session, _AT_ONCE)):
            pass

    def _clear_store(self, now: datetime) -> None:
        if not self.dry_run:
            # However short the grace is, an upload may be idle for as long as its row lives; and the first of many
            # files waits for the last.
            self.deployment.blobs.clear_staging(min(self.before, now - 2 * uploads.LIFETIME))
            self.deployment.blobs.clear_litter()
            self.deployment.change(lambda session: purge.forget(session, now - purge.LIFETIME))
            self.deployment.change(lambda session: jobs.forget(session, now - jobs.KEPT))
            self.deployment.change(lambda session: details.forget_uses(session, now))
            self.deployment.change(lambda session: uploads.forget_pushed(session, now))

    def _expired(self, now: datetime) -> Sequence[UploadRow]:
        with self.deployment.read() as session:
            return uploads.expired(session, now, limit=_MOST_UPLOADS if self.dry_run else _AT_ONCE)

    def _forget_uploads(self, ids: list[str]) -> None:
        def work(session: Session) -> None:
            for upload_id in ids:
                uploads.remove(session, upload_id)
            self._note(session, uploads=len(ids))

        self.deployment.change(work)

    def record(self) -> None:
        """Record that this collection came to its end, and all that it removed: so that events and metrics show when a
        registry was collected last.
        """
        if not self.dry_run:
            whole = self._detail(self.blobs, self.bytes, self.uploads, len(self.materialisations)) | {"done": True}
            self.deployment.change(
                lambda session: events.record(session, "gc", "registry", self.deployment.principal, whole)
            )

    @staticmethod
    def _detail(blobs: int, size: int, uploads: int, materialisations: int) -> dict[str, int]:
        return {"blobs": blobs, "bytes": size, "uploads": uploads, "materialisations": materialisations}

    def _note(
        self, session: Session, *, blobs: int = 0, size: int = 0, uploads: int = 0, materialisations: int = 0
    ) -> None:
        """Record an event for what this transaction removes, so that an interrupted collection is recorded too."""
        detail = self._detail(blobs, size, uploads, materialisations)
        if any(detail.values()):
            events.record(session, "gc", "registry", self.deployment.principal, detail)


def _parts(values: Iterable[T], size: int = _AT_ONCE) -> Iterator[list[T]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
