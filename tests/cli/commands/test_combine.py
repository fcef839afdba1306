"""Combining from the command line: what is reported first, what is refused, and what other commands say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import registry
from tests.cli.conftest import Run
from tests.kit import plain_base, write_adapter


@pytest.fixture
def combine(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``combine`` with further words, where ``net/a/x@1`` and ``net/a/y@1`` are on ``net/a@1``."""
    base = plain_base(tmp_path / "base", {"p.weight": (24, 16), "q.weight": (16, 24)})
    with registry.connect(tmp_path / "registry") as opened:
        opened.add_base("net", base.folder)
        for seed, path in enumerate(("net/a", "net/a/x", "net/a/y")):
            opened.publish(write_adapter(tmp_path / str(seed), base, ["p", "q"], r=2, seed=seed), path)
    monkeypatch.setenv("REGISTRY_URL", str(tmp_path / "registry"))
    return lambda *words: run("combine", *words)


def test_the_ratio_comes_first_and_the_revision_on_stdout(combine: Run, run: Run, tmp_path: Path) -> None:
    told = combine("net/a/x=0.5", "net/a/y=-1", "net/a/mix", "--dry-run")
    assert told.code == 0
    lines = [line.split() for line in told.out.splitlines()]
    assert lines[:2] == [["net/a/mix"], ["over", "net/a@1"]]
    assert lines[2][:5] == ["sum", "of", "0.5", "x", "net/a/x@1"]
    assert "energy ratio" in told.out
    assert "Nothing was published" in told.err
    assert run("log", "net/a/mix").code == 3

    done = combine("net/a/x=0.5", "net/a/y=-1", "net/a/mix", "--tag", "best", "-m", "half less one")
    assert (done.code, done.out.splitlines()[0]) == (0, "net/a/mix@1")
    assert done.err.startswith("energy ratio")
    assert done.out.splitlines()[1:] == told.out.splitlines()[1:]
    assert "net/a/mix@1 was there already" in combine("net/a/x=0.5", "net/a/y=-1", "net/a/mix").err
    assert "sum of     0.5 x net/a/x@1  -1 x net/a/y@1" in run("show", "net/a/mix@best").out
    assert "sum of 0.5 x@1 + -1 y@1" in run("tree").out

    found = json.loads(combine("net/a/x=0.5", "net/a/y=-1", "net/a/mix", "--json", "--rank", "1").out)
    assert (found["revision"]["reference"], found["rank"], len(found["sources"])) == ("net/a/mix@2", 1, 2)
    assert combine("net/a/x=0.5", "net/a/y=1", "net/b", "--over", "net").out.startswith("net/b@1\n")

    run("fetch", "net/a/mix", "-o", str(tmp_path / "out"))
    verified = run("verify", str(tmp_path / "out"))
    assert verified.code == 0
    assert "1 combination made again: the same bytes" in " ".join(verified.out.split())


REFUSED = [
    (["net/a/x=0.5", "net/a/y", "net/a/m"], 2, "net/a/y=1 for each makes the sum, net/a/y=0.5 for each the mean"),
    (["net/a/x=0.5", "net/a/y=0.5"], 2, "the path of the new revision is expected last"),
    (["net/a/m"], 2, "Nothing to combine"),
    (["net/a/x", "net/a/m"], 2, "net/a/x=1 takes its delta as it is"),
    (["net/a/x=half", "net/a/m"], 2, "The weight of net/a/x is half: a finite number is expected"),
    (["net/a/x=nan", "net/a/m"], 2, "a finite number is expected"),
    (["net/a/x=0", "net/a/y=0", "net/a/m"], 2, "All weights are 0"),
    (["net/a/x=1", "net/a/x@1=1", "net/a/m"], 2, "net/a/x@1 is given twice"),
    (["net/a/z=1", "net/a/m"], 3, "There is no adapter net/a/z"),
    (["net/a/x=1", "net/a/y=1", "net/m"], 5, "give net/a/m instead of net/m"),
]


def test_what_is_refused(combine: Run) -> None:
    for words, code, sentence in REFUSED:
        ended = combine(*words)
        assert (ended.code, ended.out) == (code, "")
        assert sentence in " ".join(ended.err.split())


def test_last_names_stand_for_their_adapters(combine: Run, run: Run) -> None:
    """The only adapter of a name is meant by it, and a new name lies directly under what is above all sources."""
    assert combine("x=0.8", "y@1=0.6", "mix").out.startswith("net/a/mix@1\n")
    assert combine("net/a/x=0.8", "y=0.6", "net/a/mix").err.count("net/a/mix@1 was there already") == 1
    assert combine("x=0.5", "half").out.startswith("net/a/half@1\n")
    assert combine("x=0.5", "y=0.5", "low", "--over", "net").out.startswith("net/low@1\n")
    assert combine("x=0.5", "net/a/x=0.5", "mix").code == 2
    shown = run("show", "net/a/mix").out
    assert "0.8 x net/a/x@1  0.6 x net/a/y@1" in shown
    gone = combine("z=0.5", "mix")
    assert (gone.code, "z" in gone.err) == (3, True)
    base = combine("net=0.5", "mix")
    assert (base.code, "net is a base model" in base.err) == (2, True)


def test_a_name_of_several_adapters_is_asked_about(combine: Run, run: Run) -> None:
    assert combine("x=0.5", "net/x", "--over", "net").code == 0
    asked = combine("x=0.8", "y=0.6", "mix")
    assert asked.code == 2
    assert "x is the last name of 2 adapters, net/a/x, net/x: write the path of one." in " ".join(asked.err.split())
