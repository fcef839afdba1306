"""Catalogues as they are after years: a tree that is wide, deep and has one adapter with a fifth of all revisions.

`planned` says what is published, one after the other. `fill` writes at once what publishing all of it would have
written, in bulk; `publish` publishes it, for a test that compares the two. Bytes are short texts of their own, which
`contents` gives to whoever wants them in a store.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import random
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path as FilePath
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalogue.changes import new_base
from registry.catalogue.changes import publish as publishing
from registry.catalogue.changes.details import annotate
from registry.catalogue.changes.tagging import set_tag
from registry.catalogue.database import tables
from registry.catalogue.database.statistics_tables import StatisticValueRecord
from registry.catalogue.database.tables import table_of
from registry.catalogue.store import blobs
from registry.catalogue.tree import bases, commits
from registry.digest import BlobRef, canonical_json, sha256_digest
from registry.reference import Path
from registry.rights import UNLIMITED, Principal
from registry.schemas import TargetGroup
from registry.storage.streams import block_digests
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from tests.root import ROOT

BIG: Final = "llama/big"
"""The adapter with a fifth of all revisions."""
WIDE: Final = "llama/support"
"""The adapter with a tenth of all adapters directly under it."""
DEEP: Final = "llama/deep" + "".join(f"/l{level}" for level in range(1, 15))
"""The end of a path of fifteen adapters."""
BASES: Final = ("llama", "qwen", "tiny")
AUTHORS: Final = ("ann", "bob", "cy", "dee", "eve")
BEGAN: Final = datetime(2024, 1, 1, tzinfo=UTC)

_SHARES: Final = (16, 3, 1)  # of the base models
_WORDS: Final = (
    "legal",
    "french",
    "german",
    "medical",
    "tone",
    "summary",
    "code",
    "math",
    "safety",
    "retail",
    "travel",
)
_DATA: Final = ("tickets", "contracts", "chats", "reviews", "manuals", "dialogues", "notes", "emails")
_TARGETS: Final = ("q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_RANKS: Final = (8, 16, 16, 32, 64, 4)
_CONFIGS: Final = 48  # different files adapter_config.json
_EACH: Final = 8  # revisions of an adapter, on average
_LONGEST: Final = 80  # of a path below its base model
_PUBLISHER: Final = Principal("ci", UNLIMITED, token="tok_ci", source="192.0.2.9")


@dataclass(frozen=True)
class Planned:
    """A revision to publish: the ``number``-th of an adapter, trained on revision ``parent`` of the adapter above."""

    key: int  # 1, 2, 3... in the order of publishing
    path: str
    number: int
    parent: int | None  # its key
    message: str
    author: str
    rank: int
    config: int
    targets: int  # how many of `_TARGETS`
    metrics: Mapping[str, float]
    notes: Mapping[str, str]
    tags: tuple[str, ...]

    @property
    def weights(self) -> bytes:
        """What stands for its weights."""
        return f"weights {self.key}".encode()

    @property
    def statistics(self) -> dict[str, float]:
        """Those that were computed, of nine in ten; few have a `stable_rank` of 1."""
        if self.key % 10 == 4:
            return {}
        return {"rank95": 1 + self.key * 7919 % self.rank, "stable_rank": 1 + self.key * 104729 % 1009 / 100}


@dataclass
class _Adapter:
    path: str
    above: _Adapter | None
    revisions: int
    keys: list[int] = field(default_factory=list)


def planned(count: int, seed: int = 0) -> Iterator[Planned]:
    """``count`` revisions in the order of publishing: rounds, in each of which every adapter has its next one."""
    chance = random.Random(seed)
    adapters = _adapters(count, chance)
    key = 0
    turn = 0
    while key < count:
        turn += 1
        adapters = [one for one in adapters if one.revisions >= turn]
        for one in adapters:
            if key == count:
                return
            key += 1
            yield _revision(key, one, turn, chance)


def _adapters(count: int, chance: random.Random) -> list[_Adapter]:
    """Adapters, those above before those below."""

    def more() -> int:
        return 1 + min(200, int(chance.expovariate(1 / (_EACH - 1))))

    found = [_Adapter(BIG, None, 3), _Adapter(WIDE, None, 12)]
    at: _Adapter | None = None
    for level in range(1, DEEP.count("/") + 1):
        at = _Adapter("/".join(DEEP.split("/")[: level + 1]), at, 3)
        found.append(at)
    found += [_Adapter(f"{base}/{word}", None, more()) for base in BASES for word in _WORDS]
    wanted = max(len(found), count // 10)
    for number in range(len(found), wanted):
        if number % 10 == 0:
            above = found[1]
            found.append(_Adapter(f"{WIDE}/customer-{number:06d}", above, more()))
            continue
        base = chance.choices(BASES, _SHARES)[0]
        above = chance.choice(found)
        name = f"{chance.choice(_WORDS)}-{number:x}"
        if above.path.startswith(f"{base}/") and above is not found[0] and len(above.path) + len(name) < _LONGEST:
            found.append(_Adapter(f"{above.path}/{name}", above, more()))
        else:
            found.append(_Adapter(f"{base}/{name}", None, more()))
    found[0].revisions = max(count // 5, count - sum(one.revisions for one in found[1:]))
    return found


def _revision(key: int, one: _Adapter, number: int, chance: random.Random) -> Planned:
    parent = None if one.above is None else one.above.keys[max(0, len(one.above.keys) - chance.choice((1, 1, 1, 2)))]
    one.keys.append(key)
    if len(one.keys) > 4:
        del one.keys[0]
    message = f"{chance.choice(_DATA)} of {chance.choice(_WORDS)}, {chance.randrange(1, 9)} epochs, run {key:08d}"
    if key % 997 == 0:
        message += " after the Größenänderung"
    if key % 50 == 0:
        message += " low learning rate"
    metrics = {} if chance.random() < 0.3 else {"acc": round(chance.uniform(0.4, 0.99), 4)}
    if metrics and chance.random() < 0.5:
        metrics["eval_loss"] = round(chance.uniform(0.1, 3), 5)
    if key % 400 == 7:
        metrics["bleu"] = round(chance.uniform(10, 50), 2)
    notes = {} if chance.random() < 0.7 else {"dataset": f"{chance.choice(_DATA)}-{chance.randrange(40)}"}
    if key % 200 == 3:
        notes["ticket"] = f"OPS-{chance.randrange(10**6):06d}"
    tags = (*(("prod",) if number in {1, 3} else ()), *(("golden",) if key % 2000 == 11 else ()))
    return Planned(
        key=key,
        path=one.path,
        number=number,
        parent=parent,
        message=message,
        author=chance.choice(AUTHORS),
        rank=128 if key % 700 == 5 else chance.choice(_RANKS),
        config=chance.randrange(_CONFIGS),
        targets=7 if key % 300 == 9 else chance.choice((2, 2, 2, 4)),
        metrics=metrics,
        notes=notes,
        tags=tags,
    )


# ------------------------------------------------------------------ what a service would hand to the catalogue


def _config(number: int) -> bytes:
    fields: dict[str, Any] = {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "models/llama", "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "layers_pattern": None,
        "lora_alpha": 2 * number + 8, "lora_dropout": 0.05, "modules_to_save": None, "peft_type": "LORA",
        "r": 16, "rank_pattern": {}, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM",
        "use_dora": False, "use_rslora": number % 2 == 0,
    }  # fmt: skip
    return canonical_json(fields)


def _weights_of(base: str) -> bytes:
    return f"weights of {base}".encode()


@functools.cache
def _table_of(base: str) -> bytes:
    """A target table as it is stored: pages read it."""
    targets = {
        f"model.layers.{layer}.{name}": Target(
            f"model.layers.{layer}.{name}", TargetKind.LINEAR, f"model.layers.{layer}.{name}.weight", (2048, 2048)
        )
        for layer in range(22)
        for name in _TARGETS
    }
    return canonical_json(TargetTable(targets, "tensor names", notices=(base,)).to_document())


def contents(count: int, seed: int = 0) -> Iterator[bytes]:
    """The bytes of every blob."""
    for base in BASES:
        yield from (_weights_of(base), f"index of {base}".encode(), _table_of(base))
    yield from map(_config, range(_CONFIGS))
    for one in planned(count, seed):
        yield one.weights


def store(folder: FilePath, count: int, seed: int = 0) -> None:
    """Write the bytes of all blobs below a folder, under their keys."""
    for content in contents(count, seed):
        place = folder / _blob(content).key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def _blob(content: bytes) -> BlobRef:
    digest = sha256_digest(content)
    name = digest.removeprefix("sha256:")
    blocks = sha256_digest(block_digests(memoryview(content)))
    return BlobRef(digest, len(content), blocks, f"blobs/sha256/{name[:2]}/{name}-{name[:8]}")


def _new_base(name: str) -> new_base.NewBase:
    weights, index, table = (
        sha256_digest(one) for one in (_weights_of(name), f"index of {name}".encode(), _table_of(name))
    )
    return new_base.NewBase(
        name=name,
        digest=weights,
        table_digest=table,
        files_digest=weights,
        architecture="LlamaForCausalLM",
        table_source="tensor names",
        parameters=1_100_000_000,
        tensors=201,
        size=len(_weights_of(name)),
        index_blob=index,
        table_blob=table,
        notices=(),
        files=(blobs.FileRef("model.safetensors", weights),),
    )


def _add_bases(session: Session) -> dict[str, str]:
    """Add the base models and what all share; the digests of their weights."""
    shared = [content for content, _ in zip(contents(0), range(3 * len(BASES) + _CONFIGS), strict=False)]
    blobs.record(session, map(_blob, shared))
    for name in BASES:
        new_base.add(session, _new_base(name), _PUBLISHER)
    return {name: sha256_digest(_weights_of(name)) for name in BASES}


class _Manifests:
    """Manifests, one after the other: each has the digest of its parent's."""

    def __init__(self, weights: Mapping[str, str]) -> None:
        self._weights = weights
        self._digests = [b""]  # by key
        configs = [_config(number) for number in range(_CONFIGS)]
        self._configs = [(json.loads(one), sha256_digest(one), len(one)) for one in configs]

    def next(self, one: Planned) -> tuple[str, str, tuple[blobs.FileRef, ...], int]:
        """The manifest, its digest, the files, and their size."""
        config, digest, size = self._configs[one.config]
        weights = sha256_digest(one.weights)
        files = {
            "adapter_config.json": {"digest": digest, "size": size},
            "adapter_model.safetensors": {"digest": weights, "size": len(one.weights)},
        }
        parent = None if one.parent is None else "sha256:" + self._digests[one.parent].hex()
        base = self._weights[one.path.partition("/")[0]]
        text = canonical_json({"base": base, "config": config, "files": files, "format": 1, "parent": parent})
        own = hashlib.sha256(text)
        self._digests.append(own.digest())
        named = tuple(blobs.FileRef(name, str(file["digest"])) for name, file in files.items())
        return text.decode(), "sha256:" + own.hexdigest(), named, size + len(one.weights)


