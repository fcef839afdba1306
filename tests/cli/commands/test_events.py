"""The command events: its conditions, and following what happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import pytest

from registry.errors import UnavailableError
from registry.schemas.team import FollowedEvent
from registry.services.following import FollowingHere
from registry.services.local import LocalRegistry
from tests.cli.conftest import Run
from tests.kit import plain_base, write_adapter
from tests.kit.serving import served
from tests.root import ROOT

FOLLOW = (
    "import sys, signal\n"
    # as Python itself does where whoever started the tests has not ignored Ctrl-C
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from registry.cli.main import main\n"
    "main()\n"
)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    base = plain_base(tmp_path / "base")
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache", actor="anna")) as opened:
        opened.add_base("tiny", base.folder)
        for seed, name in enumerate(("one", "two")):
            folder = write_adapter(tmp_path / name, base, list(base.modules)[:1], r=1, seed=seed)
            opened.publish(folder, f"tiny/{name}", tags=["prod"])
        yield opened


@pytest.fixture(params=["folder", "service"])
def place(request: pytest.FixtureRequest, registry: LocalRegistry) -> Iterator[str]:
    if request.param == "folder":
        yield registry.url
        return
    with served(registry) as url:
        yield url


def test_conditions_are_met_together(place: str, run: Run) -> None:
    def found(*words: str) -> list[tuple[str, str]]:
        ended = run("events", *words, "--url", place, "--json")
        assert (ended.code, ended.err) == (0, "")
        return [(event["action"], event["subject"]) for event in json.loads(ended.out)]

    assert found("tiny/one") == [("tag", "tiny/one"), ("publish", "tiny/one@1")]
    assert found("--kind", "publish") == [("publish", "tiny/two@1"), ("publish", "tiny/one@1")]
    assert found("tiny", "--kind", "tag", "--actor", "anna", "--after", "1h", "--limit", "1") == [("tag", "tiny/two")]
    assert found("--actor", "nobody") == found("--after", "2126-01-01") == []
    assert run("events", "--actor", "nobody", "--url", place).err == "No events match.\n"
    assert run("events", "tiny/none", "--url", place).code == 3
    assert run("events", "--kind", "published", "--url", place).code == 2
    assert run("events", "--after", "soon", "--url", place).code == 2


def following(place: str, *words: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    return subprocess.Popen(
        [sys.executable, "-c", FOLLOW, "events", "--follow", "--url", place, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


@pytest.mark.slow_on("folder")
def test_new_events_come_as_lines_of_json_until_ctrl_c(place: str, registry: LocalRegistry) -> None:
    with following(place, "tiny/one", "--json") as process:
        try:
            told: list[dict[str, Any]] = [json.loads(line(process.stdout)) for _ in range(2)]
            assert [one["action"] for one in told] == ["publish", "tag"]  # oldest first
            registry.tag("tiny/two", "other")
            registry.tag("tiny/one", "next")
            registry.untag("tiny/one", "next")
            told = [json.loads(line(process.stdout)) for _ in range(2)]
            assert [(one["action"], one["subject"]) for one in told] == [("tag", "tiny/one"), ("untag", "tiny/one")]
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()
        assert process.stderr is not None
        assert (line(process.stdout), process.stderr.read()) == ("", "")


def test_what_came_after_a_cursor_is_printed_oldest_first(place: str, registry: LocalRegistry, run: Run) -> None:
    ended = run("events", "tiny/one", "--since", "start", "--url", place, "--json")
    first, second = map(json.loads, ended.out.splitlines())
    assert (ended.code, ended.err, first["action"], second["action"]) == (0, "", "publish", "tag")
    registry.untag("tiny/two", "prod")
    ended = run("events", "--since", second["cursor"], "--actor", "anna", "--kind", "untag", "--url", place)
    assert ended.out.splitlines()[1].split()[2:5] == ["untag", "anna", "tiny/two"]
    words = ("--since", second["cursor"], "--kind", "untag", "--url", place, "--json")
    (third,) = map(json.loads, run("events", "tiny/two", *words).out.splitlines())
    assert run("events", "--since", third["cursor"], "--url", place).out == ""
    assert run("events", "--since", third["cursor"], "--limit", "3", "--url", place).code == 2
    assert run("events", "--since", "soon", "--follow", "--url", place).code == 2
    assert run("events", "--follow", "--limit", "20000", "--url", place).code == 2


def test_a_loss_is_said_once_on_stderr(registry: LocalRegistry, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    more, left = FollowingHere._more, [UnavailableError("it is away.") for _ in range(3)]

    def away(self: FollowingHere) -> Sequence[FollowedEvent] | None:
        if left:
            raise left.pop()
        return more(self)

    monkeypatch.setattr(FollowingHere, "_more", away)
    monkeypatch.setattr("registry.operations.following._FIRST", 0.01)
    ended = run("events", "tiny/one", "--since", "start", "--url", registry.url, "--json")
    assert (ended.code, len(ended.out.splitlines())) == (0, 2)
    assert ended.err == "notice: it is away. Events that come meanwhile are printed when it is there again.\n"


def test_columns_keep_their_place(registry: LocalRegistry) -> None:
    with following(registry.url, "tiny/one", "--limit", "1") as process:
        try:
            header, first = line(process.stdout), line(process.stdout)
            registry.untag("tiny/one", "prod")
            second = line(process.stdout)
        finally:
            process.kill()
    for word, values in (("ACTION", ("tag ", "untag")), ("ACTOR", ("anna", "anna")), ("SUBJECT", ("tiny", "tiny"))):
        at = header.index(word)
        assert (first[at:].startswith(values[0]), second[at:].startswith(values[1])) == (True, True)
