"""The context of every command: registry, screens and progress bar."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from registry.bars import RichProgress
from registry.cli.render.screen import Line, Screen, lines_of, stderr, stdout
from registry.figures import BEHIND, command

if TYPE_CHECKING:
    from registry.operations.registry import Registry
    from registry.schemas import Schema
    from registry.schemas.frames import Block

Answer = TypeVar("Answer", bound="Schema | Sequence[Any]")


@dataclass(frozen=True)
class Session:
    """One command's context: results go to ``out``, messages to ``talk``; both are silent with ``--json``."""

    registry: Registry
    as_json: bool
    out: Screen
    talk: Screen
    progress: RichProgress

    def answer(self, answer: Answer, described: Callable[[Answer], Iterable[Block | Line]]) -> None:
        """Print a result: one JSON document, or what describes it as people read it."""
        self.progress.pause()
        if self.as_json:
            print_json(as_document(answer))
        else:
            self.show(described(answer))

    def show(self, blocks: Iterable[Block | Line]) -> None:
        """Print what has no JSON form."""
        self.progress.pause()
        self.out.show(lines_of(blocks, self.out.width))

    def say(self, text: str, style: str = "dim") -> None:
        """Print a message that is not part of the result."""
        if not self.as_json:
            self.progress.pause()
            self.talk.say(text, style)

    def next(self, words: Sequence[object], what: str) -> None:
        """At a terminal, print the command that is useful after this one; a script has no use for it."""
        if self.talk.on_terminal:
            self.say(f"Next: {command(*words)} {what}.")

    def confirm(self, question: str) -> bool:
        """Ask a question at the terminal; False: the answer is not yes, or no terminal is attached."""
        if not (sys.stdin.isatty() and self.talk.on_terminal):
            return False
        self.progress.pause()
        self.talk.stream.write(f"{question} [y/N] ")
        self.talk.stream.flush()
        return sys.stdin.readline().strip().lower() in {"y", "yes"}

    def notices(self, notices: Iterable[str]) -> None:
        """Print the notices of a result."""
        for notice in notices:
            self.say(f"notice: {notice}", "yellow")


def as_document(answer: Schema | Sequence[Schema]) -> object:
    """The JSON document of an answer: a schema, or a list of them."""
    if isinstance(answer, Sequence):
        return [item.model_dump(mode="json") for item in answer]
    return answer.model_dump(mode="json")


def print_json(document: object) -> None:
    """Print one JSON document on stdout."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=not utf8, allow_nan=False) + "\n")
    sys.stdout.flush()


def answer_alone(answer: Answer, described: Callable[[Answer], Iterable[Block | Line]], *, as_json: bool) -> None:
    """Print the result of a command that opens no registry."""
    if as_json:
        print_json(as_document(answer))
        return
    out = stdout()
    out.show(lines_of(described(answer), out.width))


@contextmanager
def session(url: str | None, as_json: bool, *, create: bool = False) -> Iterator[Session]:
    """Open the registry for one command and close it afterwards."""
    from registry.app import open_registry

    with RichProgress() as progress, _warnings_shown(progress):
        registry = open_registry(url, create=create)
        try:
            yield Session(registry, as_json, stdout(), stderr(), progress)
        finally:
            registry.close()


@contextmanager
def _warnings_shown(progress: RichProgress) -> Iterator[None]:
    """Show what the registry warns of, such as an upgrade, as notices on stderr; also with ``--json``, beside it."""

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            progress.pause()
            stderr().say(f"notice: {record.getMessage()}", BEHIND)

    log, shown = logging.getLogger(__name__.partition(".")[0]), Shown(logging.WARNING)
    log.addHandler(shown)
    try:
        yield
    finally:
        log.removeHandler(shown)
