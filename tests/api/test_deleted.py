"""No route that reads shows what was deleted. The routes are those that the service has: a new one is asked, too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx
import pytest

from registry.app import service_app
from registry.hub.views import VIEW_ROUTERS
from registry.services.local import LocalRegistry
from tests.api.rights_table import TABLE
from tests.kit import plain_base, write_chain
from tests.kit.library import Library, fill, running, with_tokens

ASKED_FOR: Final = "/api/v1/log/deleted"  # what it lists is what was deleted
ENDLESS: Final = "/api/v1/events/stream"  # and it keeps its history, as the list does
READS: Final = sorted(
    (method, route) for method, route in TABLE if method in {"GET", "HEAD"} and route not in {ASKED_FOR, ENDLESS}
)
KEEP_HISTORY: Final = {"/api/v1/events"}
STILL_SERVED: Final = {"/api/v1/running"}  # asked by a revision that is deleted: who serves it has to be found
MARK: Final = "zap"  # in every name and text of what is deleted


@dataclass(frozen=True)
class Gone:
    """A service, and what was known of deleted revisions before they were."""

    address: str
    library: Library
    parts: Mapping[tuple[str, str], Mapping[str, str]]  # of each route: what its address needs
    commits: tuple[str, ...]
    digests: tuple[str, ...]


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gone]:
    root = tmp_path_factory.mktemp("gone")
    shelf = fill(root)
    library, registry = with_tokens(shelf), shelf.registry
    base = shelf.base("zapbase", plain_base)
    first, second, third = write_chain(root / "zapped", base, 7, list(base.modules)[:2])[4:]
    registry.publish(first, "tiny/zap", tags=["zaptag"], message="zapped", metrics={"zap": 1.0})
    registry.publish(second, "tiny/zap/zapper", parent="tiny/zap@1", annotations={"zap": "zap"})
    registry.publish(third, "tiny/a", tags=["zapnew"], message="zapped")
    registry.publish(first, "zapbase/zap", tags=["zaptag"])
    for ref in ("tiny/zap", "tiny/a@3"):
        registry.materialise(ref)
    parts = {key: TABLE[key].prepare(registry, "tiny/zap") for key in READS}
    with running(service_app(registry)) as address:
        with httpx.Client(base_url=address, headers=library.headers("admin"), timeout=60) as client:
            commits = tuple(
                client.get(f"/hf-lora/api/models/{repo}/revision/{name}").json()["sha"]
                for repo, name in (("tiny/zap", "main"), ("tiny/a", "r3"))
            )
        digests = tuple(registry.resolve(ref).digest for ref in ("tiny/zap", "tiny/a@3", "zapbase/zap"))
        delete(registry)
        yield Gone(address, library, parts, commits, digests)
    shelf.close()


def delete(registry: LocalRegistry) -> None:
    registry.delete("tiny/a@3", with_tags=True)
    registry.delete_tree("tiny/zap", with_tags=True)
    registry.delete_base("zapbase", recursive=True)


@pytest.fixture
def client(gone: Gone) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gone.address, headers=gone.library.headers("admin"), timeout=60) as opened:
        yield opened


@pytest.mark.parametrize(("method", "route"), READS)
def test_a_route_does_not_know_what_is_deleted(client: httpx.Client, gone: Gone, method: str, route: str) -> None:
    row = TABLE[method, route]
    address = re.sub(r"\{(\w+)(:path)?\}", lambda found: gone.parts[method, route][found[1]], route)
    if row.where == "path":
        for path in ("tiny/zap", "tiny/zap/zapper", "zapbase/zap", "zapbase"):
            params = {name: value.replace("{path}", path) for name, value in row.params.items()}
            answer = client.request(method, address, params=params)
            assert answer.status_code == 404, (path, answer.text)
        params = {name: value.replace("{path}", "tiny/a@3") for name, value in row.params.items()}
        if set(params) == {"ref"} and route not in STILL_SERVED:
            for ref in ("tiny/a@3", "tiny/a@zapnew", f"tiny/a@{gone.digests[1]}"):
                assert client.request(method, address, params={"ref": ref}).status_code == 404, ref
    asked = {name: value.replace("{path}", "tiny") for name, value in row.params.items()}
    for params in ({}, asked, {name: value.replace("tiny", "tiny/a") for name, value in asked.items()}):
        told = client.request(method, address, params=params)
        if route not in KEEP_HISTORY:
            assert MARK not in told.text.replace(str(told.url), "")
            assert not [digest for digest in gone.digests if digest in told.text]


def test_searches_by_every_condition_find_nothing_of_it(client: httpx.Client) -> None:
    for condition in ({"text": "zap"}, {"tag": "zaptag"}, {"tag": "zapnew"}, {"metric": "zap"}):
        assert client.get("/api/v1/search", params=condition).json()["items"] == []
    assert client.get("/api/v1/search", params={"base": "zapbase"}).status_code == 404
    assert client.get("/api/v1/protected-tags", params={"base": "zapbase"}).status_code == 404


HUB: Final = sorted(
    {
        route.path  # type: ignore[attr-defined]
        for router in VIEW_ROUTERS
        for route in router.routes
        # whatever repo is named, there is no Xet store
        if "{namespace}" in route.path and "xet-write-token" not in route.path  # type: ignore[attr-defined]
    }
)


@pytest.mark.parametrize("route", HUB)
def test_no_view_of_the_hub_knows_it(client: httpx.Client, gone: Gone, route: str) -> None:
    method = "POST" if "paths-info" in route else "GET"
    body = {"paths": ["adapter_config.json"]} if method == "POST" else None
    for repo, names in (
        ("tiny/zap", ("main", "r1", "zaptag", *gone.commits)),
        ("tiny/zap.zapper", ("main", "r1")),
        ("zapbase/zap", ("main", "zaptag")),
        ("tiny/a", ("r3", "zapnew", gone.commits[1])),
    ):
        namespace, name = repo.split("/")
        for revision in names:
            if repo == "tiny/a" and "{revision" not in route:
                continue
            address = route.replace("{namespace}", namespace).replace("{name}", name)
            address = re.sub(r"\{revision(:rest)?\}", revision, address)
            answer = client.request(method, re.sub(r"\{path(:rest)?\}", "adapter_config.json", address), json=body)
            assert answer.status_code == 404, (address, answer.text)
    if "{revision" not in route:
        told = client.get(route.replace("{namespace}", "tiny").replace("{name}", "a")).text
        assert MARK not in told
        assert not [commit for commit in gone.commits if commit in told]


def test_all_of_it_shows_again_after_an_undo(client: httpx.Client, gone: Gone) -> None:
    """Last of all, as it changes the registry: so what the other tests looked for can be seen."""
    registry = gone.library.registry
    registry.delete("tiny/a@3", undo=True)
    registry.delete_tree("tiny/zap", undo=True)
    registry.delete_base("zapbase", undo=True)
    for ref, digest in zip(("tiny/zap@zaptag", "tiny/a@zapnew", "zapbase/zap"), gone.digests, strict=True):
        assert client.get("/api/v1/resolve", params={"ref": ref}).json()["digest"] == digest
    assert client.get(f"/hf-lora/api/models/tiny/zap/revision/{gone.commits[0]}").json()["sha"] == gone.commits[0]
    assert "zapnew" in client.get("/hf-lora/api/models/tiny/a/refs").text
    assert client.get("/api/v1/materialisations").json()["items"] == []
    delete(registry)


def test_deleted_revisions_are_listed_where_they_are_asked_for(client: httpx.Client, gone: Gone) -> None:
    told = client.get(ASKED_FOR, params={"path": "tiny/a"}).json()["items"]
    assert [(one["reference"], one["digest"], one["message"]) for one in told] == [
        ("tiny/a@3", gone.digests[1], "zapped")
    ]
    assert client.get(ASKED_FOR, params={"path": "tiny/a/x"}).json()["items"] == []
    assert client.get(ASKED_FOR, params={"path": "tiny/none"}).status_code == 404
    seen = {
        path: httpx.get(
            gone.address + ASKED_FOR, params={"path": path}, headers=gone.library.headers("reader of a"), timeout=60
        )
        for path in ("tiny/a", "tiny/zap", "tiny/zip")
    }
    assert [one["number"] for one in seen["tiny/a"].json()["items"]] == [3]
    hidden, absent = (seen[path].json() | {"request": ""} for path in ("tiny/zap", "tiny/zip"))
    assert str(hidden).replace("tiny/zap", "tiny/zip") == str(absent)
    assert hidden["status"] == 404
