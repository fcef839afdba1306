"""Weights of links between a client and a service: where they are computed, and versions that know none."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from registry.client.remote import RemoteRegistry
from registry.errors import IntegrityError, UsageError
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.schemas.protocol import API
from tests.client.conftest import Team
from tests.client.strange import Request, relayed, strange_server
from tests.kit import Base, plain_base, write_adapter


@pytest.fixture
def base(team: Team, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    team.local.add_base("net", made.folder)
    team.local.publish(write_adapter(tmp_path / "one", made, ["a", "b"], r=2), "net/one")
    team.local.publish(write_adapter(tmp_path / "two", made, ["a"], r=2, seed=2), "net/one/two")
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name != RECEIPT}


def test_merged_here_and_there_and_in_process(team: Team, base: Base, tmp_path: Path) -> None:
    """One rendering and the same bytes, wherever it is computed, and each folder is right for the others."""
    ref, weights = "net/one/two@1:0.7", {"one": -1.5}
    here = team.client("near").fetch(ref, tmp_path / "here", kind="merged", weights=weights, base_dir=base.folder)
    sent = team.client("far").fetch(ref, tmp_path / "sent", kind="merged", weights=weights)
    own = team.local.fetch(ref, tmp_path / "own", kind="merged", weights=weights)
    assert here.rendering == sent.rendering == own.rendering
    assert files(tmp_path / "here") == files(tmp_path / "sent") == files(tmp_path / "own")
    assert files(tmp_path / "here") != files(Path(team.local.fetch("net/one/two@1", kind="merged").folder))
    for folder in ("here", "sent", "own"):
        assert read_receipt(tmp_path / folder).weights == read_receipt(tmp_path / "own").weights != {}
        assert team.client("other").verify(tmp_path / folder).equal
        assert team.local.verify(tmp_path / folder).equal
    with pytest.raises(UsageError, match="has no link three"):
        team.client("near").fetch(ref, tmp_path / "no", kind="merged", weights={"three": 1}, base_dir=base.folder)


def test_the_routes_take_them(team: Team, base: Base) -> None:
    """A plan by ``ref`` or by ``weights``; a file of one rendering is never that of another."""
    given = {"kind": "merged"}
    plans = {
        name: httpx.get(f"{team.url}{API}/artifacts", params={**given, **more}).json()
        for name, more in {
            "plain": {"ref": "net/one@1"},
            "weight 1": {"ref": "net/one@1:1.0"},
            "in ref": {"ref": "net/one@1:0.8"},
            "beside": {"ref": "net/one@1", "weights": "one=0.8"},
            "other": {"ref": "net/one@1", "weights": "0.9"},
        }.items()
    }
    assert plans["plain"] == plans["weight 1"]
    assert plans["in ref"] == plans["beside"]
    renderings = {name: plan["rendering"].removeprefix("sha256:") for name, plan in plans.items()}
    assert len(set(renderings.values())) == 3
    asked = {"plain": {"ref": "net/one@1"}, "beside": {"ref": "net/one@1", "weights": "0.8"}}
    found = {}
    for name, more in asked.items():
        for of, rendering in renderings.items():
            url = f"{team.url}{API}/artifacts/{rendering}/model.safetensors"
            answer = httpx.get(url, params={**given, **more})
            assert (answer.status_code == 200) is (rendering == renderings[name]), (name, of)
            if answer.status_code == 200:
                found[name] = (answer.headers["etag"], answer.content)
    assert len({etag for etag, _ in found.values()}) == len({data for _, data in found.values()}) == 2
    stale = httpx.get(
        f"{team.url}{API}/artifacts/{renderings['beside']}/model.safetensors",
        params={**given, **asked["beside"]},
        headers={"If-None-Match": found["plain"][0]},
    )
    assert stale.content == found["beside"][1]
    for refused in ("nan", "one=", "=1", "two=1", "1,1", "one=1e99"):
        answer = httpx.get(f"{team.url}{API}/artifacts", params={**given, "ref": "net/one@1", "weights": refused})
        assert answer.status_code == 400, refused
    for route in ("resolve", "revisions", "bundles"):
        answer = httpx.get(f"{team.url}{API}/{route}", params={"ref": "net/one@1:0.8"})
        assert answer.status_code == 400
        assert "write net/one@1" in answer.json()["detail"]


def test_views_know_no_weights(team: Team, base: Base) -> None:
    for name in ("main:0.8", "r1:0.8", "main%3A0.8"):
        answer = httpx.get(f"{team.url}/hf/net/one/resolve/{name}/model.safetensors")
        assert answer.status_code == 404, name


def test_a_service_that_leaves_them_out_is_noticed(team: Team, base: Base, tmp_path: Path) -> None:
    """Earlier services refuse the parameter; one that loses it, whatever lies between, is no silent weight 1."""

    def forgetful(request: Request) -> bytes:
        return relayed(replace(request, line=re.sub(r"[?&]weights=[^& ]*", "", request.line)), team.url)

    with strange_server(forgetful) as server:
        client = team.client("forgetful", url=server.url)
        with pytest.raises(IntegrityError, match="with other weights than those that were requested"):
            client.fetch("net/one@1", tmp_path / "out", weights=0.5)
        assert not (tmp_path / "out").exists()


def test_an_earlier_client_takes_no_weighted_plan(team: Team, base: Base) -> None:
    """It would pass the reference on as it is typed; the plan has a field that its strict form lacks."""
    plan = httpx.get(f"{team.url}{API}/artifacts", params={"ref": "net/one@1:0.8"}).json()
    assert plan["lineage"][-1]["weight"] == 0.8
    plain = httpx.get(f"{team.url}{API}/artifacts", params={"ref": "net/one@1"}).json()
    assert "weight" not in json.dumps(plain["lineage"])


def test_the_cache_of_a_client_keeps_them_apart(team: Team, base: Base) -> None:
    client: RemoteRegistry = team.client()
    found = [client.fetch(ref, kind="merged") for ref in ("net/one@1", "net/one@1:0.5", "net/one@1", "net/one@1:0.5")]
    assert [one.fresh for one in found] == [True, True, False, False]
    assert found[0].folder == found[2].folder != found[1].folder == found[3].folder
