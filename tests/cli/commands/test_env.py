"""`registry env`: what a shell makes of it, and what it keeps to itself."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.kit.servers_service import clean_environ

URL = "http://127.0.0.1:9/team"  # where nothing answers
ODD = "it's$(x)`y`\"\\"  # whatever a token is made of, a shell must take it as it is


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("REGISTRY_TOKEN", raising=False)


def test_names_the_view_and_the_token_of_the_host(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_URL", f"{URL}/")
    monkeypatch.setenv("REGISTRY_TOKEN", "reg_secret")
    for options, view in (((), "hf"), (("--lora",), "hf-lora"), (("--published",), "hf-published")):
        assert run("env", *options).out.splitlines() == [
            f"export HF_ENDPOINT={URL}/{view}",
            "export HF_TOKEN=hf_reg_secret",
            "export HF_HUB_DISABLE_IMPLICIT_TOKEN=0",
            "export HF_HUB_DISABLE_XET=1",
            "export HF_HUB_USER_AGENT_ORIGIN=adapter-registry",
        ]
    assert json.loads(run("env", "--json").out) == {
        "HF_ENDPOINT": f"{URL}/hf",
        "HF_TOKEN": "hf_reg_secret",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_USER_AGENT_ORIGIN": "adapter-registry",
    }
    other = run("env", "--url", "http://127.0.0.1:10")
    assert "reg_secret" not in other.out
    # without a token of this registry, that of another Hub is not sent to it either
    assert other.out.splitlines() == [
        "export HF_ENDPOINT=http://127.0.0.1:10/hf",
        "export HF_HUB_DISABLE_IMPLICIT_TOKEN=1",
        "export HF_HUB_DISABLE_XET=1",
        "export HF_HUB_USER_AGENT_ORIGIN=adapter-registry",
    ]


class _Older(BaseHTTPRequestHandler):
    """A service that knows tokens in one form only, as before."""

    def do_GET(self) -> None:
        self.send_response(200 if self.headers["Authorization"] == "Bearer reg_secret" else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_service_of_before_is_given_the_form_that_it_knows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_TOKEN", "reg_secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Older) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("REGISTRY_URL", f"http://127.0.0.1:{server.server_port}")
        assert "export HF_TOKEN=reg_secret" in run("env").out.splitlines()
        server.shutdown()


def test_a_folder_and_two_views_are_refused(run: Run, tmp_path: Path) -> None:
    ended = run("env", "--url", str(tmp_path))
    assert (ended.code, ended.out) == (2, "")
    assert "run `registry serve` and give its address with --url." in ended.err
    ended = run("env", "--url", URL, "--lora", "--published")
    assert (ended.code, ended.out) == (2, "")
    assert "give one of them" in ended.err


def test_a_shell_takes_every_letter_as_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_URL", URL)
    monkeypatch.setenv("REGISTRY_TOKEN", ODD)
    script = 'eval "$(cat)"; printf "%s|%s" "$HF_ENDPOINT" "$HF_TOKEN"'
    done = subprocess.run(["sh", "-c", script], input=run("env").out, capture_output=True, text=True, check=True)
    assert done.stdout == f"{URL}/hf|{ODD}"


def test_a_terminal_is_not_shown_the_token() -> None:
    ours, theirs = pty.openpty()
    environ = clean_environ({"REGISTRY_URL": URL, "REGISTRY_TOKEN": "reg_secret", "TERM": "xterm", "COLUMNS": "20"})
    words = [sys.executable, "-m", "registry.cli.main", "env"]
    done = subprocess.run(words, env=environ, stdout=theirs, stderr=subprocess.PIPE, check=True)
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert [line for line in shown.splitlines() if "HF_HUB_" not in line] == [f"export HF_ENDPOINT={URL}/hf"]
    assert b"HF_TOKEN is not shown on a terminal" in b" ".join(done.stderr.split())
