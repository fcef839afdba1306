"""A Hub client in a process of its own, to be killed: python pusher.py HOW REPO FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

PAIR = ("adapter_config.json", "adapter_model.safetensors")


def push(how: str, repo: str, folder: Path) -> str:
    """Push both files: ``folder``, ``commit``, ``halves``, or ``large`` as LFS clients do it."""
    api = HfApi()
    api.create_repo(repo, exist_ok=True)
    if how == "folder":
        return api.upload_folder(repo_id=repo, folder_path=folder).oid
    files = {name: (folder / name).open("rb") for name in PAIR} if how == "large" else {n: folder / n for n in PAIR}
    operations = [CommitOperationAdd(name, file) for name, file in files.items()]
    if how == "halves":
        api.create_commit(repo, [operations.pop(0)], commit_message="x")
    return api.create_commit(repo, operations, commit_message="x").oid


if __name__ == "__main__":
    print(push(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
