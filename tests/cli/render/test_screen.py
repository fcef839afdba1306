"""On a terminal: colours, guides, the width of the window, and a progress bar that leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from registry.cli.program import run
from registry.cli.render.screen import Row, table
from registry.errors import UsageError
from registry.figures import Span, words
from tests.cli.canned import COMMANDS, FETCHED, CannedRegistry

STYLE = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Terminal:
    """A pseudo terminal of 80 columns; ``text`` is what was written to it."""

    parent: int
    child: int
    pieces: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> str:
        os.close(self.child)
        self.reader.join(timeout=120)
        return b"".join(self.pieces).decode().replace("\r\n", "\n")

    def start(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self.parent, 65536)
            except OSError:  # how Linux says that the other end is closed
                return
            if not piece:
                return
            self.pieces.append(piece)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    parent, child = os.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    opened = Terminal(parent, child)
    opened.start()
    yield opened
    os.close(parent)


def run_on(terminal: Terminal, args: list[str], monkeypatch: pytest.MonkeyPatch, **environ: str) -> str:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with os.fdopen(os.dup(terminal.child), "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        assert run(args) == 0
    return terminal.text


@pytest.mark.parametrize("name", COMMANDS)
def test_lines_fit_the_window_and_have_colours(
    name: str, canned: CannedRegistry, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = run_on(terminal, COMMANDS[name][0], monkeypatch)
    assert STYLE.search(text)
    plain = STYLE.sub("", text)
    assert "\x1b" not in plain
    assert all(len(line) <= 80 for line in plain.splitlines())


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_refused(
    environ: dict[str, str], canned: CannedRegistry, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = run_on(terminal, ["tree"], monkeypatch, **environ)
    assert "\x1b" not in text
    assert "└── support" in text


def test_the_tree_is_drawn(canned: CannedRegistry, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = STYLE.sub("", run_on(terminal, ["tree"], monkeypatch)).splitlines()
    assert lines[0].startswith("llama-1b  LlamaForCausalLM")
    assert lines[1].startswith("├── a-name-that")
    assert lines[2].startswith("│       [a-very-long-tag")
    assert [line for line in lines if line.startswith("└── support  @3")]
    assert [line for line in lines if line.startswith("    └── french  @2")]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["publish", "DIR", "base/a"], "--as merged -o DIR` writes the model to serve or train on."),
        (["fetch", "base/a", "-o", "DIR"], "Next: `registry verify "),
        (["fetch", "base/a"], ""),
    ],
)
def test_the_next_command_is_named_at_a_terminal(
    args: list[str],
    said: str,
    canned: CannedRegistry,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = STYLE.sub("", run_on(terminal, args, monkeypatch)).replace("\n", " ")
    assert said in text
    assert ("Next:" in text) == bool(said)
    assert run(args) == 0
    assert "Next:" not in capsys.readouterr().err


def test_a_row_that_goes_on_stays_below() -> None:
    def row(name: str, text: str) -> Row:
        return [Span(name)], [words(text)]

    rows = [row("notes", "x" * 60), row("", "short"), row("rank", "8"), row("", "more of it")]
    assert ["".join(span.text for span in line) for line in table(rows, 40)] == [
        "notes",
        f"    {'x' * 60}",
        "    short",
        "rank   8",
        "       more of it",
    ]


def test_a_sentence_is_not_broken_within_a_command(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, canned: CannedRegistry
) -> None:
    """A command that is copied from two lines would run its first half."""
    long = f"registry fetch {'llama-1b/' + 'a-long-name/' * 6}end --as merged -o DIR"
    canned.error = UsageError(f"This is refused, as it is more than a line of a terminal: `{long}` does it.")
    with os.fdopen(os.dup(terminal.child), "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert run(["show", "llama-1b/support"]) == 2
    assert STYLE.sub("", terminal.text).splitlines() == [
        "registry: This is refused, as it is more than a line of a terminal:",
        f"`{long}`",
        "does it.",
    ]


def test_help_of_a_command_at_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paragraphs fill the lines, and an option without a value names no type of one."""
    text = CONTROL.sub("", run_on(terminal, ["fetch", "--help"], monkeypatch))
    assert "you train on the folder, publish finds the parent in it." in text
    assert text.count("<bool>") <= 1  # that of --help, which Typer adds


def test_help_at_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    text = CONTROL.sub("", run_on(terminal, ["--help"], monkeypatch))
    assert "publish" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_progress_is_drawn_and_taken_away(
    canned: CannedRegistry, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Working(CannedRegistry):
        def fetch(self, *args: Any, progress: Any, **options: Any) -> Any:
            progress.begin("Writing model.safetensors", 3_000_000)
            for _ in range(3):
                progress.advance(1_000_000)
            progress.begin("Checking", 0)
            progress.advance(0)
            return FETCHED

    monkeypatch.setattr("registry.app.open_registry", lambda *args, **options: Working())
    text = run_on(terminal, ["fetch", "llama-1b/support"], monkeypatch)
    assert "Writing model.safetensors" in text
    # The bar's line is erased, the cursor is shown again, and the result stands on a line of its own.
    assert "\x1b[2K" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    after = CONTROL.sub("", text[text.rindex("\x1b[2K") :])
    assert after.splitlines()[0].strip() == "/data/out"


def test_no_progress_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    from registry.bars import RichProgress

    with RichProgress() as progress:
        progress.begin("Writing", 10)
        progress.advance(10)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