def _targets(one: Planned) -> tuple[TargetGroup, ...]:
    return _first_targets(one.targets, one.rank)


@functools.cache
def _first_targets(count: int, rank: int) -> tuple[TargetGroup, ...]:
    names = _TARGETS[:count]
    return tuple(TargetGroup(name=name, modules=22, ranks=(rank,), scalings=(2.0,)) for name in names)


def publish(session: Session, count: int, seed: int = 0) -> None:
    """Publish it all, as a service does."""
    made = _Manifests(_add_bases(session))
    for one in planned(count, seed):
        text, digest, files, size = made.next(one)
        blobs.record(session, [_blob(one.weights)])
        new = publishing.NewRevision(
            path=Path.parse(one.path),
            base_digest=sha256_digest(_weights_of(one.path.partition("/")[0])),
            parent_id=one.parent,
            digest=digest,
            manifest=text,
            message=one.message,
            author=one.author,
            rank=one.rank,
            parameters=22_000_000,
            size=size,
            trained_on="models/llama",
            notices=(),
            files=files,
            targets=_targets(one),
            parent_known_by="receipt",
        )
        row, created = publishing.publish(session, new, _PUBLISHER)
        assert created
        assert row.id == one.key, "a catalogue without revisions is expected"
        assert row.number == one.number
        for tag in one.tags:
            set_tag(session, row.id, tag, _PUBLISHER)
        annotate(session, row.id, metrics=one.metrics, annotations=one.notes, principal=_PUBLISHER)
        session.add_all(
            StatisticValueRecord(revision_id=row.id, name=name, value=value) for name, value in one.statistics.items()
        )


