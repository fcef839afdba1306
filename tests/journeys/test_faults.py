"""What fails under a team's registry, one thing at a time: what the user sees, what is left, and that it goes on.

After each fault the whole registry is checked byte by byte, and what was refused is done again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest

import registry
from registry.errors import IntegrityError, UnavailableError
from registry.schemas import Published
from registry.schemas.artifacts import ArtifactKind
from tests.conftest import StartService
from tests.journeys.fault_house import OF_CLIENTS, PATIENCE, Gate, House, built, problem_of, wait_for
from tests.journeys.fault_wire import Cut, Moment
from tests.kit.servers_home import Home
from tests.kit.shim import Fault, flip_first_byte

pytestmark = pytest.mark.slow  # tests/client, tests/storage and tests/catalogue have such faults of each part
PART = 16 << 20
LONG = 2 * PART + 4096  # more than a service commits while the client waits
OWN = r"/blobs/[^?]*$"
"""In the targets of requests to the store that a service makes: what it reads back, and what it computes with."""
BUSY = b"<Error><Code>SlowDown</Code></Error>"
_PUBLISHED = "SELECT count(*) FROM events WHERE subject LIKE %s AND action = 'publish'"
MOMENTS: tuple[Moment, ...] = ("before", "in", "after")


@pytest.fixture(scope="module")
def shared_house(own_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    room = tmp_path_factory.mktemp("house")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGISTRY_CACHE_DIR", str(room / "cache"))
        with built(own_home, room) as house:
            yield house


@pytest.fixture
def house(shared_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("REGISTRY_CACHE_DIR", str(tmp_path / "cache"))
    yield shared_house
    for replica in shared_house.replicas:  # shown where the test failed
        print(*replica.log[-20:], sep="\n")
    shared_house.mend()


def background(work: Callable[[], Published]) -> Future[Published]:
    """Start something that waits for a fault to pass."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


# The database


def test_a_connection_to_the_database_breaks_in_a_publish(house: House) -> None:
    """The user waits for some seconds and sees the revision, once, whatever became of the first try."""
    folders = {moment: house.adapter(f"wire-{moment}") for moment in MOMENTS}
    cuts = [Cut(f"broken {moment} the commit", moment) for moment in MOMENTS]
    house.wire.cuts += cuts

    def publish(cut: Cut) -> Published:
        return house.client().publish(folders[cut.moment], f"net/wire-{cut.moment}", message=cut.text)

    answers = {cut.moment: background(partial(publish, cut)) for cut in cuts}
    for moment, answer in answers.items():
        assert answer.result(PATIENCE).revision.reference == f"net/wire-{moment}@1"
    assert all(cut.struck.is_set() for cut in cuts)
    # The first try of the last one was committed, so its second found everything there.
    assert {moment: answer.result().created for moment, answer in answers.items()} == {
        "before": True,
        "in": True,
        "after": False,
    }
    tried = [one.status for one in house.api.seen("POST", "/publishes$")]
    assert sorted(tried) == [200, 201, 201, 503, 503]  # what broke before the commit was done again in the service
    for moment, folder in folders.items():
        house.check_is_published(folder, f"net/wire-{moment}")
        assert not house.client().publish(folder, f"net/wire-{moment}").created


@pytest.mark.long_on("before", "after")
@pytest.mark.parametrize("moment", ["before", "in", "after"])
def test_the_database_is_killed_in_a_publish(house: House, moment: Moment) -> None:
    path = f"net/killed-{moment}"
    folder = house.adapter(f"killed-{moment}")
    cut = Cut(f"killed {moment} the commit", moment, then=house.postgres.kill)
    house.wire.cuts.append(cut)
    answer = background(lambda: house.client().publish(folder, path, message=cut.text))
    assert cut.struck.wait(PATIENCE)
    house.postgres.start()
    assert answer.result(PATIENCE).revision.reference == f"{path}@1"
    assert answer.result().created == (moment != "after")
    house.check_is_published(folder, path)
    assert not house.client().publish(folder, path).created


@pytest.mark.long
def test_a_database_that_is_down_is_one_sentence(house: House) -> None:
    folder = house.adapter("no-database")
    house.postgres.stop()
    words = ("publish", str(folder), "net/no-database", "--json")
    code, stderr = house.command(*words)
    assert (code, problem_of(stderr)[0]) == (1, "unavailable")
    assert "The database" in problem_of(stderr)[1]
    assert "can't be reached" in problem_of(stderr)[1]
    house.postgres.start()
    house.check_is_absent("net/no-database")
    code, stderr = house.command(*words)
    assert code == 0, stderr
    house.check_is_published(folder, "net/no-database")


