"""The table of commands: where each one is, or what it is made of, in the order of the help.

Modules are imported when they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import typer
from typer.core import TyperCommand
from typer.main import get_command

from registry.cli.exit_codes import PARSER_ERROR
from registry.cli.from_rows import FromRow, found, with_choices

ALONE: Final = {"--strict": "all"}
"""Options whose value may be left out, after ``=`` only, and what it is then."""

Places = Mapping[str, "str | FromRow"]

TAGS: Final = FromRow(
    "TAGS",
    "tags",
    about="""List tags with what they name and named before.

    Since when, by whom, whether the adapter has a newer revision, and how the metrics of what a tag names differ from
    those of what it named before.
    """,
    words=("path",),
    limit=(None, "List at most this many tags."),
    none="No tags match.",
)
"""Also what `registry tag PATH` lists."""

GROUPS: Final[Mapping[str, Places]] = {
    "base": {
        "add": "publish.base_add",
        "list": FromRow(
            "BASES",
            "bases",
            about="List the base models.",
            none="No base models in {url} yet; add one with `registry base add NAME DIR`.",
        ),
        "retable": FromRow(
            "RETABLE",
            "retable",
            about="""Rebuild the target table of a base model.

            For a base model that was added by a version with less support for its architecture. A table never changes
            by itself, because the plans and commit ids of all paths below depend on it and change with it. Refused if
            the weights of a revision would change.
            """,
            names={"base": "name"},
            parts="commands.delete.retabled",
            then="commands.delete.after_retabling",
            progress=True,
        ),
        "measure": FromRow(
            "MEASURE_BASE",
            "measure_base",
            about="""Take the norms of a base model's weights.

            What a revision changes is told relative to them. A base model has them when it is added; this is for one
            that was added by an earlier version, or whose target table was rebuilt. It reads the weights once, and
            changes nothing else.
            """,
            names={"base": "name"},
            parts="commands.delete.measured",
            progress=True,
        ),
        "rename": FromRow(
            "RENAME_BASE",
            "rename_base",
            about="""Give a base model and all its adapters another name.

            The old names go on: they can be fetched, and show the new ones. Nothing can be published to them, and lists
            leave them out. Protected patterns hold for the new name too; the protected tags themselves are set by an
            admin.
            """,
            parts="commands.labels.renamed",
            then="commands.labels.after_renaming",
        ),
        "also-known-as": FromRow(
            "ALSO_KNOWN_AS",
            "also_known_as",
            about="""Give a base model another repo id in the Hub views.

            It answers under the repo that it was taken from without this. Adapters that name the id as what they were
            trained on count as trained on the base model. The output lists all its repo ids.
            """,
            parts="commands.labels.known_as",
        ),
        "delete": "delete.base_delete",
        "protect-tag": FromRow(
            "PROTECT_TAG",
            "protect_tag",
            about="""Let only admins move the tags that match a pattern.

            The output lists all protected patterns of this base model.
            """,
            parts="commands.delete.protected",
            then="commands.delete.after_protecting",
        ),
    },
    "retention": {
        "set": "storage.set_",
        "show": FromRow(
            "RETENTION",
            "retention",
            about="""Show the retention rule of an adapter, and what would go.

            Nothing is deleted.
            """,
            parts="render.results.retention",
            then="commands.storage.say_what_runs",
        ),
        "clear": FromRow(
            "CLEAR_RETENTION",
            "clear_retention",
            about="""Remove the retention rule of an adapter.

            Nothing is deleted by it from now on. What was deleted stays so: `registry delete --undo` restores it.
            """,
            parts="render.results.cleared",
        ),
        "run": FromRow(
            "RUN_RETENTION",
            "run_retention",
            about="""Delete what the retention rule of an adapter does not keep.

            As `registry delete` does: within the grace period, `registry delete -r PATH --undo` restores all that one
            run deleted, unless something else was deleted there since. Remove the rule first, or the next run deletes
            it again. Numbers are never reused.
            """,
            parts="render.results.retention",
            then="commands.storage.after_running",
            progress=True,
        ),
    },
    "token": {
        "create": "access.create",
        "list": FromRow(
            "TOKENS",
            "tokens",
            about="List all tokens, newest first, without their secrets.",
            none="No tokens in {url} yet; create one with `registry token create --role ROLE`.",
        ),
        "revoke": FromRow(
            "REVOKE_TOKEN",
            "revoke_token",
            about="Revoke a token immediately.",
            names={"id": "token"},
            parts="commands.access.revoked",
            then="commands.access.after_revoking",
        ),
    },
    "db": {"upgrade": "service.upgrade"},
}
"""Groups of commands: the module and the function of each in `registry.cli.commands`, or a row of operations."""

COMMANDS: Final[Places] = {
    "publish": "publish.publish",
    "rebase": "combine.rebase",
    "combine": "combine.combine",
    "identify": "importing.identify",
    "import": "importing.import_",
    "tree": "browse.tree",
    "log": "browse.log",
    "show": FromRow(
        "SHOW",
        "show",
        about="Show everything about a revision or a base model.",
        parts=".schemas.sheets.shown",
        then="commands.browse.after_showing",
    ),
    "diff": "browse.diff",
    "stats": "browse.stats",
    "check": "browse.check",
    "resolve": FromRow(
        "RESOLVE",
        "resolve",
        about="""Print the lineage that a reference resolves to now.

        Root first, one line per link, with full digests.
        """,
        parts=".schemas.sheets.resolved",
        then="commands.browse.after_resolving",
    ),
    "search": FromRow(
        "SEARCH",
        "search",
        about="""Find revisions that meet all conditions.

        Of each adapter, the newest matching revision is shown, or with --all-revisions all of them.
        """,
        words=("text",),
        parts=".schemas.sheets.matching",
        then="commands.browse.after_searching",
        limit=(None, "List at most this many revisions."),
    ),
    "tags": TAGS,
    "tag": "publish.tag",
    "untag": FromRow("UNTAG", "untag", about="Remove a tag; the revision stays.", parts="commands.publish.removed"),
    "annotate": "publish.annotate",
    "rename": FromRow(
        "RENAME",
        "rename",
        about="""Give an adapter and everything under it another last name.

        The parent stays, because it is what the adapter was trained on. Numbers, digests, metrics, annotations and tags
        are the same under the new name, except for protected tags, which an admin sets. The old name goes on: it can be
        fetched, and shows the new name. Nothing can be published to it, and lists leave it out.
        """,
        parts="commands.labels.renamed",
        then="commands.labels.after_renaming",
    ),
    "card": "labels.card",
    "fetch": "fetch.fetch",
    "verify": "fetch.verify",
    "export": "fetch.export",
    "follow": "follow.follow",
    "materialise": "storage.materialise",
    "delete": "delete.delete",
    "retract": "delete.retract",
    "copy": "fetch.copy",
    "login": "access.login",
    "logout": "access.logout",
    "whoami": FromRow(
        "WHOAMI",
        "whoami",
        about="Show which registry is in use, as whom and with which rights.",
        parts="commands.access.identity",
    ),
    "env": "access.env",
    "events": "service.events",
    "jobs": FromRow(
        "LIST_JOBS",
        "jobs",
        about="""List the long operations of a service, newest first.

        Those of your token, or everyone's for an admin without scopes. They are kept for a week after they ended. What
        the service looks at after each publish is only listed with --kind notice.
        """,
        limit=(100, "List at most this many."),
        none="No operations match.",
    ),
    "health": FromRow(
        "HEALTH",
        "health",
        about="""Show how the service is: replicas, operations, storage.

        Also when it was last collected and checked. For an admin without scopes. It is what the database tells: the
        processes that answer requests write a row of themselves every half minute. What is not known is said so.
        """,
        parts="commands.service.health",
    ),
    "ps": FromRow(
        "RUNNING",
        "running",
        about="""List what runs: which revision followers serve.

        A follower keeps a folder or an engine at what names point at, and reports it. A name is in place, behind (it
        points at another revision by now), failed (with the reason), or lost (nothing was heard for half a minute;
        listed for a day). PATH@tag lists who serves this name, and PATH@3 who serves this revision. --unserved lists
        what nobody serves: tags that are protected by their name, or followed elsewhere.
        """,
        words=("ref",),
        then="commands.running.after_listing",
        limit=(None, "List at most this many names."),
    ),
    "du": FromRow(
        "DU",
        "du",
        about="""Show how much storage adapters use.

        OWN is what deleting an adapter would free: files that others share stay. The totals also show what as many
        full checkpoints of the base model would use, what materialisations use, and what `registry gc` could collect
        after its grace period. --json also lists the revisions. Of more than 10,000 adapters or revisions those with
        the most OWN are listed; the totals count all. A token with scopes sees sizes as if nothing else were stored.
        """,
        words=("path",),
        parts="commands.storage.usage",
    ),
    "gc": FromRow(
        "GC",
        "gc",
        about="""Delete stored bytes that nothing needs any more.

        Only what has not been needed for the grace period (REGISTRY_GC_GRACE, a day by default). Safe to run while
        others publish and beside another gc; the next run finishes one that was interrupted.
        """,
        parts="commands.storage.collected",
        progress=True,
    ),
    "fsck": FromRow(
        "FSCK",
        "fsck",
        about="""Check that everything that was published is stored.

        Checks that every row has its blob, of the right size; with --deep, also that every blob has the right bytes.
        Damaged blobs are listed with the revisions and base models that they affect, and the exit code is 6. Storing
        the same files again repairs them. Blobs that could not be read are listed too, and may be intact: without
        damage, the exit code is then 1.
        """,
        parts="commands.storage.checked",
        then="commands.storage.after_checking",
        progress=True,
    ),
    "serve": "service.serve",
    "demo": "demo.demo",
}
"""All other commands."""


class Commands(Mapping[str, Any]):
    """Commands by name, each made when it is first used: importing and making all of them takes 0.1 s.

    Args:
        places: the module and the function of each.
        ready: groups of commands, which are made already.
        markup: how typer shows the help.
    """

    def __init__(self, places: Places, ready: Mapping[str, Any], markup: Any) -> None:
        self._places = places
        self._ready = ready
        self._made = dict(ready)
        self._markup = markup

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            place = self._places[name]
            function = place.command() if isinstance(place, FromRow) else found(f"commands.{place}")
            self._made[name] = _command(name, with_choices(function), self._markup)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._places
        yield from self._ready

    def __len__(self) -> int:
        return len(self._places) + len(self._ready)


class _Command(TyperCommand):
    """A command that takes the options of `ALONE` without a value, too: never the next word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        given = [f"{word}={ALONE[word]}" if word in ALONE else word for word in args[:end]]
        try:
            return super().parse_args(ctx, [*given, *args[end:]])
        except PARSER_ERROR as error:
            if getattr(error, "ctx", ctx) is None:  # of an option without its value: no context is attached
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
