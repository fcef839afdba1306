"""Maps errors to exit codes by class, and reports them in one sentence on stderr."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Final

import typer

from registry.cli.other_tools import instead
from registry.cli.render.screen import stderr
from registry.errors import (
    AccuracyError,
    ConflictError,
    IntegrityError,
    InvalidAdapterError,
    InvalidBaseError,
    NotAllowedError,
    NotFoundError,
    NotInPlaceError,
    RegistryError,
    UnavailableError,
    UsageError,
)
from registry.figures import clean
from registry.folders.local_files import FULL, reason

EXIT_CODES: Final[dict[type[RegistryError], int]] = {
    UnavailableError: 1,
    UsageError: 2,
    NotFoundError: 3,
    InvalidAdapterError: 4,
    InvalidBaseError: 4,
    ConflictError: 5,
    IntegrityError: 6,
    NotAllowedError: 7,
    AccuracyError: 8,
    NotInPlaceError: 9,
}
UNEXPECTED: Final = 1
NONE: Final = 4  # --keep-going, and no folder was published
SOME: Final = 9  # done in part: --keep-going, and some folders were not published; --wait, and some do not serve it
INTERRUPTED: Final = 130  # 128 + SIGINT, the shells' convention
PIPE_CLOSED: Final = 141  # 128 + SIGPIPE

# Base class of the parser's errors (below UsageError). Some versions of typer use the click package and some have their
# own copy of it, so it is reached through the one name that typer exports.
PARSER_ERROR: Final[type[Exception]] = typer.BadParameter.__mro__[2]


def exit_code(error: RegistryError) -> int:
    """The exit code of an error: that of the nearest class in `EXIT_CODES`."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), UNEXPECTED)


def wants_json(args: Sequence[str]) -> bool:
    """Whether a command line contains ``--json``, even if it can't be parsed."""
    words = list(args)
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def report(error: BaseException, *, as_json: bool) -> int:
    """Report an error on stderr, in one sentence or one JSON line, and return the exit code.

    `REGISTRY_DEBUG=1` prints the traceback first.
    """
    debug = os.environ.get("REGISTRY_DEBUG") == "1"
    if debug:
        traceback.print_exception(error)
    match error:
        case RegistryError():
            code, status, message = error.code, exit_code(error), str(error)
        case typer.Abort() | EOFError():
            code, status, message = "usage", UNEXPECTED, "Stopped."
        case OSError() if not isinstance(error, BrokenPipeError):
            code, status, message = _from_system(error)
        case _ if isinstance(error, PARSER_ERROR):
            code, status, message = "usage", EXIT_CODES[UsageError], _from_parser(error)
        case ModuleNotFoundError() if error.name and error.name.partition(".")[0] != __name__.partition(".")[0]:
            # The package may have been installed without its dependencies.
            code, status = "missing_package", EXIT_CODES[UnavailableError]
            message = f"The package {error.name.partition('.')[0]} is needed for this and is not installed here."
        case MemoryError():
            code, status, message = "unavailable", UNEXPECTED, "There is not enough memory for this."
        case _:
            code, status, message = "unexpected", UNEXPECTED, _bug(error, debug=debug)
    problem = {"code": code, "message": message, "exit": status}
    screen = stderr()
    if as_json:
        print(json.dumps(problem), file=sys.stderr, flush=True)
    elif screen.on_terminal:
        screen.say(f"registry: {message}")
    else:  # one line, whatever COLUMNS says: programs read it
        print(f"registry: {clean(message)}", file=sys.stderr, flush=True)
    return status


def _from_parser(error: BaseException) -> str:
    format_message = getattr(error, "format_message", None)
    message = str(format_message() if format_message else error).strip()
    message = " ".join(message.split()).replace(
        ": Value error, ", ": "
    )  # of the library that newer versions of typer read options with
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "registry")
    message = instead(command, message, getattr(getattr(context, "command", None), "params", ()))
    end = "" if message.endswith((".", "?", ")")) else "."
    return f"{message}{end} See: {command} --help"


def _from_system(error: OSError) -> tuple[str, int, str]:
    """Fallback for an OSError; services map most of them to errors that say what to do."""
    code = "disk_full" if error.errno in FULL else "unavailable"
    where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    return code, EXIT_CODES[UnavailableError], f"{reason(error)}{where}."


def _bug(error: BaseException, *, debug: bool) -> str:
    detail = f"{type(error).__name__}: {error}".strip().splitlines()[0].removesuffix(":")
    message = f"Unexpected error ({detail}); this is a bug in the registry"
    if debug:
        return f"{message}."
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="registry-traceback-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return f"{message}, REGISTRY_DEBUG=1 shows where."
    return f"{message}, the traceback is in {file.name}."
