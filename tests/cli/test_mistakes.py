"""What is said to the mistakes that everybody makes in the first week.

The rows are in `mistakes.toml`, to be read and reviewed: what was typed, what is said, the exit code. What a changed
sentence says, ``WRITE_MISTAKES=1`` in the environment of this test writes into them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from registry.services.local import LocalRegistry
from tests.cli.conftest import Ended, Run
from tests.cli.first_week import FirstWeek, make_first_week
from tests.kit.serving import served

TABLE: Final = Path(__file__).with_name("mistakes.toml")
ROWS: Final[list[dict[str, Any]]] = tomllib.loads(TABLE.read_text(encoding="utf-8"))["mistake"]

Said = dict[int, tuple[str, int]]
"""What is said to a row by its place in the table, and the exit code."""


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstWeek]:
    made = make_first_week(tmp_path_factory.mktemp("week"))
    before = _events(made)
    yield made
    assert _events(made) == before  # mistakes change nothing


def _events(week: FirstWeek) -> object:
    with closing(LocalRegistry.open(week.registry)) as registry:
        return registry.events()


@pytest.fixture(scope="module")
def places(week: FirstWeek) -> Iterator[dict[str, str]]:
    """What stands in braces in the table."""
    with closing(LocalRegistry.open(week.guarded, cache_folder=week.folder / "cache")) as guarded:
        digits = guarded.resolve("tiny/support").digest.removeprefix("sha256:")[:12]
        with served(guarded, anonymous="none") as service:
            yield {"here": str(week.folder), "service": service, "digits": digits, **week.secrets}


@pytest.fixture(scope="module")
def said() -> Iterator[Said]:
    found: Said = {}
    yield found
    if os.environ.get("WRITE_MISTAKES") != "1":
        return
    rows = re.split(r"(?=^\[\[mistake\]\]$)", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for number, (text, code) in found.items():
        row = re.sub(r"(?m)^said = .*$", lambda _, text=text: f"said = {json.dumps(text)}", rows[number + 1])
        rows[number + 1] = re.sub(r"(?m)^code = .*$", f"code = {code}", row)
    TABLE.write_text("".join(rows), encoding="utf-8")


def name_of(row: Mapping[str, Any]) -> str:
    return " ".join([*(f"{name}={value}" for name, value in row.get("settings", {}).items()), row["typed"]])


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[name_of(row) for row in ROWS])
def test_a_mistake_gets_the_answer_that_helps(
    number: int, places: dict[str, str], said: Said, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ROWS[number]
    here = Path(places["here"])
    monkeypatch.chdir(here)
    kept = {"REGISTRY_CACHE_DIR": str(here / "cache"), "XDG_CONFIG_HOME": str(here / "config")}
    for name, value in {"REGISTRY_URL": "registry", **kept, **row.get("settings", {})}.items():
        monkeypatch.setenv(name, filled(value, places))
    ended = run(*(filled(word, places) for word in shlex.split(row["typed"])))
    said[number] = emptied(ended, places), ended.code
    assert said[number] == (row["said"], row["code"])


def filled(text: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def emptied(ended: Ended, places: Mapping[str, str]) -> str:
    """What was said, with the names of places, and without what is another in every run."""
    text = ended.err.removesuffix("\n").removeprefix("registry: ")
    for name, value in places.items():
        text = text.replace(value, f"{{{name}}}")
    text = re.sub(r"sha256:[0-9a-f]{64}", "sha256:{digest}", text)
    return re.sub(r"\d{4}-\d\d-\d\d( \d\d:\d\d UTC)?", "{time}", text)


def test_the_table_is_one_of_mistakes() -> None:
    """Each is there once, and is answered in a line; two are none, but what was asked for is there already."""
    names = [name_of(row) for row in ROWS]
    assert len(names) == len(set(names)) >= 100
    there = {"fetch tiny/support -o of-rank-12 --rank 16", "publish april tiny/support -m Again"}
    assert {row["typed"] for row in ROWS if row["code"] == 0} == there
    assert not [row["typed"] for row in ROWS if "\n" in row["said"] and row["code"] != 0]


def test_the_advice_for_another_name_works(places: dict[str, str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(places["here"])
    monkeypatch.setenv("REGISTRY_URL", "registry")
    assert run("fetch", "tiny/support", "--as", "published", "-o", "renamed").code == 0
    ended = run("publish", "renamed", "tiny/new", "--dry-run")
    assert ended.code == 0, ended.err
