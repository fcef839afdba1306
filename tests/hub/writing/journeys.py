"""How clients push an adapter: each journey gives the commit that its user is told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from tests.hub.writing.conftest import PAIR

Journey = Callable[[HfApi, str, Path], str]


def folder(api: HfApi, repo: str, adapter: Path) -> str:
    """As `hf upload` and trainers do it: the commit is repeated by the client."""
    api.create_repo(repo, exist_ok=True)
    return api.upload_folder(repo_id=repo, folder_path=adapter).oid


def commit(api: HfApi, repo: str, adapter: Path) -> str:
    """As `push_to_hub` does it: the commit is sent once."""
    api.create_repo(repo, exist_ok=True)
    operations = [CommitOperationAdd(name, adapter / name) for name in (*PAIR, "README.md")]
    return api.create_commit(repo, operations, commit_message="x").oid


def halves(api: HfApi, repo: str, adapter: Path) -> str:
    """One file after the other."""
    made = [
        api.upload_file(repo_id=repo, path_or_fileobj=adapter / name, path_in_repo=name)
        for name in (*PAIR, "README.md")
    ]
    return made[-1].oid


def large(api: HfApi, repo: str, adapter: Path) -> str:
    """By LFS, which is how each client sends what is no path."""
    with ExitStack() as opened:
        files = {name: opened.enter_context((adapter / name).open("rb")) for name in PAIR}
        operations = [CommitOperationAdd(name, file) for name, file in files.items()]
        return api.create_commit(repo, operations, commit_message="x").oid


def large_halves(api: HfApi, repo: str, adapter: Path) -> str:
    """One file after the other, the weights by LFS."""
    for name in PAIR:
        with (adapter / name).open("rb") as file:
            api.upload_file(repo_id=repo, path_or_fileobj=file, path_in_repo=name)
    return str(api.model_info(repo).sha)


JOURNEYS: dict[str, Journey] = {one.__name__: one for one in (folder, commit, halves, large, large_halves)}
