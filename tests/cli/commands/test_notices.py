"""Notices on the command line: what publish and show say, and what ``--strict`` takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import registry
from tests.cli.conftest import Run
from tests.kit import plain_base, write_adapter

WHERE = ("a", "b")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with a base model, and folders beside it."""
    root = tmp_path_factory.mktemp("notices")
    base = plain_base(root / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    write_adapter(root / "usual", base, WHERE, seed=1, size=0.1)
    write_adapter(root / "zero", base, WHERE, seed=2, fill="zero")
    write_adapter(root / "nested" / "fine", base, WHERE, seed=3, size=0.1)
    write_adapter(root / "nested" / "unfine", base, WHERE, seed=4, fill="zero")
    with registry.connect(root / "registry") as opened:
        opened.add_base("net", base.folder)
        opened.publish(root / "usual", "net/usual")
    return root


@pytest.fixture
def publish(folders: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("REGISTRY_URL", str(folders / "registry"))
    monkeypatch.chdir(folders)
    return lambda *words: run("publish", *words)


@pytest.mark.parametrize(
    "words",
    [
        ("--strict", "zero", "net/no"),
        ("zero", "net/no", "--strict"),
        ("zero", "--strict=duplicate,zero_delta", "net/no"),
    ],
)
def test_strict_takes_no_word_that_is_not_its_own(publish: Run, words: tuple[str, ...]) -> None:
    ended = publish(*words)
    assert ended.code == 4
    assert "The delta of 2 of 2 modules is zero: a, b." in ended.err
    assert "--strict=zero_delta" in ended.err
    assert ended.out == ""


def test_after_two_dashes_it_is_a_word(publish: Run) -> None:
    ended = publish("--", "--strict", "net/no")
    assert ended.code == 3
    assert "--strict" in ended.err


def test_what_it_can_be_strict_about(publish: Run) -> None:
    ended = publish("zero", "net/no", "--strict=zero")
    assert ended.code == 2
    assert "zero_delta, one_direction, duplicate, larger_than_base, like_sibling, undoes_parent" in ended.err


def test_publish_and_show_say_it(publish: Run, run: Run) -> None:
    ended = publish("zero", "net/zero", "--strict=duplicate")
    assert ended.code == 0
    notice = "The delta of 2 of 2 modules is zero: a, b. (zero_delta)"
    assert f"notice: {notice}" in ended.err
    assert ended.out.splitlines()[0] == "net/zero@1"
    shown = " ".join(run("show", "net/zero").out.split())
    assert notice in shown
    (found,) = json.loads(run("show", "net/zero", "--json").out)["notices"]
    assert (found["code"], found["modules"], found["of"]) == ("zero_delta", 2, 2)
    assert json.loads(publish("zero", "net/zero", "--json").out)["notices"] == [found]


def test_dry_run(publish: Run) -> None:
    ended = publish("zero", "net/no", "--dry-run")
    assert ended.code == 0
    assert "(zero_delta)" in ended.err
    assert publish("zero", "net/no", "--dry-run", "--strict").code == 4
    ended = publish("usual", "net/no", "--dry-run", "--strict=like_sibling")
    assert ended.code == 0
    assert "like_sibling, which take computing" in " ".join(ended.out.split())


def test_nested_folders(publish: Run, run: Run) -> None:
    ended = publish("-r", "nested", "net", "--strict")
    assert ended.code == 4
    assert "unfine" in ended.err
    ended = publish("-r", "nested", "net", "--strict=zero_delta", "--keep-going")
    assert ended.code == 9
    assert ended.out.splitlines() == ["net/fine@1"]
