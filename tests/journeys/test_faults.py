"""What fails under a team's registry, one thing at a time: what the user sees, what is left, and that it goes on.

After each fault the whole registry is checked byte by byte, and what was refused is done again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest

import registry
from registry.errors import IntegrityError, UnavailableError
from registry.schemas import Published
from tests.journeys.fault_house import OF_CLIENTS, PATIENCE, Gate, House, built, problem_of, wait_for
from tests.journeys.fault_wire import Cut, Moment
from tests.kit.servers_home import Home
from tests.kit.shim import Fault, flip_first_byte

PART = 16 << 20
LONG = 2 * PART + 4096  # more than a service commits while the client waits
MOMENTS: tuple[Moment, ...] = ("before", "in", "after")


@pytest.fixture(scope="module")
def shared_house(own_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with built(own_home, tmp_path_factory.mktemp("house")) as house:
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
    answers = {
        cut.moment: background(
            lambda cut=cut: house.client().publish(folders[cut.moment], f"net/wire-{cut.moment}", message=cut.text)
        )
        for cut in cuts
    }
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


@pytest.mark.parametrize("moment", [pytest.param("before", marks=pytest.mark.slow), "in", "after"])
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
    wait_for(lambda: any(one.status == 0 for one in house.store.seen("PUT", OF_CLIENTS)))
    house.s3.start()
    assert answer.result(PATIENCE).created
    house.check_is_published(folder, "net/waiting")


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
        assert str(house.place.url) in str(down.value)
    assert list(tmp_path.glob("*lora*")) + list(tmp_path.glob("*merged*")) == []
    house.check_is_absent("net/no-store")  # what needs no bytes is answered without the store
    house.s3.start()
    assert house.client().publish(folder, "net/no-store").created
    house.check_is_published(folder, "net/no-store")
    house.check_is_published(there, "net/there")


def test_a_store_that_is_busy_and_slow_is_waited_for(house: House, tmp_path: Path) -> None:
    busy = {"status": 503, "body": b"<Error><Code>SlowDown</Code></Error>"}
    house.store.faults += [
        Fault(times=4, **busy),  # type: ignore[arg-type]
        Fault("PUT", OF_CLIENTS, times=2, **busy),  # type: ignore[arg-type]
        Fault("PUT", "/blobs/", times=2, **busy),  # type: ignore[arg-type]
        Fault(times=6, delay=0.3),
    ]
    folder = house.adapter("busy")
    assert house.client().publish(folder, "net/busy").created
    assert all(fault.times == 0 for fault in house.store.faults[:3])
    house.store.faults += [Fault("GET", times=3, **busy)]  # type: ignore[arg-type]
    house.client().fetch("net/busy", tmp_path / "lora")
    house.check_is_published(folder, "net/busy")


def test_bodies_that_are_cut_are_read_on(house: House, tmp_path: Path) -> None:
    folder = house.adapter("cut", extra=300_000)
    own = r"/blobs/[^?]*$"  # what the service reads back and computes with
    house.store.faults += [Fault("GET", own, times=2, cut_answer=1000)]
    assert house.client().publish(folder, "net/cut").created
    sent = "response-content-disposition=.*notes.dat"
    house.store.forget()
    house.store.faults += [Fault("GET", sent, times=2, cut_answer=100_000), Fault("GET", own, times=1, cut_answer=10)]
    house.client().fetch("net/cut", tmp_path / "lora")
    house.check_is_published(folder, "net/cut")
    assert all(fault.times == 0 for fault in house.store.faults)
    assert sum(one.received for one in house.store.seen("GET", sent)) == 300_000  # nothing of it came twice


def test_wrong_bytes_of_the_right_length_are_not_published(house: House) -> None:
    folder = house.adapter("wrong-up", extra=1000)
    words = ("publish", str(folder), "net/wrong-up", "--json")
    house.store.faults.append(Fault("PUT", OF_CLIENTS, times=1, change_request=flip_first_byte))
    code, stderr = house.command(*words)
    assert (code, problem_of(stderr)[0]) == (6, "upload_mismatch")
    house.check_is_absent("net/wrong-up")
    house.check_is_whole()
    code, stderr = house.command(*words)
    assert code == 0, stderr
    house.check_is_published(folder, "net/wrong-up")


def test_a_copy_that_is_not_what_was_sent_is_not_published(house: House) -> None:
    """The service reads back what it will hand out: a store that copies badly is found before anybody relies on it."""
    folder = house.adapter("wrong-copy")
    house.store.faults.append(Fault("GET", r"/blobs/[^?]*$", change_answer=flip_first_byte))
    with pytest.raises(IntegrityError) as wrong:
        house.client().publish(folder, "net/wrong-copy")
    assert wrong.value.code in {"upload_mismatch", "corrupt"}
    house.store.faults.clear()
    house.check_is_absent("net/wrong-copy")
    assert house.client().publish(folder, "net/wrong-copy").created
    house.check_is_published(folder, "net/wrong-copy")


@pytest.mark.parametrize("kind", ["published", "lora", "merged"])
def test_wrong_bytes_from_the_store_are_not_handed_out(house: House, tmp_path: Path, kind: str) -> None:
    folder = house.adapter(f"wrong-{kind}", extra=1000)
    path = f"net/wrong-{kind}"
    house.client().publish(folder, path)
    house.store.faults.append(Fault("GET", "/blobs/", change_answer=flip_first_byte))
    code, stderr = house.command("fetch", path, "--as", kind, "-o", str(tmp_path / "out"), "--json")
    assert (code, problem_of(stderr)[0]) == (6, "corrupt"), stderr
    assert list(tmp_path.iterdir()) == []
    house.store.faults.clear()
    code, stderr = house.command("fetch", path, "--as", kind, "-o", str(tmp_path / "out"))
    assert code == 0, stderr
    house.check_is_published(folder, path)


def test_a_presigned_put_used_again_changes_nothing(house: House) -> None:
    folder = house.adapter("again", extra=1000)
    house.store.forget()
    assert house.client().publish(folder, "net/again").created
    signed = house.store.seen("PUT", OF_CLIENTS)
    assert len(signed) == 3
    for one in signed:
        stored = httpx.put(house.store.url + one.target, content=bytes(one.sent))
        assert stored.status_code == 200, "it still works"
    house.check_is_published(folder, "net/again")
    house.client().gc()
    house.check_is_published(folder, "net/again")


# The service


def test_a_replica_is_killed_in_an_upload(house: House) -> None:
    """The bytes that were sent stay sent, and the other replica publishes them."""
    folder = house.adapter("killed-upload", extra=PART + 4096)
    gate = Gate()
    house.store.faults.append(Fault("PUT", "partNumber=2", times=1, answer=gate))
    answer = background(lambda: house.client().publish(folder, "net/killed-upload"))
    gate.wait()
    house.replicas[0].kill()
    house.lead_to(1)
    gate.let_go()
    assert answer.result(PATIENCE).created
    assert [one.status for one in house.store.seen("PUT", "partNumber=1")] == [200]
    house.check_is_published(folder, "net/killed-upload")


@pytest.mark.parametrize("waits", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["at once", "real time"])
def test_a_replica_is_killed_in_a_commit(house: House, *, waits: bool) -> None:
    """The client goes on to wait, and another replica does what was begun; ``waits``: for the end of the lease."""
    name = f"killed-commit-{waits}".lower()
    folder = house.adapter(name, extra=LONG)
    gate = Gate()
    house.store.faults.append(Fault("PUT", "/blobs/", times=1, answer=gate))
    answer = background(lambda: house.client().publish(folder, f"net/{name}"))
    gate.wait()
    wait_for(lambda: any(one.status == 202 for one in house.api.seen("POST", "/publishes$")))
    house.replicas[0].kill()
    house.lead_to(1)
    gate.let_go()
    house.check_is_absent(f"net/{name}")
    if not waits:
        house.let_time_pass()
    assert answer.result(3 * PATIENCE).revision.reference == f"net/{name}@1"
    house.check_is_published(folder, f"net/{name}")


def test_a_replica_is_killed_while_it_collects(house: House) -> None:
    """What it had not removed yet is removed by the next, and nothing that is needed is."""
    kept, gone = house.adapter("kept"), house.adapter("gone", extra=1000)
    house.client().publish(kept, "net/kept")
    house.client().publish(gone, "net/gone")
    house.client().delete("net/gone@1")
    gate = Gate()
    house.store.faults.append(Fault("DELETE", "/blobs/", times=1, answer=gate))
    collecting = ThreadPoolExecutor(1).submit(lambda: house.client().gc())
    gate.wait()
    wait_for(lambda: any(one.status == 202 for one in house.api.seen("POST", "/gc$")))
    house.replicas[0].kill()
    house.lead_to(1)
    gate.let_go()
    house.check_is_published(kept, "net/kept")
    house.let_time_pass()
    collecting.result(PATIENCE)
    house.check_is_published(kept, "net/kept")
    assert house.client().gc().blobs == ()
    assert house.client().fsck().orphans == 0
    assert house.client().publish(gone, "net/gone").revision.number == 2
    house.check_is_published(gone, "net/gone", (2,))


def test_sixteen_publishers_at_two_replicas(house: House) -> None:
    """Numbers without gap or duplicate, and all that was acknowledged is there."""
    folders = [[house.adapter(f"crowd-{who}-{time}") for time in range(2)] for who in range(16)]
    ready = threading.Barrier(16)

    def publish(who: int) -> list[Published]:
        client = registry.connect(house.replicas[who % 2].url, house.token)
        ready.wait()
        answers = [client.publish(folder, "net/crowd") for folder in folders[who]]
        client.close()
        return answers

    with ThreadPoolExecutor(16) as pool:
        answers = [answer for mine in pool.map(publish, range(16)) for answer in mine]
    assert sorted(answer.revision.number for answer in answers) == list(range(1, 33))
    assert all(answer.created for answer in answers)
    digests = {one.number: one.digest for one in house.client().log("net/crowd").revisions}
    assert digests == {answer.revision.number: answer.revision.digest for answer in answers}
    with psycopg.connect(house.database.replace("+psycopg", "")) as session:
        events = session.execute("SELECT count(*) FROM events WHERE subject LIKE 'net/crowd@%'").fetchone()
    assert events == (32,)
    house.check_is_whole()
