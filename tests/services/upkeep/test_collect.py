"""Collecting: only what nothing needs, past its grace, beside all others, and wherever it is killed."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.catalogue.store import uploads
from registry.digest import sha256_digest
from registry.errors import NotAllowedError, UnavailableError
from registry.progress import SILENT
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights, Role
from registry.schemas import Checked, Collected
from registry.services.local import LocalRegistry
from registry.services.upkeep import collect as collecting
from registry.services.upkeep.collect import collect
from registry.services.upkeep.health import check
from registry.storage.blobs import BlobStore
from tests.kit import Base, plain_base, write_adapter
from tests.kit.places import KINDS, Place, open_deployment, open_place, open_registry
from tests.root import ROOT

WORKER = Path(__file__).with_name("collect_worker.py")
SHAPES = {"a.weight": (24, 16), "b.weight": (600, 512)}


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request, tmp_path / "registry") as opened:
        yield opened


@pytest.fixture
def embedded(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    with open_place(request, tmp_path / "registry", kind="embedded") as opened:
        yield opened


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return plain_base(tmp_path / "base", SHAPES)


def gc(place: Place, *, grace: float = 0, dry_run: bool = False) -> Collected:
    return collect(place.deployment, dry_run=dry_run, progress=SILENT, grace=grace)


def fsck(place: Place) -> Checked:
    return check(place.deployment, deep=True, progress=SILENT)


def assert_sound(place: Place) -> None:
    found = fsck(place)
    assert (found.damage, found.orphans) == ((), 0)


def fill(registry: LocalRegistry, base: Base, tmp_path: Path) -> None:
    """net/one@1, net/two@1: two files each, of which they share none."""
    registry.add_base("net", base.folder)
    for seed, name in enumerate(("one", "two"), start=1):
        registry.publish(write_adapter(tmp_path / name, base, ["a", "b"], r=seed, seed=seed), f"net/{name}")


def test_only_what_nothing_needs_is_collected(place: Place, base: Base, tmp_path: Path) -> None:
    fill(place.registry, base, tmp_path)
    before = place.objects()
    assert gc(place).blobs == ()
    assert place.objects() == before
    gone = place.registry.show("net/two").files
    place.registry.delete("net/two@1")
    answer = gc(place)
    assert {blob.digest for blob in answer.blobs} == {file.digest for file in gone}
    assert answer.bytes == sum(file.size for file in gone)
    assert len(place.objects()) < len(before)
    assert_sound(place)
    place.registry.fetch("net/one", tmp_path / "out", kind="merged")
    assert [event.action for event in place.registry.events(limit=5)] == ["fsck", "gc", "gc", "purge", "delete"]
    done, part = (one.detail for one in place.registry.events(limit=3)[1:])
    assert done == part | {"done": True}
    assert gc(place) == Collected(dry_run=False, blobs=(), uploads=0, bytes=0, kept_for_grace=0)
    assert place.registry.events(limit=1)[0].action == "gc"
    ends = [one.detail.get("done") for one in place.registry.events() if one.action == "gc"]
    assert ends == [True, True, None, True], "also of what found nothing: it says when it was"
    again = place.registry.publish(tmp_path / "two", "net/two")
    assert again.revision.number == 2
    assert_sound(place)


def test_more_than_an_answer_lists_is_collected_in_rounds(
    embedded: Place, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(embedded.registry, base, tmp_path)
    for name in ("one", "two"):
        embedded.registry.delete(f"net/{name}@1")
    whole = gc(embedded, dry_run=True)
    assert len(whole.blobs) > 3
    monkeypatch.setattr(collecting, "_ROUND", 2)
    monkeypatch.setattr(collecting, "LISTED", 1)
    for answer in (gc(embedded, dry_run=True), gc(embedded)):
        assert answer.blobs == whole.blobs[:1]
        assert (answer.unlisted_blobs, answer.bytes) == (len(whole.blobs) - 1, whole.bytes)
        assert (len(answer.revisions), answer.unlisted_revisions) == (1, 1)
    assert gc(embedded).blobs == ()
    assert_sound(embedded)


def test_what_a_collection_removed_before_it_broke_off_is_told(
    place: Place, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(place.registry, base, tmp_path)
    made = place.registry.materialise("net/one", kind="merged", expires_in=1).materialisation
    gone = place.registry.show("net/two").files
    place.registry.delete("net/two@1")
    while datetime.now(UTC) <= made.expires_at:
        time.sleep(0.02)

    def away(self: BlobStore, key: str) -> None:
        raise UnavailableError(f"The store is away: {key} of {self}.")

    monkeypatch.setattr(BlobStore, "delete", away)
    with pytest.raises(UnavailableError, match="is away"):
        gc(place, grace=0)
    told = [event.detail for event in place.registry.events() if event.action == "gc"]
    assert sum(int(str(detail["materialisations"])) for detail in told) == 1
    rows = [detail for detail in told if detail["blobs"]]
    assert len(rows) == 1
    assert int(str(rows[0]["blobs"])) >= len(gone)
    assert int(str(rows[0]["bytes"])) >= sum(file.size for file in gone)
    assert not [detail for detail in told if "done" in detail]


def test_what_a_base_model_needs_stays(place: Place, base: Base, tmp_path: Path) -> None:
    place.registry.add_base("net", base.folder)
    assert gc(place).blobs == ()
    assert_sound(place)
    place.registry.publish(write_adapter(tmp_path / "one", base, ["a"], r=1), "net/one")


def test_a_grace_begins_with_the_delete(place: Place, base: Base, tmp_path: Path) -> None:
    fill(place.registry, base, tmp_path)
    place.age(timedelta(days=30))
    place.registry.delete("net/two@1")
    answer = gc(place, grace=3600)
    assert (answer.blobs, answer.kept_for_grace) == ((), 2)
    place.age(timedelta(hours=2))
    assert len(gc(place, grace=3600).blobs) == 2
    assert_sound(place)


def test_what_people_wrote_goes_with_the_last_revision(embedded: Place, base: Base, tmp_path: Path) -> None:
    """Not with the first, as the card is the adapter's; and a later adapter of the name does not have it."""
    registry = embedded.registry
    registry.add_base("net", base.folder)
    folders = [write_adapter(tmp_path / f"{seed}", base, list(base.modules)[:1], r=2, seed=seed) for seed in range(3)]
    for folder in folders[:2]:
        registry.publish(folder, "net/carded")
    edited = registry.set_card("net/carded", "# Written by a person")
    registry.delete("net/carded@1")
    gc(embedded)
    assert registry.card("net/carded") == edited
    registry.delete("net/carded@2")
    gc(embedded)
    registry.publish(folders[2], "net/carded")
    assert registry.card("net/carded").text == ""


