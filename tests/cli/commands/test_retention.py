"""retention set, show, clear and run: what is printed, on a real folder."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import pytest

from registry.cli.render.results import runs
from registry.services.local import LocalRegistry
from tests.cli.conftest import Run
from tests.kit import plain_base, write_adapter

COUNT = 9


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """net/agent@1 to @9; @4 is tagged good, @7 has the best reward."""
    monkeypatch.setenv("REGISTRY_AUTHOR", "anna")
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16)})
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        registry.add_base("net", base.folder)
        for number in range(1, COUNT + 1):
            adapter = write_adapter(tmp_path / f"adapter{number}", base, ["a"], r=1, seed=number)
            registry.publish(adapter, "net/agent", metrics={"reward": 2.0 if number == 7 else number / 10})
        registry.tag("net/agent@4", "good")
    return str(tmp_path / "registry")


def untimed(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "2026-11-26 21:23", text)


def test_what_is_printed(url: str, run: Run) -> None:
    done = run("retention", "set", "net/agent", "--keep-last", "2", "--keep-best", "max:reward:1", "--url", url)
    assert done.code == 0
    assert untimed(done.out) == (
        "net/agent\n"
        "  keep      last 2  best max:reward:1  tagged\n"
        "  set       2026-11-26 21:23 UTC  by anna\n"
        "  would go  5 revisions\n"
        "  numbers   1-3  5-6\n"
        "  used      no use recorded\n"
        "  stay      4 revisions  newest: 1  last: 2  best: 1  tagged: 1\n"
    )
    assert "Nothing was deleted: `registry retention run net/agent` deletes what would go." in done.err
    shown = run("retention", "show", "net/agent", "--url", url)
    assert (shown.out, shown.err) == (done.out, done.err)
    dry = run("retention", "run", "net/agent", "--dry-run", "--url", url)
    assert (dry.out, dry.err) == (done.out, done.err)

    ran = run("retention", "run", "net/agent", "--url", url)
    assert "  deleted  5 revisions\n  numbers  1-3  5-6\n" in ran.out
    assert "used" not in ran.out
    assert "`registry delete -r net/agent --undo` restores what was deleted until" in ran.err
    again = run("retention", "run", "net/agent", "--url", url)
    assert "  deleted  0 revisions\n" in again.out
    assert again.err == ""

    cleared = run("retention", "clear", "net/agent", "--url", url)
    assert untimed(cleared.out) == (
        "net/agent\n"
        "  state  no rule any more: all revisions are kept\n"
        "  keep   last 2  best max:reward:1  tagged\n"
        "  set    2026-11-26 21:23 UTC  by anna\n"
    )
    back = run("delete", "-r", "net/agent", "--undo", "--url", url)
    assert back.out.startswith("net/agent\n  restored   5 revisions")


def test_as_json(url: str, run: Run) -> None:
    given = ("retention", "set", "net/agent", "--keep-every", "3", "--no-keep-tagged", "--url", url, "--json")
    answer = json.loads(run(*given).out)
    assert answer["rule"]["keep_every"] == 3
    assert answer["rule"]["keep_tagged"] is False
    assert answer["revisions"] == [f"net/agent@{number}" for number in (1, 2, 4, 5, 7, 8)]
    assert answer["tags"] == ["net/agent@good"]
    assert json.loads(run("retention", "show", "net/agent", "--url", url, "--json").out) == answer
    ran = json.loads(run("retention", "run", "net/agent", "--url", url, "--json").out)
    assert (ran["done"], ran["revisions"]) == (True, answer["revisions"])
    assert json.loads(run("retention", "clear", "net/agent", "--url", url, "--json").out) == answer["rule"]


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (["set", "net/agent"], 2, "is empty, and would delete all revisions but the newest"),
        (["set", "net/agent", "--keep-best", "reward:1"], 2, "max:METRIC:N or min:METRIC:N is expected"),
        (["set", "net/agent", "--keep-last", "0"], 2, "greater than or equal to 1"),
        (["set", "net", "--keep-last", "1"], 2, "net is a base model"),
        (["show", "net/agent"], 3, "has no retention rule"),
        (["clear", "net/agent"], 3, "has no retention rule"),
        (["run", "net/agnt"], 3, "Did you mean"),
    ],
)
def test_what_is_refused(url: str, run: Run, given: list[str], code: int, said: str) -> None:
    done = run("retention", *given, "--url", url)
    assert done.code == code
    assert said in done.err


def test_numbers_that_follow_each_other_are_one() -> None:
    assert runs([]) == []
    assert runs([1, 2, 3, 5, 7, 8]) == ["1-3", "5", "7-8"]
