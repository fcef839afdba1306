"""How many bytes revisions take in the store, counted as if what a session does not see were not stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.catalogue.database.tables import Adapter, BaseFile, BaseModelRecord, Blob, Revision, RevisionFile
from registry.catalogue.database.team_tables import MaterialisationRecord, MaterialisedFile
from registry.catalogue.database.visibility import INCLUDE_DELETED, rights_of
from registry.catalogue.store.unreferenced import nothing_refers
from registry.reference import Path
from registry.schemas.usage import Taken, Usage

Owner = tuple[str, int]  # path and number of a revision
Blobs = dict[str, int]  # size by digest
_WEIGHTS = ".safetensors"


@dataclass
class _Seen:
    """What a session sees of the store."""

    revisions: dict[Owner, Blobs] = field(default_factory=lambda: defaultdict(dict))
    bases: Blobs = field(default_factory=dict)
    kept: Blobs = field(default_factory=dict)
    """Of materialisations that are not past their time, at and under the path."""
    released: Blobs = field(default_factory=dict)
    """Of deleted revisions and expired materialisations, at and under the path, and what nothing refers to."""
    elsewhere: set[str] = field(default_factory=set)
    """Digests of materialisations that are not at or under the path, and not past their time."""


def usage(session: Session, path: Path | None) -> Usage:
    """What is stored of everything, or of what is at and under a path."""
    seen = _seen(session, path)
    chosen = {owner: blobs for owner, blobs in seen.revisions.items() if path is None or _under(owner[0], path)}
    users: dict[str, set[Owner]] = defaultdict(set)
    for owner, blobs in seen.revisions.items():
        for digest in blobs:
            users[digest].add(owner)
    adapters: dict[str, list[Owner]] = defaultdict(list)
    for owner in chosen:
        adapters[owner[0]].append(owner)
    taken = _together(chosen.values())
    kept = {digest: size for digest, size in seen.kept.items() if digest not in users and digest not in seen.bases}
    needed = users.keys() | seen.bases.keys() | seen.kept.keys() | seen.elsewhere
    others = seen.bases.keys() | seen.kept.keys() | seen.elsewhere

    def of(name: str, owners: list[Owner]) -> Taken:
        blobs, own = _together(chosen[owner] for owner in owners), set(owners)
        alone = sum(size for digest, size in blobs.items() if users[digest] <= own and digest not in others)
        return Taken(name=name, revisions=len(owners), size=sum(blobs.values()), own=alone)

    return Usage(
        path=None if path is None else str(path),
        adapters=tuple(of(name, owners) for name, owners in sorted(adapters.items())),
        revisions=tuple(of(f"{owner[0]}@{owner[1]}", [owner]) for owner in sorted(chosen)),
        size=sum(taken.values()),
        full_checkpoints=_full(session, chosen),
        materialisations=sum(kept.values()),
        collectable=sum(size for digest, size in seen.released.items() if digest not in needed),
    )


def _seen(session: Session, path: Path | None) -> _Seen:
    found = _Seen()
    of_revisions = (
        select(Adapter.path, Adapter.renamed_to, Revision.number, Revision.deleted_at, Blob.digest, Blob.size)
        .join(Revision, Revision.adapter_id == Adapter.id)
        .join(RevisionFile, RevisionFile.revision_id == Revision.id)
        .join(Blob, Blob.digest == RevisionFile.digest)
    )
    newest: dict[Owner, Owner] = {}
    for name, renamed_to, number, deleted_at, digest, size in session.execute(
        of_revisions, execution_options=INCLUDE_DELETED
    ):
        if deleted_at is None:
            found.revisions[name, number][digest] = size
            newest[name, number] = (renamed_to or name, number)
        elif path is None or _under(name, path):
            found.released[digest] = size
    for repeated in _repeated(newest, path):
        del found.revisions[repeated]
    of_bases = (
        select(Blob.digest, Blob.size)
        .join(BaseFile, BaseFile.digest == Blob.digest)
        .join(BaseModelRecord, BaseModelRecord.id == BaseFile.base_id)
    )
    documents = select(Blob.digest, Blob.size).join(
        BaseModelRecord, (BaseModelRecord.index_blob == Blob.digest) | (BaseModelRecord.table_blob == Blob.digest)
    )
    found.bases = {digest: size for query in (of_bases, documents) for digest, size in session.execute(query)}
    of_materialisations = (
        select(Adapter.path, Revision.deleted_at, MaterialisationRecord.expires_at, Blob.digest, Blob.size)
        .join(Revision, Revision.adapter_id == Adapter.id)
        .join(MaterialisationRecord, MaterialisationRecord.revision_id == Revision.id)
        .join(MaterialisedFile, MaterialisedFile.materialisation_id == MaterialisationRecord.id)
        .join(Blob, Blob.digest == MaterialisedFile.digest)
    )
    now = datetime.now(UTC)
    for name, deleted_at, expires_at, digest, size in session.execute(
        of_materialisations, execution_options=INCLUDE_DELETED
    ):
        lasts = deleted_at is None and expires_at > now
        if path is None or _under(name, path):
            (found.kept if lasts else found.released)[digest] = size
        elif lasts:
            found.elsewhere.add(digest)
    if path is None and rights_of(session).unlimited:
        unneeded = select(Blob.digest, Blob.size).where(*nothing_refers())
        for digest, size in session.execute(unneeded):
            found.released[digest] = size
    return found


def _repeated(newest: Mapping[Owner, Owner], path: Path | None) -> Iterator[Owner]:
    """Revisions that count under another name: under the newest, or under an old one that is asked about."""
    same: dict[Owner, list[Owner]] = defaultdict(list)
    for owner, new in newest.items():
        same[new].append(owner)
    for new, owners in same.items():
        asked = [owner for owner in owners if path is None or _under(owner[0], path)] or owners
        kept = new if new in asked else asked[0]
        yield from (owner for owner in owners if owner != kept)


def _full(session: Session, chosen: Iterable[Owner]) -> int:
    """Bytes of as many copies of the weights of their base models."""
    query = (
        select(BaseModelRecord.name, func.sum(Blob.size))
        .join(BaseFile, BaseFile.base_id == BaseModelRecord.id)
        .join(Blob, Blob.digest == BaseFile.digest)
        .where(BaseFile.path.endswith(_WEIGHTS, autoescape=True))
        .group_by(BaseModelRecord.name)
    )
    weights: Mapping[str, int] = {name: int(size) for name, size in session.execute(query)}
    return sum(weights[path.partition("/")[0]] for path, _ in chosen)


def _under(name: str, path: Path) -> bool:
    return name == str(path) or name.startswith(f"{path}/")


def _together(parts: Iterable[Blobs]) -> Blobs:
    return {digest: size for blobs in parts for digest, size in blobs.items()}
