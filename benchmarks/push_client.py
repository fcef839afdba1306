"""One push by huggingface_hub, as `push_to_hub` does it, in a process of its own; prints a JSON line of seconds."""

from __future__ import annotations

import json
import sys
import time

from huggingface_hub import HfApi


def push(url: str, token: str, folder: str, repo: str) -> None:
    """Push a folder to a repo of a Hub view."""
    api = HfApi(endpoint=f"{url}/hf", token=token)
    api.whoami()
    start, cpu = time.perf_counter(), time.process_time()
    api.create_repo(repo, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder)
    print(json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    push(*sys.argv[1:])
