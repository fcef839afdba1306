"""The command follow: a folder kept at what names point at, as a process, and once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from registry.services.local import LocalRegistry
from tests.cli.commands.test_events import FOLLOW
from tests.cli.conftest import Run
from tests.kit import plain_base, write_adapter
from tests.kit.serving import served
from tests.root import ROOT


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[LocalRegistry]:
    base = plain_base(tmp_path / "base")
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache", actor="anna")) as opened:
        opened.add_base("tiny", base.folder)
        for seed, name in enumerate(("one", "two")):
            for turn in range(2):
                folder = write_adapter(
                    tmp_path / f"{name}{turn}", base, list(base.modules)[:1], r=1, seed=2 * seed + turn
                )
                opened.publish(folder, f"tiny/{name}")
            opened.tag(f"tiny/{name}@1", "prod")
        yield opened


@contextmanager
def following(url: str, room: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    command = [sys.executable, "-c", FOLLOW, "follow", *words, "--to", f"folder={room}", "--url", url, "--json"]
    with subprocess.Popen(
        [*command, "--interval", "0.2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment | {"REGISTRY_CACHE_DIR": str(room.parent / "its-cache")},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str], count: int) -> list[tuple[str, str]]:
    assert process.stdout is not None
    lines: list[dict[str, Any]] = [json.loads(process.stdout.readline()) for _ in range(count)]
    return [(one["does"], one["name"] or one["code"]) for one in lines]


def test_a_process_follows_a_service_until_ctrl_c(registry: LocalRegistry, tmp_path: Path) -> None:
    """It goes on by itself when the service was away, and what was told comes as lines of JSON, at once."""
    room = tmp_path / "served"
    link = room / "tiny--one@prod"
    with served(registry) as url, following(url, room, "tiny/*@prod") as process:
        assert told(process, 4) == [
            (does, f"tiny/{name}@prod") for name in ("one", "two") for does in ("brought", "switched")
        ]
        first = link.resolve()
        registry.tag("tiny/one@2", "prod")
        assert told(process, 2) == [("brought", "tiny/one@prod"), ("switched", "tiny/one@prod")]
        assert link.resolve() != first
        assert json.loads((link / "registry-receipt.json").read_text())["reference"] == "tiny/one@2"
        registry.retract("tiny/one@2", reason="leaks")
        assert told(process, 1) == [("dropped", "tiny/one@prod")]
        assert not link.is_symlink()
        assert (room / "tiny--two@prod").is_dir()
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read()) == ("", "")


def test_a_tag_waits_for_the_followers_and_ps_shows_them(registry: LocalRegistry, run: Run, tmp_path: Path) -> None:
    room = tmp_path / "served"

    def shown(count: int) -> list[dict[str, Any]]:
        until = time.monotonic() + 120  # a round is told before it is reported
        while len(rows := json.loads(run("ps", "--json", "--url", registry.url).out)) != count:
            assert time.monotonic() < until, rows
            time.sleep(0.1)
        return list(rows)

    with following(registry.url, room, "tiny/*@prod") as process:
        told(process, 4)
        shown(2)
        moved = run("tag", "tiny/one@2", "prod", "--wait", "--timeout", "2m", "--url", registry.url)
        assert (moved.code, "1 follower has got tiny/one@2" in moved.err.replace("\n", " ")) == (0, True), moved
        receipt = json.loads((room / "tiny--one@prod" / "registry-receipt.json").read_text())
        assert receipt["reference"] == "tiny/one@2"
        (one, two) = shown(2)
        assert (one["name"], one["state"], one["serves"]) == ("tiny/one@prod", "in_place", "tiny/one@2")
        assert one["follower"]["name"].endswith(f" folder={room}")
        assert two["state"] == "in_place"
        gone = run("retract", "tiny/two@1", "--reason", "leaks", "--wait", "--timeout", "2m", "--url", registry.url)
        assert gone.code == 0, gone
        assert not (room / "tiny--two@prod").exists()
        os.kill(process.pid, signal.SIGINT)
        process.wait(timeout=60)
    assert shown(0) == []  # it said goodbye


def test_once_ends_with_whether_all_is_in_place(registry: LocalRegistry, run: Run, tmp_path: Path) -> None:
    room = tmp_path / "served"

    def once(*words: str) -> Any:
        return run("follow", *words, "--to", f"folder={room}", "--once", "--url", registry.url)

    done = once("tiny/*@prod")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[2] for line in lines] == ["brought", "switched"] * 2
    assert lines[1].endswith("switched  tiny/one@prod -> @1")
    again = once("tiny/*@prod")
    assert (again.code, [line.split()[2] for line in again.out.splitlines()]) == (0, ["in"] * 2)
    assert "in place" in again.out
    registry.tag("tiny/one@2", "prod")
    moved = once("tiny/*@prod")
    assert "tiny/one@prod -> @2 (was @1)" in moved.out
    registry.retract("tiny/two@1", reason="leaks")
    gone = once("tiny/*@prod")
    assert gone.code == 3
    assert gone.err == "registry: tiny/two@prod is tiny/two@1, which was retracted.\n"
    assert "dropped" in gone.out
    missing = once("tiny/one@prod", "tiny/no@prod", "tiny/none@prod")
    assert missing.code == 3
    assert "2 problems keep names from their place; the first: There is no adapter tiny/no." in missing.err


def test_a_dry_run_prints_what_one_round_would_do(registry: LocalRegistry, run: Run, tmp_path: Path) -> None:
    room = tmp_path / "served"
    words = ("follow", "tiny/one@prod", "--to", f"folder={room}", "--dry-run", "--url", registry.url)
    done = run(*words, "--json")
    assert (done.code, done.err) == (0, "")
    assert [json.loads(line)["does"] for line in done.out.splitlines()] == ["brought", "switched"]
    assert not room.exists()


def test_what_can_not_be_followed_is_a_sentence_before_anything_is_done(
    registry: LocalRegistry, run: Run, tmp_path: Path
) -> None:
    room = f"folder={tmp_path / 'served'}"
    for words, said in (
        (("tiny/one", "--to", room), "follow a tag, such as tiny/one@prod"),
        (("tiny", "--to", room), "is a base model"),
        (("tiny/*", "--to", room), "BASE/*@TAG is expected"),
        (("tiny/one@prod", "--to", "/srv"), "vllm=URL,folder=DIR or sglang=URL,folder=DIR is expected"),
        (("tiny/one@prod", "--to", room, "--keep-for", "soon"), "45s, 10m, 12h or 7d"),
    ):
        done = run("follow", *words, "--once", "--url", registry.url)
        assert (done.code, done.out) == (2, ""), words
        assert said in done.err.replace("\n", " "), words
    assert not (tmp_path / "served").exists()


def test_an_engine_that_is_away_is_a_line_and_a_sentence(registry: LocalRegistry, run: Run, tmp_path: Path) -> None:
    room = tmp_path / "served"
    with socket.socket() as taken:  # nobody listens at it
        taken.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(
            "follow", "tiny/one@prod", "--to", f"vllm=http://{at},folder={room}", "--once", "--url", registry.url
        )
    assert done.code == 1
    assert f"  failed    at {at}: The engine at http://{at} does not answer" in done.out
    assert done.err.startswith(f"registry: The engine at http://{at} does not answer")
    assert not room.exists()
