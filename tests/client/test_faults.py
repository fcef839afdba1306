"""Networks and stores that fail: what a client goes on with, what it refuses, and what travels again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from registry.client import download
from registry.client.errors import RetryPolicy
from registry.client.publish import plan_publish
from registry.client.remote import RemoteRegistry
from registry.client.transport import Transport
from registry.errors import IntegrityError, NotAllowedError, UnavailableError
from registry.folders.staging import FetchCache
from registry.schemas.transfer import PublishPlan, PublishRequest
from registry.services.local import LocalRegistry
from registry.storage.s3 import S3Driver
from tests.client.conftest import MakeTeam, Team
from tests.kit import plain_base, write_adapter
from tests.kit.servers import S3Place
from tests.kit.serving import QUICK
from tests.kit.shim import Asked, Fault, Shim, flip_first_byte
from tests.root import ROOT

PART = 16 << 20
BIG = 2 * PART + 12345
GIVES_UP = RetryPolicy(known=0.0, unknown=0.0)


@dataclass(frozen=True)
class Place:
    """A service, and what stands between it and its clients."""

    team: Team
    api: Shim
    store: Shim | None
    adapter: Path  # 32 MiB and a bit in one file, beside PEFT's two

    @property
    def bytes(self) -> Shim:
        """Where the bytes go."""
        return self.store or self.api

    @property
    def part(self) -> str:
        """What the target of a part looks like."""
        return "partNumber=" if self.store else "/parts/"

    @property
    def file(self) -> str:
        """What the target of the big file's bytes looks like."""
        return "response-content-disposition=.*notes.dat" if self.store else "/artifacts/.*notes.dat"

    def client(self, name: str, retry: RetryPolicy = QUICK, token: str | None = None) -> RemoteRegistry:
        return RemoteRegistry(self.api.url, token, cache=FetchCache(self.team.folder / name), retry=retry)


@pytest.fixture(params=[pytest.param("through the service", marks=pytest.mark.slow), "presigned"])
def place(
    request: pytest.FixtureRequest, make_team: MakeTeam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    with ExitStack() as stack:
        store = None
        if request.param == "presigned":
            s3: S3Place = request.getfixturevalue("s3_store")
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                monkeypatch.delenv(name)
            for name, value in s3.environ.items():
                monkeypatch.setenv(name, value)
            store = stack.enter_context(Shim(s3.endpoint))
            driver = S3Driver(s3.url, public_url=store.url)
            local = LocalRegistry.of(request.getfixturevalue("postgres_migrated_url"), driver)
        else:
            local = LocalRegistry.open(tmp_path / "registry")
        team = make_team(local)
        base = plain_base(tmp_path / "base", {"a.weight": (24, 16)})
        local.add_base("net", base.folder)
        adapter = write_adapter(tmp_path / "adapter", base, ["a"], r=2)
        (adapter / "notes.dat").write_bytes(os.urandom(BIG))
        yield Place(team, stack.enter_context(Shim(team.url)), store, adapter)


PRESIGNED = pytest.mark.parametrize("place", ["presigned"], indirect=True)


def bystander(place: Place, what: str, folder: Path, reference: str) -> subprocess.Popen[bytes]:
    words = [
        sys.executable,
        "-m",
        "tests.client.bystander",
        what,
        place.api.url,
        folder,
        reference,
        folder.parent / "c",
    ]
    return subprocess.Popen([str(word) for word in words], cwd=ROOT)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503, headers={"Retry-After": "0"}, body=b"<html>busy</html>"),
        Fault(cut_request=1 << 20),
        Fault(lose_answer=True),
    ],
    ids=["503", "cut", "answer lost"],
)
@pytest.mark.slow_on("cut", "answer lost")
def test_a_part_that_fails_is_sent_again(place: Place, fault: Fault, tmp_path: Path) -> None:
    fault.method, fault.target, fault.times = "PUT", place.part, 2
    place.bytes.faults.append(fault)
    client = place.client("client")
    answer = client.publish(place.adapter, "net/one")
    client.close()
    assert answer.created
    parts = [one.status for one in place.bytes.seen("PUT", place.part)]
    assert len(parts) == (3 if place.store else 5) + 2
    team = place.team.local.fetch("net/one", tmp_path / "out", kind="published")
    for file in team.files:
        assert (tmp_path / "out" / file.path).read_bytes() == (place.adapter / file.path).read_bytes()


