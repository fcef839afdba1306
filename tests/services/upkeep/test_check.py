"""Checking: every kind of damage is found and named with what it takes down, and nothing else is called damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registry.catalogue.store import blobs as blob_rows
from registry.catalogue.store import unreferenced
from registry.errors import UnavailableError
from registry.progress import SILENT
from registry.schemas import Checked, Damage
from registry.services.deployment import Deployment
from registry.services.local import LocalRegistry
from registry.services.upkeep.collect import collect
from registry.services.upkeep.health import check
from registry.storage.blobs import BlobStore
from registry.storage.driver import ObjectInfo
from registry.storage.s3 import S3Driver
from registry.storage.staging import StagingDriver
from tests.kit import plain_base, write_adapter
from tests.kit.places import KINDS, Place, open_place
from tests.kit.servers import S3Place, S3Server
from tests.kit.shim import Fault, Shim, flip_first_byte

PATHS = ("one", "one-two", "other")
SHAPES = {"a.weight": (24, 16), "b.weight": (600, 512)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with a file that has a list of blocks, adapters on it, and a registry that holds them."""
    root = tmp_path_factory.mktemp("check")
    base = plain_base(root / "base", SHAPES)
    for seed, path in enumerate(PATHS, start=1):
        write_adapter(root / path, base, ["a", "b"], r=seed, seed=seed)
    registry = LocalRegistry.open(root / "registry")
    fill(registry, root)
    registry.close()
    return root