# The store


def test_a_store_that_is_down_while_bytes_are_sent_is_waited_for(house: House) -> None:
    folder = house.adapter("waiting")
    gate = Gate()
    house.store.faults.append(Fault("PUT", OF_CLIENTS, times=1, answer=gate))
    answer = background(lambda: house.client().publish(folder, "net/waiting"))
    gate.wait()
    house.s3.stop()
    house.store.forget()
    gate.let_go()
    wait_for(lambda: house.store.count("PUT", OF_CLIENTS, status=0) > 0)
    house.s3.start()
    assert answer.result(PATIENCE).created
    house.check_is_published(folder, "net/waiting")


@pytest.mark.long
def test_a_store_that_stays_down_is_one_sentence_and_leaves_nothing(house: House, tmp_path: Path) -> None:
    there = house.adapter("there")
    house.client().publish(there, "net/there")
    folder = house.adapter("no-store")
    house.s3.stop()
    for refused in (
        lambda: house.impatient().publish(folder, "net/no-store"),
        lambda: house.client().fetch("net/there", tmp_path / "lora"),
        lambda: house.client().fetch("net/there", tmp_path / "merged", kind="merged"),
    ):
        with pytest.raises(UnavailableError) as down:
            refused()
        assert down.value.code == "unavailable"
        assert "\n" not in str(down.value)
        # The service names its store, the client the address where it sends bytes.
        assert str(house.place.url) in str(down.value) or house.store.url in str(down.value)
    assert list(tmp_path.glob("*lora*")) + list(tmp_path.glob("*merged*")) == []
    house.check_is_absent("net/no-store")  # what needs no bytes is answered without the store
    house.s3.start()
    assert house.client().publish(folder, "net/no-store").created
    house.check_is_published(folder, "net/no-store")
    house.check_is_published(there, "net/there")


@pytest.mark.long
def test_a_store_that_is_busy_and_slow_is_waited_for(house: House, tmp_path: Path) -> None:
    faults = [
        Fault("PUT", OF_CLIENTS, times=2, status=503, body=BUSY),
        Fault("PUT", "/blobs/", times=3, status=503, body=BUSY),  # more than the service tries by itself
        Fault(times=6, delay=0.3),
    ]
    house.store.faults += faults
    folder = house.adapter("busy")
    assert house.client().publish(folder, "net/busy").created
    assert [one.status for one in house.api.seen("POST", "/publishes$")] == [503, 201]
    faults += [Fault("GET", times=2, status=503, body=BUSY), Fault("GET", times=2, delay=0.3)]
    house.store.faults += faults[-2:]
    house.client().fetch("net/busy", tmp_path / "lora")
    house.check_is_published(folder, "net/busy")
    assert [fault.times for fault in faults] == [0] * 5


def test_bodies_that_are_cut_are_read_on(house: House, tmp_path: Path) -> None:
    folder = house.adapter("cut", extra=300_000)
    house.store.faults += [Fault("GET", OWN, times=2, cut_answer=1000)]
    assert house.client().publish(folder, "net/cut").created
    sent = "response-content-disposition=.*notes.dat"
    house.store.forget()
    house.store.faults += [Fault("GET", sent, times=2, cut_answer=100_000), Fault("GET", OWN, times=1, cut_answer=10)]
    house.client().fetch("net/cut", tmp_path / "lora")
    house.check_is_published(folder, "net/cut")
    assert all(fault.times == 0 for fault in house.store.faults)
    assert sum(one.received for one in house.store.seen("GET", sent)) == 300_000  # nothing of it came twice


