"""Artifacts that are kept open: planned once, closed when nobody reads them and others need the room."""

from __future__ import annotations

import threading
from typing import Any, cast

import httpx
import pytest

from registry.errors import IntegrityError, UnavailableError
from registry.http.shelf import ArtifactShelf
from registry.services import artifacts
from registry.tensors.artifacts.artifact import Artifact
from tests.api.conftest import assert_problem


class Opened:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def make(opened: Opened) -> Artifact:
    return cast("Artifact", opened)


def test_it_is_made_once_however_many_ask() -> None:
    shelf, made, begun, go_on = ArtifactShelf(2), [], threading.Event(), threading.Event()

    def slowly() -> Artifact:
        made.append(Opened())
        begun.set()
        assert go_on.wait(30)
        return make(made[-1])

    loans: list[Any] = []
    threads = [threading.Thread(target=lambda: loans.append(shelf.borrow("key", slowly))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert {id(loan.artifact) for loan in loans} == {id(made[0])}
    shelf.close()
    for loan in loans:
        assert made[0].closed == 0
        loan.close()
        loan.close()
    assert made[0].closed == 1


def test_the_longest_unread_goes_first_and_what_is_read_stays() -> None:
    shelf, opened = ArtifactShelf(2), [Opened() for _ in range(5)]
    loans = [shelf.borrow("0", lambda: make(opened[0]))]
    for n in range(1, 5):
        shelf.borrow(str(n), lambda n=n: make(opened[n])).close()  # type: ignore[misc]
    assert opened[0].closed == 0
    assert sum(one.closed for one in opened) == 2
    assert shelf.borrow("0", lambda: make(Opened())).artifact is make(opened[0])
    loans[0].close()


def test_what_could_not_be_made_is_tried_again() -> None:
    shelf = ArtifactShelf(2)

    def fails() -> Artifact:
        raise IntegrityError("It is damaged.")

    for _ in range(2):
        with pytest.raises(IntegrityError):
            shelf.borrow("key", fails)
    opened = Opened()
    shelf.borrow("key", lambda: make(opened)).close()
    shelf.close()
    assert opened.closed == 1


def test_ranges_of_one_file_are_planned_once(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    build = artifacts.build_artifact

    def counted(*args: Any) -> Artifact:
        planned.append(args)
        return build(*args)

    monkeypatch.setattr("registry.services.handing_out.build_artifact", counted)
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
        raise UnavailableError("The service has too many truncations under way: try again in a moment.", code="busy")

    monkeypatch.setattr("registry.http.artifacts.open_asked", never)
    for _ in range(2):
        assert_problem(admin.get("/artifacts", params={"ref": "tiny/a@2", "rank": "2"}), 503, "busy")