# ------------------------------------------------------------------ the same in bulk


@dataclass
class Bulk:
    """Rows of some revisions, by table, in the order of their columns in `COLUMNS`."""

    rows: dict[str, list[tuple[Any, ...]]] = field(default_factory=lambda: {name: [] for name in COLUMNS})


COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "blobs": ("digest", "size", "blocks_digest", "created_at", "key", "used_at"),
    "adapters": ("id", "path", "name", "base_id", "parent_id", "next_number", "created_at"),
    "revisions": (
        "id", "adapter_id", "number", "digest", "parent_id", "manifest", "message", "author", "created_at", "rank",
        "parameters", "size", "trained_on", "notices", "parent_known_by",
    ),
    "revision_files": ("revision_id", "path", "digest"),
    "revision_targets": ("revision_id", "name", "modules", "ranks", "scalings"),
    "tags": ("adapter_id", "name", "revision_id"),
    "metrics": ("revision_id", "name", "value"),
    "statistic_values": ("revision_id", "name", "value"),
    "annotations": ("revision_id", "key", "value"),
    "events": ("at", "action", "subject", "actor", "detail", "token", "source"),
}  # fmt: skip
"""The tables that `fill` writes, in an order in which no row points at one that comes later, and their columns."""


@dataclass
class _Names:
    """The adapters that were there, and what is known of them: keys, and where their tags point."""

    keys: dict[str, int] = field(default_factory=dict)
    tags: dict[tuple[str, str], Planned] = field(default_factory=dict)


