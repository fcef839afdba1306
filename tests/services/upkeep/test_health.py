"""How a registry is: what its database tells, and None for what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest

from registry.catalogue.database import events, migrations
from registry.errors import NotAllowedError, UnavailableError
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.schemas.team import EventKind
from registry.services.local import LocalRegistry
from registry.services.upkeep.health import damage, successes
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


def test_successes_are_told_by_ends_and_damage_until_it_was_read_again(registry: LocalRegistry) -> None:
    def now() -> tuple[dict[str, float], dict[str, float]]:
        with registry.deployment.read() as session:
            return dict(successes(session)), dict(damage(session))

    def happened(kind: EventKind, **detail: object) -> float:
        deployment = registry.deployment
        deployment.change(lambda session: events.record(session, kind, "registry", deployment.principal, detail))
        return registry.events(limit=1)[0].at.timestamp()

    sound = {"damaged": 0, "unreadable": 0}
    assert now() == ({}, {})
    happened("gc", blobs=100)
    assert now() == ({}, {}), "a collection that broke off, or of a version before, says no end"
    collected = happened("gc", blobs=100, done=True)
    for _ in range(3):
        happened("gc", blobs=100)
    happened("fsck", deep=False, **(sound | {"unreadable": 2}))
    assert now() == ({"gc": collected}, {"damaged": 0, "unreadable": 2})
    checked = happened("fsck", deep=True, **sound)
    assert now() == ({"gc": collected, "fsck": checked, "fsck_deep": checked}, sound)
    happened("fsck", deep=True, **(sound | {"damaged": 3}))
    again = happened("fsck", deep=False, **sound)
    assert now() == ({"gc": collected, "fsck": again, "fsck_deep": checked}, sound | {"damaged": 3})
    happened("fsck", deep=False, **(sound | {"damaged": 4}))
    assert now()[1] == sound | {"damaged": 4}
    happened("fsck", deep=False, **sound)
    assert now()[1] == sound | {"damaged": 3}, "what was missing is there again; what was read has not been read again"
    checked = happened("fsck", deep=True, **sound)
    assert now() == ({"gc": collected, "fsck": checked, "fsck_deep": checked}, sound)