def test_a_dry_run_says_the_same_and_does_nothing(place: Place, base: Base, tmp_path: Path) -> None:
    fill(place.registry, base, tmp_path)
    place.registry.delete("net/two@1")
    place.deployment.blobs.put_bytes(b"left by a publisher that was killed")
    before, events = place.objects(), place.registry.events(limit=1)
    said = gc(place, dry_run=True)
    assert (place.objects(), place.registry.events(limit=1)) == (before, events)
    assert len(said.blobs) == 3
    assert gc(place) == said.model_copy(update={"dry_run": False})


def test_old_objects_without_a_row_go_and_young_ones_stay(place: Place, base: Base, tmp_path: Path) -> None:
    fill(place.registry, base, tmp_path)
    small = place.deployment.blobs.put_bytes(b"small")
    large = place.deployment.blobs.put_bytes(bytes(600_000))
    answer = gc(place, grace=3600)
    assert (answer.blobs, answer.kept_for_grace) == ((), 2)
    assert fsck(place).orphans == 3  # and the list of blocks
    answer = gc(place)
    assert {blob.key for blob in answer.blobs} >= {small.key, large.key}
    assert {blob.digest for blob in answer.blobs} == {None}
    assert answer.bytes > 600_005
    assert_sound(place)


def test_an_object_that_was_taken_away_can_not_be_published_any_more(place: Place, base: Base, tmp_path: Path) -> None:
    """A publisher that slept between storing and publishing is refused: a row must not point at nothing."""
    from registry.catalogue.store import blobs as blob_rows

    fill(place.registry, base, tmp_path)
    stored = place.deployment.blobs.put_bytes(b"stored by a publisher that sleeps now")
    gc(place)
    gc(place)
    with pytest.raises(UnavailableError):
        place.deployment.change(lambda session: blob_rows.record(session, [stored]))
    assert_sound(place)
    again = place.deployment.blobs.put_bytes(b"stored by a publisher that sleeps now")
    place.deployment.change(lambda session: blob_rows.record(session, [again]))
    assert_sound(place)


