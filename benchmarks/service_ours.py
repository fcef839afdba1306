"""The registry's catalogue as a side of the race: revisions with files, targets and events, found by tag.

python -m benchmarks.service_ours URL FROM TO     fills a catalogue with revisions FROM to TO
"""

from __future__ import annotations

import random
import sys
import uuid
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from benchmarks.service_race import Work
from registry.catalogue.changes import new_base, publish
from registry.catalogue.database import tables
from registry.catalogue.database.database import Database
from registry.catalogue.store import blobs
from registry.catalogue.tree import revisions
from registry.digest import BlobRef, canonical_json, sha256_digest
from registry.reference import Path, Reference
from registry.rights import UNLIMITED, Principal
from registry.schemas import TargetGroup

BASE = "bench"
EACH = 10  # revisions of an adapter
AT_ONCE = 10_000
WEIGHTS = sha256_digest(b"weights of the base model")
CONFIG = sha256_digest(b"adapter_config.json")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BENCH = Principal("bench", UNLIMITED)


def _blob(digest: str) -> BlobRef:
    return BlobRef(digest, 90_000_000, sha256_digest(digest.encode()), f"blobs/{digest.removeprefix('sha256:')}")


def _new(path: str, weights: str) -> publish.NewRevision:
    files = {"adapter_config.json": CONFIG, "adapter_model.safetensors": weights}
    manifest = canonical_json({"base": WEIGHTS, "files": files, "parent": None})
    return publish.NewRevision(
        path=Path.parse(path),
        base_digest=WEIGHTS,
        parent_id=None,
        digest=sha256_digest(manifest),
        manifest=manifest.decode(),
        message="what was changed in this one",
        author="bench",
        rank=16,
        parameters=22_000_000,
        size=90_000_000,
        trained_on=None,
        notices=(),
        files=tuple(blobs.FileRef(name, digest) for name, digest in files.items()),
        targets=tuple(TargetGroup(name=name, modules=22, ranks=(16,), scalings=(2.0,)) for name in TARGETS),
    )


def publisher(url: str, number: int, count: int) -> Work:
    """Publish a revision whose bytes are stored already: the one transaction that makes it visible."""
    del count
    database = Database(url)

    def work() -> None:
        weights = sha256_digest(uuid.uuid4().bytes)
        new = _new(f"{BASE}/written-{number}", weights)

        def transaction(session: Session) -> None:
            blobs.record(session, [_blob(weights)])
            publish.publish(session, new, BENCH)

        database.change(transaction)

    return work


def looker(url: str, number: int, count: int) -> Work:
    """Find the revision that a tag of some adapter means."""
    database, chance = Database(url), random.Random(number)

    def work() -> None:
        reference = Reference.parse(f"{BASE}/a{chance.randrange(count // EACH):06d}@prod")
        with database.read() as session:
            assert revisions.find(session, reference).number == EACH

    return work


def fill(url: str, start: int, stop: int) -> None:
    """Write rows as publishing does, many at once."""
    database = Database(url)
    database.prepare()
    if start == 0:
        database.change(_add_base)
    for first in range(start, stop, AT_ONCE):
        database.change(partial(_add, start=first, stop=min(stop, first + AT_ONCE)))
    with database.write() as session:
        session.execute(text("ANALYZE"))
    database.dispose()


def _add_base(session: Session) -> None:
    digests = [sha256_digest(name.encode()) for name in ("model.safetensors", "index", "table")]
    blobs.record(session, map(_blob, [*digests, CONFIG]))
    new = new_base.NewBase(
        name=BASE,
        digest=WEIGHTS,
        table_digest=digests[2],
        files_digest=digests[0],
        architecture="LlamaForCausalLM",
        table_source="config.json",
        parameters=1_100_000_000,
        tensors=201,
        size=2_200_000_000,
        index_blob=digests[1],
        table_blob=digests[2],
        notices=(),
        files=(blobs.FileRef("model.safetensors", digests[0]),),
    )
    new_base.add(session, new, BENCH)


def _add(session: Session, start: int, stop: int) -> None:
    now = datetime.now(UTC)
    base_id = session.query(tables.BaseModelRecord.id).scalar()
    news = {n + 1: _new(f"{BASE}/a{n // EACH:06d}", sha256_digest(f"weights {n}".encode())) for n in range(start, stop)}
    weights = [_blob(new.files[1].digest) for new in news.values()]
    session.execute(insert(tables.Blob), [vars(row) | {"created_at": now, "used_at": now} for row in weights])
    adapters = range(start // EACH, stop // EACH)
    made = {"base_id": base_id, "parent_id": None, "next_number": EACH + 1, "created_at": now}
    # Keys are given, so that the rows can be written without asking for them; writers' keys follow after a gap.
    keys = {number: 10_000_000 + number for number in adapters}
    names = [{"id": keys[n], "path": f"{BASE}/a{n:06d}", "name": f"a{n:06d}", **made} for n in adapters]
    session.execute(insert(tables.Adapter), names)
    copied = ("digest", "manifest", "message", "author", "rank", "parameters", "size", "trained_on")
    rows = [
        {name: getattr(new, name) for name in copied}
        | {"id": 10_000_000 + n, "adapter_id": keys[(n - 1) // EACH], "number": (n - 1) % EACH + 1, "parent_id": None}
        | {"created_at": now, "notices": [], "retracted_at": None, "retracted_reason": None, "retracted_by": None}
        for n, new in news.items()
    ]
    session.execute(insert(tables.Revision), rows)
    session.execute(
        insert(tables.RevisionFile),
        [
            {"revision_id": 10_000_000 + n, "path": file.path, "digest": file.digest}
            for n, new in news.items()
            for file in new.files
        ],
    )
    session.execute(
        insert(tables.RevisionTarget),
        [
            {"revision_id": 10_000_000 + n, "name": group.name, "modules": group.modules}
            | {"ranks": list(group.ranks), "scalings": list(group.scalings)}
            for n, new in news.items()
            for group in new.targets
        ],
    )
    tags = [{"adapter_id": keys[n], "name": "prod", "revision_id": 10_000_000 + (n + 1) * EACH} for n in adapters]
    session.execute(insert(tables.Tag), tags)
    happened = {"at": now, "action": "publish", "actor": "bench", "detail": {}, "token": None, "source": None}
    session.execute(
        insert(tables.EventRecord),
        [{"subject": f"{new.path}@{(n - 1) % EACH + 1}", **happened} for n, new in news.items()],
    )


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