@PRESIGNED
@pytest.mark.parametrize("target", ["partNumber=", pytest.param("/staging/[0-9a-f]+[?]X-Amz", marks=pytest.mark.slow)])
def test_what_the_store_acknowledged_and_lost_is_sent_again(place: Place, target: str) -> None:
    """A part of many, or an upload of one part: nobody has to run anything again."""
    assert place.store is not None
    place.store.faults.append(Fault(method="PUT", target=target, times=1, status=200, headers={"ETag": '"lost"'}))
    client = place.client("client")
    assert client.publish(place.adapter, "net/one").created
    client.close()
    assert place.store.faults[0].times == 0
    assert place.team.local.fsck(deep=True).damage == ()


@PRESIGNED
def test_urls_that_expired_are_made_anew(place: Place, tmp_path: Path) -> None:
    assert place.store is not None
    place.bytes.faults += [Fault(method=method, status=403, times=2) for method in ("PUT", "GET")]
    client = place.client("client")
    client.publish(place.adapter, "net/one")
    client.fetch("net/one", tmp_path / "out", kind="published")
    client.close()
    assert (tmp_path / "out/notes.dat").read_bytes() == (place.adapter / "notes.dat").read_bytes()
    assert len(place.api.seen("GET", "/api/v1/uploads/")) == 2


@PRESIGNED
def test_with_a_store_no_byte_of_a_file_goes_through_the_service(place: Place, tmp_path: Path) -> None:
    client = place.client("client")
    client.publish(place.adapter, "net/one")
    client.fetch("net/one", tmp_path / "out", kind="published")
    client.close()
    assert place.api.seen("PUT") == []
    assert sum(one.received for one in place.api.seen()) < 100_000
    assert sum(one.sent for one in place.api.seen()) < 100_000


@pytest.mark.slow
def test_an_upload_that_was_killed_goes_on_where_it_was(place: Place, tmp_path: Path) -> None:
    last = "partNumber=3" if place.store else "/parts/3"
    place.bytes.faults.append(Fault(method="PUT", target=last, status=503))
    killed = bystander(place, "publish", place.adapter, "net/one")
    wait_for(lambda: len([one for one in place.bytes.seen("PUT") if one.status < 300 and one.sent == PART]) == 2)
    killed.kill()
    killed.wait()
    place.bytes.faults.clear()
    place.bytes.seen()  # what was under way has ended
    place.bytes.forget()
    client = place.client("client")
    assert client.publish(place.adapter, "net/one").created
    client.close()
    assert sum(one.sent for one in place.bytes.seen("PUT")) < PART
    place.team.local.fetch("net/one", tmp_path / "out", kind="published")
    assert (tmp_path / "out/notes.dat").read_bytes() == (place.adapter / "notes.dat").read_bytes()


@pytest.mark.parametrize("cut", [pytest.param(0, marks=pytest.mark.slow), 100_001])
def test_a_download_goes_on_at_the_byte_where_it_broke(place: Place, cut: int, tmp_path: Path) -> None:
    place.team.local.publish(place.adapter, "net/one")
    place.bytes.faults.append(Fault(method="GET", target=place.file, times=3, cut_answer=cut))
    client = place.client("client")
    client.fetch("net/one", tmp_path / "out", kind="published")
    client.close()
    assert (tmp_path / "out/notes.dat").read_bytes() == (place.adapter / "notes.dat").read_bytes()
    assert sum(one.received for one in place.bytes.seen("GET", place.file)) == BIG  # nothing came twice


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PIECE", 1 << 20)


@pytest.mark.long_on("through the service")
@pytest.mark.slow
@pytest.mark.usefixtures("small_pieces")
def test_a_download_that_was_killed_goes_on_where_it_was(place: Place, tmp_path: Path) -> None:
    place.team.local.publish(place.adapter, "net/one")
    place.bytes.faults += [
        Fault(method="GET", target=place.file, times=6),
        Fault(method="GET", target=place.file, delay=3),  # none of these comes before it is killed
    ]
    killed = bystander(place, "fetch", tmp_path / "out", "net/one")
    staged = partial(tmp_path.glob, ".out.fetch-*/notes.dat")
    wait_for(lambda: any(file.stat().st_size >= 4 << 20 for file in staged()))
    killed.kill()
    killed.wait()
    assert not (tmp_path / "out").exists()
    (left,) = staged()
    assert left.stat().st_size < BIG, "it was killed too late to show anything"
    place.bytes.faults.clear()
    place.bytes.seen()  # what was under way has ended
    place.bytes.forget()
    client = place.client("c")
    assert client.fetch("net/one", tmp_path / "out", kind="published").fresh
    client.close()
    assert (tmp_path / "out/notes.dat").read_bytes() == (place.adapter / "notes.dat").read_bytes()
    assert sum(one.received for one in place.bytes.seen("GET", place.file)) <= BIG - (4 << 20)
    assert [path.name for path in tmp_path.iterdir() if ".fetch-" in path.name] == []
    assert list((tmp_path / "c").glob(".download-*")) == []


