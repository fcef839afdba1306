"""Following into a bucket of a real S3 server: a name leads to a revision all of whose objects are there, always."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from registry.errors import ConflictError, UnavailableError, UsageError
from registry.follow.asked import sink_of
from registry.follow.s3 import S3Sink
from registry.follow.sinks import Form
from registry.schemas.receipt import Receipt
from registry.services.local import LocalRegistry
from registry.storage.s3.bucket import Bucket
from tests.follow.conftest import Following
from tests.kit.servers import S3Place, S3Server

NAMES = ("net/top@prod", "net/other@prod")


class KilledError(BaseException):
    """Ends a follower as a kill does: nothing of ours catches it."""


class Place:
    """A prefix of a bucket, as its readers see it, and followers into it, each with the clock of the test."""

    def __init__(self, store: S3Place, registry: LocalRegistry) -> None:
        self.url = f"{store.bucket}/{store.prefix}/adapters"
        self.registry, self.clock = registry, 1e9
        self.bucket = Bucket(f"s3://{self.url}")

    def follower(self, names: tuple[str, ...] = NAMES, **options: Any) -> Following:
        sink = S3Sink(self.url, lambda: self.clock)
        return Following(self.registry, Path(), names, options, clock=self.clock, into=sink)

    def read(self, key: str) -> bytes:
        return bytes(self.bucket.client.get_object(**self.bucket.at(key))["Body"].read())

    def objects(self) -> set[str]:
        return {one.key for one in self.bucket.objects("")}

    def leads(self) -> dict[str, str]:
        """Each name with the revision of its folder, all of whose objects have the digests of the receipt."""
        found = {}
        for key in self.objects():
            if key.startswith("names/") and "mine" not in key:
                said = json.loads(self.read(key))
                receipt = Receipt.model_validate_json(self.read(f"{said['folder']}/registry-receipt.json"))
                assert receipt.reference == said["reference"]
                for file in receipt.files:
                    assert blake3(self.read(f"{said['folder']}/{file.path}")).hexdigest() == file.blake3
                found[key.removeprefix("names/")] = receipt.reference
        return found


@pytest.fixture
def place(s3_store: S3Place, registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in s3_store.environ.items():
        monkeypatch.setenv(name, value)
    return Place(s3_store, registry)


def test_objects_come_first_and_the_name_last(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[str] = []
    put = Bucket.put

    def recorded(self: Bucket, key: str, body: Any, length: int) -> None:
        written.append(key)
        put(self, key, body, length)

    monkeypatch.setattr(Bucket, "put", recorded)
    follower = place.follower(("net/top/one@prod",))
    assert follower.round() == ["brought net/top/one@prod", "switched net/top/one@prod"]
    assert place.leads() == {"net--top--one@prod": "net/top/one@1"}
    folder = "net--top--one@1"
    assert written[:2] == ["follower", f"unused/{folder}"]
    assert {key.partition("/")[0] for key in written[2:-2]} == {folder}
    assert written[-2:] == [f"{folder}/registry-receipt.json", "names/net--top--one@prod"]
    fetched = Path(place.registry.fetch("net/top/one@1", tmp_path / "fetched").folder)
    weights = "adapter_model.safetensors"
    assert place.read(f"{folder}/{weights}") == (fetched / weights).read_bytes()
    assert place.objects() == set(written) - {"follower", f"unused/{folder}"}
    written.clear()
    assert follower.round() == []
    assert place.follower(("net/top/one@prod",)).round() == []  # started anew, it compares, and sends nothing
    assert set(written) == {"follower"}


def test_a_moved_tag_leads_elsewhere_and_the_old_objects_go_after_a_while(place: Place) -> None:
    follower = place.follower()
    follower.round()
    place.registry.tag("net/top@2", "prod")
    assert follower.round() == ["brought net/top@prod", "switched net/top@prod"]
    assert place.leads() == {"net--top@prod": "net/top@2", "net--other@prod": "net/other@1"}
    follower.clock += 61
    assert follower.round() == []
    follower.clock += 500
    place.clock += 561
    again = place.follower()
    assert again.round() == []
    assert "net--top@1/adapter_config.json" in place.objects()
    again.clock += 101
    assert again.round() == ["removed net/top@1"]
    assert not [key for key in place.objects() if "net--top@1" in key]
    place.registry.retract("net/top@2", reason="leaks")
    place.registry.untag("net/other", "prod")
    assert again.round() == ["dropped net/top@prod", "dropped net/other@prod"]
    assert place.leads() == {}


def test_a_follower_that_ends_at_any_request_leaves_every_name_at_whole_objects(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, at = 0, 0

    def counted(method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                raise KilledError
            method(*arguments)

        return call

    monkeypatch.setattr(Bucket, "put", counted(Bucket.put))
    monkeypatch.setattr(Bucket, "delete", counted(Bucket.delete))
    place.follower().round()
    steps = 0
    while True:
        steps += 1
        place.registry.tag(f"net/top@{1 + steps % 2}", "prod")
        place.clock += 100  # the lease of who was killed is over, and what was left is old
        seen, at = 0, steps
        killed = False
        try:
            place.follower(keep_for=0.0).round()
        except KilledError:
            killed = True
        at = 0
        assert place.leads().keys() == {"net--top@prod", "net--other@prod"}, steps
        place.clock += 100
        for _ in range(2):  # the second one removes what the first one marked
            place.follower(keep_for=0.0).round()
        assert place.leads() == {"net--top@prod": f"net/top@{1 + steps % 2}", "net--other@prod": "net/other@1"}, steps
        folders = {key.partition("/")[0] for key in place.objects()}
        assert folders == {"names", f"net--top@{1 + steps % 2}", "net--other@1"}, steps
        if not killed:
            break
    assert steps > 8


def test_a_second_follower_is_refused_until_the_lease_is_over(place: Place) -> None:
    one, two = place.follower(), place.follower()
    with one.sink.opened():
        one.follower.round()
        with pytest.raises(ConflictError, match="Another `registry follow`"), two.sink.opened():
            pass
        place.clock += 59  # it renews its lease in its rounds
        one.follower.round()
        place.clock += 59
        with pytest.raises(ConflictError), two.sink.opened():
            pass
        place.clock += 2  # it made no round for a minute
        with two.sink.opened():
            two.follower.round()
            with pytest.raises(ConflictError):
                one.follower.round()
            place.clock += 40
            two.follower.round()
    assert place.follower().round() == []


def test_a_folder_of_another_form_or_of_somebody_else_is_refused_and_stays(place: Place) -> None:
    place.bucket.put("net--other@1/registry-receipt.json", b"{}", 2)
    place.bucket.put("notes.txt", b"mine", 4)
    place.bucket.put("mine@2/notes.txt", b"mine", 4)
    place.bucket.put("names/mine.json", b"{}", 2)
    place.bucket.put("names/mine.txt", b"mine", 4)
    place.bucket.put("unused/mine@2", b"mine", 4)
    follower = place.follower(keep_for=0.0)
    assert follower.round() == ["brought net/top@prod", "switched net/top@prod", "failed net/other@prod"]
    assert [problem.code for problem in follower.problems] == ["folder_taken"]
    place.clock += 100
    other = place.follower(("net/top@prod",), form=Form("vllm", max_lora_rank=1, max_error=0.99))
    other.round()
    assert [problem.code for problem in other.problems] == ["folder_taken"]
    assert place.leads() == {"net--top@prod": "net/top@1"}
    assert place.read("net--other@1/registry-receipt.json") == b"{}"
    assert {"notes.txt", "mine@2/notes.txt", "names/mine.json", "names/mine.txt"} <= place.objects()
    place.bucket.put("follower", b"mine", 4)
    with pytest.raises(ConflictError, match="is not of a follower"):
        place.follower().round()
    assert place.read("follower") == b"mine"


def test_a_store_that_is_away_changes_nothing_and_is_a_sentence(
    private_s3: S3Server, registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = private_s3.place()
    for name, value in store.environ.items():
        monkeypatch.setenv(name, value)
    place = Place(store, registry)
    follower = place.follower()
    follower.round()
    registry.tag("net/top@2", "prod")
    private_s3.stop()
    with pytest.raises(UnavailableError, match=store.bucket):
        follower.follower.round()
    private_s3.start()
    follower.clock += 10
    assert follower.round() == ["brought net/top@prod", "switched net/top@prod"]


def test_a_place_that_is_no_bucket_is_a_sentence() -> None:
    for wrong, said in (
        *(("s3=", "s3=BUCKET/PREFIX, vllm=URL"), ("s3=Up/x", "lower-case"), ("s3=//x", "lower-case")),
        *(("s3=s3://models/a", "--to s3=models/a"), ("s3://models/a", "--to s3=models/a")),
    ):
        with pytest.raises(UsageError, match=said):
            sink_of(wrong)