def test_uploads_that_nobody_finished_are_forgotten(place: Place, base: Base, tmp_path: Path) -> None:
    fill(place.registry, base, tmp_path)
    blobs, principal = place.deployment.blobs, place.deployment.principal
    ids = []
    for lifetime in (timedelta(seconds=-1), timedelta(hours=1)):
        staging = blobs.begin_staging(5, 1 << 20, sha256_digest(b""))
        blobs.put_part(staging, 1, [b"bytes"])
        row = place.deployment.change(
            lambda session, staging=staging, lifetime=lifetime: uploads.create(  # type: ignore[misc]
                session, "sha256:" + "0" * 64, 5, principal, part_size=staging.part_size,
                staging_key=staging.key, multipart=staging.multipart, lifetime=lifetime,
            )
        )  # fmt: skip
        ids.append((row.id, staging))
    assert gc(place, dry_run=True).uploads == 1
    assert blobs.parts(ids[0][1]) == {1: 5}
    assert gc(place).uploads == 1
    assert blobs.parts(ids[1][1]) == {1: 5}
    with place.deployment.read() as session:
        assert uploads.get(session, ids[1][0], principal).staging_key == ids[1][1].key
    assert [event.detail["uploads"] for event in place.registry.events(limit=1)] == [1]
    assert gc(place).uploads == 0


def test_what_the_parts_of_an_open_upload_were_joined_to_is_kept(place: Place, base: Base, tmp_path: Path) -> None:
    """In a bucket, under the key of a blob that has no row yet, and however old it is."""
    fill(place.registry, base, tmp_path)
    blobs, data = place.deployment.blobs, bytes(3000)
    digest = sha256_digest(data)
    staging = blobs.begin_staging(len(data), 1000, digest)
    for number in (1, 2, 3):
        blobs.put_part(staging, number, [data[:1000]])
    row = place.deployment.change(
        lambda session: uploads.create(
            session, digest, len(data), place.deployment.principal, part_size=staging.part_size,
            staging_key=staging.key, multipart=staging.multipart,
        )
    )  # fmt: skip
    with blobs.adopt(staging, digest):
        pass
    gc(place)
    assert sum(blobs.parts(staging).values()) == len(data)
    if staging.joined:
        place.deployment.change(lambda session: uploads.remove(session, row.id))
        gc(place)
        assert blobs.size(staging.joined) is None


@pytest.mark.parametrize(
    ("role", "scopes"), [("reader", ()), ("writer", ()), ("admin", (TreePath("net"),)), ("admin", ())]
)
def test_only_admins_without_scopes_collect_and_check(
    embedded: Place, role: Role, scopes: tuple[TreePath, ...]
) -> None:
    embedded.registry.bases()
    acting = embedded.registry.with_principal(Principal("eve", Rights(role, scopes)))
    for work in (lambda: acting.gc(dry_run=True), acting.fsck):
        if (role, scopes) == ("admin", ()):
            work()
        else:
            with pytest.raises(NotAllowedError):
                work()


def test_progress_is_told_in_bytes(embedded: Place, base: Base, tmp_path: Path) -> None:
    class Told:
        def __init__(self) -> None:
            self.stages: list[list[int]] = []

        def begin(self, what: str, total: int) -> None:
            self.stages.append([total, 0])

        def advance(self, amount: int) -> None:
            self.stages[-1][1] += amount

    fill(embedded.registry, base, tmp_path)
    embedded.registry.delete("net/two@1")
    told = Told()
    check(embedded.deployment, deep=True, progress=told)
    collect(embedded.deployment, dry_run=False, progress=told, grace=0)
    assert len(told.stages) == 3  # no object is left over
    assert all(total == done for total, done in told.stages)
    assert told.stages[0][0] > 0


def _publishing(place: Place, number: int, adapters: list[Path], collected: threading.Event) -> list[str]:
    """Publish the same bytes under other paths again and again, and delete most of them; the references that stay.

    Eight times, and then bytes that nobody keeps until a collector took something.
    """
    registry = open_registry(place.spec, open_deployment(place.spec))

    def publish(adapter: Path, path: str) -> str:
        while True:
            try:
                return registry.publish(adapter, path).revision.reference
            except UnavailableError:  # a collector without grace takes what was just stored
                continue

    *shared, own = adapters
    kept = []
    for turn in range(8):
        reference = publish(shared[turn % len(shared)], f"net/p{number}-{turn}")
        if turn % 4 == 3:
            kept.append(reference)
        else:
            registry.delete(reference)
    for turn in itertools.count(8):
        if collected.is_set():
            break
        registry.delete(publish(own, f"net/p{number}-{turn}"))
        collected.wait(1)  # with nothing that refers to it
    registry.close()
    return kept


