"""A client needs httpx and schemas: no torch, no database, no web framework.

A client needs nothing that only POSIX has: it starts, logs in, publishes and fetches without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import Team
from tests.house import conftest as house
from tests.kit import Base, plain_base, write_adapter
from tests.root import ROOT

wheel, distribution = house.wheel, house.distribution
NEEDED = ["httpx", "pydantic", "typer", "rich", "platformdirs", "blake3"]


@pytest.fixture
def base(team: Team, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    team.local.add_base("net", made.folder)
    return made


def run_client(python: str | Path, team: Team, base: Base, folder: Path, *options: str) -> dict[str, Any]:
    """What the client in that environment found."""
    adapter = write_adapter(folder / "one", base, ["a", "b"], r=2)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REGISTRY_"))}
    homes = {name: str(folder / name) for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
    answer = folder / "answers.json"
    command = [python, ROOT / "tests/client/without_torch.py", team.url, adapter, folder / "out", answer, *options]
    path = {} if options else {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**clean, **homes, **path},
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(answer.read_text())
    assert "one  @1  [prod]" in done.stdout
    return found


def check(found: dict[str, Any], team: Team, folder: Path) -> None:
    assert found["published"] == "net/one@1"
    assert found["tree"] == ["net/one"]
    assert found["verified"] == {"published": True, "lora": True, "merged": True}
    for kind, rendering in found["fetched"].items():
        here = team.local.fetch("net/one", folder / f"here-{kind}", kind=kind)
        assert here.rendering == rendering
        for file in here.files:
            assert (folder / f"here-{kind}" / file.path).read_bytes() == (
                folder / "out" / kind / file.path
            ).read_bytes()
    assert found["read"] == 8
    for what in ("tensors", "base_dir"):
        code, sentence = found[what]
        assert code == "missing_package"
        assert "pip install torch" in sentence
    assert found["exits"] == [0, 0, 3]
    assert found["loaded"] == []


def test_a_client_works_where_nothing_heavy_can_be_imported(team: Team, base: Base, tmp_path: Path) -> None:
    check(run_client(sys.executable, team, base, tmp_path), team, tmp_path)


@pytest.mark.long
def test_a_client_works_where_nothing_heavy_is_installed(team: Team, base: Base, wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin/python"), "install", "--progress-bar", "off"]
    subprocess.run([*pip, *NEEDED], check=True, cwd=tmp_path)
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, cwd=tmp_path)
    check(run_client(venv / "bin/python", team, base, tmp_path, "--really"), team, tmp_path)


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
