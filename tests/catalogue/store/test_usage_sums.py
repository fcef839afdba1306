"""What `du` counts, held against sets of digests in Python: shared files, old names, deletions, materialisations."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from registry.catalogue.changes import deletion, rename
from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import (
    Adapter,
    BaseFile,
    BaseModelRecord,
    Blob,
    Revision,
    RevisionFile,
    table_of,
)
from registry.catalogue.database.team_tables import MaterialisationRecord, MaterialisedFile
from registry.catalogue.store import blobs, usage
from registry.catalogue.tree import revisions
from registry.errors import RegistryError
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.rights import UNLIMITED, Rights
from registry.schemas.usage import Taken
from tests.catalogue.rows import TESTER, Writer, blob, digest_of, rights

PATHS: Final = ("llama/a", "llama/a/x", "llama/a/x/y", "llama/b", "llama/b/z", "llama/c", "qwen/a", "qwen/d")
SEEN: Final = {
    "all": UNLIMITED,
    "admin of some": rights("admin", "llama/a", "qwen"),
    "old name": rights("reader", "llama/b"),
    "new name": rights("reader", "llama/new"),
}
ASKED: Final = (None, "llama", "llama/a", "llama/a/x", "llama/b", "llama/new", "llama/newer", "qwen")
NOW: Final = datetime.now(UTC)


@dataclass
class Owner:
    """A revision or a materialisation, and what it has."""

    path: str
    number: int
    newest: str
    has: dict[str, int]
    is_there: bool


@pytest.fixture
def shared(database: Database, writer: Writer) -> Database:
    """Revisions that have few different files; some are deleted, renamed, materialised."""
    chance = random.Random(5)
    with database.write() as session:
        for base in ("llama", "qwen"):
            writer.base(session, base)
        blobs.record(session, [blob(f"{'-' * size} shared") for size in range(9)])
        blobs.record(session, [blob("needed by nothing")])
    keys = []
    for number in range(60):
        with database.write() as session:
            keys.append(publish(session, writer, chance, number))
    with database.write() as session:
        for key in chance.sample(keys, 30):
            try:
                deletion.delete(session, key, TESTER, with_tags=True)
            except RegistryError:
                continue
    for old, new in (("llama/b", "llama/new"), ("llama/new/z", "llama/newer")):
        with database.write() as session:
            rename.rename(session, TreePath.parse(old), TreePath.parse(new), TESTER)
    with database.write() as session:
        for number, key in enumerate(chance.sample(keys, 20)):
            materialise(session, chance, number, key)
    return database


def publish(session: Session, writer: Writer, chance: random.Random, number: int) -> int:
    content = f"weights {number} {'+' * chance.randrange(50)}"
    names = [content, *(f"{'-' * size} shared" for size in chance.choices(range(8), k=3))]
    if chance.random() < 0.3:
        names += ["llama config.json"]
    if chance.random() < 0.3:
        names = names[1:]  # no bytes of its own
    blobs.record(session, map(blob, names))
    files = tuple(blobs.FileRef(f"file{place}", digest_of(name)) for place, name in enumerate(names))
    path = PATHS[number] if number < len(PATHS) else chance.choice(PATHS)
    above = TreePath.parse(path).parent
    parent = None if above is None or above.is_base else revisions.find(session, Reference(above))
    return writer.publish(session, path, content, parent, files=files, size=1).id


def materialise(session: Session, chance: random.Random, number: int, key: int) -> None:
    row = {
        "id": f"mat_{number}", "revision_id": key, "kind": "lora", "rendering": "sha256:0", "artifact_format": 1,
        "plan_digest": f"sha256:{number}", "plan": {}, "notices": [], "created_at": NOW, "created_by": "ann",
        "expires_at": NOW + timedelta(days=chance.choice((-1, 1))),
    }  # fmt: skip
    session.execute(insert(table_of(MaterialisationRecord)), [row])
    names = [f"made {chance.randrange(12)}", f"{'-' * chance.randrange(9)} shared"]
    blobs.record(session, map(blob, names))
    files = [{"materialisation_id": row["id"], "path": name, "digest": digest_of(name)} for name in names]
    session.execute(insert(table_of(MaterialisedFile)), files)


# ------------------------------------------------------------------ by hand


def is_under(path: str, above: str) -> bool:
    return f"{path}/".startswith(f"{above}/")


def owners(session: Session, seen: Rights) -> tuple[list[Owner], list[Owner]]:
    """Revisions and materialisations, read without any criterion."""
    revision, adapter, sizes = (table_of(one) for one in (Revision, Adapter, Blob))
    base = select(revision.c.id, revision.c.number, revision.c.deleted_at, adapter.c.path, adapter.c.renamed_to)
    rows = session.execute(base.join(adapter, adapter.c.id == revision.c.adapter_id)).all()
    size = {row.digest: row.size for row in session.execute(select(sizes.c.digest, sizes.c.size))}
    has: dict[int | str, dict[str, int]] = defaultdict(dict)
    for record, column in ((RevisionFile, "revision_id"), (MaterialisedFile, "materialisation_id")):
        table = table_of(record)
        for key, digest in session.execute(select(table.c[column], table.c.digest)):
            has[key][digest] = size[digest]
    found = {
        row.id: Owner(row.path, row.number, row.renamed_to or row.path, has[row.id], row.deleted_at is None)
        for row in rows
        if seen.unlimited or any(is_under(row.path, str(scope)) for scope in seen.scopes)
    }
    made = []
    records = table_of(MaterialisationRecord)
    for key, revision_id, until in session.execute(select(records.c.id, records.c.revision_id, records.c.expires_at)):
        if (of := found.get(revision_id)) is not None:
            made.append(Owner(of.path, of.number, of.newest, has[key], of.is_there and until > NOW))
    return list(found.values()), made


def once(live: list[Owner], path: str | None) -> list[Owner]:
    """Each revision under one of its names: the newest, or one that is asked about."""
    named: dict[tuple[str, int], list[Owner]] = defaultdict(list)
    for one in live:
        named[one.newest, one.number].append(one)

    def wanted(one: Owner) -> tuple[bool, bool]:
        return path is None or is_under(one.path, path), one.path == one.newest

    return [max(same, key=wanted) for same in named.values()]


def of_bases(session: Session, seen: Rights) -> set[str]:
    bases, files = table_of(BaseModelRecord), table_of(BaseFile)
    rows = session.execute(select(bases.c.id, bases.c.name, bases.c.index_blob, bases.c.table_blob)).all()
    mine = [row for row in rows if seen.unlimited or row.name in {scope.base for scope in seen.scopes}]
    digests = session.scalars(select(files.c.digest).where(files.c.base_id.in_([row.id for row in mine])))
    return {*digests, *(row.index_blob for row in mine), *(row.table_blob for row in mine)}


def of_nothing(session: Session) -> dict[str, int]:
    """Blobs that no row names."""
    bases = table_of(BaseModelRecord).c
    columns = (RevisionFile.digest, BaseFile.digest, MaterialisedFile.digest, bases.index_blob, bases.table_blob)
    named = {digest for column in columns for digest in session.execute(select(column)).scalars()}
    rows = session.execute(select(table_of(Blob).c.digest, table_of(Blob).c.size))
    return {digest: size for digest, size in rows if digest not in named}


def all_of(owned: list[Owner]) -> dict[str, int]:
    return {digest: size for one in owned for digest, size in one.has.items()}


def by_hand(session: Session, seen: Rights, path: str | None) -> dict[str, object]:
    published, made = owners(session, seen)
    bases, lasting = of_bases(session, seen), all_of([one for one in made if one.is_there])
    counted = once([one for one in published if one.is_there], path)

    def inside(owned: list[Owner]) -> list[Owner]:
        return [one for one in owned if path is None or is_under(one.path, path)]

    def taken(name: str, owned: list[Owner]) -> tuple[str, int, int, int]:
        others = {digest for one in counted if one not in owned for digest in one.has} | bases | lasting.keys()
        has = all_of(owned)
        own = sum(size for digest, size in has.items() if digest not in others)
        return name, len(owned), sum(has.values()), own

    chosen, used = inside(counted), all_of(counted).keys() | bases
    released = all_of(inside([one for one in (*published, *made) if not one.is_there]))
    if path is None and seen.unlimited:
        released |= of_nothing(session)
    kept = all_of(inside([one for one in made if one.is_there]))
    return {
        "revisions": sorted(taken(f"{one.path}@{one.number}", [one]) for one in chosen),
        "adapters": [
            taken(name, [one for one in chosen if one.path == name]) for name in sorted({one.path for one in chosen})
        ],
        "size": sum(all_of(chosen).values()),
        "full_checkpoints": len(chosen) * len("llama w model.safetensors")
        - sum(is_under(one.path, "qwen") for one in chosen),
        "materialisations": sum(size for digest, size in kept.items() if digest not in used),
        "collectable": sum(size for digest, size in released.items() if digest not in used | lasting.keys()),
    }


def told(answer: tuple[Taken, ...]) -> list[tuple[str, int, int, int]]:
    return [(one.name, one.revisions, one.size, one.own) for one in answer]


def test_figures_are_those_of_sets_of_digests(shared: Database) -> None:
    for name, seen in SEEN.items():
        with shared.read(seen) as session:
            for path in ASKED:
                answer = usage.usage(session, None if path is None else TreePath.parse(path))
                found = answer.model_dump() | {
                    "adapters": told(answer.adapters),
                    "revisions": sorted(told(answer.revisions)),
                }
                wanted = by_hand(session, seen, path)
                assert {key: found[key] for key in wanted} == wanted, (name, path)
                assert (answer.unlisted_adapters, answer.unlisted_revisions) == (0, 0)


def test_those_with_the_most_of_their_own_are_listed(shared: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with shared.read() as session:
        whole = usage.usage(session, None)
        monkeypatch.setattr(usage, "MOST_LISTED", 3)
        few = usage.usage(session, None)
    for all_of_them, listed in ((whole.adapters, few.adapters), (whole.revisions, few.revisions)):
        most = sorted(all_of_them, key=lambda one: (-one.own, -one.size))[:3]
        assert {(one.own, one.size) for one in most} == {(one.own, one.size) for one in listed}
        assert [one for one in all_of_them if one in listed] == list(listed)
    counts = (few.unlisted_adapters, few.unlisted_revisions)
    assert counts == (len(whole.adapters) - 3, len(whole.revisions) - 3)
    lists = {"adapters", "revisions", "unlisted_adapters", "unlisted_revisions"}
    assert few.model_dump(exclude=lists) == whole.model_dump(exclude=lists)