@pytest.mark.parametrize("where", ["header", "number", "file"])
def test_wrong_bytes_of_the_right_length_are_not_published(house: House, where: str) -> None:
    """Whatever they look like, they are told as what they are, and are sent again by the next try."""
    path = f"net/wrong-{where}"
    folder = house.adapter(f"wrong-{where}", extra=1000)

    def change(data: bytes) -> bytes:
        weights = data[8:10] == b'{"'
        if where == "header" and weights:
            return data[:12] + b"?" + data[13:]
        if where == "number" and weights:
            return data[:-4] + b"\0\0\x80\x7f"  # infinity, which no adapter may hold
        return flip_first_byte(data) if where == "file" and len(data) == 1000 else data

    house.store.faults.append(Fault("PUT", OF_CLIENTS, change_request=change))
    with pytest.raises(IntegrityError, match="upload it again") as wrong:
        house.client().publish(folder, path)
    assert wrong.value.code == "upload_mismatch"
    house.store.faults.clear()
    house.check_is_absent(path)
    assert house.client().publish(folder, path).created
    house.check_is_published(folder, path)


@pytest.mark.long
def test_a_copy_that_is_not_what_was_sent_is_not_published(house: House) -> None:
    """The service reads back what it will hand out: a store that copies badly is found before anybody relies on it."""
    folder = house.adapter("wrong-copy")
    house.store.faults.append(Fault("GET", OWN, change_answer=flip_first_byte))
    with pytest.raises(UnavailableError, match="different bytes each time"):  # perhaps only its answers are bad
        house.impatient().publish(folder, "net/wrong-copy")
    house.store.faults.clear()
    house.check_is_absent("net/wrong-copy")
    assert house.client().publish(folder, "net/wrong-copy").created
    house.check_is_published(folder, "net/wrong-copy")


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "whose", "code"),
    [("published", OF_CLIENTS, "corrupt"), ("lora", OWN, "unavailable"), ("merged", OWN, "unavailable")],
    ids=["published", "lora", "merged"],
)
def test_wrong_bytes_from_the_store_are_not_handed_out(
    house: House, tmp_path: Path, kind: ArtifactKind, whose: str, code: str
) -> None:
    """Found where they arrive: by the client what it takes from the store, by the service what it computes with."""
    folder = house.adapter(f"wrong-{kind}", extra=1000)
    path = f"net/wrong-{kind}"
    house.client().publish(folder, path)
    house.store.faults.append(Fault("GET", whose, change_answer=flip_first_byte))
    with pytest.raises((IntegrityError, UnavailableError)) as wrong:
        house.impatient().fetch(path, tmp_path / "out", kind=kind)
    assert wrong.value.code == code
    assert "backup" not in str(wrong.value)
    assert [one.name for one in tmp_path.iterdir() if "out" in one.name] == []
    house.store.faults.clear()
    house.client().fetch(path, tmp_path / "out", kind=kind)
    house.check_is_published(folder, path)


def test_a_presigned_put_used_again_changes_nothing(house: House) -> None:
    folder = house.adapter("again", extra=1000)
    house.store.forget()
    assert house.client().publish(folder, "net/again").created
    signed = house.store.seen("PUT", OF_CLIENTS)
    assert signed != []
    for one in signed:
        stored = httpx.put(house.store.url + one.target, content=bytes(one.sent))
        assert stored.status_code == 200, "it still works"
    house.check_is_published(folder, "net/again")
    house.client().gc()
    house.check_is_published(folder, "net/again")


# The service


@pytest.mark.long
@pytest.mark.parametrize("killed", [False, True], ids=["both live", "one is killed"])
def test_sixteen_publishers_at_two_replicas(house: House, *, killed: bool) -> None:
    """Numbers without gap or duplicate, and all that was acknowledged is there, also by a replica that was killed."""
    house.start_both()
    path = f"net/crowd-{killed}".lower()
    folders = [[house.adapter(f"{path[4:]}-{who}-{time}") for time in range(2)] for who in range(16)]
    ready = threading.Barrier(16)

    def publish(who: int) -> list[Published]:
        client = house.client() if killed else registry.connect(house.replicas[who % 2].url, house.token)
        ready.wait()
        answers = [client.publish(folder, path) for folder in folders[who]]
        client.close()
        return answers

    with ThreadPoolExecutor(16) as pool:
        published = [pool.submit(publish, who) for who in range(16)]
        if killed:
            wait_for(lambda: house.api.count("POST", "/publishes$") >= 4)
            house.kill_the_replica()
        answers = [answer for future in published for answer in future.result(2 * PATIENCE)]
    assert sorted(answer.revision.number for answer in answers) == list(range(1, 33))
    assert killed or all(answer.created for answer in answers)
    digests = {one.number: one.digest for one in house.client().log(path).revisions}
    assert digests == {answer.revision.number: answer.revision.digest for answer in answers}
    with psycopg.connect(house.database.replace("+psycopg", "")) as session:
        events = session.execute(_PUBLISHED, [f"{path}@%"]).fetchone()
    assert events == (32,)
    house.check_is_whole()


