"""Ranges of any size and order give the bytes of a fetch; stored ones come from the store where clients reach it."""

from __future__ import annotations

import uuid
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import registry
from registry.schemas.protocol import VIEWS
from tests.hub.conftest import WEIGHTS, assert_missing, sha
from tests.kit import plain_base, write_chain
from tests.kit.library import Library
from tests.kit.servers_shared import SharedService


@pytest.fixture(scope="module")
def whole(reader: httpx.Client, library: Library) -> dict[str, tuple[str, bytes]]:
    """Address and bytes of the weights in each view, as the artifact in process has them."""
    found = {}
    for view, kind in VIEWS.items():
        address = f"/{view}/tiny/a.x/resolve/{sha(reader, view, 'tiny/a.x')}/{WEIGHTS[view]}"
        with library.registry.artifact("tiny/a/x", kind=kind) as artifact:
            found[view] = (address, artifact.files[WEIGHTS[view]].read())
    return found


@pytest.mark.parametrize("view", VIEWS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(ranges=st.lists(st.tuples(st.integers(0, 2000), st.none() | st.integers(0, 2500)), min_size=1, max_size=5))
def test_ranges_are_cut_out_of_the_same_bytes(
    reader: httpx.Client,
    whole: dict[str, tuple[str, bytes]],
    view: str,
    ranges: list[tuple[int, int | None]],
) -> None:
    address, data = whole[view]
    for start, length in ranges:
        last = None if length is None else start + length
        answer = reader.get(address, headers={"Range": f"bytes={start}-{'' if last is None else last}"})
        if start >= len(data):
            assert answer.status_code == 416
            assert answer.headers["content-range"] == f"bytes */{len(data)}"
            continue
        wanted = data[start:] if last is None else data[start : last + 1]
        assert (answer.status_code, answer.content) == (206, wanted)
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(wanted) - 1}/{len(data)}"
        assert answer.headers["x-repo-commit"] in address


def test_a_range_by_a_name_is_a_range_of_the_commit(reader: httpx.Client, whole: dict[str, tuple[str, bytes]]) -> None:
    for view in VIEWS:
        _, data = whole[view]
        address = f"/{view}/tiny/a.x/resolve/main/{WEIGHTS[view]}"
        answer = reader.get(address, headers={"Range": "bytes=-9"}, follow_redirects=True)
        assert (answer.status_code, answer.content) == (206, data[-9:])


@pytest.mark.slow
def test_a_team_has_the_same_views_and_clients_are_sent_to_its_store(
    shared_service: SharedService, tmp_path: Path
) -> None:
    name, headers = f"hub-{uuid.uuid4().hex[:8]}", {"Authorization": f"Bearer {shared_service.token}"}
    base = plain_base(tmp_path / "base")
    client = registry.connect(shared_service.url, shared_service.token)
    client.add_base(name, base.folder)
    for folder, path in zip(write_chain(tmp_path / "chain", base, 2), ("a", "a/b"), strict=True):
        client.publish(folder, f"{name}/{path}", tags=["prod"])
    with httpx.Client(base_url=shared_service.url, headers=headers, timeout=120) as hub:
        for view, kind in VIEWS.items():
            client.fetch(f"{name}/a/b", tmp_path / view, kind=kind)
            commit = sha(hub, view, f"{name}/a.b", "prod")
            address = f"/{view}/{name}/a.b/resolve/{commit}/{WEIGHTS[view]}"
            data = (tmp_path / view / WEIGHTS[view]).read_bytes()
            head, answer = hub.head(address), hub.get(address)
            assert (head.status_code, int(head.headers["content-length"])) == (200, len(data))
            assert head.headers["etag"] == answer.headers["etag"]
            assert answer.headers["x-repo-commit"] == head.headers["x-repo-commit"] == commit
            if kind == "published":
                assert answer.status_code == 302
                asked = {"Range": "bytes=3-9"}
                stored = httpx.get(answer.headers["location"], headers=asked)  # without the token
                assert stored.content == data[3:10]  # with the status 200 from this store
                assert httpx.get(answer.headers["location"]).content == data
            else:
                assert (answer.status_code, answer.content) == (200, data)
            gone = hub.get(f"/{view}/{name}/a.b/resolve/{commit}/nothing")
            assert_missing(gone, "EntryNotFound", commit=commit)
            told = hub.get(f"/{view}/api/models/{name}/a.b/refs").json()
            assert {one["targetCommit"] for one in told["branches"] + told["tags"]} == {commit}
            assert [one["id"] for one in hub.get(f"/{view}/api/models/{name}/a.b/commits/r1").json()] == [commit]
        main = sha(hub, "hf-lora", f"{name}/_")
        for revision in ("r1", "prod", sha(hub, "hf-lora", f"{name}/a")):
            assert sha(hub, "hf-lora", f"{name}/_", revision) == main
    client.close()
