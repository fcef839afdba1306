"""Pages and their cursors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.http.errors import MalformedError
from registry.operations.operation import part
from registry.operations.table import creation_key, event_key, job_key, number_key, search_key, text_key
from registry.schemas import Schema
from registry.schemas.protocol import cursor_to, key_of
from tests.kit.library import Library

PLAIN = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


class One(Schema):
    number: int


@given(PLAIN)
def test_a_cursor_of_a_text_leads_back_to_it(key: str) -> None:
    assert text_key(key_of(cursor_to(key))) == key


@given(PLAIN, st.integers(1, 1 << 40), st.datetimes(timezones=st.just(UTC)))
def test_a_cursor_of_a_materialisation_leads_back_to_it(text: str, number: int, moment: datetime) -> None:
    key = [f"llama/support@{number}", moment.isoformat(), text]
    assert creation_key(key_of(cursor_to(key))) == ("llama/support", number, moment, text)
    for other in (key[:2], [*key, text], ["llama/support", *key[1:]], ["@", *key[1:]], [key[0], "now", text]):
        with pytest.raises(ValueError):
            creation_key(key_of(cursor_to(other)))


def test_a_moment_of_a_cursor_is_told_in_utc_and_exists_there() -> None:
    there = datetime(2026, 11, 26, 9, tzinfo=timezone(timedelta(hours=2)))
    assert creation_key(["a/b@1", there.isoformat(), "mat_1"])[2] == there
    with pytest.raises(ValueError):
        creation_key(["a/b@1", "0001-01-01T00:00:00+02:00", "mat_1"])


@pytest.mark.parametrize("text", ["\0", "a\ud800"])
def test_a_text_that_no_database_takes_is_no_key(text: str) -> None:
    with pytest.raises(ValueError):
        text_key(key_of(cursor_to(text)))
    with pytest.raises(ValueError):
        creation_key(key_of(cursor_to(["a/b@1", "2026-11-26T00:00:00+00:00", text])))


@given(st.integers(0, (1 << 63) - 1))
def test_a_cursor_of_a_number_leads_back_to_it(key: int) -> None:
    assert number_key(key_of(cursor_to(key))) == key


@given(PLAIN, st.integers(0, (1 << 63) - 1), st.none() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_cursor_of_a_search_leads_back_to_it(path: str, number: int, value: float | None) -> None:
    assert search_key(key_of(cursor_to(path))) == (path, None, None)
    assert search_key(key_of(cursor_to([path, number, value]))) == (path, number, value)
    for other in (
        [path, number],
        [path, number, value, 1],
        [number, path, value],
        [path, number, "1"],
        [path, 1, True],
    ):
        with pytest.raises(ValueError):
            search_key(key_of(cursor_to(other)))


@pytest.mark.parametrize("order", [{}, {"all_revisions": "true"}, {"sort": "max:acc", "all_revisions": "true"}])
def test_pages_of_a_search_together_are_the_whole(admin: httpx.Client, order: dict[str, str]) -> None:
    whole = admin.get("/search", params=order).raise_for_status().json()
    assert whole["next"] is None
    found: list[object] = []
    cursor: dict[str, str] = {}
    while True:
        page = admin.get("/search", params={**order, **cursor, "limit": 1}).raise_for_status().json()
        found += page["items"]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert found == whole["items"] != []


def test_a_cursor_of_a_search_in_another_order_is_refused(admin: httpx.Client) -> None:
    cursor = admin.get("/search", params={"limit": 1}).json()["next"]
    assert cursor is not None
    refused = admin.get("/search", params={"cursor": cursor, "all_revisions": "true"})
    assert (refused.status_code, refused.json()["code"]) == (400, "usage")


@given(PLAIN, st.datetimes(timezones=st.just(UTC)))
def test_a_cursor_of_a_job_leads_back_to_it(text: str, moment: datetime) -> None:
    assert job_key(key_of(cursor_to([moment.isoformat(), text]))) == (moment, text)
    for other in ([text], ["now", text], [moment.isoformat(), 3], ["0001-01-01T00:00:00+02:00", text]):
        with pytest.raises(ValueError):
            job_key(key_of(cursor_to(other)))


@given(st.text(max_size=60))
def test_what_is_no_cursor_is_refused(text: str) -> None:
    for read in (text_key, number_key):
        try:
            key = read(key_of(text))
        except (MalformedError, ValueError):
            continue
        assert cursor_to(key) != ""


def test_a_cursor_of_another_list_is_refused() -> None:
    for read, key in (
        (text_key, 3),
        (number_key, "llama"),
        (number_key, True),
        (number_key, -1),
        (number_key, 1 << 63),
        (text_key, ["llama"]),
        (creation_key, "llama"),
        (event_key, 17),
        (event_key, ["2026-11-26T09:00:00", -1]),
        (event_key, ["0001-01-01T00:00:00+02:00", 1]),
        (event_key, ["today", 1]),
    ):
        with pytest.raises(ValueError):
            read(key_of(cursor_to(key)))


def test_a_page_leads_on_only_where_there_is_more() -> None:
    items = tuple(One(number=number) for number in (1, 2, 3, 4))
    assert part(items[:3], 3, lambda one: one.number).next is None
    assert part(items, None, lambda one: one.number).items == items
    there = part(items, 3, lambda one: one.number)
    assert there.items == items[:3]
    assert there.next == 3


@pytest.fixture(scope="module")
def jobs(service: str, library: Library) -> dict[str, list[str]]:
    """Ids of jobs by who asked for them, newest first."""
    asked: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "admin": [("/fsck", {}), ("/fsck", {"deep": True})],
        "writer of a": [("/materialisations", {"ref": "tiny/a/x"})],
    }
    found: dict[str, list[str]] = {}
    for who, requests in asked.items():
        with httpx.Client(base_url=f"{service}/api/v1", headers=library.headers(who), timeout=60) as client:
            for address, body in requests:
                client.post(address, json=body).raise_for_status()
            found[who] = [one["id"] for one in client.get("/operations").raise_for_status().json()["items"]]
    assert library.registry.jobs(limit=1)[0].id == found["writer of a"][0]
    return found


def jobs_of(service: str, library: Library, who: str, **asked: Any) -> dict[str, Any]:
    answer = httpx.get(f"{service}/api/v1/operations", params=asked, headers=library.headers(who), timeout=60)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def test_each_token_has_its_own_jobs_and_an_admin_of_everything_sees_all(
    service: str, library: Library, jobs: dict[str, list[str]]
) -> None:
    own = jobs_of(service, library, "writer of a")["items"]
    assert [(one["kind"], one["subject"], one["state"]) for one in own] == [("materialise", "tiny/a/x@1", "done")]
    all_ids = [one["id"] for one in jobs_of(service, library, "admin")["items"]]
    assert own[0]["id"] == all_ids[0]
    assert len(all_ids) == 3
    for who in ("reader", "writer", "admin of a"):
        assert jobs_of(service, library, who)["items"] == []


def test_pages_of_jobs_go_on(service: str, library: Library, jobs: dict[str, list[str]]) -> None:
    whole = [one["id"] for one in jobs_of(service, library, "admin")["items"]]
    first = jobs_of(service, library, "admin", limit=2)
    rest = jobs_of(service, library, "admin", limit=2, cursor=first["next"])
    assert [one["id"] for one in first["items"] + rest["items"]] == whole
    assert rest["next"] is None
    assert (
        jobs_of(service, library, "admin", kind="fsck", state="done", limit=500)["items"]
        == first["items"][1:] + rest["items"]
    )
    assert jobs_of(service, library, "admin", kind="notice")["items"] == []


def test_what_no_job_is_like_is_refused(service: str, library: Library) -> None:
    for wrong in ({"state": "late"}, {"kind": "cook"}):
        answer = httpx.get(f"{service}/api/v1/operations", params=wrong, headers=library.headers("admin"))
        assert (answer.status_code, answer.json()["code"]) == (422, "usage")
