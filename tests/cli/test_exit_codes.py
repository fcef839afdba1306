"""How commands end: one exit code a class of error, one sentence, never a traceback.

The shape of an error: without --json one line on stderr, "registry: SENTENCE"; with --json one line on stderr,
{"code": ..., "message": ..., "exit": ...}; on stdout nothing.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from registry import errors
from registry.cli.exit_codes import EXIT_CODES, exit_code
from tests.cli.canned import CannedRegistry
from tests.cli.conftest import Run

COMMAND = [sys.executable, "-m", "registry.cli.main"]

# design.md, "Exit codes".
EXPECTED = {
    errors.UnavailableError: 1,
    errors.UsageError: 2,
    errors.NotFoundError: 3,
    errors.InvalidAdapterError: 4,
    errors.InvalidBaseError: 4,
    errors.ConflictError: 5,
    errors.IntegrityError: 6,
    errors.NotAllowedError: 7,
    errors.AccuracyError: 8,
    errors.NotInPlaceError: 9,
}


def test_every_class_of_error_has_an_exit_code() -> None:
    assert EXIT_CODES == EXPECTED
    assert set(errors.RegistryError.__subclasses__()) == set(EXIT_CODES)
    # Of a class below these, the nearest counts.
    assert exit_code(errors.RetractedError("x")) == 3


@pytest.mark.parametrize("kind", EXPECTED)
def test_an_error_is_one_sentence_and_its_exit_code(
    kind: type[errors.RegistryError], canned: CannedRegistry, run: Run
) -> None:
    canned.error = kind("No adapter 'x'; did you mean 'y'?")
    ended = run("show", "llama/x")
    assert (ended.code, ended.out, ended.err) == (EXPECTED[kind], "", "registry: No adapter 'x'; did you mean 'y'?\n")
    as_json = run("show", "llama/x", "--json")
    assert (as_json.code, as_json.out) == (EXPECTED[kind], "")
    assert json.loads(as_json.err) == {
        "code": canned.error.code,
        "message": "No adapter 'x'; did you mean 'y'?",
        "exit": EXPECTED[kind],
    }
    assert canned.closed


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["tre"], "tree"),
        (["show"], "REF"),
        (["show", "a", "b"], "b"),
        (["fetch", "x", "--forse"], "--force"),
        (["fetch", "x", "--as", "gguf"], "gguf"),
        (["fetch", "x", "--dtype", "int8"], "int8"),
        (["events", "--limit", "0"], "--limit"),
        (["events", "--limit", "many"], "--limit"),
        (["base", "ad"], "add"),
        (["annotate", "x"], "--metric"),
        (["annotate", "x", "--metric", "acc"], "name=number"),
        (["annotate", "x", "--metric", "acc=high"], "name=number"),
        (["annotate", "x", "--metric", "acc=nan"], "name=number"),
        (["annotate", "x", "--metric", "acc=1e999"], "name=number"),
        (["annotate", "x", "--metric", "=1"], "name=number"),
        (["annotate", "x", "--annotation", "team"], "name=text"),
        (["annotate", "x", "--metric", "acc=1", "--metric", "acc=2"], "twice"),
        (["publish", "d", "p", "--parent", "x", "--receipt", "y"], "--receipt"),
        (["publish", "-r", "d", "p", "--tag", "x"], "--tag"),
        (["publish", "d", "p", "--keep-going"], "-r"),
        (["publish", "d", "p", "--rename", "A=a"], "-r"),
        (["publish", "-r", "d", "p", "--rename", "A"], "OLD=NEW"),
        (["publish", "-r", "d", "p", "--rename", "A=a", "--rename", "A=b"], "twice"),
        (["token", "create"], "--role"),
        (["token", "create", "--role", "owner"], "owner"),
        (["token", "create", "--role", "reader", "--expires", "90"], "90d"),
        (["token", "create", "--role", "reader", "--expires", "0d"], "90d"),
        (["token", "revoke"], "ID"),
        (["token", "lst"], "list"),
        (["serve", "--port", "70000"], "--port"),
        (["serve", "--anonymous", "write"], "write"),
        (["db", "upgrad"], "upgrade"),
        (["login"], "URL"),
        (["login", "https://registry.team"], "--token -"),
        (["--url", "https://registry.team", "login", "https://registry.team"], "argument"),
    ],
)
def test_a_malformed_call_ends_with_2_and_one_line(
    args: list[str], named: str, canned: CannedRegistry, run: Run
) -> None:
    ended = run(*args)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert named in ended.err
    as_json = run(*args, "--json")
    assert as_json.code == 2
    assert json.loads(as_json.err)["code"] == "usage"
    assert not [name for name, _, _ in canned.calls if name != "open"]


def test_help_and_version_end_with_0(run: Run) -> None:
    assert run("--version").out.startswith("adapter-registry ")
    alone = [(), ("base",), ("token",), ("db",)]
    for args in (*alone, ("--help",), ("-h",), ("base", "--help"), ("publish", "--help"), ("token", "create", "-h")):
        ended = run(*args)
        assert (ended.code, ended.err) == (0, "")
        assert "Usage: registry" in ended.out
        assert all(len(line) <= 80 for line in ended.out.splitlines())
        assert "..." not in ended.out.partition("Commands:")[2]


def test_ctrl_c_is_quiet(canned: CannedRegistry, run: Run) -> None:
    canned.error = KeyboardInterrupt()
    ended = run("tree")
    assert (ended.code, ended.out, ended.err) == (130, "", "")
    assert canned.closed


def test_a_bug_is_one_sentence_that_says_where_the_traceback_is(
    canned: CannedRegistry, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    canned.error = KeyError("who")
    ended = run("tree")
    assert (ended.code, ended.out) == (1, "")
    assert len(ended.err.splitlines()) == 1
    assert "this is a bug" in ended.err
    (file,) = tmp_path.iterdir()
    assert str(file) in ended.err
    assert "Traceback (most recent call last)" in file.read_text()
    assert json.loads(run("tree", "--json").err)["code"] == "unexpected"


def test_debug_shows_the_traceback(canned: CannedRegistry, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_DEBUG", "1")
    canned.error = KeyError("who")
    assert "Traceback (most recent call last)" in run("tree").err
    canned.error = errors.NotFoundError("No such thing.")
    ended = run("tree")
    assert "Traceback (most recent call last)" in ended.err
    assert ended.err.endswith("registry: No such thing.\n")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "disk_full", "No space left on device: /data/x."),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "unavailable", "Permission denied: /data/x."),
        (MemoryError(), "unavailable", "not enough memory"),
    ],
)
def test_the_system_refuses(error: BaseException, code: str, said: str, canned: CannedRegistry, run: Run) -> None:
    canned.error = error
    ended = run("tree", "--json")
    assert ended.code == 1
    assert json.loads(ended.err)["code"] == code
    assert said in json.loads(ended.err)["message"]


def test_an_error_text_cannot_rewrite_the_terminal(canned: CannedRegistry, run: Run) -> None:
    canned.error = errors.NotFoundError("No tensor '\x1b[2Jx\nregistry: all is well'.")
    ended = run("tree")
    assert "\x1b" not in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_reader_that_leaves_is_no_error() -> None:
    with subprocess.Popen([*COMMAND, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert said == b""


@pytest.mark.long_but(">&-", "<&- >&- 2>&-")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_ending(closed: str, run: Run, tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    assert run("token", "create", "--role", "reader", "--url", place).code == 0
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND]
    for words, code in (["token", "list", "--url", place], 0), (["login", "http://host.invalid"], 2):
        ended = subprocess.run([*command, *words], capture_output=True, check=False, timeout=120)
        assert ended.returncode == code, ended.stderr
        assert bool(ended.stdout) == (code == 0 and ">&-" not in closed.split())
        assert bool(ended.stderr) == (code != 0 and "2>&-" not in closed.split())


def test_ctrl_c_of_a_real_process_is_quiet() -> None:
    # The registry's place is a pipe that nobody writes to: the command waits in the middle of its work.
    script = (
        "import sys, os, signal, time\n"
        # as Python itself does where whoever started the tests has not ignored Ctrl-C, as a shell's `&` does
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import registry.app\n"
        "def wait(*args, **options):\n"
        "    print('ready', flush=True)\n"
        "    while True:\n"  # not signal.pause: a signal just before it would wait for the next one
        "        time.sleep(0.05)\n"
        "registry.app.open_registry = wait\n"
        "sys.argv = ['registry', 'tree']\n"
        "from registry.cli.main import main\n"
        "main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, signal.SIGINT)
        try:
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()
        assert process.stderr.read() == b""
