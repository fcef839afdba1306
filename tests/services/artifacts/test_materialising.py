"""Materialising: the same bytes, stored once, for a while; whole or not there, wherever it is stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from registry.catalogue.database.team_tables import MaterialisationRecord
from registry.errors import IntegrityError, NotAllowedError, NotFoundError, RetractedError, UnavailableError
from registry.progress import SILENT
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights, Role
from registry.schemas import ArtifactKind, Collected, Materialised
from registry.services.artifacts import commits
from registry.services.local import LocalRegistry
from registry.services.upkeep.collect import collect
from registry.services.upkeep.health import check
from registry.tensors.artifacts import plan as plans
from tests.kit import Base, add_tokenizer, plain_base, write_adapter
from tests.kit.places import KINDS, Place, open_place
from tests.kit.registries import ON_TEAM
from tests.kit.shelf import core_artifact
from tests.root import ROOT

WORKER = Path(__file__).with_name("materialise_worker.py")
SHAPES = {"a.weight": (24, 16), "b.weight": (600, 512)}
OTHER = "0123456789abcdef"  # the arithmetic of another machine


@pytest.fixture(params=["embedded", ON_TEAM])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request, tmp_path / "registry") as opened:
        fill(opened.registry, tmp_path)
        yield opened


@pytest.fixture(params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """The same, with the servers of a team in the quick suite, too."""
    with open_place(request, tmp_path / "registry") as opened:
        fill(opened.registry, tmp_path)
        yield opened


@pytest.fixture
def embedded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with open_place(request, tmp_path / "registry", kind="embedded") as opened:
        fill(opened.registry, tmp_path)
        yield opened


def fill(registry: LocalRegistry, tmp_path: Path) -> Base:
    """net, in two shards; net/one@1, which changes one of them; net/one/two@1."""
    base = plain_base(tmp_path / "base", SHAPES, shards=2)
    add_tokenizer(base.folder)
    registry.add_base("net", base.folder)
    registry.publish(write_adapter(tmp_path / "one", base, ["b"], r=2), "net/one")
    registry.publish(write_adapter(tmp_path / "two", base, ["b"], r=2, seed=2), "net/one/two")
    return base


def contents(registry: LocalRegistry, ref: str, kind: ArtifactKind) -> dict[str, bytes]:
    with registry.artifact(ref, kind=kind) as artifact:
        return {path: file.read() for path, file in artifact.files.items()}


def gc(place: Place, *, grace: float = 0, dry_run: bool = False) -> Collected:
    return collect(place.deployment, dry_run=dry_run, progress=SILENT, grace=grace)


def assert_sound(place: Place) -> None:
    found = check(place.deployment, deep=True, progress=SILENT)
    assert (found.damage, found.orphans) == ((), 0)


def expire(place: Place) -> None:
    """Let every materialisation have been past its time for a second."""
    with place.deployment.database.write() as session:
        session.execute(update(MaterialisationRecord).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))


def acting(place: Place, role: Role, *scopes: str) -> LocalRegistry:
    rights = Rights(role, tuple(TreePath.parse(scope) for scope in scopes))
    return place.registry.with_principal(Principal("someone", rights))


def kept(place: Place, ref: str, kind: ArtifactKind) -> commits.Kept | None:
    from registry.schemas import Options
    from registry.services.artifacts.opened import ask

    return ask(place.deployment, ref, Options(kind=kind)).materialised


def test_it_is_the_same_and_only_what_is_new_is_stored(both: Place) -> None:
    place = both
    computed = contents(place.registry, "net/one/two", "merged")
    with core_artifact(place.registry, "net/one/two", kind="merged") as artifact:
        new = [path for path, file in artifact.files.items() if file.digest is None]
    before = set(place.objects())
    answer = place.registry.materialise("net/one/two", kind="merged")
    stored = set(place.objects()) - before
    assert answer.created
    assert answer.materialisation.reference == "net/one/two@1"
    assert answer.materialisation.size == sum(map(len, computed.values()))
    assert answer.materialisation.files == len(computed)
    # One shard is changed; the other, the index, the configuration and the tokenizer are blobs already.
    changed = [path for path in computed if path.endswith(".safetensors") and not _is_of_base(place, path, computed)]
    assert ["README.md", *changed] == new  # the others are not even read
    assert len(changed) == 1
    assert answer.bytes_stored == sum(len(computed[path]) for path in new)
    assert len(stored) == 3  # and the list of blocks of the weights
    assert contents(place.registry, "net/one/two", "merged") == computed
    found = kept(place, "net/one/two@1", "merged")
    assert found is not None
    assert {file.path for file in found.files} == computed.keys()
    assert_sound(place)


def _is_of_base(place: Place, path: str, computed: dict[str, bytes]) -> bool:
    with core_artifact(place.registry, "net", kind="published") as artifact:
        return path in artifact.files and artifact.files[path].read() == computed[path]


def test_asking_again_keeps_it_for_longer_and_never_for_less(embedded: Place) -> None:
    first = embedded.registry.materialise("net/one")
    assert timedelta(days=29) < first.materialisation.expires_at - datetime.now(UTC) <= timedelta(days=30)
    longer = embedded.registry.materialise("net/one@1", expires_in=90 * 86400)
    assert (longer.created, longer.bytes_stored) == (False, 0)
    assert longer.materialisation.id == first.materialisation.id
    assert longer.materialisation.expires_at > first.materialisation.expires_at
    shorter = embedded.registry.materialise("net/one", expires_in=60)
    assert shorter.materialisation == longer.materialisation
    assert [(event.action, event.subject) for event in embedded.registry.events(limit=3)] == [
        ("materialise", "net/one@1"),
        ("materialise", "net/one@1"),
        ("publish", "net/one/two@1"),
    ]


def test_past_its_time_it_is_not_there_and_is_collected_after_its_grace(both: Place) -> None:
    place = both
    objects = place.objects()
    made = place.registry.materialise("net/one", kind="merged").materialisation
    place.age(timedelta(days=31))
    expire(place)
    assert place.registry.materialisations() == ()
    assert kept(place, "net/one", "merged") is None
    with pytest.raises(NotFoundError):
        place.registry.drop_materialisation(made.id)
    said = gc(place, grace=3600, dry_run=True)
    assert [one.id for one in said.materialisations] == [made.id]
    assert gc(place, grace=3600) == said.model_copy(update={"dry_run": False})
    assert (said.blobs, said.kept_for_grace) == ((), 2)  # the weights and README.md
    assert len(place.objects()) > len(objects)
    place.age(timedelta(hours=2))
    assert len(gc(place, grace=3600).blobs) == 2
    assert place.objects() == objects
    told = [event.detail for event in place.registry.events(limit=6) if event.action == "gc"]
    assert [one["materialisations"] for one in told if not one.get("done")].count(1) == 1
    assert_sound(place)


def test_one_that_is_past_its_time_comes_back_when_it_is_asked_for(embedded: Place) -> None:
    made = embedded.registry.materialise("net/one", kind="merged").materialisation
    expire(embedded)
    again = embedded.registry.materialise("net/one", kind="merged")
    assert (again.created, again.bytes_stored, again.materialisation.id) == (False, 0, made.id)
    assert [one.id for one in embedded.registry.materialisations()] == [made.id]
    assert gc(embedded).materialisations == ()
    assert_sound(embedded)


def test_it_is_dropped_by_id_and_by_revision(place: Place) -> None:
    registry = place.registry
    computed = contents(registry, "net/one", "merged")
    objects = place.objects()
    first = registry.materialise("net/one").materialisation
    second = registry.materialise("net/one", kind="merged").materialisation
    third = registry.materialise("net/one/two").materialisation
    assert registry.drop_materialisation(third.id) == (third,)
    assert registry.drop_materialisation("net/one", kind="merged") == (second,)
    with pytest.raises(NotFoundError, match="not materialised as merged"):
        registry.drop_materialisation("net/one@1", kind="merged")
    assert registry.materialisations("net") == (first,)
    assert registry.drop_materialisation("net/one") == (first,)
    assert registry.events(limit=1)[0].action == "materialise drop"
    assert contents(registry, "net/one", "merged") == computed
    assert gc(place, grace=3600).blobs == ()
    place.age(timedelta(hours=2))
    gc(place, grace=3600)
    assert place.objects() == objects
    assert_sound(place)


def test_the_list_shows_what_is_asked_for(place: Place) -> None:
    registry = place.registry
    one = registry.materialise("net/one").materialisation
    two = registry.materialise("net/one/two").materialisation
    assert registry.materialisations() == registry.materialisations("net") == (one, two)
    assert registry.materialisations("net/one") == (one, two)
    assert registry.materialisations("net/one@1") == (one,)
    assert registry.materialisations("net/one/two") == (two,)
    for unknown in ("other", "net/three", "net/one@7"):
        with pytest.raises(NotFoundError):
            registry.materialisations(unknown)


def test_rights(embedded: Place) -> None:
    embedded.registry.materialise("net/one")
    made = embedded.registry.materialise("net/one/two").materialisation
    reader, writer = acting(embedded, "reader"), acting(embedded, "writer", "net/one/two")
    assert len(reader.materialisations()) == 2
    assert writer.materialisations() == (made,)
    for refused in (
        lambda: reader.materialise("net/one"),
        lambda: reader.drop_materialisation("net/one"),
        lambda: reader.drop_materialisation(made.id),
        lambda: writer.materialise("net/one"),
        lambda: writer.drop_materialisation("net/one"),
    ):
        with pytest.raises(NotAllowedError):
            refused()
    with pytest.raises(NotFoundError):  # what a token may not see does not exist for it
        writer.drop_materialisation(embedded.registry.materialisations("net/one@1")[0].id)
    assert writer.materialise("net/one/two", kind="merged").created
    assert len(writer.drop_materialisation("net/one/two")) == 2
    assert len(embedded.registry.materialisations()) == 1


def test_a_deleted_revision_takes_it_along_and_a_retracted_one_hides_it(place: Place) -> None:
    registry = place.registry
    registry.materialise("net/one")
    made = registry.materialise("net/one/two", kind="merged").materialisation
    registry.retract("net/one", reason="bad data")
    for ref in ("net/one", "net/one/two"):
        with pytest.raises(RetractedError):
            registry.artifact(ref, kind="merged")
        with pytest.raises(RetractedError):
            registry.materialise(ref, kind="merged")
    registry.retract("net/one", undo=True)
    place.age(timedelta(days=3))
    registry.delete("net/one/two@1")
    assert registry.events(limit=1)[0].detail["materialisations"] == [made.id]
    assert [one.reference for one in registry.materialisations()] == ["net/one@1"]
    assert gc(place, grace=3600).blobs == ()  # their grace began with the delete
    place.age(timedelta(hours=2))
    # The weights of net/one/two and its README.md; its configuration is that of net/one, too.
    assert len(gc(place, grace=3600).blobs) == 3
    assert_sound(place)


def test_what_other_arithmetic_made_goes_before_what_is_computed_here(
    embedded: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = embedded.registry.fetch("net/one", tmp_path / "ours", kind="merged")
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(plans, "fingerprint", lambda: OTHER)
        made = embedded.registry.materialise("net/one", kind="merged").materialisation
    assert made.numerics == OTHER
    assert made.rendering != ours.rendering
    fetched = embedded.registry.fetch("net/one", tmp_path / "theirs", kind="merged")
    assert fetched.rendering == made.rendering
    assert embedded.registry.verify(tmp_path / "theirs").equal
    # Asked for here, it is kept for longer: there is one of each meaning, so that all replicas agree.
    again = embedded.registry.materialise("net/one", kind="merged", expires_in=90 * 86400)
    assert (again.created, again.materialisation.rendering) == (False, made.rendering)
    with core_artifact(embedded.registry, "net/one", kind="merged", dtype="bf16") as plain:
        assert plain.numerics != OTHER


def test_a_format_that_is_not_ours_is_not_handed_out(embedded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = embedded.registry.materialise("net/one").materialisation
    with embedded.deployment.database.write() as session:
        session.execute(update(MaterialisationRecord).values(artifact_format=MaterialisationRecord.artifact_format - 1))
    assert kept(embedded, "net/one", "lora") is None
    again = embedded.registry.materialise("net/one")
    assert again.created
    assert {one.id for one in embedded.registry.materialisations()} == {made.id, again.materialisation.id}


def test_a_damaged_file_is_never_taken_for_right_and_is_mended(place: Place) -> None:
    registry = place.registry
    registry.materialise("net/one", kind="merged")
    computed = contents(registry, "net/one", "merged")
    found = kept(place, "net/one", "merged")
    assert found is not None
    weights = (file for file in found.files if file.path.endswith(".safetensors"))
    stored = next(file for file in weights if not _is_of_base(place, file.path, computed))
    file = place.file(stored.key)
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError):
        contents(registry, "net/one", "merged")
    damage = check(place.deployment, deep=True, progress=SILENT).damage
    assert [(one.digest, one.takes_down, one.materialisations) for one in damage] == [
        (stored.digest, (), ("net/one@1 as merged",))
    ]
    registry.drop_materialisation("net/one")
    assert contents(registry, "net/one", "merged") == computed
    assert registry.materialise("net/one", kind="merged").bytes_stored == stored.size
    assert contents(registry, "net/one", "merged") == computed
    gc(place)
    assert_sound(place)


class Stop(Exception):  # noqa: N818 - stands for whatever ends the work
    """Ends the work in the middle."""


class Until:
    """Progress that ends the work after so many bytes."""

    def __init__(self, most: int) -> None:
        self.left = most

    def begin(self, what: str, total: int) -> None:
        del what, total

    def advance(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise Stop


def test_what_is_stopped_leaves_nothing(embedded: Place) -> None:
    objects = embedded.objects()
    with pytest.raises(Stop):
        embedded.registry.materialise("net/one", kind="merged", progress=Until(600_000))
    assert embedded.registry.materialisations() == ()
    assert embedded.objects() == objects
    assert_sound(embedded)


@pytest.mark.slow
def test_a_collector_beside_takes_nothing_of_it(place: Place) -> None:
    """With no grace at all, bytes may be gone before the row is there: then it is done again."""
    ended = threading.Event()
    failed: list[BaseException] = []

    def collecting() -> None:
        try:
            while not ended.is_set():
                gc(place)
        except BaseException as error:  # noqa: BLE001 - told by the test's own thread
            failed.append(error)

    thread = threading.Thread(target=collecting)
    computed = contents(place.registry, "net/one/two", "merged")
    thread.start()
    try:
        for _ in range(5):
            try:
                place.registry.materialise("net/one/two", kind="merged")
            except UnavailableError:
                continue  # collected twice: whoever asks asks again
            assert contents(place.registry, "net/one/two", "merged") == computed
            place.registry.drop_materialisation("net/one/two")
    finally:
        ended.set()
        thread.join()
    assert not failed
    gc(place)
    assert_sound(place)


def test_two_at_once_make_one(place: Place) -> None:
    both = threading.Barrier(2)
    answers: list[Materialised] = []

    def make() -> None:
        both.wait()
        answers.append(place.registry.materialise("net/one", kind="merged"))

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.materialisation.id for answer in answers}) == 1
    assert [answer.created for answer in answers].count(True) == 1
    gc(place)
    assert_sound(place)


@pytest.mark.long_on("embedded", "computing")
@pytest.mark.slow
@pytest.mark.parametrize("at", ["computing", "stored"])
def test_who_is_killed_leaves_what_is_collected(place: Place, at: str) -> None:
    """Killed while it is computed, or between its bytes and its row."""
    objects = place.objects()
    environ = {**os.environ, **place.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, WORKER, place.spec, at], env=environ, check=False)
    assert ended.returncode == 9
    assert place.registry.materialisations() == ()
    assert bool(set(place.objects()) - set(objects)) == (at == "stored")
    gc(place)
    assert place.objects() == objects
    assert_sound(place)
    assert place.registry.materialise("net/one", kind="merged").created


def test_what_is_kept_is_found_as_it_was_said(embedded: Place) -> None:
    made = embedded.registry.materialise("net/one", kind="lora").materialisation
    found = kept(embedded, "net/one", "lora")
    assert found is not None
    assert (found.id, found.rendering, found.numerics) == (made.id, made.rendering, made.numerics)
    computed = contents(embedded.registry, "net/one", "lora")
    assert {file.path: file.size for file in found.files} == {path: len(data) for path, data in computed.items()}


def test_a_copy_leaves_it_behind(embedded: Place, tmp_path: Path) -> None:
    embedded.registry.materialise("net/one", kind="merged")
    with closing(LocalRegistry.open(tmp_path / "other", cache_folder=tmp_path / "cache")) as other:
        embedded.registry.copy("net/one", other)
        assert other.materialisations() == ()
        assert contents(other, "net/one", "merged") == contents(embedded.registry, "net/one", "merged")
