"""What requests share: plans, factors and pieces are made once, however many ask and in whatever ranges."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import pytest

from registry.errors import UnavailableError
from registry.services.artifacts import build as artifacts
from registry.tensors.artifacts.artifact import Artifact, Buffer
from registry.tensors.artifacts.merged import RoundedSlot
from registry.tensors.path.slot_values import SlotValues
from tests.kit.library import Library, assert_problem

MERGED = {"ref": "tiny/a/x@1", "kind": "merged"}


@pytest.fixture
def weights(admin: httpx.Client) -> str:
    """The address of a merged weight file."""
    plan = admin.get("/artifacts", params=MERGED).json()
    (path,) = [file["path"] for file in plan["files"] if file["path"].endswith(".safetensors")]
    return f"/artifacts/{plan['rendering'][7:]}/{path}"


def count(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> list[Any]:
    """The calls of a method from now on."""
    calls: list[Any] = []
    method = getattr(kind, name)

    def counted(self: Any, *args: Any) -> Any:
        calls.append((self, *args))
        return method(self, *args)

    monkeypatch.setattr(kind, name, counted)
    return calls


def test_ranges_of_one_file_are_planned_once(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    build = artifacts.build_artifact

    def counted(*args: Any) -> Artifact:
        planned.append(args)
        return build(*args)

    monkeypatch.setattr("registry.services.artifacts.opened.build_artifact", counted)
    asked = {"ref": "tiny/a@1", "kind": "lora", "rank": "1", "dtype": "fp16"}
    plan = admin.get("/artifacts", params=asked).json()
    address = f"/artifacts/{plan['rendering'][7:]}/adapter_model.safetensors"
    for start in range(0, 100, 10):
        answer = admin.get(address, params=asked, headers={"Range": f"bytes={start}-{start + 9}"})
        assert answer.status_code == 206
    by_tag = {**asked, "ref": "tiny/a@prod"}  # the same revision
    assert admin.get(address, params=by_tag).status_code == 200
    assert len(planned) == 1


def test_a_truncation_that_waits_too_long_is_told_so(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Artifact:
        raise UnavailableError("The service has too many truncations in progress: try again in a moment.", code="busy")

    monkeypatch.setattr("registry.http.artifacts.open_asked", never)
    for _ in range(2):
        assert_problem(admin.get("/artifacts", params={"ref": "tiny/a@2", "rank": "2"}), 503, "busy")


def test_factors_are_made_once_for_all_ranges(
    admin: httpx.Client, library: Library, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count(monkeypatch, SlotValues, "_factors")
    with library.registry.artifact("tiny/a/x@1", kind="merged") as artifact:
        data = artifact.file(weights.rpartition("/")[2]).read()
    alone = len(made)
    assert alone > 0
    made.clear()
    service: Any = admin.get(weights, params=MERGED)
    assert service.content == data
    assert len(made) <= alone  # another test may have asked for it before
    made.clear()
    for start in range(0, len(data), len(data) // 7):
        answer = admin.get(weights, params=MERGED, headers={"Range": f"bytes={start}-{start + 99}"})
        assert answer.content == data[start : start + 100]
    assert made == []


def test_equal_requests_at_once_compute_once(
    admin: httpx.Client, service: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, begun, made = threading.Event(), threading.Semaphore(0), []
    block_bytes = RoundedSlot.block_bytes

    def slowly(self: RoundedSlot, index: int) -> Buffer:
        made.append((self.values.slot, index))
        begun.release()
        assert go_on.wait(120)
        return block_bytes(self, index)

    monkeypatch.setattr(RoundedSlot, "block_bytes", slowly)
    wanted = {**MERGED, "dtype": "fp16"}  # planned anew, by nobody else
    plan = admin.get("/artifacts", params=wanted).json()
    address = f"/artifacts/{plan['rendering'][7:]}/{weights.rpartition('/')[2]}"
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: answers.append(admin.get(address, params=wanted).content)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert begun.acquire(timeout=120)
    deadline = time.monotonic() + 120
    while cache_lines(service)['registry_cache_hits_total{kind="piece"}'] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert len(set(answers)) == 1
    assert sorted(map(str, made)) == sorted(set(map(str, made)))


def cache_lines(service: str) -> dict[str, float]:
    text = httpx.get(f"{service}/metrics").text
    return {
        name: float(value)
        for name, _, value in (line.partition(" ") for line in text.splitlines())
        if name.startswith("registry_cache_")
    }


def test_the_metrics_say_what_was_found_in_memory(admin: httpx.Client, service: str, weights: str) -> None:
    before = cache_lines(service)
    assert {name.partition("{")[0] for name in before} == {
        "registry_cache_hits_total",
        "registry_cache_misses_total",
        "registry_cache_bytes",
        "registry_cache_entries",
    }
    assert {name.partition("kind=")[2] for name in before} == {'"plan"}', '"factors"}', '"rows"}', '"piece"}'}
    admin.head(weights, params=MERGED)
    after = cache_lines(service)
    assert after['registry_cache_hits_total{kind="plan"}'] == before['registry_cache_hits_total{kind="plan"}'] + 1
    assert after['registry_cache_entries{kind="plan"}'] >= 1
    assert after['registry_cache_bytes{kind="plan"}'] > 0
