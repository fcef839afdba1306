"""Writes what `test_unchanged` compares with, of the program in this checkout: ``python -m tests.unchanged.write``.

To make it of another commit, copy this folder into a checkout of that one and run it there. ``--show NAME`` writes
nothing and prints what the digest of that name is one of: where two commits differ, the two texts show how.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess
from tests.unchanged.digests import AUTHOR, Digests, digests
from tests.unchanged.faces import Faces, faces
from tests.unchanged.planting import plant

HERE: Final = Path(__file__).parent
DIGESTS: Final = HERE / "digests.json"
FACES: Final = HERE / "faces.json"


def _collect(root: Path) -> tuple[Digests, dict[str, bytes], Faces]:
    """Of this program; the service is a process of its own."""
    place = root / "registry"
    plant(place, root)
    home = Home.of_process(root)
    try:
        service = ServiceProcess.started(home, {"REGISTRY_URL": str(place)})
        try:
            found = faces(place, service.url)
            return *digests(place, service.url, root), found
        finally:
            service.close()
    finally:
        home.leave()


def _write(path: Path, document: dict[str, Any]) -> None:
    """One file, a line for each entry."""
    path.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _main() -> None:
    parser = argparse.ArgumentParser(prog="tests.unchanged.write", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--show", metavar="NAME")
    shown = parser.parse_args().show
    for name in [name for name in os.environ if name.startswith("REGISTRY_")]:
        del os.environ[name]
    os.environ["REGISTRY_AUTHOR"] = AUTHOR
    with tempfile.TemporaryDirectory() as scratch:
        found, plain, lines = _collect(Path(scratch).resolve())
    if shown is None:
        _write(DIGESTS, asdict(found))
        _write(FACES, lines)
    else:
        sys.stdout.buffer.write(plain[shown] + b"\n")


if __name__ == "__main__":
    _main()