def test_a_replica_is_killed_in_an_upload(house: House) -> None:
    """The bytes that were sent stay sent, and the other replica publishes them."""
    folder = house.adapter("killed-upload", extra=PART + 4096)
    house.start_both()
    gate = Gate()
    house.store.faults.append(Fault("PUT", "partNumber=2", times=1, answer=gate))
    answer = background(lambda: house.client().publish(folder, "net/killed-upload"))
    gate.wait()
    house.kill_the_replica()
    gate.let_go()
    assert answer.result(PATIENCE).created
    assert [one.status for one in house.store.seen("PUT", "partNumber=1")] == [200]
    house.check_is_published(folder, "net/killed-upload")


@pytest.mark.long
def test_a_service_that_passes_the_bytes_on_is_killed_in_an_upload(house: House, start_service: StartService) -> None:
    """Clients that can't reach the store go on at the part that broke."""
    proxying = {**house.settings, "REGISTRY_PROXY_BLOBS": "1"}
    first, second = start_service(proxying), start_service(proxying)
    house.lead_to(first)
    folder = house.adapter("killed-passing", extra=PART + 4096)
    gate = Gate()
    house.store.faults.append(Fault("PUT", "partNumber=2", times=1, answer=gate))
    answer = background(lambda: house.client().publish(folder, "net/killed-passing"))
    gate.wait()
    wait_for(lambda: house.api.count("PUT", "/parts/1$", status=204) == 2)  # that of the weights too
    first.kill()
    house.lead_to(second)
    gate.let_go()
    assert answer.result(PATIENCE).created
    assert house.store.seen(target=OF_CLIENTS) == []
    assert house.api.count("PUT", "/parts/1$") == 2
    house.check_is_published(folder, "net/killed-passing")


JOIN, LIST = ("POST", "/blobs/.*uploadId="), ("PUT", "/blocks/")


@pytest.mark.long_on("joining", "real time")
@pytest.mark.parametrize(
    ("asked", "waits"), [(JOIN, False), (LIST, False), (LIST, True)], ids=["joining", "at once", "real time"]
)
def test_a_replica_is_killed_in_a_commit(house: House, asked: tuple[str, str], *, waits: bool) -> None:
    """The client goes on to wait, and another replica does what was begun; ``waits``: for the end of the lease."""
    name = f"killed-commit-{asked[0]}-{waits}".lower()
    folder = house.adapter(name, extra=LONG)
    house.start_both()
    gate = Gate()
    house.store.faults.append(Fault(*asked, times=1, answer=gate))
    answer = background(lambda: house.client().publish(folder, f"net/{name}"))
    gate.wait()
    wait_for(lambda: house.api.count("POST", "/publishes$", status=202) == 1)
    house.kill_the_replica()
    gate.let_go()
    house.check_is_absent(f"net/{name}")
    if not waits:
        house.let_time_pass()
    assert answer.result(3 * PATIENCE if waits else PATIENCE).revision.reference == f"net/{name}@1"
    house.check_is_published(folder, f"net/{name}")


@pytest.mark.long
def test_a_replica_is_killed_while_it_collects(house: House) -> None:
    """What it had not removed yet is removed by the next, and nothing that is needed is."""
    house.start_both()
    kept, gone = house.adapter("kept"), house.adapter("gone", extra=1000)
    house.client().publish(kept, "net/kept")
    house.client().publish(gone, "net/gone")
    house.client().delete("net/gone@1")
    gate = Gate()
    house.store.faults.append(Fault("DELETE", "/blobs/", times=1, answer=gate))
    collecting = ThreadPoolExecutor(1).submit(lambda: house.client().gc())
    gate.wait()
    wait_for(lambda: house.api.count("POST", "/gc$", status=202) == 1)
    house.kill_the_replica()
    gate.let_go()
    house.check_is_published(kept, "net/kept")
    house.let_time_pass()
    collecting.result(PATIENCE)
    house.check_is_published(kept, "net/kept")
    assert house.client().gc().blobs == ()
    assert house.client().fsck().orphans == 0
    assert house.client().publish(gone, "net/gone").revision.number == 2
    house.check_is_published(gone, "net/gone", (2,))
