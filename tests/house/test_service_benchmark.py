"""The benchmark of the service runs: a hundred revisions and a small adapter, without the peers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import running, service


@pytest.mark.slow
def test_the_service_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "RESULTS", tmp_path / "results")
    file = service.main(["--tiny", "--runs", "1", "--peer-python", "none", "--cache", str(tmp_path / "cache")])
    figures = {figure["name"].partition(": ")[2]: figure["value"] for figure in json.loads(file.read_text())["figures"]}
    assert figures["blob bytes between clients and the service"] == 0
    for database in ("SQLite", "PostgreSQL"):
        assert figures[f"{database}, publish, 8 writers: the registry"] > 0
        assert figures[f"{database}, lookup, 1 reader: the registry"] > 0
    assert figures["publish, 8 writers"] > 0
    assert "the registry, upload" in capsys.readouterr().out
    assert not list((tmp_path / "cache").glob("service-*"))


def test_missing_peers_are_told_with_what_installs_them(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="`make bench` installs them"):
        service.main(["--peer-python", str(tmp_path / "python")])
