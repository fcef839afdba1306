"""`registry export`: what is printed, in a pipe and as JSON, and how it ends."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from registry.figures import command
from tests.cli.conftest import Ended, Run
from tests.kit.hub_folder import hub_client
from tests.kit.hub_writing import WritableHub
from tests.transfer.export_house import CHILD_1, PARENT, House, opened


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("export")
    with closing(opened(folder)) as registry:
        House.build(folder, registry)
        return registry.url


@pytest.fixture
def at(run: Run, place: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*args: str) -> Ended:
        monkeypatch.setenv("REGISTRY_URL", place)
        return run("export", *args)

    return call


def test_a_folder(at: Run, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    done = at(CHILD_1, out, "--as", "published")
    assert (done.code, done.out) == (0, f"{out}\n")
    assert f"{CHILD_1} as published to {out}: 8 files, " in done.err
    assert "left out: notes-qxbird.txt (its content may name anything" in done.err
    assert "notice: The metric 'acc_qxacme' is left out" in done.err
    again = at(CHILD_1, out, "--as", "published", "--json")
    told = json.loads(again.out)
    assert (again.code, again.err, told["created"], told["target"]) == (0, "", False, out)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    refused = at(PARENT, out)
    assert (refused.code, refused.out) == (5, "")
    assert "holds 'mine.txt' that no export wrote" in refused.err


def test_what_a_terminal_offers_next_can_be_run_and_stays_private(
    at: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.cli.session.Session.next", lambda run, words, _: run.say(command(*words)))
    done = at(CHILD_1, str(tmp_path / "my out"))
    assert f"hf upload --private ORG/REPO '{tmp_path}/my out'" in done.err


def test_a_dry_run_prints_the_files_and_the_card(at: Run, tmp_path: Path) -> None:
    done = at(CHILD_1, str(tmp_path / "out"), "--dry-run", "--base-model", "meta/llama")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == str(tmp_path / "out")
    assert [line.split()[-1] for line in lines[1:5]] == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "registry-receipt.json",
    ]
    assert 'base_model: "meta/llama"' in lines
    assert "not written, a dry run" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_repository(at: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WritableHub() as hub, hub_client(monkeypatch, hub.url, tmp_path / "hub-cache", hub.token):
        done = at(CHILD_1, "hf:acme/bird")
        assert (done.code, done.out) == (0, f"hf:acme/bird@{hub.repos['acme/bird'].head.id}\n")
        assert ", private, written" in done.err
        assert f"{hub.url}/acme/bird" in done.err
        assert "unchanged" in at(CHILD_1, "hf:acme/bird").err
        hub.repos["acme/bird"].private = False
        assert at(CHILD_1, "hf:acme/bird").code == 5


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("qxbase", "out"), 2),
        ((CHILD_1, "hf:bird"), 2),
        ((CHILD_1, "out", "--public"), 2),
        ((CHILD_1, "out", "--base-model", "bird"), 2),
        ((f"{PARENT}/none", "out"), 3),
    ],
)
def test_how_it_ends(
    at: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    assert at(*args).code == code
    assert list(tmp_path.iterdir()) == []
