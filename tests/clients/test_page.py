"""docs/clients.md: each section's snippets run as they are written, one after the other in one shell."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import NewMachine
from tests.clients.machines import Machine
from tests.clients.tree import Tree
from tests.kit.shim import Shim
from tests.root import ROOT

PAGE = ROOT / "docs" / "clients.md"
ADDRESS = "http://registry.team:8321"
PARTS = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
SECTIONS = {"The beginning": PARTS[0], **dict(zip(PARTS[1::2], PARTS[2::2], strict=True))}


def blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


ELSEWHERE = ("JavaScript", "llama.cpp and MLX")  # by test_javascript; in test_snippets, as far as it is ours
WITH_SNIPPETS = [title for title, text in SECTIONS.items() if blocks(text) and title not in ELSEWHERE]


def script(text: str) -> str:
    """A section as a shell script: its shell lines, and what is Python in a row as one program."""
    written = []
    for language, group in itertools.groupby(blocks(text), key=lambda block: block[0]):
        assert language in {"sh", "python"}
        program = "".join(block for _, block in group)
        written.append(program if language == "sh" else f"python - <<'PROGRAM'\n{program}PROGRAM\n")
    return "".join(written)


@pytest.fixture
def user(tree: Tree, wire: Shim, machine: NewMachine) -> Machine:
    """Somebody who has the command `registry` and, in `anna-token`, a token; with nothing set."""
    one = machine("hf")
    assert one.token is not None
    (one.folder / "anna-token").write_text(one.token)
    (one.folder / "bin").mkdir()
    (one.folder / "bin/registry").symlink_to(Path(sys.executable).with_name("registry"))
    one.settings = {
        "PATH": f"{one.folder / 'bin'}:{one.environ['PATH']}",
        "REGISTRY_TOKEN": one.token,
        "XDG_CONFIG_HOME": str(one.folder / "config"),
        "XDG_DATA_HOME": str(one.folder / "data"),
    }
    return one


@pytest.mark.long_on("Revisions", "Files", "Offline", "A model")
@pytest.mark.slow
@pytest.mark.parametrize("title", WITH_SNIPPETS)
def test_the_snippets_of_a_section(tree: Tree, wire: Shim, user: Machine, title: str) -> None:
    tree.registry.tag("llama/support/french@1", "prod")
    login = "" if title == "The beginning" else f"registry login {wire.url}\n"
    nothing_set = "unset HF_ENDPOINT HF_TOKEN\n"
    user.shell(nothing_set + login + script(SECTIONS[title]).replace(ADDRESS, wire.url))
    assert wire.seen(target="^/hf" if title != "The beginning" else "^/api/v1/")


def test_the_page_names_what_there_is() -> None:
    assert {"The beginning", "A model", "An adapter", "Files", "Revisions", "Offline"} == set(WITH_SNIPPETS)
    assert "tested with PEFT only" in re.sub(r"\s+", " ", SECTIONS["Engines and trainers"])
