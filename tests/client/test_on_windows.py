"""A client needs nothing that only POSIX has: it starts, logs in, publishes and fetches without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.client.conftest import Team
from tests.kit import plain_base, write_adapter
from tests.root import ROOT


def test_a_client_works_where_nothing_of_posix_is(team: Team, tmp_path: Path) -> None:
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    team.local.add_base("net", base.folder)
    adapter = write_adapter(tmp_path / "one", base, ["a", "b"], r=2)
    token = team.local.create_token("writer", name="windows").secret
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REGISTRY_"))}
    homes = {name: str(tmp_path / name) for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    out, answer = tmp_path / "out", tmp_path / "answer.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/client/on_windows.py"), team.url, token, adapter, out, answer],
        env={**clean, **homes, "PYTHONPATH": str(ROOT)},
        check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(answer.read_text())
    litter, read = found.pop("litter"), found.pop("read")
    assert found.pop("nothing") == 3
    assert {found.pop(name) for name in ("by its own", "a folder", "serve")} == {1}
    assert done.stderr.count("Linux or macOS is needed to") == 3
    assert "Traceback" not in done.stderr
    assert "Unexpected" not in done.stderr
    assert set(found.values()) == {0}, "\n".join((str(found), done.stderr))
    assert (read, litter) == (8, ["empty", "merged"])
    assert (out / "empty" / "adapter_model.safetensors").read_bytes() == (
        adapter / "adapter_model.safetensors"
    ).read_bytes()
    here = team.local.fetch("net/one", tmp_path / "here", kind="merged")
    for file in here.files:
        assert (out / "merged" / file.path).read_bytes() == (tmp_path / "here" / file.path).read_bytes()
    assert len(team.local.log("net/one").revisions) == 1
