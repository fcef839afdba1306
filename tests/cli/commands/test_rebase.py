"""Rebasing from the command line: the report, the question, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import registry
from tests.cli.conftest import Run
from tests.kit import plain_base, write_adapter
from tests.kit.recipes import Recipe, write_recipe


@pytest.fixture
def rebase(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``rebase`` with further words, where ``net/a/b@1`` is on ``net/a@1`` and there is ``net/a@2``."""
    base = plain_base(tmp_path / "base", {"x.weight": (24, 16)})
    with registry.connect(tmp_path / "registry") as opened:
        opened.add_base("net", base.folder)
        folders = [write_adapter(tmp_path / str(seed), base, ["x"], seed=seed) for seed in (1, 2, 3)]
        for folder in folders[:2]:
            opened.publish(folder, "net/a")
        opened.publish(folders[2], "net/a/b", parent="net/a@1")
        dora = write_recipe(tmp_path / "dora", base, Recipe(targets=("x",), dora=True), folders[:1])
        opened.publish(dora, "net/a/dora", parent="net/a@1")
    monkeypatch.setenv("REGISTRY_URL", str(tmp_path / "registry"))
    return lambda *words: run("rebase", *words)


def test_a_script_reports_first_and_publishes_with_yes(rebase: Run, run: Run) -> None:
    told = rebase("net/a/b", "--onto", "net/a", "--dry-run")
    assert told.code == 0
    assert [line.split()[:2] for line in told.out.splitlines()[:4]] == [
        ["net/a/b@1"], ["is", "on"], ["onto", "net/a@2"], ["moves", "norm"]
    ]  # fmt: skip
    assert "times its own change" in told.out
    assert "`registry rebase net/a/b@1 --onto net/a@2 --yes` publishes it" in told.err
    asked = rebase("net/a/b", "--onto", "net/a")  # nobody is there to answer
    assert (asked.code, asked.out) == (2, told.out)
    assert "Nothing was published" in asked.err
    assert run("log", "net/a/b", "--json").out.count('"number": 1') == 1

    done = rebase("net/a/b", "--onto", "net/a", "--yes", "--tag", "try", "-m", "on the repaired parent")
    assert (done.code, done.out.splitlines()[0]) == (0, "net/a/b@2")
    assert "notice: Rebased from net/a/b@1, not trained" in done.err
    assert "parent proven" in run("tree").out
    shown = json.loads(run("show", "net/a/b@try", "--json").out)["revision"]
    assert (shown["parent"], shown["message"]) == ("net/a@2", "on the repaired parent")
    assert "net/a/b@2 was there already" in rebase("net/a/b@1", "--onto", "net/a", "--yes").err


def test_json_is_one_document(rebase: Run) -> None:
    found = json.loads(rebase("net/a/b", "--onto", "net/a", "--yes", "--json").out)
    assert (found["reference"], found["revision"]["reference"], found["created"]) == ("net/a/b@1", "net/a/b@2", True)


def test_what_is_refused_is_reported_all_the_same(rebase: Run) -> None:
    ended = rebase("net/a/dora", "--onto", "net/a", "--dry-run")
    assert ended.code == 4
    assert "moves" in ended.out
    assert "rescaled; the parents differ there" in ended.out
    assert "train it again on the new parent" in ended.err
    assert rebase("net/a/dora", "--onto", "net/a", "--yes").code == 4


def test_the_tree_of_what_is_behind_names_the_command(rebase: Run, run: Run) -> None:
    ended = run("tree", "--behind")
    assert (ended.code, "behind: pinned to a@1, newest is @2" in ended.out) == (0, True)
    assert "`registry rebase net/a/b@1 --onto net/a --dry-run`" in ended.err
    for name in ("b",):
        rebase(f"net/a/{name}", "--onto", "net/a", "--yes")
    assert "net/a/dora@1" in run("tree", "--behind").err