@pytest.mark.slow
@pytest.mark.usefixtures("small_pieces")
def test_what_an_interrupted_download_wrote_is_taken_only_where_it_is_right(place: Place, tmp_path: Path) -> None:
    place.team.local.publish(place.adapter, "net/one")
    place.bytes.faults += [
        Fault(method="GET", target=place.file, times=14),
        Fault(method="GET", target=place.file, status=503),
    ]
    impatient = place.client("c", GIVES_UP)
    with pytest.raises(UnavailableError):
        impatient.fetch("net/one", tmp_path / "out", kind="published")
    impatient.close()
    (left,) = tmp_path.glob(".out.fetch-*/notes.dat")
    kept = left.stat().st_size
    assert kept >= 2 << 20
    with left.open("r+b") as stream:  # as after a loss of power
        stream.seek(17)
        stream.write(b"\0\0\0\0\0\0\0\0")
    place.bytes.faults.clear()
    place.bytes.seen()  # what was under way has ended
    place.bytes.forget()
    client = place.client("c")
    client.fetch("net/one", tmp_path / "out", kind="published")
    client.close()
    assert (tmp_path / "out/notes.dat").read_bytes() == (place.adapter / "notes.dat").read_bytes()
    assert sum(one.received for one in place.bytes.seen("GET", place.file)) == BIG - kept + (1 << 20)


@pytest.mark.slow
def test_wrong_bytes_of_the_right_length_are_not_handed_out(place: Place, tmp_path: Path) -> None:
    place.team.local.publish(place.adapter, "net/one")
    wrong_once = Fault(method="GET", target=place.file, times=1, change_answer=flip_first_byte)
    place.bytes.faults.append(wrong_once)
    client = place.client("client")
    assert client.fetch("net/one", tmp_path / "once", kind="published").fresh
    assert wrong_once.times == 0
    place.bytes.faults[:] = [Fault(method="GET", target=place.file, change_answer=flip_first_byte)]
    with pytest.raises(IntegrityError, match=r"notes\.dat") as wrong:
        client.fetch("net/one", tmp_path / "out", kind="published")
    assert wrong.value.code == "corrupt"
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
    place.bytes.faults.clear()
    assert client.fetch("net/one", tmp_path / "out", kind="published").fresh
    client.close()


def test_wrong_bytes_on_the_way_up_are_not_published(place: Place) -> None:
    change = Fault(method="PUT", target=place.part, times=1, change_request=flip_first_byte)
    place.bytes.faults.append(change)
    client = place.client("client")
    with pytest.raises(IntegrityError) as wrong:
        client.publish(place.adapter, "net/one")
    assert wrong.value.code == "upload_mismatch"
    assert client.search().revisions == ()
    client.close()


def test_a_file_that_changes_meanwhile_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(transport: Transport, request: PublishRequest) -> PublishPlan:
        answer = plan_publish(transport, request)
        (place.adapter / "notes.dat").write_bytes(os.urandom(BIG))
        return answer

    monkeypatch.setattr("registry.client.publish.plan_publish", plan)
    client = place.client("client")
    with pytest.raises(IntegrityError, match=r"notes\.dat was changed while it was read"):
        client.publish(place.adapter, "net/one")
    assert place.bytes.seen("PUT", place.part) == []
    client.close()


def test_the_token_is_shown_to_the_service_alone(place: Place, tmp_path: Path) -> None:
    """A store gets what the presigned URL says, and no header of ours."""
    secret = place.team.local.create_token("admin").secret
    refused = place.client("nobody")
    with pytest.raises(NotAllowedError) as needs:
        refused.tree()
    assert needs.value.code == "bad_token"
    refused.close()
    shown: list[str | None] = []

    def answer(asked: Asked) -> tuple[int, bytes]:
        shown.append(asked.headers.get("authorization"))
        return 503, b""

    for shim in {place.api, place.bytes}:
        for method in ("PUT", "GET"):
            target = place.part if method == "PUT" else place.file
            shim.faults.append(Fault(method=method, target=target, times=1, answer=answer))
    client = place.client("client", token=secret)
    client.publish(place.adapter, "net/one")
    client.fetch("net/one", tmp_path / "out", kind="published")
    client.close()
    if place.store is None:
        assert set(shown) == {f"Bearer {secret}"}
    else:
        assert shown[0] is None
        assert all(secret not in one.target for one in place.store.seen())
    assert all(secret not in one.target for one in place.api.seen())
