"""docs/tutorial.md: every script saved and every command typed, in a new home, and what it shows compared.

With `WRITE_TUTORIAL=DIR`, what the commands print is written into the page, to be shortened by hand. DIR, the home
folder, has to be new; lines break as on the page if its name is about as long as /home/you.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import tomllib
from pathlib import Path

import pytest

from registry.app import hub_settings
from tests.journeys import pages, warm
from tests.journeys.pages import Ran
from tests.kit.servers_home import Home
from tests.kit.servers_shared import SharedServers
from tests.root import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
PORT = "8321"
LIBRARIES = ("transformers.models.bert.modeling_bert", "transformers.models.auto.modeling_auto", "peft")


@pytest.mark.slow
def test_every_line_of_the_tutorial(
    tmp_path: Path, own_home: Home, shared_servers: SharedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    page, port = pages.read(text), str(_port_for_later())
    home, clone = Path(os.environ.get("WRITE_TUTORIAL", tmp_path / "home")), tmp_path / "clone"
    for folder in (home, clone):
        folder.mkdir()
    environ = {
        "HOME": str(home),
        "LOGNAME": "you",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "https_proxy": "http://127.0.0.1:9",  # nobody answers there: nothing is downloaded
    }
    monkeypatch.setenv("REGISTRY_TOKEN", "reg_anybody")
    monkeypatch.setenv("REGISTRY_URL", f"http://127.0.0.1:{port}")
    of_the_hub = hub_settings(None, "merged")  # what the page sets, only at its end
    del of_the_hub["HF_TOKEN"]
    imported = {**environ, **of_the_hub, "HOME": str(home / "tutorial" / "anna")}
    with warm.commands(own_home, shared_servers.tables(), imported, LIBRARIES) as lines:
        found = pages.run(page.typed(PORT, port), clone, environ, before=pages.pip_from_here() + lines)
    ran = [Ran(one.output.replace(str(home), pages.HOME).replace(port, PORT), one.status) for one in found]
    if "WRITE_TUTORIAL" in os.environ:
        PAGE.write_text(pages.with_outputs(text, page, ran), encoding="utf-8")
    assert "\n".join(pages.differences(page, ran)) == ""
    assert_asked_alike(
        [one.output for command, one in zip(page.commands, ran, strict=True) if "ask.py" in command.line]
    )
    assert (clone / "pip-asked").read_text() == "install .[demo]\n"
    assert "demo" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def _port_for_later() -> int:
    """A free port that the system hands to nobody by itself: the page's service begins a minute after this."""
    first = 10_000 + os.getpid() % 10_000  # below those of outgoing connections
    for port in range(first, first + 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def assert_asked_alike(answers: list[str]) -> None:
    """One LoRA on the base model, the merged model, and the merged model loaded from the service."""
    assert len(answers) == 3
    chances = [[float(number) for number in re.findall(r"^\d\.\d+", answer, re.MULTILINE)] for answer in answers]
    for complaint, question in chances:
        assert complaint > 0.5 > question
        assert [complaint, question] == pytest.approx(chances[0], abs=0.0011)
