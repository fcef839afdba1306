"""Assembles the commands of ``registry``, and runs one command line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import PurePath
from typing import Annotated, Any

import typer
from typer.main import get_command

from registry.cli import completion
from registry.cli.exit_codes import INTERRUPTED, PIPE_CLOSED, report, wants_json
from registry.cli.options import JSON_HELP, URL_HELP
from registry.cli.other_tools import Group
from registry.cli.table import COMMANDS, GROUPS, Commands, Places, without_types_of_flags
from registry.distribution import installed
from registry.version import __version__


class _Ordered(Group):
    """Lists ``base`` first in the help, because it is used first, and ``demo`` last; typer would put groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: {"base": 0, "demo": 2}.get(name, 1))


def build_command() -> Any:
    """The command ``registry``, with all commands under it."""
    # On a terminal the help has panels; in a pipe it is plain text, which starts faster and can be searched.
    markup = "rich" if sys.stdout.isatty() else None
    about = {"base": _base, "retention": _retention, "token": _token, "db": _db}
    groups = {word: _group(about[word], places, {}, markup, Group) for word, places in GROUPS.items()}
    for word, group in groups.items():
        group.name = word
    return _group(_root, COMMANDS, groups, markup, _Ordered)


def _group(
    about: Callable[..., None],
    places: Places,
    groups: Mapping[str, Any],
    markup: Any,
    kind: type[Group],
) -> Any:
    """A word that has commands under it, and alone shows its help."""
    app = typer.Typer(
        cls=kind,
        add_completion=kind is _Ordered,
        pretty_exceptions_enable=False,
        rich_markup_mode=markup,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(about)
    group = without_types_of_flags(get_command(app))
    group.commands = Commands(places, groups, markup)
    return group


def _version(value: bool) -> None:
    if value:
        typer.echo(f"{installed()} {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help=URL_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    version: Annotated[
        bool, typer.Option("-V", "--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Keep LoRA adapters as a tree, and compose or merge the weights along any path of it."""
    del url, as_json, version  # read from the context by the commands, see `registry.cli.options`
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _base(context: typer.Context) -> None:
    """Add, list, rename and delete base models."""
    _help_alone(context)


def _retention(context: typer.Context) -> None:
    """Set which revisions are kept, and delete the others."""
    _help_alone(context)


def _token(context: typer.Context) -> None:
    """Create, list and revoke tokens."""
    _help_alone(context)


def _db(context: typer.Context) -> None:
    """Maintain the database."""
    _help_alone(context)


def _help_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


# Built once per process: it takes tens of milliseconds.
_command = cache(build_command)


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are reported on stderr."""
    try:
        # Not `command.main`: it handles interrupts and closed pipes itself.
        command = _command()
        with command.make_context(_name(args), list(args)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except SystemExit as end:  # of the options that install completion
        return end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the last resort: a user sees a sentence, never a traceback
        return report(error, as_json=wants_json(args))
    return 0


def answer_shell() -> int:
    """Answer a shell that asks how a command line may go on; see `registry.cli.completion`."""
    return completion.complete(_command(), os.environ)


def _name(args: Sequence[str]) -> str:
    """How the command is called in its messages; a shell completes the name that it was called by."""
    installs = any(word.startswith(("--install-completion", "--show-completion")) for word in args)
    return "adapter-registry" if installs and PurePath(sys.argv[0]).name == "adapter-registry" else "registry"


def _drop_stdout() -> None:
    """Discard the interpreter's final flush, since the reader has closed the pipe."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
