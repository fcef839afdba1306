"""The conftest.py of huggingface_hub's own tests, adapted: the Hub that they ask is a service of this registry.

A repo that a test makes and uploads files to becomes a base model with these files beside its own: it has one commit,
and what needs several, branches, pull requests or data sets is skipped, with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
from huggingface_hub import HfApi, RepoUrl, constants

import registry
from tests.kit import plain_base

PLACE = os.environ["OWN_TESTS_REGISTRY"]
ENDPOINT, TOKEN = os.environ["HF_ENDPOINT"], os.environ["OWN_TESTS_TOKEN"]
FILES: dict[str, dict[str, bytes]] = {}
"""Of each repo that a test made, by its base model's name."""


def _no(what: str) -> None:
    pytest.skip(f"does not make sense here: {what}")


def _data(given: Any) -> bytes:
    if isinstance(given, bytes):
        return given
    return Path(given).read_bytes() if isinstance(given, str | Path) else bytes(given.read())


def publish(repo_id: str) -> Any:
    """Serve the files of a repo so far; what stands for its commit."""
    name, folder = repo_id.partition("/")[0], Path(tempfile.mkdtemp())
    plain_base(folder / "base")
    for path, data in FILES[name].items():
        file = folder / "base" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    with closing(registry.connect(PLACE)) as local:
        if any(base.name == name for base in local.bases()):
            local.delete_base(name)
        local.add_base(name, folder / "base")
    shutil.rmtree(folder)
    sha = HfApi(endpoint=ENDPOINT, token=TOKEN).model_info(repo_id).sha
    return SimpleNamespace(oid=sha, commit_url=f"{ENDPOINT}/models/{repo_id}/commit/{sha}", pr_url=None)


def create_repo(self: HfApi, repo_id: str, *, repo_type: str | None = None, **_: Any) -> RepoUrl:
    if repo_type not in {None, "model"}:
        _no(f"repos of the type {repo_type}")
    name = repo_id.rpartition("/")[2].lower().replace("_", "-")
    FILES[name] = {}
    publish(f"{name}/_")
    return RepoUrl(f"{ENDPOINT}/{name}/_", endpoint=ENDPOINT)


def create_commit(self: HfApi, repo_id: str, operations: Any, **given: Any) -> Any:
    if given.get("revision") not in {None, "main"} or given.get("create_pr"):
        _no("branches and pull requests")
    name = repo_id.partition("/")[0]
    if name not in FILES:
        _no("a repo that no test made")
    if FILES[name]:
        _no("a second commit of what is no adapter")
    for one in operations:
        if not hasattr(one, "path_or_fileobj"):
            _no("deleted and copied files")
        FILES[name][one.path_in_repo] = _data(one.path_or_fileobj)
    return publish(repo_id)


def upload_file(self: HfApi, *, path_or_fileobj: Any, path_in_repo: str, repo_id: str, **given: Any) -> Any:
    if given.get("create_pr"):
        return None  # beside what most tests of the repo are about
    if given.get("revision") not in {None, "main"}:
        _no("branches and pull requests")
    FILES[repo_id.partition("/")[0]][path_in_repo] = _data(path_or_fileobj)
    return publish(repo_id)


def upload_folder(self: HfApi, *, repo_id: str, folder_path: Any, **given: Any) -> Any:
    for file in sorted(Path(folder_path).rglob("*")):
        if file.is_file():
            FILES[repo_id.partition("/")[0]][file.relative_to(folder_path).as_posix()] = file.read_bytes()
    return publish(repo_id)


def delete_repo(self: HfApi, repo_id: str, **_: Any) -> None:
    with closing(registry.connect(PLACE)) as local:
        local.delete_base(repo_id.partition("/")[0])


def delete_file(self: HfApi, path_in_repo: str, repo_id: str, **_: Any) -> None:
    if path_in_repo != ".gitattributes":  # which no repo here has
        _no("deleted files")


def _refuse(what: str) -> Callable[..., None]:
    return lambda *_, **__: _no(what)


for method in (create_repo, create_commit, upload_file, upload_folder, delete_file, delete_repo):
    setattr(HfApi, method.__name__, method)
for called in ("create_branch", "create_tag", "delete_branch", "create_pull_request"):
    setattr(HfApi, called, _refuse("branches and pull requests"))
for called in ("move_repo", "update_repo_settings", "delete_folder", "duplicate_repo", "create_discussion"):
    setattr(HfApi, called, _refuse("repos that are moved or rewritten"))


@pytest.fixture(autouse=True)
def patch_constants(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("home")
    places = {
        "HF_HOME": home,
        "HF_HUB_CACHE": home / "hub",
        "HUGGINGFACE_HUB_CACHE": home / "hub",
        "HF_XET_CACHE": home / "xet",
        "HF_ASSETS_CACHE": home / "assets",
        "HF_TOKEN_PATH": home / "token",
        "HF_STORED_TOKENS_PATH": home / "stored_tokens",
    }
    for name, place in places.items():
        monkeypatch.setattr(constants, name, str(place))


@pytest.fixture(autouse=True)
def xet_mode(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("xet") is not None:
        _no("Xet")


@pytest.fixture(scope="session")
def api() -> HfApi:
    return HfApi(endpoint=ENDPOINT, token=TOKEN)


@pytest.fixture(scope="session")
def api_prod() -> HfApi:
    return HfApi(endpoint=ENDPOINT, token=TOKEN)


class RepoFactory(Protocol):
    """Makes repos."""

    def __call__(self, repo_type: str = "model", **kwargs: Any) -> RepoUrl: ...


@pytest.fixture
def repo_factory(api: HfApi, request: pytest.FixtureRequest) -> RepoFactory:
    numbers = count()

    def make(repo_type: str = "model", **given: Any) -> RepoUrl:
        given.setdefault(
            "repo_id", f"{re.sub('[^a-z0-9]+', '-', request.node.name.lower())[:40].strip('-')}-{next(numbers)}"
        )
        return create_repo(api, repo_type=repo_type, **given)

    return make
