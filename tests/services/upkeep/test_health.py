"""How a registry is: what its database tells, and None for what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest

from registry.catalogue.database import migrations
from registry.errors import NotAllowedError, UnavailableError
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.services.local import LocalRegistry
from tests.kit import plain_base


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    opened = LocalRegistry.open(tmp_path / "registry", actor="ann")
    yield opened
    opened.close()


def test_what_was_never_done_is_not_known(registry: LocalRegistry) -> None:
    found = registry.health()
    assert (found.replicas, found.last_gc, found.last_fsck) == ((), None, None)
    assert (found.jobs.pending, found.jobs.failed, found.jobs.oldest_pending_at) == (0, 0, None)
    assert found.migration == found.newest_migration == migrations.HISTORY[-1]
    assert (found.bytes, {week.bytes for week in found.growth}) == (0, {0})


def test_collecting_and_checking_are_recorded(registry: LocalRegistry, tmp_path: Path) -> None:
    registry.add_base("net", plain_base(tmp_path / "base", {"a.weight": (24, 16)}).folder)
    registry.gc(dry_run=True)
    assert registry.health().last_gc is None
    registry.gc()  # which finds nothing to do
    checked = registry.fsck(deep=True)
    found = registry.health()
    assert found.last_gc is not None
    assert found.last_fsck is not None
    assert (found.last_gc.actor, found.last_gc.detail["blobs"]) == ("ann", 0)
    assert found.last_fsck.detail == {
        "deep": True, "blobs": checked.blobs, "damaged": 0, "unreadable": 0, "orphans": 0
    }  # fmt: skip
    assert found.bytes == found.growth[-1].bytes == checked.bytes
    assert [event.action for event in registry.events(limit=2)] == ["fsck", "gc"]


def test_damage_is_in_what_is_recorded(registry: LocalRegistry, tmp_path: Path) -> None:
    registry.add_base("net", plain_base(tmp_path / "base", {"a.weight": (24, 16)}).folder)
    for file in (tmp_path / "registry" / "blobs").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.chmod(0o600)
            file.unlink()
    damaged = len(registry.fsck().damage)
    found = registry.health().last_fsck
    assert found is not None
    assert found.detail["damaged"] == damaged > 0


def test_a_registry_that_takes_no_changes_is_checked_too(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, code in (
        (NotAllowedError, "read_only"),
        (UnavailableError, "busy"),
        (UnavailableError, "disk_full"),
        (UnavailableError, "unavailable"),
    ):
        error = kind("Nothing is written now.", code=code)
        monkeypatch.setattr(type(registry.deployment.database), "change", Mock(side_effect=error))
        with pytest.raises(UnavailableError) if code == "unavailable" else nullcontext():
            assert registry.fsck().damage == ()
        assert registry.health().last_fsck is None


def test_it_is_for_admins_of_everything(registry: LocalRegistry) -> None:
    for rights in (Rights("writer"), Rights("admin", (TreePath.parse("net"),))):
        narrow = registry.with_principal(Principal("bob", rights))
        with pytest.raises(NotAllowedError, match="may not see how the service is"):
            narrow.health()
    registry.fsck()
    seen = registry.with_principal(Principal("bob", Rights("reader"))).events()
    assert seen == ()  # what is for admins is not in the events of others
