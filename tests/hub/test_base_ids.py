"""Base models in the views under the repo that they were taken from, and under repo ids that an admin gave them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from sqlalchemy import update

from registry.app import service_app
from registry.catalogue.database.tables import BaseModelRecord
from registry.schemas.protocol import VIEWS
from tests.hub.conftest import assert_missing, fill, sha
from tests.kit import plain_base
from tests.kit.library import Library, running, with_tokens

SOURCE = "Some-Org/Tiny-1B"
AT_SOURCE = "0123456789abcdef0123456789abcdef01234567"
GIVEN = "mirror/Tiny-1B"
BARE = "gpt2"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """``tiny``, which was taken from a Hub and has another repo id; ``hidden``, which was not."""
    shelf = fill(tmp_path_factory.mktemp("library"))
    shelf.base("hidden", lambda folder: plain_base(folder, {"a.weight": (24, 16)}))
    took = update(BaseModelRecord).where(BaseModelRecord.name == "tiny").values(source=f"hf:{SOURCE}@{AT_SOURCE}")
    with shelf.registry.deployment.database.write() as session:
        session.execute(took)
    shelf.base(BARE, lambda folder: plain_base(folder, {"b.weight": (8, 8)}))
    took = update(BaseModelRecord).where(BaseModelRecord.name == BARE).values(source=f"hf:{BARE}@{AT_SOURCE}")
    with shelf.registry.deployment.database.write() as session:
        session.execute(took)
    shelf.registry.also_known_as("tiny", GIVEN)
    yield with_tokens(shelf)
    shelf.close()


@pytest.fixture(scope="module")
def service(library: Library) -> Iterator[str]:
    with running(service_app(library.registry)) as address:
        yield address


@pytest.mark.parametrize("repo_id", [SOURCE, GIVEN])
def test_it_is_the_base_model(service: str, library: Library, tmp_path: Path, repo_id: str) -> None:
    """By the Hub's own client: the same commit and the same files, in every view."""
    secret = library.secrets["reader"]
    for view in VIEWS:
        api = HfApi(endpoint=f"{service}/{view}", token=secret)
        own, info = api.model_info("tiny/_", files_metadata=True), api.model_info(repo_id, files_metadata=True)
        assert (info.id, info.author, info.sha) == (repo_id, repo_id.partition("/")[0], own.sha)
        assert (info.siblings, info.tags, info.created_at) == (own.siblings, own.tags, own.created_at)
        assert api.list_repo_files(repo_id) == api.list_repo_files("tiny/_")
        assert api.list_repo_refs(repo_id).branches == api.list_repo_refs("tiny/_").branches
        assert [one.commit_id for one in api.list_repo_commits(repo_id)] == [own.sha]
        assert api.get_paths_info(repo_id, ["config.json"]) == api.get_paths_info("tiny/_", ["config.json"])
    folders = [
        Path(snapshot_download(one, endpoint=f"{service}/hf", token=secret, cache_dir=tmp_path))
        for one in ("tiny/_", repo_id)
    ]
    assert folders[0].name == folders[1].name
    names = sorted(str(file.relative_to(folders[0])) for file in folders[0].rglob("*") if file.is_file())
    assert "model.safetensors" in names
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_a_source_without_an_organisation(service: str, library: Library, tmp_path: Path) -> None:
    """As `from_pretrained("gpt2")` asks: also where the base model has that name itself."""
    secret = library.secrets["reader"]
    api = HfApi(endpoint=f"{service}/hf", token=secret)
    own, info = api.model_info(f"{BARE}/_", files_metadata=True), api.model_info(BARE, files_metadata=True)
    assert (info.id, info.sha, info.siblings) == (BARE, own.sha, own.siblings)
    assert api.model_info(BARE, revision=AT_SOURCE).siblings
    assert api.list_repo_files(BARE) == api.list_repo_files(f"{BARE}/_")
    assert [one.commit_id for one in api.list_repo_commits(BARE)] == [own.sha]
    assert api.get_paths_info(BARE, ["config.json"]) == api.get_paths_info(f"{BARE}/_", ["config.json"])
    folder = Path(snapshot_download(BARE, endpoint=f"{service}/hf", token=secret, cache_dir=tmp_path))
    assert (folder / "model.safetensors").is_file()
    for name in ("tiny", "hidden", "none"):  # a base model's own name is no repo id
        assert not api.repo_exists(name)
        assert not api.file_exists(name, "config.json")
        missing = httpx.get(f"{service}/hf/api/models/{name}", headers=library.headers("reader"))
        assert "BASE/_ for the base model itself" in str(assert_missing(missing, "RepoNotFound"))


def test_a_script_that_pins_the_commit_of_the_source(service: str, library: Library, tmp_path: Path) -> None:
    """It gets the same bytes; another commit of that repo is not here."""
    secret = library.secrets["reader"]
    found = hf_hub_download(
        SOURCE, "config.json", revision=AT_SOURCE, endpoint=f"{service}/hf", token=secret, cache_dir=tmp_path
    )
    own = hf_hub_download("tiny/_", "config.json", endpoint=f"{service}/hf", token=secret, cache_dir=tmp_path)
    assert Path(found).read_bytes() == Path(own).read_bytes()
    with httpx.Client(base_url=service, headers=library.headers("reader")) as client:
        assert sha(client, "hf", SOURCE, AT_SOURCE) == sha(client, "hf", "tiny/_")
        other = client.get(f"/hf/api/models/{SOURCE}/revision/{AT_SOURCE[::-1]}")
        assert_missing(other, "RevisionNotFound")


def test_who_does_not_see_the_base_model_sees_nothing(service: str, library: Library) -> None:
    secret = library.registry.create_token("reader", scopes=("hidden",)).secret
    with httpx.Client(base_url=service, headers={"Authorization": f"Bearer {secret}"}) as client:
        for repo_id in (SOURCE, GIVEN):
            for address in (f"/hf/api/models/{repo_id}", f"/hf/{repo_id}/resolve/main/config.json"):
                assert "tiny/" not in assert_missing(client.get(address), "RepoNotFound")
    with httpx.Client(base_url=service, headers=library.headers("reader")) as client:
        for repo_id in (SOURCE.lower(), "Some-Org/Tiny-1B2", "Some-Org/Tiny", "tiny/Tiny-1B", "Some-Org%25/Tiny-1B"):
            assert_missing(client.get(f"/hf/api/models/{repo_id}"), "RepoNotFound")
