"""What is said to the mistakes that everybody makes in the first week: `mistakes.toml` is read by people, too.

A row is what was typed, what is said and the exit code. ``tools.py`` beside it is not needed to change one: the text of
a failing row says what is said now.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from registry.services.local import LocalRegistry
from tests.cli.conftest import Run
from tests.cli.first_week import FirstWeek, make_first_week
from tests.kit.serving import served

ROWS: Final[list[dict[str, Any]]] = tomllib.loads(Path(__file__).with_name("mistakes.toml").read_text("utf-8"))["mistake"]


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirstWeek]:
    made = make_first_week(tmp_path_factory.mktemp("week"))
    before = _events(made)
    yield made
    assert _events(made) == before  # a mistake changes nothing


@pytest.fixture(scope="module")
def places(week: FirstWeek) -> Iterator[dict[str, str]]:
    """What stands in braces in the table."""
    with closing(LocalRegistry.open(week.guarded, cache_folder=week.folder / "cache")) as guarded:
        digest = guarded.show("tiny/support").revision
        assert digest is not None
        with served(guarded, anonymous="none") as service:
            yield {
                "here": str(week.folder),
                "service": service,
                "digits": digest.digest.removeprefix("sha256:")[:12],
                **week.secrets,
            }


def _events(week: FirstWeek) -> object:
    with closing(LocalRegistry.open(week.registry)) as registry:
        return registry.events()


def name_of(row: Mapping[str, Any]) -> str:
    return " ".join([*(f"{name}={value}" for name, value in row.get("settings", {}).items()), row["typed"]])


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_mistake_gets_the_answer_that_helps(
    row: dict[str, Any], places: dict[str, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(places["here"])
    monkeypatch.chdir(here)
    kept = {"REGISTRY_CACHE_DIR": str(here / "cache"), "XDG_CONFIG_HOME": str(here / "config")}
    for name, value in {"REGISTRY_URL": "registry", **kept, **row.get("settings", {})}.items():
        monkeypatch.setenv(name, filled(value, places))
    ended = run(*(filled(word, places) for word in shlex.split(row["typed"])))
    said = ended.err.removesuffix("\n").removeprefix("registry: ")
    assert (emptied(said, places), ended.code) == (row["said"], row["code"])
    assert "Traceback" not in ended.err


def filled(text: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def emptied(text: str, places: Mapping[str, str]) -> str:
    """The text with the names of places, and without what is another in every run."""
    for name, value in places.items():
        text = text.replace(value, f"{{{name}}}")
    text = re.sub(r"sha256:[0-9a-f]{64}", "sha256:{digest}", text)
    return re.sub(r"\d{4}-\d\d-\d\d( \d\d:\d\d UTC)?", "{time}", text)
