"""The Hub's own Python client, in this process. `tests/clients` has others, in processes of their own."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile, RepoFolder

from registry.http.admission import Share
from registry.schemas.protocol import VIEWS
from tests.hub.conftest import WEIGHTS
from tests.kit.library import Library


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of any other host, and nothing is kept where the user's things are."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)


@pytest.fixture(params=VIEWS)
def view(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def api(service: str, library: Library, view: str) -> HfApi:
    return HfApi(endpoint=f"{service}/{view}", token=library.secrets["reader"])


def test_what_it_asks_about_a_repo(api: HfApi, view: str) -> None:
    info = api.model_info("tiny/a.x", files_metadata=True)
    assert info.id == "tiny/a.x"
    assert info.last_modified is not None
    sizes = {one.rfilename: one.size for one in info.siblings or ()}
    tree = {one.path: one for one in api.list_repo_tree("tiny/a.x", recursive=True, expand=True)}
    assert {path: one.size for path, one in tree.items() if isinstance(one, RepoFile)} == sizes
    assert WEIGHTS[view] in sizes
    assert {(one.last_commit.oid, one.last_commit.title) for one in tree.values() if one.last_commit} == {
        (info.sha, "r1")
    }
    assert all(one.last_commit is None for one in api.list_repo_tree("tiny/a.x", recursive=True))
    assert sorted(api.list_repo_files("tiny/a.x")) == sorted(sizes)
    refs = api.list_repo_refs("tiny/a.x", include_pull_requests=True)
    assert [one.target_commit for one in refs.branches] == [info.sha]
    assert {one.name for one in refs.tags} == {"r1", "prod", "v1.0"}
    commits = api.list_repo_commits("tiny/a", revision="prod")
    assert [(one.title, one.message) for one in commits] == [("first", "more of it")]
    assert len(api.list_repo_commits("tiny/a")) == 2
    paths = api.get_paths_info("tiny/_", ["config.json", "extra", "nothing"], expand=True)
    assert {one.last_commit.title for one in paths if one.last_commit} == {"The base model"}
    assert [(type(one), one.path) for one in paths] == [(RepoFile, "config.json"), (RepoFolder, "extra")]
    assert api.file_exists("tiny/a.x", WEIGHTS[view])
    assert not api.file_exists("tiny/a.x", "nothing.json")


def test_what_it_is_told_of_what_is_not_there(api: HfApi, service: str, library: Library) -> None:
    assert api.repo_exists("tiny/a")
    assert not api.repo_exists("tiny/q")
    assert api.revision_exists("tiny/a", "prod")
    for name in ("nothing", "refs/pr/1", "feature/x", "0" * 40):
        assert not api.revision_exists("tiny/a", name)
    with pytest.raises(RepositoryNotFoundError, match="no adapter tiny/q"):
        api.model_info("tiny/q")
    with pytest.raises(RevisionNotFoundError, match="has no revision"):
        api.list_repo_files("tiny/a", revision="feature/x")
    stranger = HfApi(endpoint=api.endpoint, token="reg_stranger")
    with pytest.raises(RepositoryNotFoundError, match="unknown or was revoked"):
        stranger.model_info("tiny/a")


def test_downloads_are_what_fetch_gives(api: HfApi, service: str, view: str, library: Library, tmp_path: Path) -> None:
    token = library.secrets["reader"]
    fetched = tmp_path / "fetched"
    library.registry.fetch("tiny/a/x", fetched, kind=VIEWS[view])
    wanted = {
        str(file.relative_to(fetched)): file.read_bytes()
        for file in fetched.rglob("*")
        if file.is_file() and file.name != "registry-receipt.json"
    }
    if view == "hf":
        del wanted["adapter_config.json"]  # the base's, which a model does not show
    folder = Path(snapshot_download("tiny/a.x", endpoint=api.endpoint, token=token, cache_dir=tmp_path / "cache"))
    assert folder.name == api.model_info("tiny/a.x").sha
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert found == wanted
    one = hf_hub_download(
        "tiny/a.x", WEIGHTS[view], revision="v1.0", endpoint=api.endpoint, token=token, cache_dir=tmp_path / "one"
    )
    assert Path(one).read_bytes() == wanted[WEIGHTS[view]]
    assert Path(one).parent.name == folder.name
    checked = api.verify_repo_checksums("tiny/a.x", cache_dir=tmp_path / "cache")
    computed = {WEIGHTS[view]} if view != "hf-published" else set()  # nobody knows their hash before they are made
    assert {one["path"] for one in checked.mismatches} == computed
    assert checked.checked_count == len(wanted)


def test_it_comes_back_to_a_service_that_has_too_much_to_do(
    api: HfApi, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it is told when; on a 503 it would end."""
    waited: list[float] = []
    unhurried = SimpleNamespace(**{**vars(time), "sleep": waited.append})  # and no other thread's
    monkeypatch.setattr(huggingface_hub.utils._http, "time", unhurried)
    free, told = Share.is_free.fget, iter([False, False])  # type: ignore[attr-defined]
    monkeypatch.setattr(Share, "is_free", property(lambda share: next(told, True) and free(share)))
    assert Path(api.hf_hub_download("tiny/a.x", WEIGHTS[view])).stat().st_size
    assert waited == [2.0, 2.0]  # it adds a second to ours
