"""What `du` says, held against what the collector frees and against a registry that holds nothing else.

How the store grew: bytes by the week in which they were stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from registry.catalogue.database.database import Database
from registry.catalogue.database.tables import Blob
from registry.catalogue.store import blobs, purge, usage
from registry.digest import BlobRef
from registry.errors import NotFoundError
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.schemas.jobs import StoredWeek
from registry.schemas.usage import Usage
from registry.services.local import LocalRegistry
from tests.catalogue.rows import blob
from tests.kit import Base, plain_base, write_adapter

Open = Callable[[str], LocalRegistry]
WEIGHTS = 4 * (240 * 160 + 160 * 240)
SHARED = "the same words beside each of them\n" * 100


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    registries: list[LocalRegistry] = []

    def open_one(name: str) -> LocalRegistry:
        registries.append(LocalRegistry.open(tmp_path / name, cache_folder=tmp_path / "cache", gc_grace=0))
        return registries[-1]

    yield open_one
    for registry in registries:
        registry.close()


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return plain_base(tmp_path / "base", {"a.weight": (240, 160), "b.weight": (160, 240)})


@pytest.fixture
def folders(base: Base, tmp_path: Path) -> dict[str, Path]:
    made = {
        name: write_adapter(tmp_path / name, base, ["a"], r=2, seed=seed)
        for seed, name in enumerate(["one", "two", "three", "four", "gone"])
    }
    for name in ("one", "three"):
        (made[name] / "README.md").write_text(SHARED)
    return made


TREE = {"net/one": "one", "net/one/two": "two", "net/three": "three", "net/four": "one", "net/gone": "gone"}


def fill(registry: LocalRegistry, base: Base, folders: dict[str, Path], tree: dict[str, str]) -> None:
    registry.add_base("net", base.folder)
    for path, name in tree.items():
        registry.publish(folders[name], path)


def bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def own(answer: Usage) -> dict[str, int]:
    return {one.name: one.own for one in answer.adapters}


def test_own_is_what_deleting_frees(opened: Open, base: Base, folders: dict[str, Path]) -> None:
    registry = opened("registry")
    fill(registry, base, folders, TREE)
    told = own(registry.du())
    assert told["net/four"] == 0  # all of it is in net/one, too
    assert 0 < told["net/three"] < bytes_of(folders["three"])  # its README is in net/one, too
    for path in ("net/gone", "net/three", "net/one/two"):
        registry.delete_tree(path)
        before = registry.du()
        assert before.collectable == told[path]
        assert registry.gc().bytes == told[path]
        assert registry.du().collectable == 0


def test_sizes_are_those_of_the_files(opened: Open, base: Base, folders: dict[str, Path]) -> None:
    registry = opened("registry")
    fill(registry, base, folders, TREE)
    answer = registry.du("net/one")
    assert [(one.name, one.revisions) for one in answer.adapters] == [("net/one", 1), ("net/one/two", 1)]
    assert [one.name for one in answer.revisions] == ["net/one@1", "net/one/two@1"]
    assert [one.size for one in answer.adapters] == [bytes_of(folders["one"]), bytes_of(folders["two"])]
    shared = (folders["one"] / "adapter_config.json").stat().st_size  # both have the same
    assert answer.size == bytes_of(folders["one"]) + bytes_of(folders["two"]) - shared
    header = (base.folder / "model.safetensors").stat().st_size - WEIGHTS
    assert answer.full_checkpoints == 2 * (WEIGHTS + header)
    assert registry.du().full_checkpoints == 5 * (WEIGHTS + header)
    (registry.publish(folders["four"], "net/one"),)
    again = registry.du("net/one")
    assert [(one.name, one.revisions) for one in again.adapters] == [("net/one", 2), ("net/one/two", 1)]
    assert [one.name for one in again.revisions] == ["net/one@1", "net/one@2", "net/one/two@1"]
    with pytest.raises(NotFoundError):
        registry.du("net/none")


def test_materialisations_count_apart(opened: Open, base: Base, folders: dict[str, Path]) -> None:
    registry = opened("registry")
    fill(registry, base, folders, TREE)
    before = registry.du()
    stored = registry.materialise("net/one/two", kind="lora").bytes_stored
    assert stored > 0
    answer = registry.du()
    assert answer.materialisations == stored
    assert registry.du("net/three").materialisations == 0
    assert (answer.size, answer.collectable, answer.adapters) == (before.size, 0, before.adapters)
    registry.delete("net/one/two@1")
    gone = registry.du()
    assert gone.materialisations == 0
    assert gone.collectable == stored + own(before)["net/one/two"]
    assert registry.gc().bytes == gone.collectable


@pytest.mark.long_but("net-scopes1", "None-scopes2", "None-scopes0")
@pytest.mark.parametrize("scopes", [("net/three",), ("net/one",), ("net/one/two", "net/four")])
@pytest.mark.parametrize("path", [None, "net"])
def test_a_scoped_token_gets_sizes_as_if_nothing_else_were_stored(
    opened: Open, base: Base, folders: dict[str, Path], scopes: tuple[str, ...], path: str | None
) -> None:
    """Beside what it sees, only the base model and what it was trained on is there."""
    whole, part = opened("whole"), opened("part")
    fill(whole, base, folders, TREE)
    whole.delete_tree("net/gone")
    inside = {name: folder for name, folder in TREE.items() if any(f"{name}/".startswith(f"{one}/") for one in scopes)}
    above = {"net/one": "four"} if "net/one/two" in scopes else {}  # other bytes than those of the real one
    fill(part, base, folders, above | inside)
    answers = [seen(registry, scopes).du(path).model_dump() for registry in (whole, part)]
    assert answers[0] == answers[1]
    assert {one["name"] for one in answers[0]["adapters"]} == set(inside)


def seen(registry: LocalRegistry, scopes: tuple[str, ...]) -> Any:
    rights = Rights("reader", tuple(TreePath.parse(scope) for scope in scopes))
    return registry.with_principal(Principal("eve", rights))


WEDNESDAY = date(2026, 3, 4)
MONDAY = date(2026, 3, 2)


def test_bytes_are_counted_in_the_week_in_which_they_were_stored(database: Database) -> None:
    moments = {  # sizes of blobs, and when each was stored
        1: datetime(2026, 3, 4, 12, tzinfo=UTC),
        2: datetime(2026, 3, 2, tzinfo=UTC),  # the first moment of the week
        4: datetime(2026, 3, 1, 23, 59, 59, 999999, tzinfo=UTC),  # the last one of the week before
        8: datetime(2025, 12, 15, tzinfo=UTC),  # the first moment of all
        16: datetime(2025, 12, 14, 23, tzinfo=UTC),  # before
    }
    with database.write() as session:
        for size, at in moments.items():
            one = blob(f"stored {size}")
            blobs.record(session, [BlobRef(one.digest, size, one.blocks_digest, one.key)])
            session.execute(update(Blob).where(Blob.digest == one.digest).values(created_at=at))
        purge.add(session, ["blobs/gone"])
    with database.read() as session:
        found = usage.weeks(session, WEDNESDAY)
        assert usage.stored(session) == 31
    assert [one.week for one in found] == [MONDAY - timedelta(weeks=number) for number in range(11, -1, -1)]
    assert [one for one in found if one.bytes] == [
        StoredWeek(week=date(2025, 12, 15), bytes=8),
        StoredWeek(week=date(2026, 2, 23), bytes=4),
        StoredWeek(week=MONDAY, bytes=3),
    ]


def test_an_empty_store(database: Database) -> None:
    with database.read() as session:
        assert usage.stored(session) == 0
        assert {one.bytes for one in usage.weeks(session, WEDNESDAY)} == {0}
