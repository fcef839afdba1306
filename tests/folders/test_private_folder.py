"""A folder that holds tokens is its owner's alone; one without them stays as open as it was made."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import NotAllowedError, UsageError
from registry.services.local import LocalRegistry
from registry.storage.memory import MemoryDriver
from tests.kit import plain_base
from tests.kit.acting import acting
from tests.kit.sending import SHAPES


@pytest.fixture(autouse=True)
def open_to_others() -> Iterator[None]:
    """What most machines have: others may read what is made."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def registry(folder: Path, tmp_path: Path) -> Iterator[LocalRegistry]:
    """With a base model, and the files that SQLite keeps beside its database while it is open."""
    opened = LocalRegistry.open(folder, cache_folder=tmp_path / "cache")
    opened.add_base("net", plain_base(tmp_path / "base", SHAPES).folder)
    yield opened
    opened.close()


def mode(place: Path) -> int:
    return stat.S_IMODE(place.stat().st_mode)


def open_files(folder: Path) -> list[str]:
    """Of the database, those that others may do something with."""
    return sorted(file.name for file in folder.glob("registry.db*") if mode(file) & 0o077)


def test_the_first_token_closes_the_folder(registry: LocalRegistry, folder: Path) -> None:
    copy = folder / "registry.db.before-0008-from-0003"
    copy.write_bytes(b"")
    assert mode(folder) == 0o755
    assert {"registry.db", copy.name} <= set(open_files(folder))
    registry.create_token("reader")
    assert (mode(folder), open_files(folder)) == (0o700, [])
    assert mode(folder / "registry.db") == 0o600
    assert len(list(folder.glob("registry.db*"))) > 2, "SQLite keeps its log beside the database"
    registry.protect_tag("net", "prod")
    assert registry.fsck(deep=True).damage == ()
    assert open_files(folder) == []


def test_a_folder_that_was_opened_again_is_closed_by_the_next_token(registry: LocalRegistry, folder: Path) -> None:
    registry.create_token("reader")
    folder.chmod(0o2775)
    (folder / "registry.db").chmod(0o664)
    registry.tokens()
    assert mode(folder) == 0o2775
    registry.create_token("reader")
    assert mode(folder) == 0o2700
    assert open_files(folder) == []


def test_a_registry_that_begins_with_a_token_is_closed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAllowedError):
        acting(LocalRegistry.open(folder), "writer").create_token("reader")
    assert mode(folder) == 0o755, "who may not make one changes nothing"
    opened = LocalRegistry.open(folder, cache_folder=tmp_path / "cache")
    with pytest.raises(UsageError):
        opened.create_token("reader", scopes=["no path"])
    assert mode(folder) == 0o755
    opened.create_token("admin")
    assert (mode(folder), open_files(folder)) == (0o700, [])
    opened.close()


def test_a_folder_of_somebody_else_gets_no_token(
    registry: LocalRegistry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an owner, or root, changes what others may do."""

    def refused(place: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted", str(place))

    monkeypatch.setattr(Path, "chmod", refused)
    with pytest.raises(NotAllowedError, match="run this as its owner") as caught:
        registry.create_token("reader")
    assert caught.value.code == "read_only"
    assert registry.tokens() == ()


def test_a_database_in_a_folder_of_other_things_leaves_that_alone(folder: Path, tmp_path: Path) -> None:
    """A team's database may be SQLite, too, wherever its operator wants it."""
    folder.mkdir()
    opened = LocalRegistry.of(f"sqlite:///{folder}/team.db", MemoryDriver(), cache_folder=tmp_path / "cache")
    opened.create_token("reader")
    assert mode(folder) == 0o755
    opened.close()
