"""A client in a process of its own, to be killed.

Run with what it does, the address, a folder, a reference, and a cache.
"""

from __future__ import annotations

import sys
from pathlib import Path

from registry.client import download
from registry.client.remote import RemoteRegistry
from registry.folders.staging import FetchCache


def main() -> None:
    what, url, folder, reference, cache = sys.argv[1:]
    download.PIECE = 1 << 20  # type: ignore[misc]  # more of them
    registry = RemoteRegistry(url, cache=FetchCache(Path(cache)))
    if what == "publish":
        registry.publish(folder, reference)
    else:
        registry.fetch(reference, folder, kind="published")
    registry.close()


if __name__ == "__main__":
    main()
