"""What this machine's cache of the Hub holds of a repository, without asking anybody.

PEFT writes the name of the model that an adapter was trained on, and no revision. Where the cache holds one commit of
that repository only, that is the one that was loaded.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_REPO_ID: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,95})/([A-Za-z0-9_][A-Za-z0-9._-]{0,95})")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def cached_commit(repo_id: str) -> str | None:
    """The only commit of a repository of which the cache holds files; None: there are several, or none."""
    named = _REPO_ID.fullmatch(repo_id)
    if named is None:
        return None
    snapshots = cache_folder() / f"models--{named[1]}--{named[2]}" / "snapshots"
    try:
        found = [one.name for one in snapshots.iterdir() if _COMMIT.fullmatch(one.name) and any(one.iterdir())]
    except OSError:
        return None
    return found[0] if len(found) == 1 else None


def cache_folder() -> Path:
    """The cache, where the Hub's own client has it: by its environment variables."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"
