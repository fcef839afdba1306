"""Uses through the views: a download of weights is one, however many requests it takes; looking around is none."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.hub.conftest import WEIGHTS, sha
from tests.kit.library import Library


def used(library: Library, ref: str) -> dict[str, int]:
    assert library.registry.deployment.uses is not None
    library.registry.deployment.uses.write()
    found = library.registry.show(ref).use
    assert found is not None
    return found.by_interface


@pytest.mark.parametrize("view", WEIGHTS)
def test_a_download_is_one_use(shelf_service: tuple[Library, httpx.Client], view: str) -> None:
    library, client = shelf_service
    commit = sha(client, view, "tiny/a", "r1")
    at = f"/{view}/tiny/a/resolve/{commit}/"
    assert client.head(at + WEIGHTS[view]).status_code == 200
    assert client.get(f"/{view}/api/models/tiny/a/tree/{commit}").status_code == 200
    assert client.get(f"/{view}/tiny/a/resolve/r1/{WEIGHTS[view]}").status_code == 307
    for one in client.get(f"/{view}/api/models/tiny/a/tree/{commit}").json():
        if one["type"] == "file" and not one["path"].endswith(".safetensors"):
            assert client.get(at + quote(one["path"])).status_code == 200
    assert client.get(at + "none.safetensors").status_code == 404
    assert used(library, "tiny/a@1") == {}
    for part in ("bytes=0-9", "bytes=10-19", "bytes=20-"):
        assert client.get(at + WEIGHTS[view], headers={"Range": part}).status_code == 206
    assert used(library, "tiny/a@1") == {"hub": 1}
    assert client.get(at + WEIGHTS[view], headers=library.headers("admin")).status_code == 200
    assert used(library, "tiny/a@1") == {"hub": 2}
    assert used(library, "tiny/a@2") == used(library, "tiny/a/x@1") == {}


def test_a_real_client_of_the_hub(shelf_service: tuple[Library, httpx.Client], tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    library, client = shelf_service
    endpoint = str(client.base_url).rstrip("/") + "/hf-lora"
    token = library.secrets["reader"]
    for turn in ("first", "cached"):
        del turn
        hub.snapshot_download("tiny/a.x", endpoint=endpoint, token=token, cache_dir=tmp_path)
    assert used(library, "tiny/a/x@1") == {"hub": 1}