def fill(registry: LocalRegistry, folders: Path) -> None:
    registry.add_base("net", folders / "base")
    for path in PATHS:
        registry.publish(folders / path, f"net/{path.replace('-', '/')}")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty registry."""
    with open_place(request, tmp_path / "registry") as opened:
        yield opened


@pytest.fixture(params=KINDS)
def filled(request: pytest.FixtureRequest, folders: Path, tmp_path: Path) -> Iterator[Place]:
    """net/one@1, net/one/two@1, net/other@1."""
    with open_place(request, tmp_path / "registry", template=folders / "registry") as opened:
        if request.param == "team":
            fill(opened.registry, folders)
        yield opened


def fsck(place: Place, *, deep: bool) -> Checked:
    return check(place.deployment, deep=deep, progress=SILENT)


def key_of(place: Place, ref: str, name: str) -> str:
    digest = next(file.digest for file in place.registry.show(ref).files if file.path == name)
    with place.deployment.read() as session:
        return blob_rows.get(session, digest).key


def flip(file: Path, at: int = -1) -> None:
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])


EMBEDDED = pytest.mark.parametrize("filled", ["embedded"], indirect=True)


def only(found: Checked) -> Damage:
    assert len(found.damage) == 1, found.damage
    return found.damage[0]


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_registry_is_sound(filled: Place, deep: bool) -> None:
    found = fsck(filled, deep=deep)
    assert (found.deep, found.damage, found.orphans) == (deep, (), 0)
    files = {
        file.digest: file.size
        for ref in ("net", *filled.registry.subtree("net"))
        for file in filled.registry.show(ref).files
    }
    assert found.blobs == len(files) + 2  # the index and the table of the base model
    assert found.bytes > sum(files.values())


@pytest.mark.parametrize(("harm", "what"), [(Path.unlink, "missing"), (cut, "bytes instead of")])
@pytest.mark.parametrize(
    ("filled", "deep"), [("embedded", False), ("embedded", True), ("team", False)], indirect=["filled"]
)
def test_a_missing_or_short_blob_takes_down_what_was_trained_on_it(
    filled: Place, harm: Callable[[Path], None], what: str, deep: bool
) -> None:
    key = key_of(filled, "net/one@1", "adapter_model.safetensors")
    harm(filled.file(key))
    damage = only(fsck(filled, deep=deep))
    assert damage.key == key
    assert damage.digest in {file.digest for file in filled.registry.show("net/one@1").files}
    assert what in damage.problem
    assert damage.takes_down == ("net/one@1", "net/one/two@1")


def test_a_flipped_bit_is_found_by_reading(filled: Place) -> None:
    flip(filled.file(key_of(filled, "net/other@1", "adapter_model.safetensors")))
    assert fsck(filled, deep=False).damage == ()
    damage = only(fsck(filled, deep=True))
    assert damage.takes_down == ("net/other@1",)
    assert damage.problem.startswith("the digest of its bytes is sha256:")


@EMBEDDED
def test_a_base_model_is_named_by_itself(filled: Place) -> None:
    flip(filled.file(key_of(filled, "net", "model.safetensors")))
    assert only(fsck(filled, deep=True)).takes_down == ("net",)


@EMBEDDED
@pytest.mark.parametrize(("harm", "shallow"), [(Path.unlink, True), (cut, True), (flip, False)])
def test_a_list_of_blocks_is_checked_too(filled: Place, harm: Callable[[Path], None], shallow: bool) -> None:
    key = key_of(filled, "net", "model.safetensors")
    harm(filled.file(key.replace("blobs/", "blocks/", 1)))
    assert bool(fsck(filled, deep=False).damage) == shallow
    damage = only(fsck(filled, deep=True))
    assert (damage.key, damage.takes_down) == (key, ("net",))


@pytest.mark.parametrize("path", ["net/other", "net/again"])
def test_publishing_the_same_files_again_mends(filled: Place, folders: Path, path: str) -> None:
    flip(filled.file(key_of(filled, "net/other@1", "adapter_model.safetensors")))
    assert fsck(filled, deep=True).damage
    answer = filled.registry.publish(folders / "other", path)
    assert answer.created is (path == "net/again")
    found = fsck(filled, deep=True)
    assert (found.damage, found.orphans) == ((), 1)  # the damaged object is an orphan now


def test_adding_the_same_base_again_mends(filled: Place, folders: Path) -> None:
    flip(filled.file(key_of(filled, "net", "model.safetensors")))
    assert fsck(filled, deep=True).damage
    again = filled.registry.add_base("net", folders / "base")
    assert (again.created, again.bytes_stored > 0) == (False, True)
    assert fsck(filled, deep=True).damage == ()
    assert filled.registry.add_base("net", folders / "base").bytes_stored == 0


@EMBEDDED
def test_objects_without_a_row_are_counted(filled: Place) -> None:
    filled.deployment.blobs.put_bytes(b"small")
    filled.deployment.blobs.put_bytes(bytes(600_000))
    found = fsck(filled, deep=True)
    assert (found.damage, found.orphans) == ((), 3)


def test_an_empty_registry_is_sound(place: Place) -> None:
    place.registry.bases()
    found = fsck(place, deep=True)
    assert (found.blobs, found.bytes, found.damage, found.orphans) == (0, 0, (), 0)


def test_many_blobs_are_walked_page_by_page(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.services.upkeep.health._AT_ONCE", 3)
    stored = [place.deployment.blobs.put_bytes(f"blob {number}".encode()) for number in range(11)]
    orphans, named = stored[::3], [one for number, one in enumerate(stored) if number % 3]
    place.deployment.change(lambda session: blob_rows.record(session, named))
    missing = named[4]
    place.file(missing.key).unlink()
    found = fsck(place, deep=True)
    assert (found.blobs, found.orphans) == (len(named), len(orphans))
    assert only(found).key == missing.key
    assert only(found).takes_down == ()


@EMBEDDED
def test_what_is_no_file_any_more_is_named(filled: Place) -> None:
    file = filled.file(key_of(filled, "net", "model.safetensors"))
    file.unlink()
    file.mkdir()
    assert only(fsck(filled, deep=True)).takes_down == ("net",)
    file.rmdir()
    file.symlink_to(file)
    assert only(fsck(filled, deep=True)).takes_down == ("net",)


@pytest.fixture
def shim(s3_store: S3Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shim]:
    """A way to the store of a team that can be made to fail."""
    with Shim(s3_store.endpoint) as shim:
        yield shim


@pytest.fixture
def behind(shim: Shim, filled: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """The same registry, by that way."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", shim.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    driver = S3Driver(filled.deployment.blobs.place)
    yield replace(filled.deployment, blobs=BlobStore(driver))
    driver.close()


TEAM = pytest.mark.parametrize("filled", ["team"], indirect=True)


@TEAM
def test_one_wrong_answer_is_no_damage(filled: Place, behind: Deployment, shim: Shim) -> None:
    key = key_of(filled, "net/other@1", "adapter_model.safetensors")
    for fault in (
        Fault(method="GET", target=key, times=1, change_answer=flip_first_byte),
        Fault(method="GET", target=key, times=1, status=404),
        Fault(method="HEAD", target=key, times=1, status=404),
    ):
        shim.faults = [fault]
        assert check(behind, deep=True, progress=SILENT).damage == ()
        assert fault.times == 0


