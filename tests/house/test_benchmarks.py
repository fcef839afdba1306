"""The benchmarks run: a tiny model through every measured piece, so that they don't rot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import hub, merge, running, startup, truncate


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(running, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.mark.slow
def test_merge_measures_every_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = merge.main(["--tiny", "--runs", "1", "--peer-runs", "1", "--cache", str(tmp_path / "cache")])
    document = json.loads(file.read_text())
    assert set(document["samples"]) >= {"copy", "merge depth 4", "merge depth 4, one DoRA", "peft depth 4", "publish"}
    assert all(figure["value"] > 0 for figure in document["figures"] if "error" in figure["name"])
    (ours,) = document["samples"]["merge depth 4"]
    (peft,) = document["samples"]["peft depth 4"]
    assert ours["error"] < peft["error"]  # one rounding against four
    assert "merge to disk, depth 4" in capsys.readouterr().out
    assert not list((tmp_path / "cache").glob("registry-*"))


@pytest.mark.slow
def test_startup_measures_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(startup.main(["--runs", "1"]).read_text())
    assert document["figures"][0]["name"] == f"{startup.FLOOR}, CPU"
    heavy = {name: set(packages) for name, (_, packages) in document["samples"]["heavy"].items()}
    assert not heavy["registry --help"]
    assert heavy["registry tree"] == heavy["registry fetch, in the cache"] == {"sqlalchemy.orm"}
    assert "torch" in heavy["registry fetch, computed"]
    assert "Start-up" in capsys.readouterr().out


def test_truncation_is_measured_beside_its_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = truncate.main(["--tiny", "--runs", "1", "--peer-runs", "1", "--cache", str(tmp_path / "cache")])
    document = json.loads(file.read_text())
    assert set(document["samples"]) == {"ours", "peft", "peft thin"}
    (ours,), (peft,) = document["samples"]["ours"], document["samples"]["peft"]
    assert ours["claimed"] == pytest.approx(ours["error"], rel=1e-6)
    assert ours["error"] <= peft["error"] * (1 + 1e-6)
    assert "times ours" in capsys.readouterr().out


@pytest.mark.slow
def test_virtual_files_are_measured_beside_stored_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    file = hub.main(["--tiny", "--runs", "1", "--cache", str(cache), "--peer-python", "none"])
    document = json.loads(file.read_text())
    assert set(document["samples"]) == set(hub.PARTS)
    grown = next(figure for figure in document["figures"] if figure["name"].startswith("what its store has grown"))
    assert grown["value"] == 0
    samples = document["samples"]["stream"]
    assert samples["warm"][0]["size"] == samples["file response"][0]["size"]  # the same file, computed and stored
    assert "first byte" in capsys.readouterr().out
    assert not list(cache.glob("hub-*"))