def _collecting(place: Place, ended: threading.Event, collected: threading.Event) -> None:
    """Collect without any grace until the others are ready."""
    deployment = open_deployment(place.spec)
    try:
        while not ended.wait(0.01):
            if collect(deployment, dry_run=False, progress=SILENT, grace=0).blobs:
                collected.set()
    finally:
        collected.set()  # where it failed: nobody waits for more
        deployment.database.dispose()


@pytest.mark.slow
def test_publishers_and_collectors_at_once(place: Place, base: Base, tmp_path: Path) -> None:
    """With no grace at all, so that everything that can be pulled from under a publisher is."""
    place.registry.add_base("net", base.folder)
    adapters = [write_adapter(tmp_path / f"{seed}", base, ["a", "b"], r=1, seed=seed) for seed in range(5)]
    ended, collected = threading.Event(), threading.Event()
    with ThreadPoolExecutor(4) as pool:
        collectors = [pool.submit(_collecting, place, ended, collected) for _ in range(2)]
        publishers = [
            pool.submit(_publishing, place, number, [*adapters[:3], adapters[3 + number]], collected)
            for number in range(2)
        ]
        wait(publishers)
        ended.set()
    published = sorted(ref for publisher in publishers for ref in publisher.result())
    assert [collector.result() for collector in collectors] == [None, None]
    assert fsck(place).damage == ()
    assert sorted(place.registry.subtree("net")) == published
    for ref in published:
        with place.registry.artifact(ref, kind="published") as artifact:
            assert sum(len(file.read()) for file in artifact.files.values()) == artifact.size
    gc(place)
    assert_sound(place)


class Failing(BlobStore):
    """A store that is gone after so many deletes."""

    def __init__(self, inner: BlobStore, left: int) -> None:
        super().__init__(inner._driver)
        self._left = left

    def delete(self, key: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise UnavailableError("The store is gone.")
        super().delete(key)


def test_a_collector_that_loses_its_store_is_finished_by_the_next(place: Place, base: Base, tmp_path: Path) -> None:
    fill(place.registry, base, tmp_path)
    needed = len(place.objects())
    place.registry.publish(write_adapter(tmp_path / "more", base, ["a", "b"], r=3, seed=9), "net/more")
    place.registry.delete("net/more@1")
    for number in range(2):
        place.deployment.blobs.put_bytes(f"left over {number}".encode() * 50_000)
    for left in range(20):
        try:
            collect(
                replace(place.deployment, blobs=Failing(place.deployment.blobs, left)),
                dry_run=False, progress=SILENT, grace=0,
            )  # fmt: skip
            break
        except UnavailableError:
            assert fsck(place).damage == ()
    else:
        pytest.fail("it does not get on")
    assert len(place.objects()) == needed
    assert_sound(place)


@pytest.mark.long  # tests/journeys kills one replica of two while it collects
def test_a_collector_killed_at_any_step_loses_nothing(embedded: Place, base: Base, tmp_path: Path) -> None:
    fill(embedded.registry, base, tmp_path)
    adapters = [
        str(write_adapter(tmp_path / f"more{seed}", base, ["a", "b"], r=1, seed=seed)) for seed in range(40, 80)
    ]
    worker = subprocess.run(
        [sys.executable, str(WORKER), embedded.spec, *adapters],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert worker.returncode == 0, worker.stderr
    steps = json.loads(worker.stdout)
    assert steps > 6  # it was killed at that many different moments
    assert_sound(embedded)


def test_bytes_stay_while_one_of_two_names_needs_them(place: Place, base: Base, tmp_path: Path) -> None:
    fill(place.registry, base, tmp_path)
    place.registry.rename("net/two", "zwei")
    place.registry.rename_base("net", "network")
    before = set(place.objects())
    place.registry.delete_base("net", recursive=True)
    place.age(timedelta(days=2))
    found = gc(place, grace=3600)
    assert (found.blobs, found.bases) == ((), ("net",))
    assert set(found.revisions) == {"net/one@1", "net/two@1", "net/zwei@1"}
    assert set(place.objects()) == before
    assert_sound(place)
    assert place.registry.fetch("network/zwei", tmp_path / "out", kind="merged").fresh
    place.registry.delete_tree("network/zwei")
    place.age(timedelta(days=2))
    assert len(gc(place, grace=3600).blobs) == 2  # of two files each, of which they share none
    assert_sound(place)
