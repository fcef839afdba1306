"""Followers over HTTP: what each token sees and reports, bounds of what is kept, and who asks an older service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import delete

from registry.catalogue.database.team_tables import FollowerRecord
from registry.client.remote import RemoteRegistry
from registry.folders.staging import FetchCache
from registry.follow.reporting import Reporter, of_name
from registry.operations import table
from registry.schemas.protocol import API
from registry.schemas.running import MAX_NAMES, MAX_SENTENCE, MAX_WHERE
from tests.kit.library import Library

ROUTE: Final = "/running"
ID: Final = "0123456789abcdef" * 2


def body(*names: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": ID, "kind": "vllm", "name": "vllm=http://10.0.0.7:8000", "names": names, **more}


@pytest.fixture
def ask(service: str, library: Library) -> Any:
    def do(who: str, given: Mapping[str, Any] | None = None, **params: str) -> httpx.Response:
        method = "GET" if given is None else "POST"
        headers = library.headers(who)
        return httpx.request(method, service + API + ROUTE, headers=headers, params=params, json=given, timeout=120)

    return do


@pytest.fixture(autouse=True)
def forgotten(library: Library) -> Iterator[None]:
    yield
    library.registry.deployment.database.change(lambda session: session.execute(delete(FollowerRecord)))


def seen(ask: Any, who: str, **params: str) -> list[tuple[str, str]]:
    answer = ask(who, **params)
    assert answer.status_code == 200, answer.text
    return [(one["follower"]["name"], one["name"]) for one in answer.json()["items"]]


def test_a_reader_reports_its_own_and_nothing_outside_of_its_scopes(ask: Any) -> None:
    names = ["tiny/a@prod", "tiny/a/x", "tiny/b@prod", "tiny/b/y", "tiny/nothing", "other/c", "tiny/ab@prod"]
    answer = ask("reader of a", body(*({"name": name, "serves": 1} for name in names)))
    assert answer.status_code == 200
    assert answer.json() == {"lease": 30.0, "again": 10.0, "left_out": names[2:]}, "existing or not, all the same"
    mine = [("vllm=http://10.0.0.7:8000", name) for name in names[:2]]
    assert seen(ask, "reader of a") == seen(ask, "admin") == mine
    assert ask("admin", body(gone=True)).status_code == 200  # of the same id, and another token's
    assert seen(ask, "admin") == mine


def test_what_others_report_outside_of_the_scopes_is_not_there(ask: Any) -> None:
    """Nor how many names a follower has, nor a follower with none of them, by any question."""
    both = ["tiny/a@prod", "tiny/b@prod", "tiny/b/y", "other/c@prod"]
    assert ask("admin", body(*({"name": name, "serves": 1, "error": "tiny/b is broken"} for name in both[1:]))).json()
    unseen = {ref: ask("reader of a", ref=ref) for ref in ("tiny/b", "tiny/b@prod", "other/c", "tiny/nothing")}
    assert {one.status_code for one in unseen.values()} == {404}
    assert seen(ask, "reader of a") == []
    ask("admin", body(*({"name": name, "serves": 1} for name in both)))
    for params in ({}, {"ref": "tiny"}, {"ref": "tiny/a"}, {"ref": "tiny/a@prod"}, {"ref": "tiny/a@1"}):
        answer = ask("reader of a", **params)
        assert [one["name"] for one in answer.json()["items"]] == ["tiny/a@prod"]
        assert not any(hidden in answer.text for hidden in ("tiny/b", "other"))
    assert len(seen(ask, "reader")) == 4
    for state in ("in_place", "behind", "failed", "lost", "unserved"):
        assert not any(hidden in ask("reader of a", state=state).text for hidden in ("tiny/b", "other"))
    assert ask("nobody").status_code == ask("nobody", body()).status_code == 401


def test_pages_go_on_where_they_ended(ask: Any) -> None:
    for number in range(5):
        ask(
            "admin", body({"name": "tiny/a@prod"}, {"name": "tiny/a/x"}) | {"id": f"{number:032x}", "name": str(number)}
        )
    ask("admin", body() | {"id": f"{7:032x}", "name": "idle"})
    whole = ask("admin").json()
    assert (len(whole["items"]), whole["next"]) == (11, None)
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = ask("admin", limit="2", **cursor).json()
        found += page["items"]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert found == whole["items"]
    assert ask("admin", cursor="nonsense").status_code == 422


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "short"},
        {"id": "A" * 32},
        {"kind": "Big Kind"},
        {"kind": "x" * 33},
        {"name": ""},
        {"name": "x" * (MAX_WHERE + 1)},
        {"version": "x" * 65},
        {"host": "unknown"},
        {"names": [{"name": f"tiny/a@{number + 1}"} for number in range(MAX_NAMES + 1)]},
        {"names": [{"name": "tiny/a", "error": "x" * (MAX_SENTENCE + 1)}]},
        {"names": [{"name": "tiny/a", "error": ""}]},
        {"names": [{"name": "tiny/a", "code": "Not A Code"}]},
        {"names": [{"name": "tiny/a", "serves": 0}]},
        {"names": [{"name": "tiny/a", "serves": 1 << 63}]},
        {"names": [{"name": "tiny/a", "serves": True}]},
        {"names": [{"name": "tiny/a", "since": "2026-03-04T05:06:07Z"}]},
        {"seen_at": "2026-03-04T05:06:07Z"},
    ],
)
def test_what_is_too_much_or_not_known_is_refused(ask: Any, wrong: dict[str, Any]) -> None:
    answer = ask("admin", body() | wrong)
    assert (answer.status_code, answer.json()["code"]) == (422, "usage")
    assert seen(ask, "admin") == []


def test_as_many_names_as_there_may_be_with_the_longest_errors_come_in_and_out(ask: Any) -> None:
    names = [{"name": f"tiny/a@t{number}", "error": "\u00fc" * MAX_SENTENCE} for number in range(MAX_NAMES)]
    assert ask("admin", body(*names)).status_code == 200
    first = ask("admin", limit="500").json()
    rest = ask("admin", limit="500", cursor=first["next"]).json()
    assert (len(first["items"]) + len(rest["items"]), rest["next"]) == (MAX_NAMES, None)


def test_a_reporter_of_an_older_service_warns_once_and_goes_on(
    service: str, library: Library, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = RemoteRegistry(service, library.secrets["reader"], cache=FetchCache(tmp_path))
    reporter = Reporter(client, "folder", "folder=/models")
    reporter.update([of_name("tiny/a@prod", serves=1)])
    assert [one.name for one in client.running()] == ["tiny/a@prod"]
    reporter.close()
    assert client.running() == ()
    monkeypatch.setattr(table, "REPORT", replace(table.REPORT, address="/no-such-address"))
    older = Reporter(client, "folder", "folder=/models")
    for serves in (1, 2):
        older.update([of_name("tiny/a@prod", serves=serves)])
    older.close()
    told = [one.getMessage() for one in caplog.records if one.name.endswith("reporting")]
    assert told == [f"{client.url} does not know what runs: it is of an older version"]
    client.close()
