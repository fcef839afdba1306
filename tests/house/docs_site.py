"""Builds the site of docs/ into a folder: ``python -m tests.house.docs_site site``; needs the extra ``docs``.

The site of each version lies in a folder of its own, with ``versions.json`` beside them for the selector of versions.
It has search, opens from a folder without a server, and loads nothing from elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from registry.version import __version__
from tests.root import ROOT

_SHIM: Final = re.compile(r'<script src="https://unpkg\.com/iframe-worker/shim"></script>')
_FOREIGN: Final = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')
_FIRST: Final = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={0}/index.html">'
    '<a href="{0}/index.html">{0}</a>\n'
)


def build(site: Path) -> Path:
    """Build this version's pages; the folder.

    Raises:
        SystemExit: a link between pages leads nowhere, or a page would load something from elsewhere.
    """
    folder = site / __version__
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder.absolute())]
    if subprocess.run(words, cwd=ROOT, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}).returncode:
        raise SystemExit("mkdocs did not build the pages: see what it said above.")
    for page in folder.rglob("*.html"):
        script = os.path.relpath(folder / "site" / "frame-worker.js", page.parent)
        text = _SHIM.sub(f'<script src="{Path(script).as_posix()}"></script>', page.read_text(encoding="utf-8"))
        if (foreign := _FOREIGN.search(text)) is not None:
            raise SystemExit(f"{page} would load from elsewhere: {foreign[0]}")
        page.write_text(text, encoding="utf-8")
    _list_versions(site)
    return folder


def _list_versions(site: Path) -> None:
    """What the selector offers, the newest first, and a first page that leads to it."""
    found = sorted((path.parent.name for path in site.glob("*/index.html")), key=_parts, reverse=True)
    listed = [{"version": name, "title": name, "aliases": ["latest"] if name == found[0] else []} for name in found]
    (site / "versions.json").write_text(json.dumps(listed), encoding="utf-8")
    (site / "index.html").write_text(_FIRST.format(found[0]), encoding="utf-8")


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


if __name__ == "__main__":
    print(f"The pages are in {build(Path(sys.argv[1]))}; open {Path(sys.argv[1]) / 'index.html'}.")
