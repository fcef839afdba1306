"""Lists of repos, cards and checks of access, as the Hub's own client and command ask for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError

from registry.schemas.protocol import VIEWS
from tests.hub.conftest import assert_missing, sha
from tests.kit.library import Library

ALL = ["tiny/_", "tiny/a", "tiny/a.x", "tiny/b", "tiny/b.y"]


def api_of(service: str, library: Library, view: str, token: str = "reader") -> HfApi:
    return HfApi(endpoint=f"{service}/{view}", token=library.secrets[token])


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_lists_what_it_serves(service: str, library: Library, view: str) -> None:
    api = api_of(service, library, view)
    found = list(api.list_models())
    assert [one.id for one in found] == ALL
    for one in found:
        info = api.model_info(one.id)
        assert (one.tags, one.pipeline_tag, one.library_name) == (info.tags, info.pipeline_tag, info.library_name)
        assert (one.created_at, one.last_modified, one.author) == (info.created_at, info.last_modified, "tiny")


def test_conditions_of_a_list(service: str, library: Library) -> None:
    api = api_of(service, library, "hf-lora")
    assert [one.id for one in api.list_models(author="tiny", search="A.X")] == ["tiny/a.x"]
    assert [one.id for one in api.list_models(search="tiny/b")] == ["tiny/b", "tiny/b.y"]
    assert [one.id for one in api.list_models(author="other")] == []
    assert [one.id for one in api.list_models(filter=["peft", "tag:v1.0"])] == ["tiny/a.x"]
    assert [one.id for one in api.list_models(pipeline_tag="fill-mask")] == []
    assert list(api.list_models(gated=True)) == []


def test_pages_are_the_list(reader: httpx.Client) -> None:
    for limit in (1, 2, 3, 100):
        found, address = [], f"/hf/api/models?limit={limit}"
        while address:
            answer = reader.get(address)
            page = answer.json()
            assert len(page) <= limit
            found += [one["id"] for one in page]
            address = answer.links.get("next", {}).get("url", "")
        assert found == ALL
    assert reader.get("/hf/api/models?limit=0").status_code == 400
    assert reader.get("/hf/api/models?cursor=%00").status_code == 400


def test_a_token_sees_only_what_its_scopes_have(service: str, library: Library) -> None:
    secret = library.registry.create_token("reader", scopes=("tiny/a/x",)).secret
    with httpx.Client(base_url=service, headers={"Authorization": f"Bearer {secret}"}) as client:
        for view in VIEWS:
            pages, address = [], f"/{view}/api/models?limit=1"
            while address:
                answer = client.get(address)
                pages.append([one["id"] for one in answer.json()])
                address = answer.links.get("next", {}).get("url", "")
                assert "tiny/b" not in address
            assert [one for page in pages for one in page] == ["tiny/_", "tiny/a.x"]
            assert client.get(f"/{view}/api/models/tiny/a.x/auth-check").status_code == 200
            assert_missing(client.get(f"/{view}/api/models/tiny/b/auth-check"), "RepoNotFound")
            text = client.get(f"/{view}/api/models/tiny/a.x").text
            assert "tiny/b" not in text
    assert_missing(httpx.get(f"{service}/hf/api/models"), None, status=401)


def test_access_is_checked(service: str, library: Library) -> None:
    api = api_of(service, library, "hf")
    api.auth_check("tiny/a")
    with pytest.raises(RepositoryNotFoundError):
        api.auth_check("tiny/q")


def test_an_edited_card_is_in_the_model_info_and_in_no_file(shelf_service: tuple[Library, httpx.Client]) -> None:
    library, client = shelf_service
    registry = library.registry
    before = {view: (sha(client, view, "tiny/a.x"), readme(client, view)) for view in VIEWS}
    registry.annotate("tiny/a/x", metrics={"acc": 0.5})
    registry.set_card("tiny/a/x", "---\nlicense: mit\npipeline_tag: fill-mask\ntags: [fun, 3]\nself: 1\n---\n# Mine\n")
    for view in VIEWS:
        assert (sha(client, view, "tiny/a.x"), readme(client, view)) == before[view]
        info = HfApi(endpoint=f"{client.base_url}/{view}", token=library.secrets["reader"]).model_info("tiny/a.x")
        assert info.pipeline_tag == "fill-mask"
        assert info.card_data is not None
        assert info.card_data["license"] == "mit"
        assert info.card_data["registry"]["metrics"] == {"acc": 0.5}
        assert {"fun", "license:mit", "fill-mask", "tag:v1.0"} <= set(info.tags or ())
    assert before["hf-published"][1] == "# a"
    assert before["hf"][1].startswith("---\nbase_model: ")
    registry.retract("tiny/a@1", reason="wrong")
    assert [one["id"] for one in client.get("/hf/api/models").json()] == ["tiny/_"]


def readme(client: httpx.Client, view: str) -> str:
    return client.get(f"/{view}/tiny/a.x/resolve/main/README.md", follow_redirects=True).text


def test_the_command_of_the_hub(service: str, library: Library, tmp_path: Path) -> None:
    def hf(*args: str) -> str:
        environ = {
            **os.environ,
            "HF_ENDPOINT": f"{service}/hf",
            "HF_TOKEN": library.secrets["reader"],
            "HF_HOME": str(tmp_path),
            "NO_PROXY": "127.0.0.1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        command = [sys.executable, "-c", "from huggingface_hub.cli.hf import main; main()", "models", *args]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=120).stdout

    assert [one["id"] for one in json.loads(hf("ls", "--format", "json"))] == ALL
    assert json.loads(hf("info", "tiny/a.x", "--format", "json"))["id"] == "tiny/a.x"
    card = ModelCard(hf("card", "tiny/a.x"))
    assert card.data.get("base_model") == "tiny/_"
    assert "README of the revision" in card.text
