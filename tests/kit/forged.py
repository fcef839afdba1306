"""What a page of another site would have a browser send, and whether anything came of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, text

from registry.schemas.protocol import API
from registry.services.local import LocalRegistry
from tests.kit import plain_base, write_adapter
from tests.kit.shelf import Shelf


def commit_of(folder: Path) -> bytes:
    """A commit as a page can send it in a body of text/plain."""
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "mine", "description": ""}}]
    for file in sorted(folder.iterdir()):
        content = base64.b64encode(file.read_bytes()).decode()
        lines.append({"key": "file", "value": {"path": file.name, "content": content}})
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def writes(shelf: Shelf, number: int) -> list[tuple[str, str, bytes]]:
    """Requests that change something where nobody is asked for a token, each time something else."""
    base = shelf.base("tiny", plain_base)
    folder = write_adapter(shelf.folder(), base, list(base.modules)[:2], r=2, seed=number)
    upload = {"digest": f"sha256:{number:064x}", "size": 9}
    return [
        ("POST", "/hf/api/repos/create", json.dumps({"organization": "tiny", "name": f"new{number}"}).encode()),
        ("POST", "/hf/api/models/tiny/a/preupload/main", b'{"files": []}'),
        ("POST", "/hf/api/models/tiny/a/commit/main", commit_of(folder)),
        ("POST", "/hf/api/models/tiny/a/tag/main", json.dumps({"tag": f"mine{number}"}).encode()),
        ("PUT", f"{API}/tags", json.dumps({"ref": f"tiny/a@{1 + number % 2}", "tag": "prod"}).encode()),
        ("POST", f"{API}/uploads", json.dumps(upload).encode()),
    ]


def state(registry: LocalRegistry) -> dict[str, Any]:
    """Every row of every table but refusals, and the names of all stored files."""
    deployment = registry.deployment
    assert deployment.folder is not None
    with deployment.database.read() as session:
        names = inspect(session.connection()).get_table_names()
        rows: dict[str, Any] = {
            name: sorted(map(str, session.execute(text(f'SELECT * FROM "{name}"')))) for name in names
        }
    rows["events"] = [one for one in rows["events"] if "refused" not in one]
    files = sorted(str(one) for one in deployment.folder.rglob("*") if one.is_file() and "registry.db" not in one.name)
    return {**rows, "files": files}


def refused(registry: LocalRegistry) -> list[Mapping[str, Any]]:
    return [event.detail for event in registry.events(limit=1000) if event.action == "refused"]
