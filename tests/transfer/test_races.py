"""Collectors, other publishers and broken transactions between the bytes and the row that needs them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from registry.catalogue.store import purge, unreferenced
from registry.digest import BlobRef
from registry.errors import (
    IntegrityError,
    NotFoundError,
    UnavailableError,
)
from registry.services.intake import uploads
from registry.services.intake.intake import Intake
from registry.services.local import LocalRegistry
from tests.kit import Base, plain_base
from tests.kit.sending import (
    SHAPES,
    WEIGHTS,
    adapter,
    keys,
    prepare,
    request_of,
    rows,
    weights_of,
)


@pytest.fixture(params=["whole", "in parts"], autouse=True)
def _parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket copies what came in one request, and joins parts in place."""
    if request.param == "in parts":
        monkeypatch.setattr(uploads, "part_size", lambda _size: 500)


def test_a_collector_between_bytes_and_row(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that nothing needed are relied on, and collected before the row that needs them: it is done again."""
    made = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", made.folder)
    one, two = adapter(tmp_path, made, "one"), adapter(tmp_path, made, "two", seed=2)
    for folder in (one, two):
        registry.publish(folder, "net/one")
    registry.delete("net/one@1")
    record = Intake.record
    collected: list[BlobRef] = []

    def collect_first(intake: Intake, session: Session) -> Any:
        if not collected:
            later = datetime(2100, 1, 1, tzinfo=UTC)
            deleted = purge.expired(session, later, 9)
            purge.purge(session, deleted, purge.GRACE_OVER, registry.deployment.principal)
            collected.extend(
                unreferenced.forget(session, [row.digest for row in unreferenced.unneeded(session, later)], later)
            )
            session.commit()
            for row in collected:
                registry.deployment.blobs.delete(row.key)
        return record(intake, session)

    monkeypatch.setattr(Intake, "record", collect_first)
    assert registry.publish(one, "net/back").created
    assert collected
    with registry.artifact("net/back", kind="published") as artifact:
        assert artifact.file(WEIGHTS).read() == (one / WEIGHTS).read_bytes()
    assert sorted(rows(registry).values()) == sorted(keys(registry))


def test_a_commit_that_broke_can_be_given_again(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database goes away when all bytes are stored: the uploads are still there, and nothing was half visible."""
    made = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", made.folder)
    commit = prepare(registry, request_of(adapter(tmp_path, made, "one"), "net/one"))
    record, broken = Intake.record, [True]

    def breaks(intake: Intake, session: Session) -> Any:
        noted = record(intake, session)
        if broken.pop() if broken else False:
            raise UnavailableError("The database went away.")
        return noted

    monkeypatch.setattr(Intake, "record", breaks)
    with pytest.raises(UnavailableError):
        registry.commit_publish(commit)
    assert registry.search().revisions == ()
    assert set(rows(registry).values()) < set(keys(registry))  # orphans, for the collector
    assert registry.commit_publish(commit).created
    for upload_id in commit.uploads.values():
        with pytest.raises(NotFoundError):
            registry.get_upload(upload_id)


def test_two_commits_that_share_an_upload(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token sends the same bytes for two adapters: what the first commit has used up, the second finds stored."""
    made = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", made.folder)
    folder = adapter(tmp_path, made, "one")
    first = prepare(registry, request_of(folder, "net/first"))
    second = prepare(registry, request_of(folder, "net/second"))
    assert first.uploads == second.uploads
    upload = Intake.upload
    waiting = [first]

    def be_second(intake: Intake, *args: Any) -> None:
        if waiting:
            registry.commit_publish(waiting.pop())
        upload(intake, *args)

    monkeypatch.setattr(Intake, "upload", be_second)
    assert registry.commit_publish(second).created
    assert sorted(rows(registry).values()) == sorted(keys(registry))


def test_who_comes_second_leaves_no_object(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", made.folder)
    folder = adapter(tmp_path, made, "one")
    commit = Intake.commit
    others: list[None] = []

    def be_second(intake: Intake) -> Any:
        answer = commit(intake)
        if not others:
            others.append(None)
            registry.publish(folder, "net/first")
        return answer

    monkeypatch.setattr(Intake, "commit", be_second)
    assert registry.publish(folder, "net/second").created
    assert sorted(rows(registry).values()) == sorted(keys(registry))
    with registry.artifact("net/second", kind="published") as artifact:
        assert artifact.file(WEIGHTS).read() == (folder / WEIGHTS).read_bytes()


def test_an_upload_of_bytes_that_were_stored_meanwhile_leaves_no_object(
    registry: LocalRegistry, tmp_path: Path
) -> None:
    made = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", made.folder)
    folder = adapter(tmp_path, made, "one")
    commit = prepare(registry, request_of(folder, "net/one"))
    registry.publish(folder, "net/two")
    assert registry.commit_publish(commit).created
    assert sorted(rows(registry).values()) == sorted(keys(registry))


def test_publishing_the_same_bytes_mends_a_damaged_blob(local: LocalRegistry, base: Base, tmp_path: Path) -> None:
    folder = adapter(tmp_path, base, "one")
    local.publish(folder, "net/one")
    digest = weights_of(folder)
    blob = Path(local.url) / rows(local)[digest]
    blob.chmod(0o644)
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    with pytest.raises(IntegrityError):
        local.fetch("net/one", tmp_path / "out", kind="published")
    local.publish(folder, "net/two")
    assert local.fetch("net/one", tmp_path / "out", kind="published").fresh
