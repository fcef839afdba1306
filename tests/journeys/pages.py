"""Pages whose `console` blocks are typed, in order, in one shell at a terminal, and whose scripts are saved before.

A line with `$ ` is a command; below it is what it prints, where `...` stands for anything. Line breaks, and what
differs from run to run (digests, times, sizes, secrets), are not compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kit.servers_service import clean_environ

HOME = "/home/you"  # on a page
COLUMNS = 100
MARK = "\x1e"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# ([\w-]+\.py)\b")
_VARYING = (
    (re.compile(r"sha256:[0-9a-f]{64}"), "DIGEST"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "SHORT"),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b[\d.]+ (kB|MB|GB|B)\b"), "SIZE"),
    (re.compile(r"\btok_\w+"), "TOKEN"),
    (re.compile(r"\b\d+\.\d+\.\d+\b(?!\.)"), "VERSION"),
)
_DECIMALS = re.compile(r"\b\d+\.\d+\b")


@dataclass(frozen=True)
class Command:
    """A command line of a page, and what the page shows below it."""

    line: str
    shown: str

    @property
    def is_script(self) -> bool:
        """Whether it runs a script of the page, whose libraries warn on stderr and whose last digits may differ."""
        return self.line.startswith("python ")


@dataclass(frozen=True)
class Script:
    """A file to save under its name."""

    name: str
    text: str


@dataclass(frozen=True)
class Page:
    """What a reader does, in order."""

    steps: tuple[Command | Script, ...]

    @property
    def commands(self) -> list[Command]:
        """Its commands alone."""
        return [step for step in self.steps if isinstance(step, Command)]

    def typed(self, old: str, new: str) -> Page:
        """The page with another word in its commands, and what it shows as before."""
        return Page(
            tuple(
                Command(step.line.replace(old, new), step.shown) if isinstance(step, Command) else step
                for step in self.steps
            )
        )


@dataclass(frozen=True)
class Ran:
    """What came of a command."""

    output: str
    status: int


def read(text: str) -> Page:
    """Read a page.

    Raises:
        AssertionError: a block is neither commands nor a named script, so nothing would run it.
    """
    steps: list[Command | Script] = []
    for language, block in _BLOCK.findall(text):
        named = _NAMED.match(block)
        if language == "python" and named:
            steps.append(Script(named[1], block))
        else:
            assert language == "console", f"nothing runs this block:\n{block}"
            steps += _commands(block)
    return Page(tuple(steps))


def _commands(block: str) -> list[Command]:
    assert block.startswith("$ "), f"a block of commands begins with one:\n{block}"
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [Command(line, shown) for line, _, shown in (part.partition("\n") for part in parts)]


def run(page: Page, folder: Path, environ: Mapping[str, str], *, before: str = "") -> list[Ran]:
    """Type the commands of a page in ``folder``, in one bash at a terminal, after the lines of ``before``."""
    lines = "\n".join([before, f"printf '{MARK}'", *(_typed(step, folder / "warnings") for step in page.steps)])
    program = folder / "commands"
    program.write_text(lines)
    settings = {**clean_environ({}), "TERM": "dumb", **environ}
    settings = {name: value for name, value in settings.items() if not name.startswith(("XDG_", "VIRTUAL_ENV"))}
    parts = _at_a_terminal(["bash", str(program)], folder, settings).split(MARK)[1:]
    found = [Ran(output, int(status)) for output, status in zip(parts[::2], parts[1::2], strict=False)]
    assert len(found) == len(page.commands), f"the shell ended early: {parts[-1]}"
    return found


def _typed(step: Command | Script, warnings: Path) -> str:
    if isinstance(step, Script):
        return f"cat > {step.name} <<'SCRIPT'\n{step.text}SCRIPT"
    line = f"{{ {step.line}\n}} 2>> '{warnings}'" if step.is_script else step.line
    return f"{line}\nstatus=$?; printf '{MARK}%s{MARK}' $status; (exit $status)"


def _at_a_terminal(words: Sequence[str], folder: Path, environ: Mapping[str, str]) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen(
        words, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said = b""
    try:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more
            while block := os.read(ours, 1 << 16):
                said += block
        process.wait()
    finally:
        os.close(ours)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left in the background
        process.wait()
    return said.decode().replace("\r\n", "\n")


def differences(page: Page, ran: Sequence[Ran]) -> list[str]:
    """What the page shows and a run does not, and commands that fail without an `echo $?` after them."""
    found = []
    for command, then, one in zip(page.commands, [*page.commands[1:], None], ran, strict=True):
        if one.status and (then is None or then.line != "echo $?"):
            found.append(f"$ {command.line}\nexit {one.status}: {one.output}")
        elif not fits(command, one.output):
            found.append(f"$ {command.line}\n--- the page shows\n{command.shown}--- it prints\n{one.output}")
    return found


def fits(command: Command, output: str) -> bool:
    """Whether a command's output is what the page shows."""
    shown, real = (_settled(text, command.is_script).split() for text in (command.shown, output))
    pattern = "".join(r"(?:\S+ )*?" if word == "..." else re.escape(word + " ") for word in shown)
    return re.fullmatch(pattern, "".join(word + " " for word in real)) is not None


def _settled(text: str, decimals: bool) -> str:
    text = " ".join(text.split())
    for pattern, name in (*_VARYING, *(((_DECIMALS, "DECIMALS"),) if decimals else ())):
        text = pattern.sub(name, text)
    return text


def with_outputs(text: str, page: Page, ran: Sequence[Ran]) -> str:
    """The page with what the commands print; what was shortened by `...`, and fits, stays."""
    written = []
    for command, one in zip(page.commands, ran, strict=True):
        shown = f"$ {command.line}\n{command.shown}"
        head, found, text = text.partition(shown)
        assert found
        kept = "..." in command.shown.split() and fits(command, one.output)
        written += [head, shown if kept else f"$ {command.line}\n{one.output}"]
    return "".join([*written, text])


def pip_from_here() -> str:
    """A line for bash: `pip install` gives the environment in use what this one has, and notes what was asked for."""
    packages = next(place for place in sys.path if place.endswith("site-packages"))
    into = '"$(python -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')/here.pth"'
    return (
        f"pip() {{ echo \"$*\" >> pip-asked; echo '{packages}' > {into}; }}\n"
        'python3() { command python3 "$@" --without-pip; }\n'
    )