def in_bulk(session: Session, count: int, seed: int = 0, *, at_once: int = 20_000) -> Iterator[Bulk]:
    """Add the base models, and give all rows of the revisions, ``at_once`` revisions in a part."""
    made, names, base_ids = _Manifests(_add_bases(session)), _Names(), {}
    for name in BASES:
        base_ids[name] = bases.get(session, name).id
    paths: dict[int, str] = {}  # references of what may still be a parent
    part = Bulk()
    for one in planned(count, seed):
        paths[one.key] = f"{one.path}@{one.number}"
        _add(part, one, made, names, base_ids, paths)
        if one.key % at_once == 0:
            yield part
            part = Bulk()
    for (path, tag), at in names.tags.items():
        part.rows["tags"].append((names.keys[path], tag, at.key))
    yield part


def _add(
    part: Bulk,
    one: Planned,
    made: _Manifests,
    names: _Names,
    base_ids: Mapping[str, int],
    paths: Mapping[int, str],
) -> None:
    rows, at = part.rows, BEGAN + timedelta(seconds=47 * one.key)
    base, text = one.path.partition("/")[0], made.next(one)
    manifest, digest, files, size = text
    blob = _blob(one.weights)
    rows["blobs"].append((blob.digest, blob.size, blob.blocks_digest, at, blob.key, at))
    if one.path not in names.keys:
        names.keys[one.path] = len(names.keys) + 1
        above, _, name = one.path.rpartition("/")
        rows["adapters"].append((names.keys[one.path], one.path, name, base_ids[base], names.keys.get(above), 1, at))
    first = (one.key, names.keys[one.path], one.number, digest, one.parent, manifest)
    rest: tuple[Any, ...] = (one.message, one.author, at, one.rank, 22_000_000, size, "models/llama", (), "receipt")
    rows["revisions"].append((*first, *rest))
    rows["revision_files"] += ((one.key, file.path, file.digest) for file in files)
    rows["revision_targets"] += (
        (one.key, group.name, group.modules, group.ranks, group.scalings) for group in _targets(one)
    )
    rows["metrics"] += ((one.key, name, value) for name, value in one.metrics.items())
    rows["statistic_values"] += ((one.key, name, value) for name, value in one.statistics.items())
    rows["annotations"] += ((one.key, key, value) for key, value in one.notes.items())
    reference = paths[one.key]
    happened: list[tuple[str, str, dict[str, Any]]] = [
        ("publish", reference, {"digest": digest, "parent": base if one.parent is None else paths[one.parent]}
         | {"parent_known_by": "receipt", "message": one.message})
    ]  # fmt: skip
    for tag in one.tags:
        before = names.tags.get((one.path, tag))
        old = None if before is None else f"{one.path}@{before.number}"
        names.tags[one.path, tag] = one
        happened.append(("tag", one.path, {"tag": tag, "old": old, "new": reference}))
    happened += (("annotate", reference, {"metric": key, "old": None, "new": it}) for key, it in one.metrics.items())
    happened += (("annotate", reference, {"annotation": key, "old": None, "new": it}) for key, it in one.notes.items())
    rows["events"] += (
        (at, action, subject, _PUBLISHER.name, detail, _PUBLISHER.token, _PUBLISHER.source)
        for action, subject, detail in happened
    )


_as_json_list = functools.cache(json.dumps)  # of tuples, of which there are few different ones
_JSON: Final[Mapping[str, Callable[[Any], str]]] = {
    "notices": _as_json_list, "ranks": _as_json_list, "scalings": _as_json_list, "detail": json.dumps,
}  # fmt: skip
_TIMES: Final = {"created_at", "used_at", "at"}


