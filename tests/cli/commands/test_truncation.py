"""Truncating from the command line: the words, what is said, and the report as a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import registry
from registry.schemas import Fetched, Truncation, Verified
from tests.cli.conftest import Ended, Run
from tests.kit import plain_base, write_chain


@pytest.fixture(scope="module")
def with_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry that holds a path of two links on two modules."""
    root = tmp_path_factory.mktemp("with-path")
    base = plain_base(root / "base")
    links = write_chain(root / "links", base, 2, ["one", "two"], r=3)
    opened = registry.connect(root / "registry")
    opened.add_base("net", base.folder)
    opened.publish(links[0], "net/a")
    opened.publish(links[1], "net/a/b")
    opened.close()
    return root / "registry"


@pytest.fixture
def fetch(with_path: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``fetch net/a/b`` with further words, in an empty folder."""
    monkeypatch.setenv("REGISTRY_URL", str(with_path))
    monkeypatch.setenv("REGISTRY_CACHE_DIR", str(tmp_path / "cache"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return lambda *words: run("fetch", "net/a/b", *words)


def ok(ended: Ended) -> str:
    assert ended.code == 0, ended.err
    return ended.out


def names() -> list[str]:
    return sorted(entry.name for entry in Path.cwd().iterdir())


def test_the_report_is_that_of_the_answer_and_of_the_receipt(fetch: Run) -> None:
    words = ("-o", "out", "--rank", "2", "--report", "lost.json", "--json")
    answer = Fetched.model_validate_json(ok(fetch(*words)))
    assert names() == ["lost.json", "out"]
    report = Truncation.model_validate_json(Path("lost.json").read_text())
    receipt = json.loads(Path("out/registry-receipt.json").read_text())
    assert report == answer.truncation == Truncation.model_validate(receipt["truncation"])
    assert (report.rank, report.max_error) == (2, None)
    assert [entry.module for entry in report.modules] == ["body.one", "body.two"]
    assert {entry.rank_after for entry in report.modules} == {2}
    assert report.enough_for.keys() == {"0.01", "0.05", "0.1"}


def test_a_person_is_told_what_was_lost(fetch: Run) -> None:
    ended = fetch("-o", "out", "--max-error", "0.3")
    assert ok(ended) == f"{Path('out').absolute()}\n"
    (line,) = [line for line in ended.err.splitlines() if line.startswith("truncated to ")]
    assert "% of the parameters with an error of 25%; at most 1% with --rank 6" in line
    assert names() == ["out"]
    assert "truncated" not in fetch("-o", "whole").err


def test_a_report_of_what_was_there_already(fetch: Run) -> None:
    ok(fetch("-o", "out", "--rank", "2", "--report", "first.json"))
    Path("second.json").write_text("something older")
    again = fetch("-o", "out", "--rank", "2", "--report", "second.json")
    ok(again)
    assert "already present" in again.err
    assert Path("second.json").read_bytes() == Path("first.json").read_bytes()


def test_all_options_together(fetch: Run, run: Run) -> None:
    ok(fetch("-o", "out", "--rank", "5", "--max-error", "0.5", "--uniform", "--dtype", "bf16", "--report", "r.json"))
    config = json.loads(Path("out/adapter_config.json").read_text())
    assert config["rank_pattern"] == {}
    assert config["r"] <= 5
    assert Verified.model_validate_json(ok(run("verify", "out", "--json"))).equal


def test_a_cap_that_cannot_reach_the_error_ends_with_8_and_its_advice_works(fetch: Run) -> None:
    ended = fetch("-o", "out", "--rank", "1", "--max-error", "0.02", "--report", "r.json")
    assert (ended.code, ended.out) == (8, "")
    assert names() == []
    words = ended.err.split()
    enough, reachable = (words[words.index(option) + 1] for option in ("--rank", "--max-error"))
    ok(fetch("-o", "more", "--rank", enough, "--max-error", "0.02"))
    ok(fetch("-o", "worse", "--rank", "1", "--max-error", reachable))
    failed = fetch("-o", "out", "--rank", "1", "--max-error", "0.02", "--json")
    assert {"code": "accuracy", "exit": 8}.items() <= json.loads(failed.err).items()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rank", "0"), "--rank must be 1 or more"),
        (("--rank", "x"), "'--rank'"),
        (("--rank", "2.5"), "'--rank'"),
        (("--max-error", "1.5"), "--max-error must be 0 or more"),
        (("--max-error", "nan"), "--max-error must be 0 or more"),
        (("--max-error", "5%"), "'--max-error'"),
        (("--rank", "2", "--as", "merged"), "--rank needs --as lora"),
        (("--max-error", "0.1", "--as", "published"), "--max-error needs --as lora"),
        (("--uniform", "--as", "merged"), "--uniform needs --as lora"),
        (("--report", "r.json"), "--rank, --max-error or --as merged"),
        (("--report", "r.json", "--uniform"), "--rank, --max-error or --as merged"),
        (("--report", "r.json", "--rank", "0"), "--rank must be 1 or more"),
        (("--report", ".", "--rank", "2"), "is a folder"),
        (("--report", "/", "--rank", "2"), "is a folder"),
        (("--report", "absent/r.json", "--rank", "2"), "there is no folder"),
    ],
)
def test_options_that_mean_nothing(fetch: Run, words: tuple[str, ...], said: str) -> None:
    ended = fetch("-o", "out", *words)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert names() == []


@pytest.mark.parametrize(
    "report",
    ["out/lost.json", "out/adapter_config.json", "out/registry-receipt.json", "out/a/b", "link/lost.json", "link.json"],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_report_in_the_folder_that_is_filled_is_refused_before_anything_is_done(
    fetch: Run, run: Run, report: str, there: bool
) -> None:
    Path("link").symlink_to("out")
    Path("link.json").symlink_to("out/adapter_config.json")
    if there:
        ok(fetch("-o", "out", "--rank", "2"))
    before = names()
    for out in ("out", "./out/", "link", str(Path("out").absolute())):
        ended = fetch("-o", out, "--rank", "1", "--force", "--report", report)
        assert (ended.code, ended.out) == (2, "")
        assert f"--report {report!r}" in ended.err
    assert names() == before
    if there:
        assert Verified.model_validate_json(ok(run("verify", "out", "--json"))).equal


def test_a_report_where_a_folder_will_be(fetch: Run) -> None:
    for report in ("new", "new/out"):
        ended = fetch("-o", "new/out", "--rank", "2", "--report", report)
        assert (ended.code, ended.out) == (2, "")
    assert names() == []
    ok(fetch("-o", "out", "--rank", "2", "--report", "out.json"))  # beside it


def test_a_report_through_a_link_or_a_pipe(fetch: Run) -> None:
    Path("older.json").write_text("older")
    Path("link.json").symlink_to("older.json")
    ok(fetch("-o", "out", "--rank", "2", "--report", "link.json"))
    assert Path("link.json").is_symlink()
    assert Truncation.model_validate_json(Path("older.json").read_text()).rank == 2
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDWR | os.O_NONBLOCK)
    ok(fetch("-o", "out", "--rank", "2", "--report", "pipe"))
    assert os.read(reader, 1 << 16) == Path("older.json").read_bytes()
    os.close(reader)
    assert Path("pipe").is_fifo()


def test_a_report_that_cannot_be_written(fetch: Run) -> None:
    ended = fetch("-o", "out", "--rank", "2", "--report", "r" * 300)
    assert ended.code == 1
    assert "too long" in ended.err
    assert names() == []
    ended = fetch("-o", "out", "--rank", "2", "--report", "r" * 254)  # the draft's name is longer
    assert ended.code == 1
    assert "can't be written" in ended.err
    assert names() == ["out"]
