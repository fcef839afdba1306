"""Writes what `test_unchanged` compares with, of the program in this checkout: ``python -m tests.unchanged.write``.

``--faces`` writes the names alone, which a new command, route or field adds to. Names that are there no longer are told
and nothing is written, unless ``--gone`` says that this is meant.

To make it of another commit, copy this folder into a checkout of that one and run it there. ``--show NAME`` writes
nothing and prints what the digest of that name is one of: where two commits differ, the two texts show how.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable
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
MEANING: Final = re.compile(r"^([a-z_]+): (?!exit |HTTP ).*")


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


def wordless(section: str, lines: Iterable[str]) -> set[str]:
    """The lines, those of error codes without their meanings: these are sentences, which may be worded better."""
    return {MEANING.sub(r"\1", line) if section == "errors" else line for line in lines}


def gone(before: Faces, now: Faces) -> list[str]:
    """The lines that the recorded names have and the program has not, each with its section."""
    return sorted(
        f"{name}: {line}"
        for name, lines in before.items()
        for line in wordless(name, lines) - wordless(name, now.get(name, ()))
    )


def _main() -> str | None:
    parser = argparse.ArgumentParser(prog="tests.unchanged.write", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--show", metavar="NAME")
    parser.add_argument("--faces", action="store_true")
    parser.add_argument("--gone", action="store_true")
    asked = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("REGISTRY_")]:
        del os.environ[name]
    os.environ["REGISTRY_AUTHOR"] = AUTHOR
    with tempfile.TemporaryDirectory() as scratch:
        found, plain, lines = _collect(Path(scratch).resolve())
    if asked.show is not None:
        sys.stdout.buffer.write(plain[asked.show] + b"\n")
        return None
    if not asked.gone and (lost := gone(json.loads(FACES.read_text(encoding="utf-8")), lines)):
        return "\n".join(["Nothing is written. These are gone or another; --gone says that this is meant:", *lost])
    _write(FACES, lines)
    if not asked.faces:
        _write(DIGESTS, asdict(found))
    return None


if __name__ == "__main__":
    sys.exit(_main())