def fill(session: Session, count: int, seed: int = 0) -> None:
    """Write everything into a catalogue without revisions; ANALYZE it afterwards.

    Indexes are made, and what triggers would have written is, when all rows are there.
    """
    run = session.connection().exec_driver_sql
    on_postgresql = session.get_bind().dialect.name == "postgresql"
    if on_postgresql:
        run("SET LOCAL session_replication_role = replica")  # no triggers; and foreign keys, which are right, wait
        run("SET LOCAL statement_timeout = 0")
        run("SET LOCAL idle_in_transaction_session_timeout = 0")
        run("SET LOCAL maintenance_work_mem = '512MB'")
        cache, laid_aside = None, _indexes_of_postgresql(run)
    else:
        cache, laid_aside = run("PRAGMA cache_size").scalar(), _indexes_and_triggers_of_sqlite(run)
        run("PRAGMA cache_size = -1000000")
    write = _copy if on_postgresql else _insert
    base_parts = in_bulk(session, count, seed)
    first = next(base_parts)  # base models are added as a service does it, with all triggers
    for name in laid_aside:
        run(f"DROP {name}")
    for part in itertools.chain([first], base_parts):
        for name, rows in part.rows.items():
            if rows:
                write(session, name, rows)
    _write_texts(run, on_postgresql=on_postgresql)
    _write_what_triggers_would(run)
    for definition in laid_aside.values():
        run(definition)
    numbers = "SELECT max(number) + 1 FROM revisions WHERE adapter_id = adapters.id"
    run(f"UPDATE adapters SET next_number = ({numbers})")
    for base_id in session.scalars(select(tables.BaseModelRecord.id)):
        commits.write_of_base(session, base_id)
    if not on_postgresql:
        run(f"PRAGMA cache_size = {cache}")
        return
    for name in ("adapters", "revisions"):  # the keys that come next
        run(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}))")


def _indexes_and_triggers_of_sqlite(run: Callable[[str], Any]) -> dict[str, str]:
    """Their definitions, by what names them in a DROP."""
    found = run("SELECT type || ' ' || name, sql FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql <> ''")
    return dict(found.all())


def _indexes_of_postgresql(run: Callable[[str], Any]) -> dict[str, str]:
    """The definitions of those that keep no constraint, by what names them in a DROP."""
    found = run(
        "SELECT 'INDEX ' || indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() "
        "AND indexname NOT IN (SELECT conname FROM pg_constraint)"
    )
    return dict(found.all())


def _write_texts(run: Callable[[str], Any], *, on_postgresql: bool) -> None:
    """What finds texts, as migration 0021 writes it of revisions that are there."""
    words = runpy.run_path(str(ROOT / "migrations" / "0021_words.py"))
    if on_postgresql:
        run(f"{words['FILLS']} ORDER BY r.id")
    else:
        run(f"INSERT INTO revision_texts (rowid, text) SELECT r.id, {words['ON_SQLITE']} {words['FROM']} ORDER BY r.id")
        run("INSERT INTO adapter_texts (rowid, text) SELECT id, '/' || path || '/' FROM adapters")


def _write_what_triggers_would(run: Callable[[str], Any]) -> None:
    run("INSERT INTO commits (revision_id) SELECT id FROM revisions")
    run("UPDATE adapters SET live_revisions = (SELECT count(*) FROM revisions WHERE adapter_id = adapters.id)")
    own = "SELECT count(*) FROM adapters WHERE base_id = base_models.id AND live_revisions > 0"
    run(f"UPDATE base_models SET live_adapters = ({own})")


def _insert(session: Session, name: str, rows: list[tuple[Any, ...]]) -> None:
    """By SQLite's own driver, in the form that SQLAlchemy gives to values."""
    columns = COLUMNS[name]
    forms = [_JSON.get(key) or (_as_text if key in _TIMES else None) for key in columns]
    marks = ", ".join("?" for _ in columns)
    values = (tuple(it if form is None else form(it) for form, it in zip(forms, row, strict=True)) for row in rows)
    driver: Any = session.connection().connection.driver_connection
    driver.executemany(f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})", values)


@functools.lru_cache(maxsize=1 << 15)  # several rows of a part have the same
def _as_text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _copy(session: Session, name: str, rows: list[tuple[Any, ...]]) -> None:
    columns = COLUMNS[name]
    forms = [_JSON.get(key) for key in columns]
    driver: Any = session.connection().connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {name} ({', '.join(columns)}) FROM STDIN") as into:
        for row in rows:
            into.write_row([it if form is None else form(it) for form, it in zip(forms, row, strict=True)])


def rows_of(session: Session) -> dict[str, list[tuple[Any, ...]]]:
    """What a catalogue holds in the tables that are filled and those of the base models, without the times."""
    found = {}
    others = (table_of(tables.BaseModelRecord), table_of(tables.CommitRecord))
    for table in (*(tables.Record.metadata.tables[name] for name in COLUMNS), *others):
        columns = [column for column in table.columns if column.name not in _TIMES]
        query = select(*columns).order_by(*table.primary_key)
        found[table.name] = [tuple(row) for row in session.execute(query)]
    return found