@TEAM
def test_a_store_that_answers_otherwise_each_time_is_unreadable(
    filled: Place, behind: Deployment, shim: Shim, s3_store: S3Place
) -> None:
    key = key_of(filled, "net/other@1", "adapter_model.safetensors")
    numbers = iter(range(1, 100))
    shim.faults = [Fault(method="GET", target=key, change_answer=lambda data: bytes([next(numbers)]) + data[1:])]
    assert only(check(behind, deep=True, progress=SILENT)).state == "unreadable"
    shim.faults = []
    flip(next(s3_store.folder.rglob(Path(key).name)))
    assert only(check(behind, deep=True, progress=SILENT)).state == "damaged"


@TEAM
@pytest.mark.parametrize(
    "said",
    [
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Size>x</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>x</Key></Contents></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<html>Sign in</html>",
    ],
)
@pytest.mark.usefixtures("filled")
def test_a_list_that_is_damaged_ends_the_check_with_a_sentence(behind: Deployment, shim: Shim, said: bytes) -> None:
    shim.faults = [Fault(method="GET", target="list-type=2", status=200, body=said)]
    for work in (
        lambda: check(behind, deep=False, progress=SILENT),
        lambda: collect(behind, dry_run=False, progress=SILENT),
    ):
        with pytest.raises(UnavailableError, match="can't be read"):
            work()


class GoneWhileItIsRead:
    """Progress of a check beside a collector, which removes a blob, its row first, when some of it was read."""

    def __init__(self, remove: Callable[[], None]) -> None:
        self._remove = remove
        self._read = False
        self.removed = False

    def begin(self, what: str, total: int) -> None:
        del total
        self._read = what == "Reading blobs"

    def advance(self, amount: int) -> None:
        del amount
        if self._read and not self.removed:
            self.removed = True
            self._remove()


@pytest.mark.parametrize("place", ["team"], indirect=True)  # an open file of a folder is whole until it is closed
@pytest.mark.parametrize("row", ["gone", "there"])
def test_a_blob_that_goes_while_it_is_read(place: Place, row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collected, it is no damage; taken from under its row, it is missing."""
    monkeypatch.setattr("registry.storage.streams._PIECE", 1 << 20)
    monkeypatch.setattr("registry.storage.s3.reading.S3Reader.ahead", 1 << 20)
    blobs = place.deployment.blobs
    stored = blobs.put_bytes(bytes(8 << 20))
    place.deployment.change(lambda session: blob_rows.record(session, [stored]))

    def remove() -> None:
        if row == "gone":
            place.deployment.change(lambda session: unreferenced.forget(session, [stored.digest], datetime.now(UTC)))
        blobs.delete(stored.key)

    progress = GoneWhileItIsRead(remove)
    found = check(place.deployment, deep=True, progress=progress)
    assert progress.removed
    if row == "gone":
        assert found.damage == ()
    else:
        assert only(found).problem == "its file is missing"


class GoneAfterTheList(BlobStore):
    """A store that goes away when its objects have been listed."""

    def __init__(self, driver: StagingDriver, server: S3Server) -> None:
        super().__init__(driver)
        self._server = server

    def objects(self) -> Iterator[ObjectInfo]:
        yield from super().objects()
        self._server.stop()


@pytest.mark.parametrize("listed", [False, True])
def test_a_store_that_is_away_is_no_damage(
    request: pytest.FixtureRequest, tmp_path: Path, private_s3: S3Server, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    there = private_s3.place()
    for name, value in there.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with open_place(request, tmp_path / "registry", kind="embedded") as place:
        driver = S3Driver(there.url)
        away = replace(place.deployment, blobs=GoneAfterTheList(driver, private_s3) if listed else BlobStore(driver))
        stored = away.blobs.put_bytes(b"some bytes")
        away.change(lambda session: blob_rows.record(session, [stored]))
        if not listed:
            private_s3.stop()
        with pytest.raises(UnavailableError):
            check(away, deep=True, progress=SILENT)
        private_s3.start()
        assert check(replace(away, blobs=BlobStore(driver)), deep=True, progress=SILENT).damage == ()
        driver.close()
