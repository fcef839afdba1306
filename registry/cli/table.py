"""The table of commands: where each one is, in the order of the help. Its module is imported when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import typer
from typer.core import TyperCommand
from typer.main import get_command

from registry.cli.exit_codes import PARSER_ERROR

ALONE: Final = {"--strict": "all"}
"""Options whose value may be left out, after ``=`` only, and what it is then."""

GROUPS: Final[Mapping[str, Mapping[str, str]]] = {
    "base": {
        "add": "publish.base_add",
        "list": "browse.base_list",
        "retable": "retract.retable",
        "measure": "measure.base_measure",
        "rename": "rename.base_rename",
        "also-known-as": "rename.base_also_known_as",
        "delete": "delete.base_delete",
        "protect-tag": "retract.protect_tag",
    },
    "retention": {
        "set": "rules.retention.set_",
        "show": "rules.retention.show",
        "clear": "rules.retention.clear",
        "run": "rules.retention.run",
    },
    "token": {"create": "tokens.create", "list": "tokens.list_", "revoke": "tokens.revoke"},
    "db": {"upgrade": "database.upgrade"},
}
"""Groups of commands: the module and the function of each in `registry.cli.commands`."""

COMMANDS: Final[Mapping[str, str]] = {
    "publish": "publish.publish",
    "rebase": "rebase.rebase",
    "combine": "combine.combine",
    "identify": "folders.identify.identify",
    "import": "folders.importing.import_",
    "tree": "browse.tree",
    "log": "browse.log",
    "show": "browse.show",
    "diff": "diff.diff",
    "stats": "stats.stats",
    "check": "stats.check",
    "resolve": "browse.resolve",
    "search": "browse.search",
    "tag": "publish.tag",
    "untag": "publish.untag",
    "annotate": "publish.annotate",
    "rename": "rename.rename",
    "card": "card.card",
    "fetch": "fetch.fetch",
    "verify": "fetch.verify",
    "export": "fetch.export",
    "materialise": "materialise.materialise",
    "delete": "delete.delete",
    "retract": "retract.retract",
    "copy": "copy.copy",
    "login": "access.login",
    "logout": "access.logout",
    "whoami": "access.whoami",
    "env": "env.env",
    "events": "events.events",
    "jobs": "service.jobs",
    "health": "service.health",
    "du": "store.du",
    "gc": "store.gc",
    "fsck": "store.fsck",
    "serve": "serve.serve",
    "demo": "demo.demo",
}
"""All other commands."""


class Commands(Mapping[str, Any]):
    """Commands by name, each made when it is first asked for: importing and making all of them takes 0.1 s.

    Args:
        places: the module and the function of each.
        ready: groups of commands, which are made already.
        markup: how typer shows the help.
    """

    def __init__(self, places: Mapping[str, str], ready: Mapping[str, Any], markup: Any) -> None:
        self._places = places
        self._ready = ready
        self._made = dict(ready)
        self._markup = markup

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _command(name, _function(self._places[name]), self._markup)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._places
        yield from self._ready

    def __len__(self) -> int:
        return len(self._places) + len(self._ready)


def _function(place: str) -> Callable[..., None]:
    module, _, name = place.rpartition(".")
    # By the name that this package goes by: where `registry` is somebody else's, that is another.
    found: Callable[..., None] = getattr(importlib.import_module(f"{__package__}.commands.{module}"), name)
    return found


class _Command(TyperCommand):
    """A command that takes the options of `ALONE` without a value, too: never the next word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        given = [f"{word}={ALONE[word]}" if word in ALONE else word for word in args[:end]]
        try:
            return super().parse_args(ctx, [*given, *args[end:]])
        except PARSER_ERROR as error:
            if getattr(error, "ctx", ctx) is None:  # of an option without its value: the command is not told
                vars(error)["ctx"] = ctx
            raise


def _command(name: str, function: Callable[..., None], markup: Any) -> Any:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=markup)
    app.command(name, help=_paragraphs(function), cls=_Command)(function)
    return without_types_of_flags(get_command(app))


def _paragraphs(function: Callable[..., None]) -> str:
    """The help of a command, a line a paragraph: on a terminal, Typer breaks lines where the source does, too."""
    return "\n\n".join(" ".join(one.split()) for one in (function.__doc__ or "").split("\n\n"))


def without_types_of_flags(command: Any) -> Any:
    """The command, whose options that take no value say none: some versions of Typer write ``<bool>`` behind them."""
    for option in command.params:
        if getattr(option, "is_flag", False):
            option.metavar = ""
    return command
