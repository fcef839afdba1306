"""What ``progress=True`` shows where the caller is: on a terminal, in a notebook, in a file; what else it may be."""

from __future__ import annotations

import os
import pty
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from registry import connect
from registry.bars import LineProgress, progress_sink
from registry.errors import UsageError
from registry.progress import SILENT, Part
from tests.kit import plain_base, write_adapter

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def work(progress: Any) -> None:
    progress.begin("Writing model.safetensors", 2_000_000)
    progress.advance(1_000_000)
    progress.advance(1_000_000)
    progress.begin("Checking", 0)
    progress.advance(0)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


class Page:
    """A notebook's page: what was displayed below a cell, and what it was updated to."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def display(self, html: str, *, display_id: bool) -> Page:
        assert display_id
        assert self.states == [], "one bar a call"
        self.states.append(html)
        return self

    def update(self, html: str) -> None:
        self.states.append(html)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Page:
    """What a kernel's IPython is to a program in it, without IPython, which is installed for nothing else here."""
    page = Page()
    python: Any = ModuleType("IPython")
    python.get_ipython = lambda: SimpleNamespace(kernel=object())
    python.display = SimpleNamespace(display=page.display, HTML=str)
    monkeypatch.setitem(sys.modules, "IPython", python)
    monkeypatch.setitem(sys.modules, "IPython.display", python.display)
    return page


def test_a_bar_on_a_terminal_that_is_gone_afterwards(
    terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = terminal
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(os.dup(writer), "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        with progress_sink(True) as progress:
            work(progress)
        stream.write("END")
    told = ""
    while not told.endswith("END"):
        told += os.read(reader, 1 << 16).decode()
    assert "Writing model.safetensors" in told
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l")  # the cursor is there again
    assert CONTROL.sub("", told[told.rindex("\x1b[2K") :]).strip() == "END"


def test_a_bar_in_a_notebook_that_is_gone_afterwards(notebook: Page) -> None:
    def fail() -> None:
        with progress_sink(True) as progress:
            progress.begin("Writing <b>", 2_000_000)
            progress.advance(1_000_000)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    first, *_, last = notebook.states
    assert first == 'Writing &lt;b&gt; <progress value="0" max="2000000"></progress> 0 B of 2.00 MB'
    assert last == ""


def test_an_interactive_shell_is_no_notebook(
    notebook: Page, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", SimpleNamespace)
    with progress_sink(True) as progress:
        work(progress)
    assert notebook.states == []
    assert "Writing model.safetensors" in capsys.readouterr().err


def test_lines_elsewhere_and_nothing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_sink(True) as progress:
        work(progress)
    captured = capsys.readouterr()
    assert captured.err == "Writing model.safetensors: 0 %, 0 B of 2.00 MB\n"  # the rest took no ten seconds
    assert captured.out == ""


def test_lines_go_on_while_work_does(capsys: pytest.CaptureFixture[str]) -> None:
    work(LineProgress(seconds=0))
    assert capsys.readouterr().err.splitlines() == [
        "Writing model.safetensors: 0 %, 0 B of 2.00 MB",
        "Writing model.safetensors: 50 %, 1.00 MB of 2.00 MB",
        "Writing model.safetensors: 100 %, 2.00 MB of 2.00 MB",
        "Checking",
        "Checking",
    ]


def test_lines_go_on_while_a_step_does_not_end() -> None:
    """A model takes longer than ten seconds to be compared, and a log is to tell that from what hangs."""
    written, several = list[str](), Event()

    class Lines(LineProgress):
        def _write(self) -> None:
            written.append(self._what)
            if len(written) == 3:
                several.set()

    with Lines(seconds=0.01) as lines:
        Part(lines, "./merged").begin("Comparing whole tensors", 0)
        assert several.wait(300)
    assert set(written) == {"./merged: comparing whole tensors"}


def test_false_is_silent_and_a_sink_is_taken_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_sink(False) as progress:
        work(progress)
    assert progress is SILENT
    own = LineProgress()
    with progress_sink(own) as progress:
        assert progress is own
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("wrong", [1, "yes", None, print])
def test_anything_else_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"^progress is .*: True, False, or an object"), progress_sink(wrong):
        pass


def test_calls_of_a_registry_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of each class: every method that takes ``progress`` hands it to `shown`, which mypy checks by its type."""
    base = plain_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "one", base, ["head"], r=2)
    with connect(tmp_path / "registry") as team:
        team.add_base("net", base.folder, progress=True)
        team.publish(adapter, "net/one", progress=True)
        team.fetch("net/one", tmp_path / "merged", kind="merged", progress=True)
        assert team.verify(tmp_path / "merged", progress=True).equal
        team.fsck(deep=True, progress=True)
        with pytest.raises(UsageError, match="progress is 'on'"):
            team.gc(progress="on")  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert len(told.splitlines()) >= 4, told
